"""`fpet-export deploy RUN --target T[,T]`: everything in one go."""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from engines import storage
from engines.commands import command
from engines.errors import FpetError
from engines.manifest import read_manifest
from engines.targets._lookup import load_target
from fpet_export.board import remote
from fpet_export.cli import arguments, quantize_arguments
from fpet_export.cli.terminal import terminal_width
from fpet_export.cli.verbs import Outcome
from fpet_export.reporter import Reporter
from fpet_export.workflow import (
    batches,
    headline,
    measure,
    next_commands,
    plain,
    steps,
    typed_graph,
)
from fpet_export.workflow import engine_steps as _engines
from fpet_export.workflow import page as _page
from fpet_export.workflow import verdict as _verdict

if TYPE_CHECKING:
    from benchmarks import Measurement
    from benchmarks.report.page import Picture
    from engines.parity.rows import StageParity
    from engines.targets import Target

GROUP = "make"
HELP = "do all of it: export, check, build, measure, report"
DESCRIPTION = """\
Export a run for each target, prove parity at every stage, build the engines, measure those that
run here against the plain ViT, and write one HTML page.

Leaves OUT/TARGET/model.onnx and its engine with their manifests, OUT/parity.json,
OUT/latency.json, OUT/merge.png and OUT/report.html. With --remote a board builds the engines
through ssh, checks them, and measures them against the plain ViT in the same rounds; `--precision
best` sends every precision that meets the limits and fetches the one that is fastest there.

  fpet-export deploy runs/lora/digits --backbone backbone.safetensors --target cpu,rtx -o out
"""


_FILES = ("report.html", "parity.json", "latency.json", "merge.png")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Built:
    """One target's exported graph, what was built of it, and their rows of the parity table.

    `typed` is the graph that the engine was built from: the exported one, or another precision's;
    `row` is the engine's own, None where it did not run; `not_run` is why no machine has run it;
    `measurement` was taken on another machine.
    """

    target: str
    graph: Path
    typed: Path
    engine: Path
    rows: tuple[StageParity, ...]
    runs_here: bool
    row: StageParity | None = None
    not_run: str = ""
    measurement: Measurement | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    arguments.add_run(parser)
    arguments.add_output(parser, what="folder to write", required=True)
    parser.add_argument(
        "--target", default="cpu", metavar="T,T", help="targets (default: cpu; see `targets`)"
    )
    arguments.add_graph(parser)
    quantize_arguments.add_precision(parser)
    arguments.add_data(parser, limit=None)
    group = parser.add_argument_group("the measurement")
    group.add_argument(
        "--peers",
        type=arguments.names,
        default=(),
        metavar="A,B|all",
        help="peers of the plain model",
    )
    group.add_argument(
        "--threads", type=arguments.positive, help="CPU threads (default: physical cores)"
    )
    group.add_argument(
        "--rounds", type=arguments.positive, default=40, help="rounds at least (default: 40)"
    )
    group.add_argument(
        "--seconds", type=arguments.amount, default=3.0, help="seconds at least (default: 3)"
    )
    group.add_argument(
        "--allow-noise",
        action="store_true",
        help="take fewer rounds than a verdict needs; the numbers are marked as not valid",
    )
    group.add_argument(
        "--bench",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="measure the engines that run against the plain ViT",
    )
    remote.add_arguments(parser)


