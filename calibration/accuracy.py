"""A constraint on accuracy, satisfied by reverting the worst layers one by one.

Quantization noise of different layers adds up almost independently at the logits. So each layer
is quantized alone once, and the noisiest go back to the high precision first, until what was
demanded is measured to hold. (NNCF's accuracy control works the same way.)
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

from calibration.policy import Policy
from engines.errors import BudgetError
from engines.plurals import counted


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quality:
    """How far a typed graph is from the float32 one, on a set of images.

    Attributes:
        images: How many.
        sqnr_db: Signal to noise ratio of the logits, in decibels.
        agreement: Share of images with the same class, 0..1; None where the outputs name none.
        accuracy: Share of images whose label is predicted; None without labels.
        reference_accuracy: The same of the float32 graph.
        cosine: Smallest cosine of an output vector and the float32 graph's, where the outputs are
            features or tokens; else None.
    """

    images: int
    sqnr_db: float
    agreement: float | None
    accuracy: float | None = None
    reference_accuracy: float | None = None
    cosine: float | None = None

    @property
    def drop_pp(self) -> float | None:
        """Percentage points of accuracy that were lost; negative when some were won."""
        if self.accuracy is None or self.reference_accuracy is None:
            return None
        return 100 * (self.reference_accuracy - self.accuracy)

    def in_words(self) -> str:
        """Return one line for people."""
        parts = []
        if self.drop_pp is not None:
            parts.append(f"accuracy {self.accuracy:.1%} ({0.0 - self.drop_pp:+.1f} pp)")
        if self.agreement is not None:
            parts.append(f"agreement {self.agreement:.1%}")
        if self.cosine is not None:
            parts.append(f"smallest cosine {self.cosine:.6f}")
        parts.append(f"signal to noise (SQNR) {self.sqnr_db:.1f} dB")
        return " · ".join(parts)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AccuracyConstraint:
    """What a quantized graph must keep; None is no demand.

    Attributes:
        max_drop_pp: Most percentage points of accuracy that may be lost.
        min_sqnr_db: Smallest SQNR of the logits.
        min_agreement: Smallest agreement, 0..1.
    """

    max_drop_pp: float | None = None
    min_sqnr_db: float | None = None
    min_agreement: float | None = None

    def missed(self, quality: Quality) -> tuple[str, ...]:
        """Return what is not kept, in words."""
        found = []
        drop = quality.drop_pp
        if self.max_drop_pp is not None:
            if drop is None:
                found.append("no labels to measure a drop of accuracy on")
            elif drop > self.max_drop_pp + 1e-9:
                found.append(f"accuracy drops by {drop:.2f} points, limit {self.max_drop_pp:g}")
        # "not at least" and not "less": what is not a number keeps no constraint.
        if self.min_sqnr_db is not None and not quality.sqnr_db >= self.min_sqnr_db:
            found.append(
                f"signal to noise (SQNR) {quality.sqnr_db:.1f} dB, limit {self.min_sqnr_db:g} dB"
            )
        if self.min_agreement is not None:
            if quality.agreement is None:
                found.append("no classes to measure an agreement on")
            elif not quality.agreement >= self.min_agreement:
                found.append(f"agreement {quality.agreement:.2%}, limit {self.min_agreement:.2%}")
        return tuple(found)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RevertedLayer:
    """One layer that was reverted, and the quality afterwards."""

    layer: str
    alone: Quality
    after: Quality


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerChoice:
    """A policy that satisfies its constraint.

    Attributes:
        policy: What is still quantized.
        before: Quality of the whole preset.
        quality: Quality of `policy`.
        steps: The layers that were reverted, in order; empty when the preset satisfied it at once.
    """

    policy: Policy
    before: Quality
    quality: Quality
    steps: tuple[RevertedLayer, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; an infinite ratio becomes null."""
        return {
            "preset": self.policy.preset,
            "quantized": list(self.policy.active),
            "kept": list(self.policy.kept),
            "before": quality_json(self.before),
            "quality": quality_json(self.quality),
            "steps": [
                {
                    "layer": step.layer,
                    "alone": quality_json(step.alone),
                    "after": quality_json(step.after),
                }
                for step in self.steps
            ],
        }


Measure = Callable[[Policy], Quality]
Report = Callable[[RevertedLayer], None]


def satisfy(
    policy: Policy,
    constraint: AccuracyConstraint,
    measure: Measure,
    *,
    screen: Measure | None = None,
    report: Report | None = None,
    progress: Callable[[int], None] | None = None,
) -> LayerChoice:
    """Revert the worst layers to high precision until `constraint` is satisfied.

    What the graph with nothing quantized does not satisfy is given up at once: a policy that did so
    on the way there would do so by chance.

    Args:
        policy: What the preset quantizes.
        constraint: What must hold.
        measure: Measures a policy on all images.
        screen: Measures a layer alone, on fewer images; None takes `measure`.
        report: Called with every layer that was reverted.
        progress: Called once a layer that was measured alone.

    Raises:
        BudgetError: The graph with nothing quantized does not satisfy it, or no policy on the way
            there does.
    """
    before = quality = measure(policy)
    if not constraint.missed(quality):
        return LayerChoice(policy=policy, before=before, quality=quality)
    floor = constraint.missed(measure(policy.only()))
    if floor:
        raise BudgetError(
            f"the limit on accuracy is missed even with nothing quantized: {'; '.join(floor)}",
            where=f"{policy.preset}, on {counted(quality.images, 'image')}",
            fix="relax the limit: this is what the graph gives without integers",
        )
    ranked = _noisiest_first(policy, screen or measure, progress)
    steps: list[RevertedLayer] = []
    for layer, alone in ranked[:-1]:
        policy = policy.without(layer)
        quality = measure(policy)
        step = RevertedLayer(layer=layer, alone=alone, after=quality)
        steps.append(step)
        if report is not None:
            report(step)
        if not constraint.missed(quality):
            return LayerChoice(policy=policy, before=before, quality=quality, steps=tuple(steps))
    raise BudgetError(
        "the limit on accuracy is met only with no layer quantized",
        where=f"{counted(len(ranked), 'layer')} of {policy.preset}, on "
        f"{counted(quality.images, 'image')}",
        fix="relax the limit, calibrate on more images like those measured, or stay with FP16",
    )


def _noisiest_first(
    policy: Policy, screen: Measure, progress: Callable[[int], None] | None
) -> Sequence[tuple[str, Quality]]:
    alone = []
    for layer in policy.active:
        alone.append((layer, screen(policy.only(layer))))
        if progress is not None:
            progress(1)
    # What is not a number comes first: it is worse than any noise.
    return sorted(alone, key=lambda pair: (not math.isnan(pair[1].sqnr_db), pair[1].sqnr_db))


def quality_json(quality: Quality) -> dict[str, Any]:
    """Return plain JSON values; a ratio that is not finite becomes null."""
    document = dataclasses.asdict(quality)
    if not math.isfinite(quality.sqnr_db):
        document["sqnr_db"] = None
    return document
