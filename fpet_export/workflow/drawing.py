"""The picture of a merge: an image, and beside it which of its patches became one token."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from engines import storage
from engines.commands import graph_of, rebuild
from engines.errors import InputError, TrustError
from engines.imaging.images import PixelArray, read_files
from engines.manifest import Manifest, read_manifest
from engines.parity.finite import require_finite
from engines.parity.model_outputs import ModelOutputs
from engines.parity.outputs import manifest_of
from engines.tasks.index import read_index
from fpet_export.model.merge_plan import blocks_in_words
from fpet_export.pictures import merge
from fpet_export.pictures.merge_groups import MergeGroups, groups_by_block
from fpet_export.reporter import Reporter
from fpet_export.steps import check_images, task_names, usable
from fpet_export.steps.graph_outputs import graph_outputs
from fpet_export.steps.one_task import task_outputs


def draw_merge(
    artefact: Path, image: Path, out: Path, reporter: Reporter, *, task: str | None
) -> tuple[MergeGroups, int | None]:
    """Draw what merged in an image, as an artefact or one `task` of a folder shows it.

    Returns:
        The patches by token, and the index of the likeliest class; None where there are no classes.

    Raises:
        InputError: The graph merges no tokens.
        TrustError: The graph beside an engine is another than it was made from.
    """
    graph, manifest = artefact, _manifest(artefact, task)
    if task is None:
        graph, manifest = _showing(graph, manifest)
        if graph != artefact:
            reporter.step("graph", f"{graph.name}, from which {artefact.name} was made")
    if manifest.model is None or manifest.preprocessing is None or not manifest.shows_match:
        raise InputError(
            "this graph merges no tokens, or does not say where",
            where=str(graph),
            fix="show a graph that `fpet-export export` wrote with a merge, or an engine "
            "that lies beside it",
        )
    images = read_files([image], manifest.preprocessing)
    check_images.say_remarks(images.remarks, reporter)
    pixels = images.pixels
    if task is None:
        usable.report(graph, manifest, reporter)
    outputs = _outputs(graph, task, pixels)
    require_finite(outputs, [str(image)], of=graph)
    assert outputs.match is not None
    groups = groups_by_block(outputs.match[0], manifest.model)
    last = list(groups.values())[-1]
    winner: int | None = None
    name: str = outputs.head
    if outputs.head == "logits":
        winner = int(outputs.logits[0].argmax())
        name = manifest.labels[winner] if manifest.labels else f"class {winner}"
    title = f"{image.name}: {name}, merged after {blocks_in_words(groups)}"
    storage.write_bytes(out, merge.merge_picture(pixels[0], groups, title))
    reporter.step("show", last.describe())
    return last, winner


def _showing(artefact: Path, manifest: Manifest) -> tuple[Path, Manifest]:
    """Return the artefact, or the graph beside it that it was made from and that shows its merge.

    Raises:
        TrustError: The graph beside it is another one.
    """
    while not manifest.shows_match or manifest.kind == "engine":
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


def _manifest(artefact: Path, task: str | None) -> Manifest:
    """Return the manifest of a graph, or of a task with what its graph shows."""
    if task is None:
        return manifest_of(artefact)
    index = read_index(artefact)
    graph = index.structures[index.task(task, where=str(artefact)).structure].graph
    probes = read_manifest(artefact / graph.file).probes
    return dataclasses.replace(task_names.task_manifest(artefact, task), probes=probes)


def _outputs(graph: Path, task: str | None, pixels: PixelArray) -> ModelOutputs:
    if task is None:
        return graph_outputs(graph, pixels)
    return task_outputs(graph, task, pixels, of_graph=True)
