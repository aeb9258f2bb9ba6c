"""Parity is a table, not a number: how far each stage is from the float64 reference.

The token match is discrete. Two correct programs may choose differently where two scores are
almost equal, and from there on their logits differ a lot. So a stage is judged in two steps:
flips of the match count only where the reference was sure (`unexplained_flips`), and the logit
gate applies to the images without any flip.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.errors import ParityError
from engines.parity.rounding import FLIP_FACTOR, IMAGE_FACTOR, beyond_rounding, image_errors
from engines.plurals import counted

FloatArray = NDArray[np.floating[Any]]
IntArray = NDArray[np.int64]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelOutputs:
    """What one stage said about a set of images.

    Attributes:
        logits: (I, K).
        match: (I, Na) index in set B of each A token, -1 for a dropped one; None without merge
            or where the artefact does not show it.
        margin: (I, Na) best score minus second best, from the reference only.
        size: (I, N) patches that each token stands for after the merge, prefix included.
        score_error: (I, Na) how far the artefact's keys can have moved the difference of two
            scores of this A token; None where it does not show its keys. A flip within it is
            the keys' rounding, a flip beyond it a wrong match.
    """

    logits: FloatArray
    match: IntArray | None = None
    margin: FloatArray | None = None
    size: FloatArray | None = None
    score_error: FloatArray | None = None

    @classmethod
    def joined(cls, parts: Sequence[ModelOutputs]) -> ModelOutputs:
        """Return what was said about all images, part after part."""
        whole: dict[str, Any] = {}
        for field in dataclasses.fields(cls):
            values = [getattr(part, field.name) for part in parts]
            whole[field.name] = None if values[0] is None else np.concatenate(values)
        return cls(**whole)

    def first(self, count: int) -> ModelOutputs:
        """Return what was said about the first `count` images."""
        few: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            few[field.name] = None if value is None else value[:count]
        return ModelOutputs(**few)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gates:
    """Limits that a stage must keep; None means "reported, not judged".

    Attributes:
        relative: Largest |logit difference| over the largest |reference logit|.
        margin: Match margin below which either choice is right.
        agreement: Smallest agreement, 0..1. Images whose two best reference logits are
            closer than twice the allowed difference do not count: either answer is right there.
        sqnr_db: Smallest signal to noise ratio of the logits; not judged where `rounding` is
            known.
        warn_db: Signal to noise ratio below which the row has a warning.
        rounding: What rounding explains in the median image, as a share of the logits' size; see
            `engines.parity.rounding`. Where it is known, it takes the place of `relative`.
    """

    relative: float | None = 1e-4
    margin: float = 1e-5
    agreement: float | None = 1.0
    sqnr_db: float | None = None
    warn_db: float | None = None
    rounding: float | None = None


NO_GATES = Gates(relative=None, agreement=None)
"""For a row that is shown and not judged; logits that are not finite fail all the same."""

TYPED_GATES = {
    "fp16": Gates(relative=2e-2, sqnr_db=30.0, warn_db=40.0),
    "bf16": Gates(relative=1e-1, sqnr_db=15.0, warn_db=25.0),
    "int8": Gates(relative=None, agreement=None),
    "fp8": Gates(relative=None, agreement=None),
}
"""What a typed graph must keep of the float32 one.

