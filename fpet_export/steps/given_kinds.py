"""Refuses a run, a folder or a file of weights where a graph is wanted, and says what to type.

It follows the check that the path exists, and opens nothing: names alone decide.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engines.commands import PROGRAM, command
from engines.errors import InputError
from engines.manifest import ENDINGS, is_task_folder
from engines.transport import bundle

_GRAPHS = {
    # verb: the setting that holds what is a graph, an engine or a folder of tasks
    "bench": "artefacts", "build": "onnx", "bundle": "artefact", "check": "engine",
    "deepstream": "engine", "estimate": "artefact", "predict": "artefact", "quantize": "onnx",
    "show": "artefact", "sign": "artefact", "triton": "artefact", "verify": "artefact",
}  # fmt: skip
_WEIGHTS = (".pth", ".pt", ".bin", ".ckpt", ".safetensors", ".tar", ".npz")
_ONLY_GRAPHS = ("build", "quantize")
"""They write no target down for a file that is no graph, and ask for one before they read it."""


def require_kinds(verb: str, given: Mapping[str, Any]) -> None:
    """Refuse the first path of another kind than its verb takes.

    Args:
        verb: What is asked for.
        given: Its settings by their names.

    Raises:
        InputError: It is a run, a file of weights, or a folder with graphs in it; a command or the
            graphs are proposed.
    """
    found = given.get(_GRAPHS.get(verb, ""))
    for path in found if isinstance(found, (list, tuple)) else [found]:
        if path is None:
            continue
        if path.is_dir() and not _is_whole(path):
            _refuse_folder(path)
        elif verb in _ONLY_GRAPHS and path.is_file():
            _refuse_no_graph(path)


def _is_whole(folder: Path) -> bool:
    """Say whether a folder is, or was, one of tasks, or an unpacked bundle."""
    return (
        is_task_folder(folder)
        or (folder / bundle.FOLDER).is_dir()
        or (folder / bundle.INDEX).is_file()
    )


def _refuse_folder(folder: Path) -> None:
    graphs = sorted(one for one in folder.iterdir() if one.suffix in ENDINGS)
    if graphs:
        named = " or ".join(command(one).partition(" ")[2] for one in graphs[:4])
        raise InputError(
            f"{folder} is a folder, wanted a file in it or a folder of tasks",
            where=str(folder),
            fix=f"did you mean {named}?",
        )
    if any(folder.glob("*.pth")):
        raise InputError(
            f"{folder} is the folder of a run, wanted a graph, an engine or a folder of tasks",
            where=str(folder),
            fix=_export(folder),
        )


def _refuse_no_graph(file: Path) -> None:
    if file.suffix.lower() in ENDINGS:
        return
    if file.suffix.lower() in _WEIGHTS:
        raise InputError(
            f"{file.name} holds weights, wanted a graph that ends in .onnx",
            where=str(file),
            fix=_export(file if file.suffix == ".pth" else None),
        )
    raise InputError(
        f"{file.name} is not a graph: its name does not end in .onnx",
        where=str(file),
        fix=f"give a graph that `{PROGRAM} export` wrote",
    )


def _export(run: Path | None) -> str:
    typed = command("export") + " RUN" if run is None else command("export", run)
    return f"export the run first, with its backbone: {typed} --backbone FILE -o FOLDER"
