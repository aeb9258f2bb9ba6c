"""Pictures of a merge or of a plan's kernels: `ShowRequest`, `show` and what it draws."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines import storage
from engines.commands import command, rebuild
from engines.errors import InputError, UsageError
from engines.fusion.report import fusion_of, fusion_path, read_fusion
from engines.manifest import manifest_path, read_manifest
from engines.registry import import_or_explain
from fpet_export.reporter import SILENT, Reporter
from fpet_export.requests import Writing

if TYPE_CHECKING:
    from engines.fusion.report import FusionReport
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
        winner: Index of the likeliest class; None where there are no classes.
        groups: Patches by token.
    """

    png: Path
    winner: int | None
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
    from fpet_export.workflow import drawing

    groups, winner = drawing.draw_merge(
        request.artefact, image, request.out, reporter, task=request.task
    )
    return MergePicture(png=request.out, winner=winner, groups=groups)


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