Half precision rounds every activation to 2^-11 (float16) or 2^-8 (bfloat16) of itself; over twelve
blocks that grows to a few thousandths, or hundredths, of the largest logit. How far exactly depends
on the network and is measured (`Gates.rounding`); what stands here is for where nobody did.
Integers go further, and what they must keep is the user's promise (`--max-drop` and the like). The
match is held to the same rule in all of them: it must be the argmax of the keys as they were
rounded."""

CONTROL_FACTOR = 3.0
"""How many times an engine may differ from its graph by what the graph differs from itself."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageParity:
    """One row of the table.

    Attributes:
        stage: "checkpoint", "folded", "frozen", "onnx", "typed" or an engine's name.
        images: Images compared.
        largest_logit_difference: In absolute value, over images without an explained flip.
        relative: The same over the largest |reference logit|.
        sqnr_db: Power of the reference logits over the power of their difference; infinite when
            equal.
        agreement: Share of images with the same class.
        same_partner: Share of A tokens sent to the same B token; None where unknown.
        unexplained_flips: Matches that differ although the reference was sure; None as above.
        explained_flips: Matches that differ within the margin.
        tokens_kept: Smallest sum of sizes over the images, or None.
        tokens_expected: Number of patches and prefix tokens.
        accuracy: Share of images whose label is predicted; None without labels.
        rounding: What rounding explains; see `Gates`. None where it was not measured.
        warnings: What does not fail the stage and should be known, in words.
        failures: Gates that were missed, in words; empty when the stage passes.
    """

    stage: str
    images: int
    largest_logit_difference: float
    relative: float
    sqnr_db: float
    agreement: float
    same_partner: float | None = None
    unexplained_flips: int | None = None
    explained_flips: int | None = None
    tokens_kept: int | None = None
    tokens_expected: int | None = None
    accuracy: float | None = None
    rounding: float | None = None
    warnings: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether no gate was missed."""
        return not self.failures

    @property
    def difference(self) -> str:
        """The largest logit difference, in words."""
        return f"largest logit difference {self.largest_logit_difference:.1e}"


def row_from_json(document: Mapping[str, Any]) -> StageParity:
    """Return a row of `ParityTable.to_json`, in which an infinite number is null.

    An infinite SQNR is that of equal logits where nothing differs, else that of logits that are not
    finite, which is minus infinity.

    Raises:
        TypeError: It is none.
    """
    numbers = ("largest_logit_difference", "relative", "sqnr_db")
    found = {name: document.get(name) for name in numbers}
    infinite = {name: math.inf for name, value in found.items() if value is None}
    if found["sqnr_db"] is None and found["largest_logit_difference"] != 0:
        infinite["sqnr_db"] = -math.inf
    words = {name: tuple(document.get(name, ())) for name in ("warnings", "failures")}
    return StageParity(**{**document, **infinite, **words})


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParityTable:
    """All stages against one reference.

    Attributes:
        images: What was compared on, in words ("8 synthetic images, seed 0").
        reference: What the rows are compared with, in words.
        rows: One a stage, in the order of the pipeline.
        tied_images: Images on which the published rule in float32 would drop a token that an
            argmax keeps; None without merge.
        labels: How it was found which classes the labels of the images mean, such as "by name";
            None without labels.
        left_out: Files of the set that are not among the images, and why, in words.
    """

    images: str
    reference: str
    rows: tuple[StageParity, ...]
    tied_images: int | None = None
    labels: str | None = None
    left_out: tuple[str, ...] = ()

    def first_failure(self) -> StageParity | None:
        """Return the first stage that missed a gate, or None."""
        return next((row for row in self.rows if not row.passed), None)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; an infinite number becomes null, see `row_from_json`."""
        document = dataclasses.asdict(self)
        for row in document["rows"]:
            for key, value in row.items():
                if isinstance(value, float) and not math.isfinite(value):
                    row[key] = None
        return document


def unexplained_flips(
    actual: IntArray, expected: IntArray, margin: FloatArray, *, eps: float | FloatArray
) -> int:
    """Count matches that differ although the reference was sure.

    Args:
        actual: (I, Na) index in set B that the artefact under test chose.
        expected: (I, Na) index that the float64 reference chose.
        margin: (I, Na) reference score of the best match minus the second best.
        eps: Margin below which either choice is right; one for all, or (I, Na).
    """
    return int(((actual != expected) & (margin > eps)).sum())


def sqnr_db(actual: FloatArray, expected: FloatArray) -> float:
    """Return the power of `expected` over the power of the difference, in dB."""
    noise = float(np.square(actual.astype(np.float64) - expected).sum())
    signal = float(np.square(expected.astype(np.float64)).sum())
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf


def dropped_by_reference_rule(margin: FloatArray) -> NDArray[np.bool_]:
    """Return (I, Na): whether `sigmoid((v1 - v2) / 2) > 0.5` fails in float32.

    Args:
        margin: (I, Na) best score minus second best.
    """
    half = margin.astype(np.float32) / np.float32(2)
    # exp is rounded correctly here; numpy's own float32 exp is off by one at the threshold.
    exponential = np.exp(-half.astype(np.float64)).astype(np.float32)
    return np.asarray(np.float32(1) / (np.float32(1) + exponential) <= np.float32(0.5))


