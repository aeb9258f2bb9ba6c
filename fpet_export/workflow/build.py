"""`build`: an engine of a graph, compared with the graph where it can run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import engines
from engines.commands import command
from engines.contract import BuildOptions
from engines.engine import equivalent_command
from engines.errors import InputError, ParityError, UsageError
from engines.manifest import NO_TARGET, Manifest, manifest_path, read_manifest, write_manifest
from engines.parity.rows import ParityTable, failed_row, judge
from engines.targets._lookup import load_target
from fpet_export.reporter import SILENT, Reporter
from fpet_export.requests import BuildRequest as BuildRequest
from fpet_export.steps import built_engine, next_commands, usable
from fpet_export.steps.memory import require_memory

if TYPE_CHECKING:
    from engines.fusion.report import FusionReport
    from fpet_export.board.build import BuiltThere


@dataclasses.dataclass(frozen=True, kw_only=True)
class Built:
    """An engine that was built.

    Attributes:
        engine: Where it lies.
        manifest: Its manifest.
        parity: It against its graph, as JSON; None where it could not be compared.
        fusion: What TensorRT made of the graph; None for other runtimes.
        remote: The machine that built it; None is this one.
        next: Commands to type next.
    """

    engine: Path
    manifest: Manifest
    parity: Mapping[str, Any] | None
    fusion: FusionReport | None = None
    remote: str | None = None
    next: Sequence[str] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the same as plain values."""
        found = {
            "engine": str(self.engine),
            "manifest": dataclasses.asdict(self.manifest),
            "parity": self.parity,
        }
        if self.remote is not None:
            return {**found, "remote": self.remote}
        return {**found, "fusion": None if self.fusion is None else self.fusion.to_json()}


def build(request: BuildRequest, reporter: Reporter = SILENT) -> Built:
    """Build a graph's engine here or on another machine, and compare it with the graph.

    Raises:
        FpetError: What is wrong with the graph, the target or the machine; a ParityError where the
            engine's answers are not the graph's, after its manifest says so.
    """
    target = request.target or exported_for(request.onnx)
    if request.remote is not None:
        refuse_timings(request)
        from fpet_export.board.build import build_there  # not on a board

        return _built_there(request, build_there(request, target, build_argv(request), reporter))
    return build_here(request.onnx, target, request, reporter)


def trtexec_line(request: BuildRequest) -> str:
    """Return the line with which NVIDIA's own tool would build the same."""
    target = load_target(request.target or exported_for(request.onnx))
    return equivalent_command(
        request.onnx, target=target, out=request.out, options=_options(request)
    )


def refuse_timings(request: BuildRequest) -> None:
    """Refuse a timing cache for a build on another machine.

    Raises:
        UsageError: There is one.
    """
    if request.timing_cache is not None:
        raise UsageError(
            "timings stay on the machine that took them",
            where="--timing-cache",
            fix="leave it out, or build there with the agent of a bundle",
        )


def _options(request: BuildRequest) -> BuildOptions:
    return BuildOptions(
        compute_capabilities=request.sm,
        optimization_level=request.optimization_level,
        workspace_bytes=request.workspace_mb and request.workspace_mb << 20,
        batches=request.batch,
        timing_cache=request.timing_cache,
        force=request.force,
        allow_failed=request.force_failed,
        any_form=request.force_form,
        command=request.command,
    )


def exported_for(graph: Path) -> str:
    """Return the target that a graph was exported for.

    Raises:
        InputError: There is no such file.
        TrustError: Its manifest is damaged.
        UsageError: Nothing says it.
    """
    if not graph.is_file():
        raise InputError("there is no such graph", where=str(graph), fix="check the path")
    manifest = read_manifest(graph, verify=False) if manifest_path(graph).exists() else None
    if manifest is None or manifest.target == NO_TARGET:
        raise UsageError(
            f"nothing says for which target {graph.name} was written",
            where="fpet-export build",
            fix="add --target NAME; `fpet-export targets` lists what there is",
        )
    return manifest.target


def build_here(
    graph: Path, target: str, request: BuildRequest, reporter: Reporter = SILENT
) -> Built:
    """Build one graph's engine on this machine, and compare it with the graph where it runs.

    Args:
        graph: The graph; `request` says how it is built.
        target: Where the engine runs.
        request: What is asked for.
        reporter: Hears of each step.
    """
    resolved = load_target(target)
    source = read_manifest(graph, verify=False) if manifest_path(graph).exists() else None
    if source is not None:
        usable.require(graph, source, request, reporter)
    usable.say_form(graph, source, resolved, reporter)
    require_memory(
        graph,
        source,
        resolved,
        reporter,
        workspace_mb=request.workspace_mb,
        batch=request.batch,
    )
    with built_engine.build_progress(reporter) as progress:
        wanted = dataclasses.replace(_options(request), progress=progress)
        artefact = engines.build(graph, target=resolved, out=request.out, options=wanted)
    manifest = read_manifest(artefact)
    reporter.step("build", built_engine.describe(artefact, manifest))
    if request.timing_cache is not None and manifest.runtime is not None:
        note = manifest.runtime.settings["timing_cache"]
        reporter.step("timings", f"{request.timing_cache}: {note}")
    fusion = built_engine.report_fusion(artefact, manifest, reporter)
    try:
        table = built_engine.check_against_graph(graph, artefact, reporter)
    except ParityError as error:  # the engine lies there: its manifest must say so
        row = failed_row(artefact.name, 0, error.what)
        table = ParityTable(images="none", reference=f"artefact {graph.name}", rows=(row,))
        failed = dataclasses.replace(manifest, parity=table.to_json())
        write_manifest(artefact, failed)
        raise
    if table is not None:
        manifest = write_manifest(artefact, dataclasses.replace(manifest, parity=table.to_json()))
        judge(
            table, fix="build it again; if that does not help, report it with the graph's manifest"
        )
    shown = () if fusion is None else (command("show", artefact, "-o", _picture(artefact)),)
    return Built(
        engine=artefact,
        manifest=manifest,
        parity=None if table is None else table.to_json(),
        fusion=fusion,
        next=(*_used_by(artefact, manifest), *shown),
    )


def _picture(engine: Path) -> Path:
    return next_commands.free(engine.with_name(f"{engine.stem}.fusion.png"))


def _used_by(artefact: Path, manifest: Manifest) -> list[str]:
    """Return what to type with an engine; one that tasks share runs through their folder."""
    used = artefact.parent if manifest.is_shared else artefact
    if not next_commands.runs_here(manifest):
        return [usable.go_on(next_commands.bundle(used), manifest)]
    return [usable.go_on(command("bench", used), manifest)]


def _built_there(request: BuildRequest, found: BuiltThere) -> Built:
    return Built(
        engine=found.engine,
        manifest=found.manifest,
        parity=found.parity,
        remote=request.remote,
        next=(f"{command('bench', found.engine)} {request.remote_argv()}",),
    )


def build_argv(request: BuildRequest) -> list[str]:
    """Return the options of `build` that the agent gets, too."""
    more: list[str] = []
    for name, value in (
        ("--sm", request.sm and ",".join(request.sm)),
        ("--optimization-level", request.optimization_level),
        ("--workspace-mb", request.workspace_mb),
        ("--batch", request.batch and ":".join(map(str, request.batch))),
    ):
        more += [] if value is None else [name, str(value)]
    return more
