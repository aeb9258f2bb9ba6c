"""Pictures of a merge or of a plan's kernels: `ShowRequest`, `show` and what it draws."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines import storage
from engines.commands import command, graph_of, rebuild
from engines.errors import InputError, TrustError, UsageError
from engines.fusion.report import fusion_of, fusion_path, read_fusion
from engines.imaging.images import read_files
from engines.manifest import manifest_path, read_manifest
from engines.parity.finite import require_finite
from engines.parity.outputs import manifest_of
from engines.registry import import_or_explain
from engines.tasks.index import read_index
from fpet_export.reporter import SILENT, Reporter
from fpet_export.requests import Writing
from fpet_export.steps import check_images, usable
from fpet_export.steps.verify import graph_outputs

if TYPE_CHECKING:
    from engines.fusion.report import FusionReport
    from engines.imaging.images import PixelArray
    from engines.manifest import Manifest
    from engines.parity.model_outputs import ModelOutputs
    from fpet_export.pictures.merge_groups import MergeGroups


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShowRequest(Writing):
    """What is drawn.

    Attributes:
        artefact: An exported graph, a plan or its fusion report, or a folder of tasks.
        out: PNG to write.
        task: Which task of a folder.
        image: An image, for a graph; None for a plan.
    """

    artefact: Path
    out: Path
    task: str | None = None
    image: Path | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class MergePicture:
    """An image, and beside it which of its patches became one token.

    Attributes:
        png: The file.
        winner: Index of the likeliest class.
        groups: Patches by token.
    """

    png: Path
    winner: int
    groups: MergeGroups

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"png": str(self.png), "class": self.winner, "groups": self.groups.to_json()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class KernelPicture:
    """The kernels of a plan, a row a block: the file, and the report that it was drawn from."""

    png: Path
    fusion: FusionReport

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"png": str(self.png), "fusion": self.fusion.to_json()}


def show(request: ShowRequest, reporter: Reporter = SILENT) -> MergePicture | KernelPicture:
    """Draw which patches of an image merged, or the kernels of a plan.

    Raises:
        UsageError: An image is missing, or there is one too many; or `out` is no PNG file.
        InputError: The graph merges no tokens, or nothing lists the plan's kernels.
        TrustError: The graph beside an engine is another than it was made from.
    """
    artefact, image = request.artefact, request.image
    is_report = artefact.name.endswith(".fusion.json")
    if is_report and image is not None:
        raise UsageError(
            f"the kernels of {artefact.name} are drawn without an image, and {image} was given",
            where="IMG",
            fix=command("show", artefact, "-o", request.out),
        )
    is_plan = is_report or (artefact.suffix == ".plan" and image is None)
    if not is_plan and image is None:
        raise UsageError(
            f"the merge of {artefact.name} is drawn over an image, and none was given",
            where="IMG",
            fix=f"name an image behind it: {command('show', artefact)} IMAGE "
            + shlex.join(("-o", str(request.out))),
        )
    storage.refuse_overwrite(request.out, force=request.force)
    if request.out.suffix.lower() != ".png":
        raise UsageError(
            f"{request.out.name} is not a PNG file",
            where="--out",
            fix="give it a name that ends in .png",
        )

    import_or_explain("PIL.Image")
    if is_plan:
        return _show_plan(request, reporter)
    assert image is not None, "refused above"
    return _show_merge(request, image, reporter)


def _show_plan(request: ShowRequest, reporter: Reporter) -> KernelPicture:
    from fpet_export.pictures.plan import plan_picture

    path = request.artefact
    if not path.exists():
        raise InputError("there is no such file", where=str(path), fix="check the path")
    if path.suffix == ".plan" and not fusion_path(path).exists():
        raise InputError(
            "there is no fusion report beside this plan, so its kernels are not known",
            where=str(fusion_path(path)),
            fix=rebuild(path, read_manifest(path) if manifest_path(path).exists() else None),
        )
    report = fusion_of(path, read_manifest(path)) if path.suffix == ".plan" else read_fusion(path)
    storage.write_bytes(request.out, plan_picture(report))
    for line in report.summary():
        reporter.step("show", line)
    for line in report.in_words()[2:]:
        reporter.detail(line)
    return KernelPicture(png=request.out, fusion=report)


def _show_merge(request: ShowRequest, image: Path, reporter: Reporter) -> MergePicture:
    from fpet_export.pictures import merge
    from fpet_export.pictures.merge_groups import groups_of

    graph, manifest = request.artefact, _manifest(request)
    if request.task is None:
        graph, manifest = _showing(graph, manifest)
        if graph != request.artefact:
            reporter.step("graph", f"{graph.name}, from which {request.artefact.name} was made")
    if manifest.model is None or manifest.preprocessing is None or "match" not in manifest.probes:
        raise InputError(
            "this graph merges no tokens, or does not say where",
            where=str(graph),
            fix="show a graph that `fpet-export export` wrote for a run with FPET, or an engine "
            "that lies beside it",
        )
    images = read_files([image], manifest.preprocessing)
    check_images.say_remarks(images.remarks, reporter)
    pixels = images.pixels
    if request.task is None:
        usable.report(graph, manifest, reporter)
    outputs = _outputs(graph, request.task, pixels)
    require_finite(outputs.logits, [str(image)], of=graph)
    assert outputs.match is not None
    groups = groups_of(outputs.match[0], manifest.model.grid)
    winner = int(outputs.logits[0].argmax())
    name = manifest.labels[winner] if manifest.labels else f"class {winner}"
    blocks = ", ".join(map(str, manifest.model.merged_blocks))
    title = f"{image.name}: {name}, merged after block {blocks}"
    storage.write_bytes(request.out, merge.merge_picture(pixels[0], groups, title))
    reporter.step("show", groups.describe())
    return MergePicture(png=request.out, winner=winner, groups=groups)


def _showing(artefact: Path, manifest: Manifest) -> tuple[Path, Manifest]:
    """Return the artefact, or the graph beside it that it was made from and that shows its merge.

    Raises:
        TrustError: The graph beside it is another one.
    """
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


def _manifest(request: ShowRequest) -> Manifest:
    """Return the manifest of a graph, or of a task with what its graph shows."""
    if request.task is None:
        return manifest_of(request.artefact)
    from fpet_export.steps.one_task import task_manifest

    folder = request.artefact
    index = read_index(folder)
    graph = index.structures[index.task(request.task, where=str(folder)).structure].graph
    probes = read_manifest(folder / graph.file).probes
    return dataclasses.replace(task_manifest(folder, request.task), probes=probes)


def _outputs(graph: Path, task: str | None, pixels: PixelArray) -> ModelOutputs:
    from fpet_export.steps.one_task import task_outputs

    if task is None:
        return graph_outputs(graph, pixels)
    return task_outputs(graph, task, pixels, of_graph=True)
