"""What a run is, or what a folder of tasks holds: `InspectRequest`, `inspect`, `Inspection`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines.commands import command
from engines.errors import UsageError
from engines.manifest import is_task_folder
from engines.plurals import counted
from engines.storage import sha256_of
from fpet_export.reporter import SILENT, Reporter
from fpet_export.request_fields import judged_by, require_stated_merge
from fpet_export.requests import Run
from fpet_export.steps import next_commands, runs
from fpet_export.workflow import inspect_tasks

if TYPE_CHECKING:
    from fpet_export.model.facts import Fact
    from fpet_export.stages import Adapted, Folded


@dataclasses.dataclass(frozen=True, kw_only=True)
class InspectRequest(Run):
    """A run to read, or a folder of tasks to check.

    Attributes:
        merge: How its tokens would merge; see `fpet_export.requests.Exporting`.
    """

    merge: str | None = judged_by(require_stated_merge)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inspection:
    """What a run is.

    Attributes:
        name: Name of the run.
        facts: Every setting, with its source.
        backbone: Where the backbone comes from.
        architecture: Its shape, in words.
        weights: Whether the weights are trained or random.
        tokens: Tokens after each block.
        macs: Multiply-adds by part: the stem, each block, the head.
        macs_without_merging: Multiply-adds of the same network where no tokens merge.
        stays_in_graph: What does not fold into the backbone.
        files: SHA-256 of each file, by its path.
        next: Commands to type next.
    """

    name: str
    facts: Mapping[str, Fact[Any]]
    backbone: str
    architecture: str
    weights: str
    tokens: tuple[int, ...]
    macs: tuple[int, ...]
    macs_without_merging: int
    stays_in_graph: tuple[str, ...]
    files: Mapping[str, str]
    next: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "name": self.name,
            "facts": {
                name: {"value": fact.value, "source": fact.source}
                for name, fact in self.facts.items()
            },
            "backbone": {"source": self.backbone},
            "architecture": self.architecture,
            "weights": self.weights,
            "tokens": list(self.tokens),
            "macs": {
                "by_part": list(self.macs),
                "total": sum(self.macs),
                "without_merging": self.macs_without_merging,
            },
            "stays_in_graph": list(self.stays_in_graph),
            "files": dict(self.files),
        }


def inspect(
    request: InspectRequest, reporter: Reporter = SILENT
) -> Inspection | inspect_tasks.FolderInspection:
    """Read a run strictly, or check every byte of a folder of tasks; write nothing.

    Raises:
        CheckpointError: The run cannot be read, contradicts itself or leaves a fact open.
        TrustError: A file of the folder is not what its index says.
    """
    if is_task_folder(Path(request.run)):
        if request.merge is not None:
            raise UsageError(
                "a folder of tasks merges as its graphs were made to",
                where="--merge",
                fix="leave it out, or inspect a run",
            )
        return inspect_tasks.inspect_tasks(Path(request.run), reporter)
    adapted = runs.load_run(request)
    if request.merge is not None:
        adapted = adapted.merged(request.merge, "--merge")
    found = _inspection(request, adapted, adapted.fold())
    _report(found, adapted, reporter)
    return found


def _inspection(request: InspectRequest, adapted: Adapted, folded: Folded) -> Inspection:

    checkpoint, spec = adapted.checkpoint, adapted.model.spec
    out = next_commands.free(Path("out"))
    merge = () if request.merge is None else ("--merge", request.merge)
    return Inspection(
        name=checkpoint.name,
        facts=adapted.facts(),
        backbone=adapted.backbone.source,
        architecture=spec.describe(),
        weights=adapted.quality,
        tokens=adapted.merge_plan().tokens,
        macs=tuple(adapted.macs()),
        macs_without_merging=adapted.macs_without_merging(),
        stays_in_graph=tuple(folded.stay),
        files={str(path): sha256_of(path) for path in (*checkpoint.files, *adapted.backbone.files)},
        next=(command("export", *runs.run_argv(request), *merge, "-o", out),),
    )


def _cost_of_stay(adapted: Adapted) -> str:
    """Return the multiply-adds of what does not fold, of one image."""
    extra = adapted.extra_macs()
    return f" and cost {extra / 1e6:.2f} million multiply-adds" if extra else ""


def _report(found: Inspection, adapted: Adapted, reporter: Reporter) -> None:
    reporter.step("run", f"{found.name}: {runs.describe(adapted)}")
    facts = {name: str(fact) for name, fact in found.facts.items()} | {"backbone": found.backbone}
    reporter.table([("fact", "value (source)"), *facts.items()], words=True)
    reporter.line()
    rows = [("block", "tokens in", "tokens out", "million multiply-adds")]
    before = adapted.model.spec.tokens
    for index, after in enumerate(found.tokens):
        rows.append((str(index), str(before), str(after), f"{found.macs[index + 1] / 1e6:.1f}"))
        before = after
    reporter.table(rows)
    reporter.line()
    stay = found.stays_in_graph
    reporter.step(
        "fold",
        f"{counted(len(stay), 'part')} stay in the graph{_cost_of_stay(adapted)}"
        if stay
        else "everything folds",
    )
    reporter.step(
        "cost",
        f"{sum(found.macs) / 1e9:.3f} billion multiply-adds (GMAC), "
        f"{found.macs_without_merging / 1e9:.3f} without merging",
    )
    for warning in adapted.checkpoint.warnings:
        reporter.step("note", warning, passed=None)
    for path, digest in found.files.items():
        reporter.detail(f"{digest}  {path}")
    if adapted.merge_plan().merges and adapted.checkpoint.merges_untrained:
        reporter.step("merging", runs.UNTRAINED, passed=None)
    has_sums = any(path.endswith("SHA256SUMS") for path in found.files)
    if adapted.checkpoint.files and not has_sums:
        reporter.step(
            "checksums",
            "none beside the run: a flipped bit in its files would go unnoticed "
            "(sha256sum FILES > SHA256SUMS)",
            passed=None,
        )
