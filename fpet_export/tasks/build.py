"""`build` of a folder of tasks: an engine of each of its graphs, for the folder's target."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engines import storage
from engines.commands import command
from engines.engine import default_path
from engines.errors import UsageError
from engines.targets._lookup import load_target
from engines.tasks.index import TaskIndex, read_index
from fpet_export.reporter import SILENT, Reporter
from fpet_export.steps import usable
from fpet_export.workflow import build as one_build
from fpet_export.workflow.build import BuildRequest, Built


@dataclasses.dataclass(frozen=True, kw_only=True)
class BuiltTasks:
    """The engines of a folder of tasks.

    Attributes:
        folder: The folder.
        built: An engine of each graph, in their order.
        parity: Every task on another machine, as JSON; None where this one built.
        remote: The machine that built them; None is this one.
        next: Commands to type next.
    """

    folder: Path
    built: tuple[Built, ...]
    parity: Mapping[str, Any] | None = None
    remote: str | None = None
    next: Sequence[str] = ()

    @property
    def engines(self) -> tuple[Path, ...]:
        """Where the engines lie."""
        return tuple(one.engine for one in self.built)

    def to_json(self) -> dict[str, Any]:
        """Return the same as plain values."""
        if self.remote is None:
            engines = [one.to_json() for one in self.built]
            return {"folder": str(self.folder), "engines": engines}
        engines = [
            {"engine": str(one.engine), "manifest": dataclasses.asdict(one.manifest)}
            for one in self.built
        ]
        return {
            "folder": str(self.folder),
            "engines": engines,
            "parity": self.parity,
            "remote": self.remote,
        }


def build(request: BuildRequest, reporter: Reporter = SILENT) -> BuiltTasks:
    """Build one engine a graph; each is compared with its graph for every task.

    Raises:
        TrustError: It is not a folder of tasks, or a file is not what its index says.
        UsageError: It is to be built for another target or under another name, or an engine exists.
    """
    folder = request.onnx
    index = _index(request)
    usable.require_tasks(folder, index, index.names, request, reporter)
    graphs = _graphs(folder, index)
    engines = [default_path(graph, load_target(index.target)) for graph in graphs]
    for engine in engines:  # before the first of them takes its minutes
        storage.refuse_overwrite(engine, force=request.force)
    if request.remote is not None:
        return _there(request, engines, reporter)
    built = [one_build.build_here(graph, index.target, request, reporter) for graph in graphs]
    commands = [line for one in built for line in one.next]
    return BuiltTasks(folder=folder, built=tuple(built), next=tuple(dict.fromkeys(commands)))


def trtexec_lines(request: BuildRequest) -> list[str]:
    """Return the lines with which NVIDIA's own tool would build the same."""
    index = _index(request)
    return [
        one_build.trtexec_line(dataclasses.replace(request, onnx=graph, target=index.target))
        for graph in _graphs(request.onnx, index)
    ]


def _graphs(folder: Path, index: TaskIndex) -> list[Path]:
    return [folder / structure.graph.file for structure in index.structures]


def _index(request: BuildRequest) -> TaskIndex:
    """Return the folder's index, and refuse what a folder cannot be built with."""
    folder = request.onnx
    index = read_index(folder)
    if request.out is not None:
        raise UsageError(
            "a folder of tasks is built where it lies",
            where="--out",
            fix="leave it out: engines lie beside their graphs",
        )
    if request.target is not None and load_target(request.target).name != index.target:
        raise UsageError(
            f"this folder of tasks is for {index.target}, and uses no engine of "
            f"{load_target(request.target).name}",
            where="--target",
            fix="leave --target out, or, if its graphs suit it, take the folder there: "
            + command("bundle", folder, "--target", request.target),
        )
    return index


def _there(request: BuildRequest, engines: list[Path], reporter: Reporter) -> BuiltTasks:
    """Build and check on another machine, and fetch the engines."""
    from fpet_export.tasks import remote_tasks  # not on a board

    one_build.refuse_timings(request)
    folder = request.onnx
    with remote_tasks.unpacked_there(folder, request, reporter) as board:
        parity = board.prove(more=one_build.build_argv(request))
        built = tuple(
            Built(engine=engine, manifest=board.fetch(engine), parity=None) for engine in engines
        )
    return BuiltTasks(
        folder=folder,
        built=built,
        parity=parity,
        remote=request.remote,
        next=(f"{command('bench', folder)} {request.remote_argv()}",),
    )