def run(options: argparse.Namespace, reporter: Reporter) -> Outcome:
    """Run every step; a missed gate stops after its evidence is written."""
    from benchmarks.measurement import to_document
    from engines.engine import default_path

    names = list(dict.fromkeys(arguments.names(options.target)))
    targets = [load_target(name) for name in names]
    measure.check_peers(options.peers)
    if options.bench:
        measure.refuse_few_rounds(options)
    files = [options.out / name for name in _FILES]
    for target in targets:
        graph = options.out / target.file_name / "model.onnx"
        typed_graph.refuse_all(graph, options)
        files.append(graph)
        for typed in typed_graph.graphs_of(graph, options):
            files.append(default_path(typed, target))
    if options.remote is not None:
        files += [_latency_path(options.out, target) for target in targets[1:]]
    for file in files:
        storage.refuse_overwrite(file, force=options.force)
    remote.refuse_peers(options)
    if options.remote is not None:
        remote.require_reachable(options)
    started = steps.start(options, reporter)
    built = [_build(started, options, reporter, target) for target in targets]
    rows = [*started.rows, *(row for one in built for row in one.rows)]
    table = started.check.table(rows)
    steps.show_table(table, reporter)
    text = json.dumps(table.to_json(), indent=1) + "\n"
    storage.write_text(options.out / "parity.json", text)
    pictures = _pictures(started, built[0].graph, options.out, reporter)
    measurements: list[Measurement] = []
    if not options.bench:
        unmeasured = "not measured, because of --no-bench"
    elif table.first_failure() is not None:
        unmeasured = "not measured, because the answers are not equal"
    else:
        measurements, unmeasured = _measure(built, options, reporter)
    again = _again(options, built)
    verdict = _verdict.of_deployment(
        table,
        measurements,
        not_run={one.target: one.not_run for one in built if one.not_run},
        again=again,
        unmeasured=unmeasured,
        hint=_batch_hint(measurements, built),
    )
    sentence = headline.sentence(table, built, measurements)
    commands = _next(options, built)
    page = options.out / "report.html"
    _page.write(
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
        force=options.force,
    )
    reporter.step("report", str(page))
    verdict.show(reporter)
    steps.require(table)
    return Outcome(
        document={
            "report": str(page),
            "parity": table.to_json(),
            "engines": {one.target: str(one.engine) for one in built},
            "precisions": {one.target: read_manifest(one.typed).precision for one in built},
            "latency": to_document(measurements[0]) if measurements else None,
            "sentence": sentence,
            "verdict": verdict.to_json(),
        },
        result=str(page),
        next=commands,
    )


def _build(
    started: steps.Started, options: argparse.Namespace, reporter: Reporter, target: Target
) -> Built:
    """Export for one target, build its engine, and compare it where it runs."""
    from engines import BuildOptions, build
    from engines.parity.outputs import runnable
    from fpet_export.workflow import verify

    exported = steps.export(
        started,
        options,
        reporter,
        path=options.out / target.file_name / "model.onnx",
        target=target.name,
    )
    if options.remote is not None:
        return _build_there(started, options, reporter, target, exported)
    typed = steps.type_graph(started, options, reporter, exported, target.name)
    rows = _named(typed.rows, target)
    with _engines.build_progress(reporter) as progress:
        engine = build(
            typed.path,
            target=target,
            options=BuildOptions(
                force=options.force,
                command=options.command,
                progress=progress,
                allow_failed=True,  # what drifts is built, too, to show where; it stays marked
            ),
        )
    manifest = read_manifest(engine)
    reporter.step("build", _engines.describe(engine, manifest))
    _engines.report_fusion(engine, manifest, reporter)
    problem, row = runnable(engine), None
    if problem is not None:
        reporter.step(target.name, f"not run here: {_engines.short_reason(problem)}", passed=None)
    else:
        with reporter.progress(f"{target.name} engine", len(started.check.images)) as advance:
            row = verify.engine_row(started.check, engine, advance)
        rows += (row,)
        started.record(engine, (*typed.rows, row))
    return Built(
        target=target.name,
        graph=exported.path,
        typed=typed.path,
        engine=engine,
        rows=rows,
        runs_here=problem is None,
        row=row,
        not_run="" if problem is None else _engines.short_reason(problem),
    )


def _build_there(
    started: steps.Started,
    options: argparse.Namespace,
    reporter: Reporter,
    target: Target,
    exported: steps.Exported,
) -> Built:
    """Let another machine build, check and measure what `--precision` asks for."""
    from fpet_export.board.deploy import deploy_there

    steps.require(started.table(exported.rows))
    found = steps.type_graphs(started, options, reporter, exported, target)
    steps.require(started.table(made.row for made in found.made.values()))
    there = deploy_there(found, target, started.check.images, options, reporter)
    typed = (made.row for made in found.made.values())
    return Built(
        target=target.name,
        graph=exported.path,
        typed=there.typed,
        engine=there.engine,
        rows=(*_named((*exported.rows, *typed), target), *there.rows),
        runs_here=False,
        row=there.row,
        not_run="" if there.row is not None else f"{options.remote} could not compare it",
        measurement=there.measurement,
    )


def _named(rows: Iterable[StageParity], target: Target) -> tuple[StageParity, ...]:
    return tuple(dataclasses.replace(row, stage=f"{target.name} {row.stage}") for row in rows)


