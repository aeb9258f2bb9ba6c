"""`deploy`: everything in one go, from a run to engines, a verdict and a page."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.measurement_file import to_document, write_measurement
from benchmarks.report.table import format_table
from engines import storage
from engines.commands import command
from engines.engine import default_path
from engines.errors import FpetError
from engines.manifest import read_manifest
from engines.parity.rows import ParityTable
from engines.targets._lookup import load_target
from fpet_export.board import transfer
from fpet_export.reporter import Recorder, Reporter
from fpet_export.requests import Deploying
from fpet_export.steps import (
    batches,
    exporting,
    measuring,
    next_commands,
    parity_report,
    plain_vit,
    typed_graph,
)
from fpet_export.steps.verify import graph_outputs
from fpet_export.workflow import deployment_page, deployment_verdict, headline
from fpet_export.workflow.deploy_target import deploy_target
from fpet_export.workflow.deployed import DeployedTarget

if TYPE_CHECKING:
    from benchmarks.measurement import Measurement
    from benchmarks.report.page import Picture
    from engines.targets import Target

_FILES = ("report.html", "parity.json", "latency.json", "merge.png")
_TASKS = "take the whole folder to a board: {bundle}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeployRequest(Deploying):
    """A run to deploy."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Deployment:
    """What a deployment left and showed.

    Attributes:
        report: The HTML page.
        parity: Every stage of every target against the float64 reference.
        targets: What was made for each target.
        measurements: Measurements of the engines that run, against the plain ViT.
        sentence: What it comes to, in one sentence.
        verdict: The same about answers, accuracy, speed and merging.
        next: Commands to type next.
    """

    report: Path
    parity: ParityTable
    targets: tuple[DeployedTarget, ...]
    measurements: tuple[Measurement, ...]
    sentence: str
    verdict: deployment_verdict.Verdict
    next: Sequence[str] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the same as plain values."""
        return {
            "report": str(self.report),
            "parity": self.parity.to_json(),
            "engines": {one.target: str(one.engine) for one in self.targets},
            "precisions": {one.target: read_manifest(one.typed).precision for one in self.targets},
            "latency": to_document(self.measurements[0]) if self.measurements else None,
            "sentence": self.sentence,
            "verdict": self.verdict.to_json(),
        }


def deploy(request: DeployRequest, reporter: Reporter | None = None) -> Deployment:
    """Run every step for each target; a missed gate stops after its evidence is written.

    Args:
        request: The run, the targets, and how they are measured.
        reporter: Hears of each step; None records them for the page.

    Raises:
        FpetError: What is wrong with the run, a target, the images or the other machine; a
            ParityError names the first stage that drifted.
    """
    reporter = Recorder() if reporter is None else reporter
    targets = [load_target(name) for name in request.targets]
    _refuse(request, targets)
    started = exporting.start(request, reporter, instead=_TASKS)
    built = [deploy_target(started, request, reporter, target) for target in targets]
    rows = [*started.rows, *(row for one in built for row in one.rows)]
    table = started.check.table(rows)
    parity_report.show_table(table, reporter)
    text = json.dumps(table.to_json(), indent=1) + "\n"
    storage.write_text(request.out / "parity.json", text)
    pictures = _pictures(started, built[0].graph, request.out, reporter)
    measurements: list[Measurement] = []
    if not request.bench:
        unmeasured = "not measured, because of --no-bench"
    elif table.first_failure() is not None:
        unmeasured = "not measured, because the answers are not equal"
    else:
        measurements, unmeasured = _measure(built, request, reporter)
    again = _again(request, built)
    verdict = deployment_verdict.of_deployment(
        table,
        measurements,
        not_run={one.target: one.not_run for one in built if one.not_run},
        again=again,
        unmeasured=unmeasured,
        hint=_batch_hint(measurements, built),
    )
    sentence = headline.sentence(table, built, measurements)
    commands = _next(request, built)
    page = request.out / "report.html"
    deployment_page.write(
        page,
        started=started,
        table=table,
        built=built,
        sentence=sentence,
        verdict=verdict,
        steps=reporter.steps,
        measurements=measurements,
        again=again,
        pictures=pictures,
        commands=commands,
        force=request.force,
    )
    reporter.step("report", str(page))
    verdict.show(reporter)
    parity_report.require(table)
    return Deployment(
        report=page,
        parity=table,
        targets=tuple(built),
        measurements=tuple(measurements),
        sentence=sentence,
        verdict=verdict,
        next=tuple(commands),
    )


def _refuse(request: Deploying, targets: Sequence[Target]) -> None:
    """Refuse what can be refused before anything is loaded.

    Raises:
        UsageError: Settings contradict each other, or a file would be overwritten.
        RemoteError: The other machine cannot be reached.
    """
    measuring.check_peers(request.peers)
    if request.bench:
        measuring.refuse_few_rounds(request)
    files = [request.out / name for name in _FILES]
    for target in targets:
        graph = request.out / target.file_name / "model.onnx"
        typed_graph.refuse_all(graph, request)
        files.append(graph)
        for typed in typed_graph.graphs_of(graph, request):
            files.append(default_path(typed, target))
    if request.remote is not None:
        files += [_latency_path(request.out, target) for target in targets[1:]]
    for file in files:
        storage.refuse_overwrite(file, force=request.force)
    measuring.refuse_peers(request)
    if request.remote is not None:
        transfer.require_reachable(request)


def _pictures(
    started: exporting.Started, graph: Path, folder: Path, reporter: Reporter
) -> tuple[Picture, ...]:
    """Draw the merge of the first image as a file and for the page; none without merging."""
    if started.adapted.model.merger is None:
        return ()
    from fpet_export.pictures import merge
    from fpet_export.pictures.merge_groups import groups_of

    images = started.check.images
    evidence = graph_outputs(graph, images.pixels[:1])
    assert evidence.match is not None
    groups = groups_of(evidence.match[0], started.adapted.model.spec.grid)
    block = started.adapted.merge_plan().in_words()
    name = images.names[0] if images.names else "synthetic image 0"
    png = merge.merge_picture(images.pixels[0], groups, f"{name}: merged after block {block}")
    storage.write_bytes(folder / "merge.png", png)
    reporter.step("show", f"{folder / 'merge.png'} · {groups.describe()}")
    return (deployment_page.merge_figure(images.pixels[0], groups, name=name, block=block),)


def _measure(
    built: list[DeployedTarget], request: Deploying, reporter: Reporter
) -> tuple[list[Measurement], str]:
    """Measure the engines that run here against the plain ViT, or keep what a board measured.

    Returns:
        The measurements, and why there are none.
    """
    if request.remote is not None:
        found = [one.measurement for one in built if one.measurement is not None]
        paths = [request.out / "latency.json"]
        paths += [_latency_path(request.out, load_target(one.target)) for one in built[1:]]
        for path, measurement in zip(paths, found, strict=True):
            _keep_measurement(measurement, path, request, reporter)
        return found, ""
    here = [one.engine for one in built if one.runs_here]
    if not here:
        problem = "no engine of this deployment runs on this machine"
        reporter.step("bench", problem, passed=None)
        return [], problem
    settings = measuring.Settings(
        threads=request.threads, rounds=request.rounds, seconds=request.seconds
    )
    with tempfile.TemporaryDirectory(prefix="fpet-bench-") as folder:
        try:
            measurement = measuring.measure(
                here,
                against=plain_vit.PLAIN,
                peers=request.peers,
                settings=settings,
                folder=Path(folder),
                command=request.command,
                reporter=reporter,
            )
        except FpetError as error:
            reporter.step("bench", error.what, passed=False)
            return [], f"{error.what}; measure again: {_again(request, built)}"
    _keep_measurement(measurement, request.out / "latency.json", request, reporter)
    return [measurement], ""


def _keep_measurement(
    measurement: Measurement, path: Path, request: Deploying, reporter: Reporter
) -> None:
    """Write a measurement, and report its verdict and its table."""
    write_measurement(path, measurement, force=request.force)
    reporter.step(
        "bench",
        measuring.verdict(measurement, ours_only=True).replace("\n", "; "),
        passed=True if measurement.valid else None,
    )
    if request.remote is None:  # the agent's own table was heard already
        reporter.line()
        reporter.line(format_table(measurement, width=reporter.width))
        reporter.line()


def _latency_path(folder: Path, target: Target) -> Path:
    """Return where the measurement of a further target lies, which a board takes by itself."""
    return folder / target.file_name / "latency.json"


def _again(request: Deploying, built: list[DeployedTarget]) -> str:
    """Return the command that measures the engines once more; none where no engine runs."""
    if request.remote is not None:
        graphs = [one.typed for one in built]
        return deployment_verdict.bench_command(graphs, request.remote_argv())
    here = [one.engine for one in built if one.runs_here]
    return deployment_verdict.bench_command(here) if here else ""


def _batch_hint(measurements: list[Measurement], built: list[DeployedTarget]) -> str:
    """Return how to find the batch from which merging pays, where it was measured and does not."""
    engines = [one.engine for one in built if one.runs_here or one.measurement is not None]
    hints = (batches.hint(measurement, engines) for measurement in measurements)
    return next((hint for hint in hints if hint), "")


def _next(request: Deploying, built: list[DeployedTarget]) -> list[str]:
    """Return what to type next."""
    commands, image = [], next_commands.first_image(request.data)
    for one in built:
        bench = command("bench", one.engine, "--against", plain_vit.PLAIN)
        if one.runs_here:
            commands += [*next_commands.predict(one.engine, image), bench]
        elif request.remote is not None:
            commands.append(f"{bench} {request.remote_argv()}")
        else:
            commands.append(next_commands.bundle(one.engine))
    graph = built[0].graph
    return [*commands, *next_commands.show_merge(graph, read_manifest(graph), image)]
