"""The part of `deploy` that is done for each target: export, type, build, compare."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING

from engines.contract import BuildOptions
from engines.engine import build
from engines.manifest import read_manifest
from engines.parity.outputs import runnable
from fpet_export.board.deploy import deploy_there
from fpet_export.reporter import Reporter
from fpet_export.requests import Deploying
from fpet_export.steps import built_engine, exporting, parity_report, verify
from fpet_export.steps.memory import require_memory
from fpet_export.workflow.deployed import DeployedTarget

if TYPE_CHECKING:
    from engines.parity.rows import StageParity
    from engines.targets import Target


def deploy_target(
    started: exporting.Started, request: Deploying, reporter: Reporter, target: Target
) -> DeployedTarget:
    """Export for one target, build its engine, and compare it where it runs."""
    exported = exporting.export(
        started,
        request,
        reporter,
        path=request.out / target.file_name / "model.onnx",
        target=target.name,
    )
    if request.remote is not None:
        return _build_there(started, request, reporter, target, exported)
    typed = exporting.type_graph(started, request, reporter, exported, target.name)
    rows = _named(typed.rows, target)
    require_memory(typed.path, read_manifest(typed.path, verify=False), target, reporter)
    with built_engine.build_progress(reporter) as progress:
        engine = build(
            typed.path,
            target=target,
            options=BuildOptions(
                force=request.force,
                command=request.command,
                progress=progress,
                allow_failed=True,  # what drifts is built, too, to show where; it stays marked
            ),
        )
    manifest = read_manifest(engine)
    reporter.step("build", built_engine.describe(engine, manifest))
    built_engine.report_fusion(engine, manifest, reporter)
    problem, row = runnable(engine), None
    if problem is not None:
        reporter.step(
            target.name, f"not run here: {built_engine.short_reason(problem)}", passed=None
        )
    else:
        with reporter.progress(f"{target.name} engine", len(started.check.images)) as advance:
            row = verify.engine_row(started.check, engine, advance)
        rows += (row,)
        started.record(engine, (*typed.rows, row))
    return DeployedTarget(
        target=target.name,
        graph=exported.path,
        typed=typed.path,
        engine=engine,
        rows=rows,
        runs_here=problem is None,
        row=row,
        not_run="" if problem is None else built_engine.short_reason(problem),
    )


def _build_there(
    started: exporting.Started,
    request: Deploying,
    reporter: Reporter,
    target: Target,
    exported: exporting.Exported,
) -> DeployedTarget:
    """Let another machine build, check and measure what `--precision` asks for."""
    parity_report.require(started.table(exported.rows))
    found = exporting.type_graphs(started, request, reporter, exported, target)
    parity_report.require(started.table(made.row for made in found.made.values()))
    there = deploy_there(found, target, started.check.images, request, reporter)
    typed = (made.row for made in found.made.values())
    return DeployedTarget(
        target=target.name,
        graph=exported.path,
        typed=there.typed,
        engine=there.engine,
        rows=(*_named((*exported.rows, *typed), target), *there.rows),
        runs_here=False,
        row=there.row,
        not_run="" if there.row is not None else f"{request.remote} could not compare it",
        measurement=there.measurement,
    )


def _named(rows: Iterable[StageParity], target: Target) -> tuple[StageParity, ...]:
    return tuple(dataclasses.replace(row, stage=f"{target.name} {row.stage}") for row in rows)
