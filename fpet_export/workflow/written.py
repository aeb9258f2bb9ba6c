"""The files of a deployment, each with what it is for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.report.page import File
from engines.manifest import manifest_path, read_manifest

if TYPE_CHECKING:
    from fpet_export.workflow.deployed import DeployedTarget

_OF_ALL = {
    "parity.json": "how far every stage is from the reference, for programs",
    "latency.json": "every latency that was measured, and on what",
    "merge.png": "the merge picture with its legend, to share",
}
_BESIDE = {
    ".manifest.json": "inputs, preprocessing, labels and hashes; keep it beside",
    ".table.json": "ranges that calibration found",
    ".fusion.json": "the kernels that TensorRT made; draw them with show",
    ".onnx.data": "the weights of the graph; keep it beside",
}


def files(folder: Path, built: Sequence[DeployedTarget]) -> tuple[File, ...]:
    """Return what a deployment wrote, as names relative to its folder.

    Args:
        folder: Folder of the deployment.
        built: What it built.
    """
    found = [File(name="report.html", purpose="this page")]
    found += _present(folder, ((folder / name, text) for name, text in _OF_ALL.items()))
    for one in built:
        found += _present(folder, _of(one))
    return tuple(found)


def _of(one: DeployedTarget) -> Iterable[tuple[Path, str]]:
    precision = read_manifest(one.typed, verify=False).precision
    yield one.engine, f"the {one.target} engine: this and its manifest are what you deploy"
    yield from _beside(one.engine)
    if one.typed != one.graph:
        yield one.typed, f"the {precision} graph that the engine was built from"
        yield from _beside(one.typed)
    yield one.graph, "the exported graph in float32; every engine starts from it"
    yield from _beside(one.graph)


def _beside(path: Path) -> Iterable[tuple[Path, str]]:
    yield manifest_path(path), _BESIDE[".manifest.json"]
    for ending in (".table.json", ".fusion.json"):
        yield path.with_suffix(ending), _BESIDE[ending]
    yield path.with_name(path.name + ".data"), _BESIDE[".onnx.data"]


def _present(folder: Path, wanted: Iterable[tuple[Path, str]]) -> list[File]:

    return [
        File(
            name=path.relative_to(folder).as_posix(),
            purpose=purpose,
            size_bytes=path.stat().st_size,
        )
        for path, purpose in wanted
        if path.is_file()
    ]
