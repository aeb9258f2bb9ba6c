"""A deployment whose request was accepted: exported, built, compared, measured and reported."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from benchmarks.measurement import Measurement
from benchmarks.measurement_file import write_measurement
from benchmarks.report.energy import format_energy
from benchmarks.report.page import Picture
from benchmarks.report.table import format_table
from engines import storage
from engines.commands import command
from engines.errors import FpetError
from engines.imaging.images import PixelArray
from engines.manifest import read_manifest
from engines.targets import Target
from engines.targets._lookup import load_target
from fpet_export.model.merge_plan import blocks_in_words
from fpet_export.pictures import merge
from fpet_export.pictures.merge_groups import MergeGroups, groups_by_block
from fpet_export.reporter import Reporter
from fpet_export.requests import Deploying
from fpet_export.steps import (
    batches,
    exporting,
    measuring,
    next_commands,
    parity_report,
    plain_vit,
)
from fpet_export.steps.graph_outputs import graph_outputs
from fpet_export.workflow import deployment_page, deployment_verdict, headline
from fpet_export.workflow.deploy_target import deploy_target
from fpet_export.workflow.deployed import DeployedTarget, Deployment, latency_path

_TASKS = "take the whole folder to a board: {bundle}"


def deploy(request: Deploying, reporter: Reporter, targets: Sequence[Target]) -> Deployment:
    """Run every step for each target; see `fpet_export.workflow.deploy.deploy`."""
    started, request = exporting.start(request, reporter, instead=_TASKS)
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


def _pictures(
    started: exporting.Started, graph: Path, folder: Path, reporter: Reporter
) -> tuple[Picture, ...]:
    """Draw the merge of the first image as a file and for the page; none without merging."""
    model = read_manifest(graph).model
    if model is None or not model.merges:
        return ()
    images = started.check.images
    evidence = graph_outputs(graph, images.pixels[:1])
    assert evidence.match is not None
    groups = groups_by_block(evidence.match[0], model)
    last, blocks = list(groups.values())[-1], blocks_in_words(groups)
    name = images.names[0] if images.names else "synthetic image 0"
    png = merge.merge_picture(images.pixels[0], groups, f"{name}: merged after {blocks}")
    storage.write_bytes(folder / "merge.png", png)
    reporter.step("show", f"{folder / 'merge.png'} · {last.describe()}")
    return (merge_figure(images.pixels[0], last, name=name, blocks=blocks),)


def merge_figure(pixels: PixelArray, groups: MergeGroups, *, name: str, blocks: str) -> Picture:
    """Return an image and its merged patches, small enough for a page.

    Args:
        pixels: (height, width, 3) of the model's input.
        groups: What merged.
        name: Name of the image.
        blocks: After which tokens had merged, such as "block 6".
    """
    merged = merge.merged_panel(pixels, groups)
    return Picture(
        title="Which patches became one token?",
        pngs=(
            (merge.png_of(Image.fromarray(pixels)), name, f"The input image, {name}."),
            (
                merge.png_of(merged),
                f"after {blocks}",
                f"The same image cut into patches. {groups.describe()}. Patches of one token share "
                "a colour and an outline.",
            ),
        ),
        caption=f"{groups.describe()}. {merge.explain(groups)} Read from the exported graph.",
    )


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
        paths += [latency_path(request.out, load_target(one.target)) for one in built[1:]]
        for path, measurement in zip(paths, found, strict=True):
            _keep_measurement(measurement, path, request, reporter)
        return found, ""
    here = [one.engine for one in built if one.runs_here]
    if not here:
        problem = "no engine of this deployment runs on this machine"
        reporter.step("bench", problem, passed=None)
        return [], problem
    settings = measuring.Settings(
        threads=request.threads,
        rounds=request.rounds,
        seconds=request.seconds,
        energy=request.energy,
        setting=request,
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
        energy = format_energy(measurement, width=reporter.width)
        for line in ["", *energy] if energy else []:
            reporter.line(line)
        reporter.line()


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
            if read_manifest(one.engine, verify=False).head == "logits":
                commands += next_commands.predict(one.engine, image)
            commands.append(bench)
        elif request.remote is not None:
            commands.append(f"{bench} {request.remote_argv()}")
        else:
            commands.append(next_commands.bundle(one.engine))
    graph = built[0].graph
    return [*commands, *next_commands.show_merge(graph, read_manifest(graph), image)]
