"""`fpet-export show`: which patches merged into which, or which kernels a plan has."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from engines import storage
from engines.commands import command, graph_of, rebuild
from engines.errors import InputError, TrustError, UsageError
from fpet_export.cli.verbs import Outcome
from fpet_export.reporter import Reporter
from fpet_export.workflow import images as _images
from fpet_export.workflow import usable

if TYPE_CHECKING:
    from engines.imaging.images import PixelArray
    from engines.manifest import Manifest
    from engines.parity.rows import ModelOutputs

GROUP = "judge"
HELP = "draw which patches merged into which, or the kernels of a plan"
DESCRIPTION = """\
For an exported graph and an image, draw the merge: the image, and beside it its patches, those
that became one token in one colour with one outline. For a TensorRT plan, draw its kernels from
the fusion report that `build` wrote beside it: one row for each block, coloured by the type of
each kernel.

  fpet-export show out/model.onnx cat.jpg -o merge.png
  fpet-export show out/model.rtx.plan -o fusion.png
  # a folder that `tasks` wrote:
  fpet-export show out cat.jpg --task pets -o merge.png
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "artefact",
        type=Path,
        metavar="ONNX|PLAN",
        help="an exported graph, a plan, or a folder of tasks",
    )
    parser.add_argument("--task", metavar="NAME", help="which task of a folder of tasks")
    parser.add_argument("image", type=Path, nargs="?", metavar="IMG", help="an image, for a graph")
    parser.add_argument("-o", "--out", type=Path, required=True, help="PNG to write")
    parser.add_argument("--force", action="store_true", help="replace a file that exists")


def run(options: argparse.Namespace, reporter: Reporter) -> Outcome:
    """Draw one picture."""
    artefact, image = options.artefact, options.image
    is_report = artefact.name.endswith(".fusion.json")
    if is_report and image is not None:
        raise UsageError(
            f"the kernels of {artefact.name} are drawn without an image, and {image} was given",
            where="IMG",
            fix=command("show", artefact, "-o", options.out),
        )
    is_plan = is_report or (artefact.suffix == ".plan" and image is None)
    if not is_plan and image is None:
        raise UsageError(
            f"the merge of {artefact.name} is drawn over an image, and none was given",
            where="IMG",
            fix=f"name an image behind it: {command('show', artefact)} IMAGE "
            + shlex.join(("-o", str(options.out))),
        )
    storage.refuse_overwrite(options.out, force=options.force)
    if options.out.suffix.lower() != ".png":
        raise UsageError(
            f"{options.out.name} is not a PNG file", where="--out", fix="end its name in .png"
        )
    from engines.registry import import_or_explain

    import_or_explain("PIL.Image")
    return _show_plan(options, reporter) if is_plan else _show_merge(options, reporter)


def _show_plan(options: argparse.Namespace, reporter: Reporter) -> Outcome:
    from engines.fusion.report import fusion_of, fusion_path, read_fusion
    from engines.manifest import manifest_path, read_manifest
    from fpet_export.pictures.plan import plan_picture

    path = options.artefact
    if not path.exists():
        raise InputError("there is no such file", where=str(path), fix="check the path")
    if path.suffix == ".plan" and not fusion_path(path).exists():
        raise InputError(
            "there is no fusion report beside this plan, so its kernels are not known",
            where=str(fusion_path(path)),
            fix=rebuild(path, read_manifest(path) if manifest_path(path).exists() else None),
        )
    report = fusion_of(path, read_manifest(path)) if path.suffix == ".plan" else read_fusion(path)
    storage.write_bytes(options.out, plan_picture(report))
    for line in report.summary():
        reporter.step("show", line)
    for line in report.in_words()[2:]:
        reporter.detail(line)
    return Outcome(
        document={"png": str(options.out), "fusion": report.to_json()}, result=str(options.out)
    )


def _show_merge(options: argparse.Namespace, reporter: Reporter) -> Outcome:
    from engines.imaging.images import read_files
    from engines.parity.finite import require_finite
    from fpet_export.pictures import merge
    from fpet_export.pictures.merge_groups import groups_of

    manifest = _manifest(options)
    if options.task is None:
        graph, manifest = _showing(options.artefact, manifest)
        if graph != options.artefact:
            reporter.step("graph", f"{graph.name}, from which {options.artefact.name} was made")
        options.artefact = graph
    graph = options.artefact
    if manifest.model is None or manifest.preprocessing is None or "match" not in manifest.probes:
        raise InputError(
            "this graph merges no tokens, or does not say where",
            where=str(graph),
            fix="show a graph that `fpet-export export` wrote for a run with FPET, or an engine "
            "that lies beside it",
        )
    images = read_files([options.image], manifest.preprocessing)
    _images.say_remarks(images.remarks, reporter)
    pixels = images.pixels
    if options.task is None:
        usable.say(graph, manifest, reporter)
    evidence = _outputs(options, pixels)
    require_finite(evidence.logits, [str(options.image)], of=graph)
    assert evidence.match is not None
    groups = groups_of(evidence.match[0], manifest.model.grid)
    winner = int(evidence.logits[0].argmax())
    name = manifest.labels[winner] if manifest.labels else f"class {winner}"
    title = f"{options.image.name}: {name}, merged after block {manifest.model.merge_block}"
    storage.write_bytes(options.out, merge.merge_picture(pixels[0], groups, title))
    reporter.step("show", groups.describe())
    document = {"png": str(options.out), "class": winner, "groups": groups.to_json()}
    return Outcome(document=document, result=str(options.out))


def _showing(artefact: Path, manifest: Manifest) -> tuple[Path, Manifest]:
    """Return the artefact, or the graph beside it that it was made from and that shows its merge.

    Raises:
        TrustError: The graph beside it is another one.
    """
    from engines.manifest import read_manifest

    while "match" not in manifest.probes or manifest.kind == "engine":
        graph = graph_of(artefact, manifest)
        if graph is None:
            break
        above = read_manifest(graph)
        if above.sha256 != manifest.parents[0].sha256:
            raise TrustError(
                f"{artefact.name} was made from {manifest.parents[0].sha256[:16]}…, the graph "
                f"beside it is {above.sha256[:16]}…",
                where=str(graph),
                fix=rebuild(artefact, manifest),
            )
        artefact, manifest = graph, above
    return artefact, manifest


def _manifest(options: argparse.Namespace) -> Manifest:
    """Return the manifest of a graph, or of a task with what its graph shows."""
    from engines.parity.outputs import manifest_of

    if options.task is None:
        return manifest_of(options.artefact)
    from engines.manifest import read_manifest
    from engines.tasks.index import read_index
    from fpet_export.workflow.one_task import task_manifest

    folder = options.artefact
    index = read_index(folder)
    graph = index.structures[index.task(options.task, where=str(folder)).structure].graph
    probes = read_manifest(folder / graph.file).probes
    return dataclasses.replace(task_manifest(folder, options.task), probes=probes)


def _outputs(options: argparse.Namespace, pixels: PixelArray) -> ModelOutputs:
    from fpet_export.workflow.one_task import task_outputs
    from fpet_export.workflow.verify import graph_outputs

    if options.task is None:
        return graph_outputs(options.artefact, pixels)
    return task_outputs(options.artefact, options.task, pixels, of_graph=True)
