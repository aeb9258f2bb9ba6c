"""Whether contenders that claim to compute the same thing do, checked before they are timed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from engines.contract import Array
from engines.errors import MeasurementError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Agreement:
    """How near one contender's first output is to that of its reference.

    Attributes:
        reference: Name of the contender it is compared with.
        relative: Largest difference over the largest absolute value of the reference.
        top1: Share of images with the same largest logit; None where the outputs are none.
        required: Whether the two were declared to compute the same thing.
    """

    reference: str
    relative: float
    top1: float | None
    required: bool


def agreement(
    actual: Array, expected: Array, *, reference: str, required: bool, classes: bool = True
) -> Agreement:
    """Compare two batches of outputs.

    Args:
        actual: (B, K) logits of the contender, or its (B, F) features or (B, P, C) tokens.
        expected: The same of the reference.
        reference: Its name.
        required: See Agreement.
        classes: Whether they are logits, of which the largest names a class.

    Raises:
        MeasurementError: The shapes differ, or a value is not finite.
    """
    if actual.shape != expected.shape:
        raise MeasurementError(
            f"the outputs have shapes {actual.shape} and {expected.shape}",
            where=f"comparison with {reference}",
            fix="compare engines of one model and one batch size",
        )
    wide, wide_expected = actual.astype(np.float64), expected.astype(np.float64)
    if not (np.isfinite(wide).all() and np.isfinite(wide_expected).all()):
        raise MeasurementError(
            "an output holds a value that is not finite",
            where=f"comparison with {reference}",
            fix="find the layer that overflows before measuring",
        )
    scale = float(np.abs(wide_expected).max())
    difference = float(np.abs(wide - wide_expected).max())
    return Agreement(
        reference=reference,
        relative=difference / scale if scale else difference,
        top1=float((wide.argmax(-1) == wide_expected.argmax(-1)).mean()) if classes else None,
        required=required,
    )


def check_agreement(
    outputs: Mapping[str, Array],
    *,
    baseline: str,
    agree: Sequence[Sequence[str]],
    limit: float,
    classes: bool = True,
) -> dict[str, Agreement]:
    """Compare every contender with its reference and refuse a required one that is off.

    Args:
        outputs: First output of each contender, by name, for the same images.
        baseline: Reference of those that are in no group; their difference is recorded only.
        agree: Groups of names that must agree; the first of each group is its reference.
        limit: Largest `relative` within a group.
        classes: Whether the outputs are logits.

    Returns:
        By name; the baseline has no entry unless it stands in a group behind another.

    Raises:
        MeasurementError: Two of a group disagree. Timing different answers compares nothing.
    """
    found: dict[str, Agreement] = {}
    for group in agree:
        present = [name for name in group if name in outputs]
        for name in present[1:]:
            found[name] = agreement(
                outputs[name],
                outputs[present[0]],
                reference=present[0],
                required=True,
                classes=classes,
            )
    for name, output in outputs.items():
        in_a_group = any(name in group for group in agree)
        if name != baseline and not in_a_group and output.shape == outputs[baseline].shape:
            found[name] = agreement(
                output, outputs[baseline], reference=baseline, required=False, classes=classes
            )
    off = [
        f"{name} differs from {entry.reference} by {entry.relative:.2e}"
        for name, entry in found.items()
        if entry.required and entry.relative > limit
    ]
    if off:
        raise MeasurementError(
            f"{'; '.join(off)} of its largest logit; the limit is {limit:.0e}",
            where="outputs before timing",
            fix="find the difference: `fpet-export compare` on the two",
        )
    return found