def compare_stage(
    stage: str,
    actual: ModelOutputs,
    reference: ModelOutputs,
    *,
    gates: Gates,
    patches: int | None = None,
    labels: IntArray | None = None,
) -> StageParity:
    """Compare one stage with the reference and judge it.

    Args:
        stage: Its name in the table.
        actual: What the stage said.
        reference: What the float64 reference said about the same images.
        gates: Limits.
        patches: Patches and prefix tokens, which the sizes must sum to; None skips the audit.
        labels: (I,) true classes, or None.

    Raises:
        ParityError: The two sets of logits or matches have different shapes, or the reference
            is empty or not finite.
    """
    if actual.logits.shape != reference.logits.shape:
        raise ParityError(
            f"{stage} gave logits {actual.logits.shape}, the reference {reference.logits.shape}",
            where=stage,
            fix="compare artefacts of the same run on the same images",
        )
    if not reference.logits.size or not np.isfinite(reference.logits).all():
        raise ParityError(
            f"the reference gave {len(reference.logits)} images with logits that are not finite"
            if reference.logits.size
            else "there are no images to compare on",
            where="the reference",
            fix="check the images and the checkpoint: nothing can be compared with this",
        )
    failures: list[str] = []
    clean: NDArray[np.bool_] = np.ones(len(reference.logits), dtype=bool)
    same_partner = flips = explained = None
    if actual.match is not None and reference.match is not None and reference.margin is not None:
        if actual.match.shape != reference.match.shape:
            raise ParityError(
                f"{stage} matched {actual.match.shape} tokens, the reference "
                f"{reference.match.shape}",
                where=stage,
                fix="compare artefacts of the same run on the same images",
            )
        differs = actual.match != reference.match
        same_partner = float(1 - differs.mean())
        eps = np.full(differs.shape, gates.margin)
        if actual.score_error is not None:
            eps = np.maximum(eps, actual.score_error)
        flips = unexplained_flips(actual.match, reference.match, reference.margin, eps=eps)
        explained = int(differs.sum()) - flips
        clean = np.asarray(~(differs & (reference.margin <= eps)).any(axis=1))
        if flips:
            failures.append(f"{counted(flips, 'unexplained flip')} of the match")
    elif reference.margin is not None:
        # The stage does not show its match: where two scores nearly tie, either answer is right.
        clean = np.asarray((reference.margin > gates.margin).all(axis=1))
    finite = bool(np.isfinite(actual.logits).all())
    if not finite:
        failures.append("logits that are not finite")
    difference = np.abs(actual.logits.astype(np.float64) - reference.logits)
    peak = float(np.abs(reference.logits).max())
    judged = difference[clean] if clean.any() else difference
    largest = float(judged.max()) if judged.size and finite else (0.0 if finite else math.inf)
    relative = largest / peak if peak else largest
    if gates.rounding is not None and finite:
        known = clean if same_partner is not None else None
        errors = image_errors(difference, reference.logits)
        failures += beyond_rounding(errors, known, gates.rounding)
        gates = _allow_rounding(gates, reference.logits, peak, is_known=known is not None)
    if gates.relative is not None and relative > gates.relative:
        failures.append(f"relative difference {relative:.2g}, limit {gates.relative:.2g}")
    # Logits that are not finite name no class: such an image agrees with nothing.
    named = np.isfinite(actual.logits).all(axis=1)
    same = (actual.logits.argmax(axis=1) == reference.logits.argmax(axis=1)) & named
    if gates.agreement is not None:
        failures += _judge_agreement(same & clean | ~clean, reference.logits, gates, peak)
    noise = sqnr_db(actual.logits, reference.logits) if finite else -math.inf
    if gates.sqnr_db is not None and noise < gates.sqnr_db:
        failures.append(f"signal to noise (SQNR) {noise:.1f} dB, limit {gates.sqnr_db:.1f} dB")
    warnings = _warnings(noise, same, gates) if not failures else ()
    kept = None
    if actual.size is not None:
        sums = np.rint(np.nan_to_num(actual.size.astype(np.float64).sum(axis=1), posinf=0.0))
        kept = int(sums.min())
        if patches is not None and (sums != patches).any():
            worst = kept if kept != patches else int(sums.max())
            failures.append(f"token audit {worst}, wanted {patches}")
    return StageParity(
        stage=stage,
        images=len(reference.logits),
        largest_logit_difference=largest,
        relative=relative,
        sqnr_db=noise,
        agreement=float(same.mean()),
        same_partner=same_partner,
        unexplained_flips=flips,
        explained_flips=explained,
        tokens_kept=kept,
        tokens_expected=None if kept is None else patches,
        accuracy=None
        if labels is None
        else float(((actual.logits.argmax(axis=1) == labels) & named).mean()),
        rounding=gates.rounding,
        warnings=warnings,
        failures=tuple(failures),
    )


