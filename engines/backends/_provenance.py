"""What a built artefact's manifest takes over from the graph it was built from."""

from __future__ import annotations

import dataclasses
import platform
from importlib import metadata
from pathlib import Path

import numpy as np

from engines import precisions, storage
from engines.commands import requantize
from engines.errors import InputError, TrustError
from engines.form import export_command, require_form
from engines.manifest import (
    EXECUTABLE,
    Companion,
    Manifest,
    Parent,
    Runtime,
    manifest_path,
    read_manifest,
)
from engines.onnx_header import OnnxHeader, read_onnx_header
from engines.targets import Target
from engines.verdict import graph_as_parent, require_passed

_FLOATS = {"float64": "fp64"} | {
    each.compute_dtype: each.name for each in precisions.PRECISIONS.values() if each.compute_dtype
}
"""Precision by the type of weights or logits; no graph of ours is in float64."""


@dataclasses.dataclass(frozen=True)
class Source:
    """A graph on disk, checked: its header, and its manifest when it has one."""

    path: Path
    header: OnnxHeader
    manifest: Manifest | None


def read_source(
    onnx: Path, target: Target, *, allow_failed: bool = False, any_form: bool = False
) -> Source:
    """Read and check the graph that an engine is to be built from.

    Args:
        onnx: The graph.
        target: What it is for.
        allow_failed: Take a graph whose check failed; see `engines.verdict`.
        any_form: Take a graph that was written for a target of another form; see `engines.form`.

    Raises:
        InputError: There is no such file, it is not a whole ONNX model, its external weights are
            not where they belong, it is itself built for one machine, or it has an opset, a
            typing or a form that the target does not take.
        ParityError: Its check failed.
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
    if manifest:
        require_passed(onnx, manifest, allow_failed=allow_failed)
    header = read_onnx_header(onnx)
    if manifest:
        _check_names(onnx, manifest, header)
    source = Source(onnx, header, manifest)
    _check_opset(source, target)
    _check_precision(source, target)
    if manifest and not any_form:
        require_form(onnx, manifest, target)
    return source


def precision_of(source: Source) -> str:
    """Return the precision that the manifest states, or that the graph's bytes say."""
    return source.manifest.precision if source.manifest else _precision(source.header)


def _check_opset(source: Source, target: Target) -> None:
    opset, ceiling = source.header.opset, target.opset_ceiling
    if opset > ceiling:
        raise InputError(
            f"the graph has opset {opset}, the runtime of {target.name} reads up to {ceiling}",
            where=str(source.path),
            fix=f"export it for that target: {export_command(source.manifest, target)}",
        )


def _check_precision(source: Source, target: Target) -> None:
    """Refuse a precision that the target's runtime or GPU does not have.

    A float32 graph suits every target. Of a graph without a manifest only its bytes are known.
    """
    precision = precision_of(source)
    where = str(source.path)
    if (
        target.suffix in EXECUTABLE
        and precision in precisions.PRECISIONS
        and precision not in target.precisions
    ):
        raise InputError(
            f"the graph is {precision}, which {target.name} does not have: it takes "
            f"{', '.join(target.precisions)}",
            where=where,
            fix=requantize(
                source.path, source.manifest, precision=precisions.FP16, target=target.name
            )
            if precisions.FP16 in target.precisions
            else "build its float32 graph",
        )


def _check_names(onnx: Path, manifest: Manifest, header: OnnxHeader) -> None:
    for what, said, found in (
        ("inputs", manifest.inputs, header.inputs),
        ("outputs", manifest.outputs, header.outputs),
    ):
        if [spec.name for spec in said] != [spec.name for spec in found]:
            raise TrustError(
                f"the graph has the {what} {', '.join(spec.name for spec in found)}; its manifest "
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
        precision=precision_of(source),
        opset=header.opset,
        target=target.name,
        weights=graph.weights if graph else "unknown",
        preprocessing=graph.preprocessing if graph else None,
        labels=graph.labels if graph else (),
        model=graph.model if graph else None,
        form=graph.form if graph else None,
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
    own = graph_as_parent(graph, source.manifest)
    external = tuple(
        Parent(role="external weights", file=name, sha256=storage.sha256_of(graph.parent / name))
        for name in source.header.external_files
    )
    return (own, *external, *(source.manifest.parents if source.manifest else ()))


def _precision(header: OnnxHeader) -> str:
    """Name the precision of a graph without a manifest: what it rounds to, or its weights' type.

    The outputs do not tell: a graph in half precision may take and give float32.
    """
    if header.is_quantized:
        return precisions.FP8 if header.is_fp8 else precisions.INT8
    floats = {name: n for name, n in header.weights.items() if name in _FLOATS}
    stored = max(floats, key=lambda name: floats[name], default="")
    outputs = {spec.dtype for spec in header.outputs}
    return _FLOATS.get(stored or (outputs.pop() if len(outputs) == 1 else ""), "unknown")


def _own_version() -> dict[str, str]:
    try:
        return {"fpet-export": metadata.version("fpet-export")}
    except metadata.PackageNotFoundError:  # run from a checkout or a zipapp
        return {}
