"""`--merge auto`: the cheapest merge that keeps the limits on the user's images.

Every block is tried, in one pass that computes what all of them share once
(`fpet_export.model.merge_sweep`). An early merge saves more and costs more accuracy, so the choice
is the first block from which every later one keeps the limits, too: a single early block that
keeps them beside others that do not has been lucky on these images.

The reference is the run as it was trained. One that was trained with merging may merge earlier
than it did, then without the refinement of its match, which belongs to its own block.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from calibration.accuracy import AccuracyConstraint, Quality
from engines import storage
from engines.imaging import images as engine_images
from engines.imaging.class_names import KnownClasses
from engines.imaging.images import ImageSet
from engines.imaging.source import collect, open_source
from engines.parity.comparison import sqnr_db
from engines.plurals import counted
from fpet_export.model import mergers
from fpet_export.model.adapt import adapt
from fpet_export.model.facts import Fact
from fpet_export.model.merge_plan import require_block
from fpet_export.model.merge_sweep import answers_by_block
from fpet_export.model.mergers import MergingModule
from fpet_export.pictures.cost_and_answers import Dot, cost_and_answers
from fpet_export.reporter import Reporter
from fpet_export.requests import Exporting
from fpet_export.stages import Adapted
from fpet_export.steps import check_images, merge_request, typing_request

E = TypeVar("E", bound=Exporting)
MOST_IMAGES = 512
_AT_ONCE = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class MergeCandidate:
    """One place to merge.

    Attributes:
        block: 0-based; None merges nowhere.
        tokens: Tokens that leave the last block.
        macs: Multiply-adds of one image.
        quality: Its answers beside those of the reference.
        missed: Limits that it does not keep, in words.
    """

    block: int | None
    tokens: int
    macs: int
    quality: Quality
    missed: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MergeChoice:
    """What `--merge auto` found.

    Attributes:
        chosen: The cheapest that keeps the limits.
        candidates: All, the earliest block first; without merging last, for comparison.
        images: What they were judged on, in words.
    """

    chosen: MergeCandidate
    candidates: tuple[MergeCandidate, ...]
    images: str

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return dataclasses.asdict(self)

    def picture(self, limits: AccuracyConstraint) -> bytes:
        """Return a PNG of all candidates: accuracy, or agreement without labels, over cost."""
        plain = self.candidates[-1]
        reference = self.chosen.quality.reference_accuracy
        limit = limits.min_agreement
        if reference is not None:
            drop = limits.max_drop_pp
            limit = None if drop is None else reference - drop / 100
        dots = []
        for one in self.candidates:
            quality = one.quality
            dots.append(
                Dot(
                    label="none" if one.block is None else str(one.block),
                    cost=one.macs / plain.macs,
                    answers=(quality.agreement or 0.0)
                    if quality.accuracy is None
                    else quality.accuracy,
                    chosen=one is self.chosen,
                    keeps=not one.missed,
                )
            )
        kind = "same class" if reference is None else "accuracy"
        return cost_and_answers(dots, kind=kind, limit=limit)

    def write(self, request: Exporting) -> None:
        """Leave table and picture in the folder of the export."""
        table, picture = merge_request.files_of(request)
        storage.write_text(table, json.dumps(self.to_json(), indent=1) + "\n")
        storage.write_bytes(picture, self.picture(_limits(request)))


def choose(
    adapted: Adapted, request: E, known: KnownClasses, reporter: Reporter
) -> tuple[Adapted, E]:
    """Search the merge of a run.

    Args:
        adapted: The run; its answers as it was trained are the reference.
        request: The limits and the images.
        known: What is known about its classes.
        reporter: Hears the table and what was chosen.

    Returns:
        The run with that merge, and the request with what the limits leave to a precision. A table
        and a picture of all that was tried lie in the folder of the export.

    Raises:
        InputError: The images cannot be read, or have no labels for a limit on the accuracy.
    """
    images = _images(adapted, request, known, reporter)
    limits = _limits(request)
    found = _answers(adapted, images, reporter)
    candidates = _judged(adapted, found, images, limits)
    own = adapted.checkpoint.merge_block
    chosen = _cheapest([one for one in candidates if own is None or one.block is not None])
    choice = MergeChoice(chosen=chosen, candidates=candidates, images=images.description)
    _show(choice, reporter)
    choice.write(request)
    used = chosen.quality
    source = f"--merge auto: {used.in_words()} on {counted(used.images, 'image')}"
    return merged_at(adapted, chosen.block, source), _remaining(request, used)


def _limits(request: Exporting) -> AccuracyConstraint:
    return AccuracyConstraint(max_drop_pp=request.max_drop, min_agreement=request.min_agreement)


def _images(
    adapted: Adapted, request: Exporting, known: KnownClasses, reporter: Reporter
) -> ImageSet:
    assert request.data is not None
    source = open_source(request.data, adapted.preprocessing)
    if typing_request.needs_ranges(request) and request.calibration is None and not request.table:
        source = source.halves()[1]
    source = source.spread(min(len(source), request.limit or MOST_IMAGES))
    return collect(check_images.checked(source, known, request, reporter))


def _mergers(adapted: Adapted) -> dict[int, MergingModule]:
    """Return the merge of every block up to the run's own, which has its trained refinement.

    The last block is left out: only what is read of it is computed anyway.
    """
    spec, checkpoint = adapted.model.spec, adapted.checkpoint
    entry = mergers.load(checkpoint.merger)
    own = checkpoint.merge_block
    return {
        block: entry.attach(spec, checkpoint.refinement if block == own else None)
        for block in range(spec.depth - 1 if own is None else own + 1)
    }


def _answers(
    adapted: Adapted, images: ImageSet, reporter: Reporter
) -> dict[int | None, NDArray[np.float32]]:
    """Return the logits (I, K) of the folded model with every merge, and without."""
    model, every = adapted.fold().model, _mergers(adapted)
    preprocessing = adapted.preprocessing
    plain = dataclasses.replace(preprocessing, in_graph=True, layout="NCHW", dtype="float32")
    mean, std = (torch.tensor(v)[:, None, None] for v in (preprocessing.mean, preprocessing.std))
    rows: dict[int | None, list[NDArray[np.float32]]] = {}
    with (
        reporter.progress("merging after every block", len(images)) as advance,
        torch.inference_mode(),
    ):
        for start in range(0, len(images), _AT_ONCE):
            pixels = engine_images.to_input(images.pixels[start : start + _AT_ONCE], plain)
            batch = (torch.from_numpy(pixels) - mean) / std
            for block, logits in answers_by_block(model, every, batch).items():
                rows.setdefault(block, []).append(logits.numpy())
            advance(len(batch))
    return {block: np.concatenate(parts) for block, parts in rows.items()}


def _judged(
    adapted: Adapted,
    found: dict[int | None, NDArray[np.float32]],
    images: ImageSet,
    limits: AccuracyConstraint,
) -> tuple[MergeCandidate, ...]:
    reference = found[adapted.checkpoint.merge_block]
    candidates = []
    for block, logits in found.items():
        quality = _quality(logits, reference, images.labels)
        spec = adapted.model.spec
        checkpoint = dataclasses.replace(adapted.checkpoint, merge_block=block)
        tokens = checkpoint.merge_plan(spec).tokens
        candidates.append(
            MergeCandidate(
                block=block,
                tokens=tokens[-1],
                macs=sum(checkpoint.macs(spec, tokens)),
                quality=quality,
                missed=limits.missed(quality),
            )
        )
    return tuple(candidates)


def _quality(
    logits: NDArray[np.float32],
    reference: NDArray[np.float32],
    labels: NDArray[np.int64] | None,
) -> Quality:
    chosen, wanted = logits.argmax(axis=1), reference.argmax(axis=1)
    return Quality(
        images=len(logits),
        sqnr_db=sqnr_db(logits, reference),
        agreement=float((chosen == wanted).mean()),
        accuracy=None if labels is None else float((chosen == labels).mean()),
        reference_accuracy=None if labels is None else float((wanted == labels).mean()),
    )


def _cheapest(candidates: Sequence[MergeCandidate]) -> MergeCandidate:
    """Return the earliest from which all later ones keep the limits; the last is the reference."""
    best = candidates[-1]
    for candidate in reversed(candidates):
        if candidate.missed:
            break
        best = candidate
    return best


def _show(choice: MergeChoice, reporter: Reporter) -> None:
    plain = choice.candidates[-1].macs
    rows = [["merge after", "tokens left", "GMAC", "of plain", "accuracy", "same class", ""]]
    for one in choice.candidates:
        accuracy = "" if one.quality.accuracy is None else f"{one.quality.accuracy:.1%}"
        mark = "chosen" if one is choice.chosen else "; ".join(one.missed)
        rows.append(
            [
                "nowhere" if one.block is None else f"block {one.block}",
                str(one.tokens),
                f"{one.macs / 1e9:.2f}",
                f"{one.macs / plain:.2f}",
                accuracy,
                f"{one.quality.agreement:.1%}",
                mark,
            ]
        )
    reporter.table(rows, words=True)
    block = choice.chosen.block
    what = "merging pays nowhere within the limits" if block is None else f"after block {block}"
    reporter.step(
        "merge",
        f"{what}: {choice.chosen.macs / plain:.2f} of the multiply-adds without merging · "
        f"{choice.chosen.quality.in_words()} · {counted(choice.chosen.quality.images, 'image')}",
    )


def merged_at(adapted: Adapted, block: int | None, source: str) -> Adapted:
    """Return the run with its tokens merged elsewhere, or nowhere.

    The refinement of a match belongs to the block that it was trained in.

    Args:
        adapted: The run.
        block: 0-based; None merges nowhere.
        source: Who says so, for the manifest.

    Raises:
        UsageError: The network has no such block.
    """
    if block is not None:
        require_block(block, adapted.model.spec, where="--merge")
    checkpoint = adapted.checkpoint
    fact: Fact[Any] = Fact(block, source)
    changed = dataclasses.replace(
        checkpoint,
        merge_block=block,
        refinement=checkpoint.refinement if block == checkpoint.merge_block else None,
        facts=checkpoint.facts | {"merge block": fact},
    )
    return dataclasses.replace(
        adapted, model=adapt(adapted.backbone, changed, adapted.model.spec.head), checkpoint=changed
    )


def _remaining(request: E, used: Quality) -> E:
    """Return the request with the limits that the merge leaves to a precision, if that has any."""
    if not typing_request.judges_accuracy(request):
        return dataclasses.replace(request, merge=None, max_drop=None, min_agreement=None)
    drop, agreement = request.max_drop, request.min_agreement
    if drop is not None and used.drop_pp is not None:
        drop = max(0.0, drop - max(0.0, used.drop_pp))
    if agreement is not None and used.agreement is not None:
        agreement = min(1.0, agreement + 1 - used.agreement)
    return dataclasses.replace(request, merge=None, max_drop=drop, min_agreement=agreement)