def _pictures(
    started: steps.Started, graph: Path, folder: Path, reporter: Reporter
) -> tuple[Picture, ...]:
    """Draw the merge of the first image as a file and for the page; none without merging."""
    if started.adapted.model.merger is None:
        return ()
    from fpet_export.pictures import merge
    from fpet_export.pictures.merge_groups import groups_of
    from fpet_export.workflow.verify import graph_outputs

    images = started.check.images
    evidence = graph_outputs(graph, images.pixels[:1])
    assert evidence.match is not None
    groups = groups_of(evidence.match[0], started.adapted.model.spec.grid)
    block = started.adapted.checkpoint.merge_block
    name = images.names[0] if images.names else "synthetic image 0"
    png = merge.merge_picture(images.pixels[0], groups, f"{name}: merged after block {block}")
    storage.write_bytes(folder / "merge.png", png)
    reporter.step("show", f"{folder / 'merge.png'} · {groups.describe()}")
    return (_page.merge_figure(images.pixels[0], groups, name=name, block=block),)


def _measure(
    built: list[Built], options: argparse.Namespace, reporter: Reporter
) -> tuple[list[Measurement], str]:
    """Measure the engines that run here against the plain ViT, or keep what a board measured.

    Returns:
        The measurements, and why there are none.
    """
    if options.remote is not None:
        found = [one.measurement for one in built if one.measurement is not None]
        paths = [options.out / "latency.json"]
        paths += [_latency_path(options.out, load_target(one.target)) for one in built[1:]]
        for path, measurement in zip(paths, found, strict=True):
            _keep_measurement(measurement, path, options, reporter)
        return found, ""
    here = [one.engine for one in built if one.runs_here]
    if not here:
        problem = "no engine of this deployment runs on this machine"
        reporter.step("bench", problem, passed=None)
        return [], problem
    settings = measure.Settings(
        threads=options.threads, rounds=options.rounds, seconds=options.seconds
    )
    with tempfile.TemporaryDirectory(prefix="fpet-bench-") as folder:
        try:
            measurement = measure.measure(
                here,
                against=plain.PLAIN,
                peers=options.peers,
                settings=settings,
                folder=Path(folder),
                command=options.command,
                reporter=reporter,
            )
        except FpetError as error:
            reporter.step("bench", error.what, passed=False)
            return [], f"{error.what}; measure again: {_again(options, built)}"
    _keep_measurement(measurement, options.out / "latency.json", options, reporter)
    return [measurement], ""


def _keep_measurement(
    measurement: Measurement, path: Path, options: argparse.Namespace, reporter: Reporter
) -> None:
    """Write a measurement, and print its verdict and its table."""
    from benchmarks import format_table, write_measurement

    write_measurement(path, measurement, force=options.force)
    reporter.step(
        "bench",
        measure.verdict(measurement, ours_only=True).replace("\n", "; "),
        passed=True if measurement.valid else None,
    )
    if options.remote is None:  # the agent's own table was heard already
        reporter.line()
        reporter.line(format_table(measurement, width=terminal_width()))
        reporter.line()


def _latency_path(folder: Path, target: Target) -> Path:
    """Return where the measurement of a further target lies, which a board takes by itself."""
    return folder / target.file_name / "latency.json"


def _again(options: argparse.Namespace, built: list[Built]) -> str:
    """Return the command that measures the engines once more; none where no engine runs."""
    if options.remote is not None:
        graphs = [one.typed for one in built]
        return _verdict.bench_command(graphs, remote.words(options))
    here = [one.engine for one in built if one.runs_here]
    return _verdict.bench_command(here) if here else ""


def _batch_hint(measurements: list[Measurement], built: list[Built]) -> str:
    """Return how to find the batch from which merging pays, where it was measured and does not."""
    engines = [one.engine for one in built if one.runs_here or one.measurement is not None]
    hints = (batches.hint(measurement, engines) for measurement in measurements)
    return next((hint for hint in hints if hint), "")


def _next(options: argparse.Namespace, built: list[Built]) -> list[str]:
    """Return what to type next; see `_commands`."""
    commands, image = [], next_commands.first_image(options.data)
    for one in built:
        bench = command("bench", one.engine, "--against", plain.PLAIN)
        if one.runs_here:
            commands += [*next_commands.predict(one.engine, image), bench]
        elif options.remote is not None:
            commands.append(f"{bench} {remote.words(options)}")
        else:
            commands.append(next_commands.bundle(one.engine))
    graph = built[0].graph
    return [*commands, *next_commands.show_merge(graph, read_manifest(graph), image)]
