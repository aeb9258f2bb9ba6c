"""What a built artefact's manifest takes over from the graph it was built from."""

from __future__ import annotations

import dataclasses
import platform
from importlib import metadata
from pathlib import Path

import numpy as np

from engines import storage
from engines.errors import InputError, TrustError
from engines.manifest import Companion, Manifest, Parent, Runtime, manifest_path, read_manifest
from engines.onnx_header import OnnxHeader, read_onnx_header
from engines.targets import Target

_FLOAT_PRECISIONS = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "float64": "fp64"}


@dataclasses.dataclass(frozen=True)
class Source:
    """A graph on disk, checked: its header, and its manifest when it has one."""

    path: Path
    header: OnnxHeader
    manifest: Manifest | None


def read_source(onnx: Path) -> Source:
    """Read and check the graph that an engine is to be built from.

    Raises:
        InputError: There is no such file, it is not a whole ONNX model, its external weights are
            not where they belong, or it is itself built for one machine.
        TrustError: It does not match its manifest.
    """
    if not onnx.is_file():
        raise InputError("there is no such graph", where=str(onnx), fix="check the path")
    manifest = read_manifest(onnx) if manifest_path(onnx).exists() else None
    if manifest and manifest.kind == "engine":
        origin = manifest.parents[0].file if manifest.parents else "the graph"
        raise InputError(
            f"this is an engine already, built for {manifest.target}",
            where=str(onnx),
            fix=f"build from {origin}",
        )
    header = read_onnx_header(onnx)
    if manifest:
        _check_names(onnx, manifest, header)
    return Source(onnx, header, manifest)


def _check_names(onnx: Path, manifest: Manifest, header: OnnxHeader) -> None:
    for what, said, found in (
        ("inputs", manifest.inputs, header.inputs),
        ("outputs", manifest.outputs, header.outputs),
    ):
        if [spec.name for spec in said] != [spec.name for spec in found]:
            raise TrustError(
                f"the graph has the {what} {', '.join(spec.name for spec in found)}, its manifest "
                f"says {', '.join(spec.name for spec in said)}",
                where=str(onnx),
                fix="export the graph again",
            )


def engine_manifest(
    source: Source,
    target: Target,
    *,
    runtime: Runtime,
    command: tuple[str, ...],
    companions: tuple[str, ...] = (),
) -> Manifest:
    """Return the manifest of an engine built from `source`; hash and size are filled in later.

    A graph without a manifest leaves preprocessing, labels and model open and its weights
    "unknown": nothing is guessed from its bytes but what they say.
    """
    header, graph = source.header, source.manifest
    tools = {
        **(graph.tools if graph else {}),
        "python": platform.python_version(),
        "numpy": np.__version__,
        runtime.flavour: runtime.version,
    }
    tools.update(_own_version())
    return Manifest(
        kind="engine",
        file="",
        inputs=graph.inputs if graph else header.inputs,
        outputs=graph.outputs if graph else header.outputs,
        precision=graph.precision if graph else _precision(header),
        opset=header.opset,
        target=target.name,
        weights=graph.weights if graph else "unknown",
        preprocessing=graph.preprocessing if graph else None,
        labels=graph.labels if graph else (),
        model=graph.model if graph else None,
        runtime=runtime,
        operators=header.operators,
        batch_range=graph.batch_range if graph else None,
        companions=tuple(Companion(file=name) for name in companions),
        parents=_parents(source),
        command=command,
        tools=tools,
    )


def _parents(source: Source) -> tuple[Parent, ...]:
    graph = source.path
    own = Parent(role="graph", file=graph.name, sha256=storage.sha256_of(graph))
    external = tuple(
        Parent(role="external weights", file=name, sha256=storage.sha256_of(graph.parent / name))
        for name in source.header.external_files
    )
    return (own, *external, *(source.manifest.parents if source.manifest else ()))


def _precision(header: OnnxHeader) -> str:
    """Name the precision of a graph without a manifest, by its Q/DQ nodes and its outputs."""
    if header.operators.get("QuantizeLinear"):
        return "int8"
    outputs = {spec.dtype for spec in header.outputs}
    return _FLOAT_PRECISIONS.get(outputs.pop(), "unknown") if len(outputs) == 1 else "unknown"


def _own_version() -> dict[str, str]:
    try:
        return {"fpet-export": metadata.version("fpet-export")}
    except metadata.PackageNotFoundError:  # run from a checkout or a zipapp
        return {}
