"""`--merge auto`: the cheapest merge that keeps the limits on the user's images.

Families of merges are tried, each from the strongest to the mildest: FPET after one block or a
later one, ToMe with fewer tokens a block. All run in one pass that computes what they share once
(`fpet_export.model.merge_sweep`). Of a family the choice is the strongest from which all milder
ones keep the limits, too: a single strong one that keeps them beside others that do not has been
lucky on these images.

Of the families' choices and no merging, the fastest wins: as measured on the target where its
engines run here and the machine is quiet enough, else by multiply-adds. Those of a GPU are counted
by whole tiles, because a product of 99 rows takes as long as one of 128.

The reference is the run as it was trained. One that was trained with merging may merge earlier
than it did, then without the refinement of its match, which belongs to its own block.
"""

from __future__ import annotations

import dataclasses
import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from calibration.accuracy import AccuracyConstraint, Quality
from engines import storage
from engines.engine import load_target
from engines.errors import FpetError
from engines.imaging.class_names import KnownClasses
from engines.imaging.images import ImageSet
from engines.imaging.source import collect, open_source
from engines.parity.comparison import sqnr_db
from engines.plurals import counted
from engines.targets import Target
from fpet_export.model.adapt import attached_merges, require_mergeable
from fpet_export.model.merge_plan import NOWHERE, at_block
from fpet_export.model.merge_sweep import answers_by_merge
from fpet_export.model.pixels import plain_input
from fpet_export.pictures.cost_and_answers import Dot, cost_and_answers
from fpet_export.reporter import Reporter
from fpet_export.requests import Exporting
from fpet_export.stages import Adapted
from fpet_export.steps import check_images, merge_request, timed_choice, typing_request

E = TypeVar("E", bound=Exporting)
MOST_IMAGES = 512
_FEW = 100
"""Images below which one of them is more than a point."""
_TOME_SHARES = (0.15, 0.3, 0.45, 0.6, 0.75, 0.9)
"""Shares of the patches that ToMe has merged at the last block."""

