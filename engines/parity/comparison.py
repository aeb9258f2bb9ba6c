"""The one comparer: reference outputs, an artefact's outputs and gates give a row of the table.

The token match is discrete. Two correct programs may choose differently where two scores are
almost equal, and from there on their logits differ a lot. So a stage is judged in two steps:
flips of the match count only where the reference was sure (`unexplained_flips`), and the logit
gate applies to the images without any flip.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from engines.errors import ParityError
from engines.imaging.images import ImageSet
from engines.parity.gates import Gates
from engines.parity.model_outputs import FloatArray, IntArray, ModelOutputs
from engines.parity.rounding import FLIP_FACTOR, IMAGE_FACTOR, beyond_rounding, image_errors
from engines.parity.rows import ParityTable, StageParity
from engines.plurals import counted


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReferenceOutputs:
    """What a reference said about images, and how far an artefact may be from that.

    Attributes:
        name: Name of the reference: a file such as "model.onnx", or "adapted model in float64".
        images: What it ran on.
        outputs: What it said. With margins, it is known where either match is right: on images
            with a margin below that of the gates, the logits of an artefact that does not show
            its match are not judged.
        tokens: Patches and prefix tokens, which the sizes of an artefact must sum to; None
            without a merge.
        drops_ties: Whether the match follows the published rule, which loses tied tokens.
        gates: What an artefact is held to, unless the caller has gates for it.
        control: The reference on images that are the least different, where `gates` come from it.
    """

    name: str
    images: ImageSet
    outputs: ModelOutputs
    tokens: int | None = None
    drops_ties: bool = True
    gates: Gates = dataclasses.field(default_factory=Gates)
    control: StageParity | None = None

    def compare(
        self,
        stage: str,
        actual: ModelOutputs,
        *,
        gates: Gates | None = None,
        first: int | None = None,
        judged: bool = True,
    ) -> StageParity:
        """Compare what an artefact said about the same images.

        Args:
            stage: Its name in the table.
            actual: What it said.
            gates: Others than those of the reference.
            first: It saw the first so many images alone; an accuracy of so few says nothing.
            judged: Whether gates apply.

        Raises:
            ParityError: The two do not fit, or the reference is empty or not finite.
        """
        is_part = first is not None and first < len(self.images)
        row = compare_stage(
            stage,
            actual,
            self.outputs if first is None else self.outputs.first(first),
            gates=gates or self.gates,
            patches=self.tokens,
            labels=None if is_part else self.images.labels,
        )
        return row if judged else dataclasses.replace(row, failures=())

    def table(self, rows: Iterable[StageParity], *, reference: str | None = None) -> ParityTable:
        """Return rows as a table.

        With a match and its margins, it says on how many images the published rule would drop.

        Args:
            rows: Rows of `compare`.
            reference: The reference in words; None takes its name.
        """
        tied, margin = None, self.outputs.margin
        if self.drops_ties and margin is not None and self.outputs.match is not None:
            tied = int(dropped_by_reference_rule(margin).any(axis=1).sum())
        return ParityTable(
            **self.images.in_words(),
            reference=reference or self.name,
            rows=tuple(rows),
            tied_images=tied,
        )

    def sure_images(self) -> int:
        """Return the number of images on which there is one right match."""
        return int(sure_images(self.outputs, self.gates).sum())

    def accuracy(self) -> float | None:
        """Return the share of images whose label the reference predicts; None without labels.

        None, too, where it gives no classes.
        """
        if self.images.labels is None or self.outputs.head != "logits":
            return None
        return float((self.outputs.logits.argmax(axis=1) == self.images.labels).mean())

    def at(self, chosen: IntArray) -> ReferenceOutputs:
        """Return the same on the images with these numbers; they lose their names."""
        images = dataclasses.replace(
            self.images,
            pixels=self.images.pixels[chosen],
            labels=None if self.images.labels is None else self.images.labels[chosen],
            names=(),
        )
        return dataclasses.replace(self, images=images, outputs=self.outputs.at(chosen))


def sure_images(reference: ModelOutputs, gates: Gates) -> NDArray[np.bool_]:
    """Return (I,): whether there is one right match for every token of an image.

    Where two scores nearly tie, either answer is right. Without margins every image is sure.
    """
    if reference.margin is None:
        return np.ones(len(reference.logits), dtype=bool)
    return np.asarray((reference.margin > gates.margin).all(axis=1))


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


def smallest_cosine(actual: FloatArray, expected: FloatArray) -> float:
    """Return the smallest cosine of two vectors among the rows of (V, C) arrays.

    Two vectors without a length point the same way; one that has none or is not finite, beside one
    that has, points nowhere: 0.
    """
    one, other = actual.astype(np.float64), expected.astype(np.float64)
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    equal = (one == other).all(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosines = (one * other).sum(axis=1) / lengths
    cosines = np.where(np.isfinite(cosines), cosines, 0.0)
    return float(np.where(equal, 1.0, cosines).min())


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
    half_margin = margin.astype(np.float32) / np.float32(2)
    # exp is rounded correctly here; numpy's own float32 exp is off by one at the threshold.
    exponential = np.exp(-half_margin.astype(np.float64)).astype(np.float32)
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
    _require_comparable(stage, actual, reference)
    match = _compare_match(stage, actual, reference, gates)
    failures = [f"{counted(match.flips, 'unexplained flip')} of the match"] if match.flips else []
    finite = bool(np.isfinite(actual.logits).all())
    if not finite:
        failures.append(f"{actual.head} that are not finite")
    found, wanted = actual.flat, reference.flat
    difference = np.abs(found.astype(np.float64) - wanted)
    peak = float(np.abs(wanted).max())
    sure = match.sure
    judged = difference[sure] if sure.any() else difference  # without a sure one, all are
    largest = float(judged.max()) if judged.size and finite else (0.0 if finite else math.inf)
    relative = largest / peak if peak else largest
    if gates.rounding is not None and finite:
        known = sure if match.is_known and sure.any() else None
        errors = image_errors(difference, wanted)
        failures += beyond_rounding(errors, known, gates.rounding)
        gates = _allow_rounding(gates, wanted, peak, is_known=known is not None)
    if gates.relative is not None and relative > gates.relative:
        failures.append(f"relative difference {relative:.2g}, limit {gates.relative:.2g}")
    answers = _Answers.of(actual, reference, sure=sure, labels=labels)
    if gates.agreement is not None and answers.same is not None:
        failures += _judge_agreement(answers.same & sure | ~sure, wanted, gates, peak)
    noise = sqnr_db(found, wanted) if finite else -math.inf
    if gates.sqnr_db is not None and noise < gates.sqnr_db:
        failures.append(f"signal to noise (SQNR) {noise:.1f} dB, limit {gates.sqnr_db:.1f} dB")
    warnings = _warnings(noise, answers, gates) if not failures else ()
    warnings += _seldom_compared(match, gates)
    kept = None
    if actual.size is not None:
        kept, missed = _audit_tokens(actual.size, patches)
        failures += missed
    return StageParity(
        stage=stage,
        images=len(reference.logits),
        judged=len(judged),
        largest_logit_difference=largest,
        relative=relative,
        sqnr_db=noise,
        agreement=answers.agreement,
        cosine=answers.cosine,
        same_partner=match.same_partner,
        unexplained_flips=match.flips,
        explained_flips=match.explained,
        tokens_kept=kept,
        tokens_expected=None if kept is None else patches,
        accuracy=answers.accuracy,
        rounding=gates.rounding,
        warnings=warnings,
        failures=tuple(failures),
    )


def _require_comparable(stage: str, actual: ModelOutputs, reference: ModelOutputs) -> None:
    """Refuse logits that cannot be compared.

    Raises:
        ParityError: Their shapes or heads differ, or the reference is empty or not finite.
    """
    if actual.head != reference.head:
        raise ParityError(
            f"{stage} gives {actual.head}, the reference {reference.head}",
            where=stage,
            fix=f"compare artefacts of one --head; for a run add --head {actual.head}",
        )
    if actual.logits.shape != reference.logits.shape:
        raise ParityError(
            f"{stage} gave {actual.head} {actual.logits.shape}, the reference "
            f"{reference.logits.shape}",
            where=stage,
            fix="compare artefacts of the same run on the same images",
        )
    if not reference.logits.size or not np.isfinite(reference.logits).all():
        raise ParityError(
            f"the reference gave {len(reference.logits)} images with {reference.head} that are "
            "not finite"
            if reference.logits.size
            else "there are no images to compare on",
            where="the reference",
            fix="check the images and the checkpoint: nothing can be compared with this",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Answers:
    """How alike the answers are: by their classes, or by the directions of what has none.

    Attributes:
        same: (I,) images with the same class; None where there are no classes.
        cosine: Smallest cosine of two vectors, over images that are judged; None of logits.
        accuracy: Share of images whose label is predicted; None without labels or classes.
    """

    same: NDArray[np.bool_] | None = None
    cosine: float | None = None
    accuracy: float | None = None

    @classmethod
    def of(
        cls,
        actual: ModelOutputs,
        reference: ModelOutputs,
        *,
        sure: NDArray[np.bool_],
        labels: IntArray | None,
    ) -> _Answers:
        """Compare answers to the same images, of which `sure` are judged."""
        if reference.head != "logits":
            judged = np.flatnonzero(sure if sure.any() else ~sure)
            one, other = actual.at(judged), reference.at(judged)
            return cls(cosine=smallest_cosine(one.vectors, other.vectors))
        # Logits that are not finite name no class: such an image agrees with nothing.
        named = np.isfinite(actual.logits).all(axis=1)
        classes = actual.logits.argmax(axis=1)
        return cls(
            same=(classes == reference.logits.argmax(axis=1)) & named,
            accuracy=None if labels is None else float(((classes == labels) & named).mean()),
        )

    @property
    def agreement(self) -> float | None:
        """Share of images with the same class."""
        return None if self.same is None else float(self.same.mean())

    def in_words(self) -> str:
        """Return what changed."""
        if self.same is None:
            return f"the smallest cosine is {self.cosine:.6f}: check what reads them"
        changed = counted(int((~self.same).sum()), "image")
        return f"{changed} of {len(self.same)} changed class: check the accuracy"


@dataclasses.dataclass(frozen=True, kw_only=True)
class _MatchComparison:
    """How a stage's match differs from the reference's.

    Attributes:
        sure: (I,) images on which rounding did not decide the match.
        same_partner: Share of tokens with the same partner; None where one of the two has no match.
        flips: Tokens with another partner although the reference was sure; None, as what follows,
            where that is not known.
        explained: Tokens with another partner where it was not.
        compared: Images on which the last block that merges was compared, where an earlier one
            can keep it from that.
    """

    sure: NDArray[np.bool_]
    same_partner: float | None = None
    flips: int | None = None
    explained: int | None = None
    compared: int | None = None

    @property
    def is_known(self) -> bool:
        """Whether both have a match, and it is known where either is right."""
        return self.flips is not None


def _compare_match(
    stage: str, actual: ModelOutputs, reference: ModelOutputs, gates: Gates
) -> _MatchComparison:
    """Compare what was matched, with what the reference's margin and rounding allow.

    Where a token of an image went elsewhere and rounding may do so, later blocks of that image
    merge other tokens: they are left out.

    Raises:
        ParityError: The matches have different shapes.
    """
    if actual.match is None or reference.match is None:
        return _MatchComparison(sure=sure_images(reference, gates))
    if actual.match.shape != reference.match.shape:
        raise ParityError(
            f"{stage} matched {actual.match.shape} tokens, the reference {reference.match.shape}",
            where=stage,
            fix="compare artefacts of the same run on the same images",
        )
    differs = actual.match != reference.match
    same = float(1 - differs.mean())
    if actual.unsupported is not None:
        return _MatchComparison(
            sure=~differs.any(axis=1),
            same_partner=same,
            flips=int(actual.unsupported.sum()),
            explained=int((differs & ~actual.unsupported).sum()),
        )
    if reference.margin is None:
        return _MatchComparison(sure=sure_images(reference, gates), same_partner=same)
    allowed = reference.margin <= gates.margin
    sure, flips, explained, compared = np.ones(len(differs), dtype=bool), 0, 0, 0
    for block in _blocks_of(reference):
        compared = int(sure.sum())
        changed = differs[:, block] & sure[:, None]
        flips += int((changed & ~allowed[:, block]).sum())
        explained += int((changed & allowed[:, block]).sum())
        sure &= ~(changed & allowed[:, block]).any(axis=1)
    return _MatchComparison(
        sure=sure, same_partner=same, flips=flips, explained=explained, compared=compared
    )


def _blocks_of(reference: ModelOutputs) -> list[slice]:
    """Return the columns of the match of each block that merges."""
    assert reference.match is not None
    ends = np.cumsum(reference.sources or (reference.match.shape[1],)).tolist()
    return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]


def _audit_tokens(size: FloatArray, patches: int | None) -> tuple[int, list[str]]:
    """Return how many patches and prefix tokens the sizes sum to, and what is wrong with that."""
    sums = np.rint(np.nan_to_num(size.astype(np.float64).sum(axis=1), posinf=0.0))
    least = int(sums.min())
    if patches is None or not (sums != patches).any():
        return least, []
    worst = least if least != patches else int(sums.max())
    return least, [f"token audit {worst}, wanted {patches}"]


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
        logits: Logits of the reference.
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


def _seldom_compared(match: _MatchComparison, gates: Gates) -> tuple[str, ...]:
    """Return a sentence where most images could not show what is judged."""
    count, clean = len(match.sure), int(match.sure.sum())
    images = counted(count, "image")
    if match.compared is not None and 2 * match.compared < count:
        return (
            f"the last block that merges was compared on {match.compared} of {images}: in the "
            "others an earlier one merged otherwise, as rounding allows; compare on more images",
        )
    if not match.is_known or 2 * clean >= count:
        return ()
    if clean and (gates.relative is not None or gates.rounding is not None):
        return (
            f"outputs were judged on {clean} of {images}: in the others a token merged "
            "otherwise, as rounding allows; compare on more images",
        )
    if gates.rounding is not None:
        return (
            f"on none of {images} do all tokens merge as in the reference, as rounding allows: "
            "outputs were judged by the wider limits of an artefact that does not show its match",
        )
    return ()


def _warnings(noise: float, answers: _Answers, gates: Gates) -> tuple[str, ...]:
    """Return what a stage that passed should have said about it."""
    if gates.warn_db is None or noise >= gates.warn_db:
        return ()
    explained = "" if gates.rounding is None else ", which the rounding of this network explains"
    return (
        f"signal to noise (SQNR) {noise:.1f} dB is below {gates.warn_db:.0f} dB{explained}; "
        f"{answers.in_words()} on images of your own",
    )