def failed_row(stage: str, images: int, why: str) -> StageParity:
    """Return the row of a stage that could not even be compared: a check that failed, too."""
    return StageParity(
        stage=stage,
        images=images,
        largest_logit_difference=math.inf,
        relative=math.inf,
        sqnr_db=-math.inf,
        agreement=0.0,
        failures=(why,),
    )


def _judge_agreement(
    same: NDArray[np.bool_], logits: FloatArray, gates: Gates, peak: float
) -> list[str]:
    """Return the failure sentence when too many images with a clear answer changed theirs."""
    assert gates.agreement is not None
    if logits.shape[1] < 2:
        return []
    best = np.sort(logits, axis=1)[:, -2:]
    clear = (best[:, 1] - best[:, 0]) > 2 * (gates.relative or 0.0) * peak
    share = float(same[clear].mean()) if clear.any() else 1.0
    if share >= gates.agreement:
        return []
    return [f"agreement {share:.2%}, limit {gates.agreement:.2%}"]


def _allow_rounding(gates: Gates, logits: FloatArray, peak: float, *, is_known: bool) -> Gates:
    """Return gates whose relative limit is what rounding explains.

    Args:
        gates: With `rounding`.
        logits: Of the reference.
        peak: The largest of them.
        is_known: Whether the images whose tokens merge elsewhere are known, and left out.
    """
    assert gates.rounding is not None
    if is_known:
        size = float(np.sqrt(np.mean(np.square(logits, dtype=np.float64))))
        # The error of an image is spread over its logits; all of it may lie in one of them.
        allowed = IMAGE_FACTOR * gates.rounding * size * math.sqrt(logits.shape[1])
        relative = allowed / peak if peak else allowed
    else:
        relative = max(gates.relative or 0.0, FLIP_FACTOR * gates.rounding)
    return dataclasses.replace(gates, relative=relative, sqnr_db=None)


def _warnings(noise: float, same: NDArray[np.bool_], gates: Gates) -> tuple[str, ...]:
    """Return what a stage that passed should have said about it."""
    if gates.warn_db is None or noise >= gates.warn_db:
        return ()
    explained = "" if gates.rounding is None else ", which the rounding of this network explains"
    changed = int((~same).sum())
    return (
        f"signal to noise (SQNR) {noise:.1f} dB is below {gates.warn_db:.0f} dB{explained}; "
        f"{counted(changed, 'image')} of {len(same)} changed class: check the accuracy on images "
        "of your own",
    )


def gates_of(precision: str, *, rounding: float | None = None) -> Gates:
    """Return what an artefact of a precision must keep of the float32 or float64 reference.

    Args:
        precision: Of the artefact.
        rounding: What rounding explains of it, where that was measured; see `Gates`.
    """
    gates = TYPED_GATES.get(precision, Gates())
    if rounding is None or gates.warn_db is None:
        return gates
    return dataclasses.replace(gates, rounding=rounding)


def gates_by_control(
    control: StageParity, *, factor: float = CONTROL_FACTOR, least: Gates | None = None
) -> Gates:
    """Return the gates of an engine whose graph rounds to 8 bits.

    Rounding turns a difference in the last bit into one of a whole step, and layer after layer
    more values round the other way. The graph, run on images that are the least different, shows
    how far that goes: in a 12-block network with random weights to 36 dB, in a trained one with 41
    dB between INT8 and float32 to 60 dB. A correct engine goes as far (37 and 63 dB there), one
    whose weight scales are off by 5 % or whose zero points by one does not (24 and 17 dB with the
    random weights).

    Args:
        control: The graph on the other images, against itself.
        factor: The engines above reach 0.9 and 0.7.
        least: Gates that hold where the control moves nothing; by default those of float32.
    """
    least = least or Gates()
    allowed = least.relative or 0.0
    if not math.isfinite(control.relative) or factor * control.relative <= allowed:
        return least
    return dataclasses.replace(
        least,
        relative=factor * control.relative,
        sqnr_db=control.sqnr_db - 20 * math.log10(factor),
    )


def judge(table: ParityTable, *, fix: str) -> None:
    """Raise a ParityError that names the first stage which drifted, if one did."""
    row = table.first_failure()
    if row is not None:
        raise ParityError(
            f"{row.stage} drifts from the reference: {'; '.join(row.failures)}",
            where=f"stage {row.stage}, on {table.images}",
            fix=fix,
        )