_AT_ONCE = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class MergeCandidate:
    """One way to merge.

    Attributes:
        merge: As `--merge` takes it: "none", "fpet@6", "tome:r=8".
        tokens: Tokens that leave the last block.
        macs: Multiply-adds of one image.
        tiled: The same in whole tiles of the target's products; of a CPU the same number.
        quality: Its answers beside those of the reference.
        missed: Limits that it does not keep, in words.
    """

    merge: str
    tokens: int
    macs: int
    tiled: int
    quality: Quality
    missed: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MergeChoice:
    """What `--merge auto` found.

    Attributes:
        chosen: The cheapest that keeps the limits.
        candidates: All, those of a family side by side; without merging last, for comparison.
        images: What they were judged on, in words.
        by: What decided among those that keep the limits, in words.
        latency_ms: Medians of the families' choices in the same rounds, where they were measured.
    """

    chosen: MergeCandidate
    candidates: tuple[MergeCandidate, ...]
    images: str
    by: str
    latency_ms: dict[str, float]

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
                    label=one.merge.removeprefix("fpet@").removeprefix("tome:"),
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
        UsageError: The run has a part that needs all patches.
    """
    require_mergeable(adapted.checkpoint)
    images = _images(adapted, request, known, reporter)
    limits = _limits(request)
    target = load_target(request.target.split(",")[0])
    tiles = {"tile": target.tile, "batch": _batch(request)}
    families = _families(adapted)
    ways = [*(merge for family in families for merge in family), NOWHERE]
    found = answers(adapted, ways, images, reporter)
    reference = found[adapted.checkpoint.merge]
    judged = {
        merge: _judged(adapted, merge, found[merge], reference, images, limits, tiles)
        for merge in ways
    }
    if adapted.checkpoint.merge == NOWHERE:
        families = [[*family, NOWHERE] for family in families]
    best = {one.merge: one for one in (_strongest([judged[m] for m in f]) for f in families)}
    if adapted.checkpoint.merge == NOWHERE:
        best[NOWHERE] = judged[NOWHERE]
    cheapest = min(best.values(), key=lambda one: (one.tiled, one.macs))
    chosen, by, latency = _fastest(adapted, cheapest, best, target, request, reporter)
    choice = MergeChoice(
        chosen=chosen,
        candidates=tuple(judged.values()),
        images=images.description,
        by=by,
        latency_ms=latency,
    )
    _show(choice, reporter)
    choice.write(request)
    used = chosen.quality
    source = f"--merge auto: {used.in_words()} on {counted(used.images, 'image')}"
    return adapted.merged(chosen.merge, source), _remaining(request, used)


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
    if len(source) < _FEW:
        reporter.step(
            "search",
            f"{counted(len(source), 'image')} judge little: one of them is "
            f"{100 / len(source):.1f} points of accuracy or agreement",
            passed=None,
        )
    return collect(check_images.checked(source, known, request, reporter, name="search"))


def _families(adapted: Adapted) -> list[list[str]]:
    """Return merges to try, those of a family from the strongest to the mildest.

    The last block is left out: only what is read of it is computed anyway. A run that was trained
    with a merge ends its own family.
    """
    spec, own = adapted.model.spec, adapted.checkpoint.merge_block
    blocks = range(spec.depth - 1 if own is None else own + 1)
    fewer = sorted({round(spec.patches / spec.depth * share) for share in _TOME_SHARES} - {0})
    families = [[at_block(block) for block in blocks]]
    if adapted.checkpoint.merge == NOWHERE:
        families.append([f"tome:r={amount}" for amount in reversed(fewer)])
    return families


def answers(
    adapted: Adapted, ways: Sequence[str], images: ImageSet, reporter: Reporter
) -> dict[str, NDArray[np.float32]]:
    """Return the logits (I, K) of the folded model with every merge."""
    model, checkpoint = adapted.fold().model, adapted.checkpoint
    merges = {}
    for merge in ways:
        changed = checkpoint.merged(merge)
        plan = changed.merge_plan(model.spec)
        merges[merge] = attached_merges(model.spec, plan, changed.refinement)
    preprocessing = adapted.preprocessing
    mean, std = (torch.tensor(v)[:, None, None] for v in (preprocessing.mean, preprocessing.std))
    rows: dict[str, list[NDArray[np.float32]]] = {}
    with (
        reporter.progress(f"merging in {len(ways)} ways", len(images)) as advance,
        torch.inference_mode(),
    ):
        for start in range(0, len(images), _AT_ONCE):
            pixels = plain_input(images.pixels[start : start + _AT_ONCE], preprocessing)
            batch = (torch.from_numpy(pixels) - mean) / std
            for merge, logits in answers_by_merge(model, merges, batch).items():
                rows.setdefault(merge, []).append(logits.numpy())
            advance(len(batch))
    return {merge: np.concatenate(parts) for merge, parts in rows.items()}


def _judged(
    adapted: Adapted,
    merge: str,
    logits: NDArray[np.float32],
    reference: NDArray[np.float32],
    images: ImageSet,
    limits: AccuracyConstraint,
    tiles: dict[str, int],
) -> MergeCandidate:
    spec, checkpoint = adapted.model.spec, adapted.checkpoint.merged(merge)
    quality = _quality(logits, reference, images.labels)
    return MergeCandidate(
        merge=merge,
        tokens=checkpoint.merge_plan(spec).tokens[-1],
        macs=sum(checkpoint.macs(spec)),
        tiled=sum(checkpoint.macs(spec, **tiles)),
        quality=quality,
        missed=limits.missed(quality),
    )


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


def _strongest(family: Sequence[MergeCandidate]) -> MergeCandidate:
    """Return the first from which all later ones keep the limits; the last is the reference."""
    best = family[-1]
    for candidate in reversed(family):
        if candidate.missed:
            break
        best = candidate
    return best


def _batch(request: Exporting) -> int:
    return request.batch if isinstance(request.batch, int) else request.batch[0]


def _fastest(
    adapted: Adapted,
    cheapest: MergeCandidate,
    best: Mapping[str, MergeCandidate],
    target: Target,
    request: Exporting,
    reporter: Reporter,
) -> tuple[MergeCandidate, str, dict[str, float]]:
    """Return the fastest, what decided, and the latencies that were measured, in milliseconds.

    The cheapest stays unless another one is shown to be faster.
    """
    counted_by = "multiply-adds" if target.tile == 1 else f"tiles of {target.tile} rows"
    if len(best) == 1:
        return cheapest, counted_by, {}
    names = [cheapest.merge, *(merge for merge in best if merge != cheapest.merge)]
    try:
        with tempfile.TemporaryDirectory(prefix="fpet-export-") as folder:
            graphs: dict[str, Path] = {}
            for merge in names:
                frozen = (
                    adapted.merged(merge)
                    .fold()
                    .freeze(batch=request.batch, target=target, input=request.input_kind)
                )
                with reporter.working(f"writing {merge} to time it"):
                    path = Path(folder) / f"{len(graphs)}.onnx"
                    graphs[_word(merge)] = frozen.to_onnx(path)
            measurement = timed_choice.measured(graphs, target, request, reporter)
        timed_choice.require_valid(measurement, where=f"target {target.name}", fix="")
    except FpetError as error:
        reporter.step("time", f"not measured, so {counted_by} decide: {error.what}", passed=None)
        return cheapest, counted_by, {}
    fastest = timed_choice.fastest(measurement, tuple(graphs))
    medians = {merge: measurement.result(_word(merge)).latency.p50_ns / 1e6 for merge in names}
    chosen = next(best[merge] for merge in names if _word(merge) == fastest)
    return chosen, f"latency on {target.name}", medians


def _word(merge: str) -> str:
    """Return a merge as the name of a file."""
    return re.sub("[^a-z0-9]+", "-", merge)


def _show(choice: MergeChoice, reporter: Reporter) -> None:
    plain = choice.candidates[-1]
    heads = "merge|tokens left|GMAC|of plain|in tiles|ms|accuracy|same class|"
    rows = [heads.split("|")]
    for one in choice.candidates:
        latency = choice.latency_ms.get(one.merge)
        quality = one.quality
        rows.append(
            [
                one.merge,
                str(one.tokens),
                f"{one.macs / 1e9:.2f}",
                f"{one.macs / plain.macs:.2f}",
                "" if one.tiled == one.macs else f"{one.tiled / plain.tiled:.2f}",
                "" if latency is None else f"{latency:.1f}",
                "" if quality.accuracy is None else f"{quality.accuracy:.1%}",
                f"{quality.agreement:.1%}",
                "chosen" if one is choice.chosen else "; ".join(one.missed),
            ]
        )
    filled = [at for at in range(len(rows[0])) if any(row[at] for row in rows[1:])]
    reporter.table([[row[at] for at in filled] for row in rows], words=True)
    chosen = choice.chosen
    merges = chosen.merge != NOWHERE
    reporter.step(
        "merge",
        f"{chosen.merge if merges else 'merging does not pay here within the limits'}: "
        f"{chosen.macs / plain.macs:.2f} of the multiply-adds without merging, chosen by "
        f"{choice.by} · {chosen.quality.in_words()} · {counted(chosen.quality.images, 'image')}",
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
