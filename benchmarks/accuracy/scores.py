"""From the best classes of every image to accuracy, class by class, and agreement."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]

KEPT = 5
"""Classes that are kept of an image, the best first."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassScore:
    """Images of one class, and how many of them got it."""

    name: str
    images: int
    correct: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Accuracy:
    """How one artefact answers.

    Attributes:
        images: Number of images.
        data: What they are, in words.
        top1: Share of the images whose label is the best class; None without labels.
        top5: Share whose label is among the five best; None as well with five classes or fewer.
        sure: Whether it was said which class a label means.
        agreement: Share of the images with the reference's class; None without one.
        reference: The reference's file; None without one.
        classes: Every class that has images, by its index; empty without labels.
    """

    images: int
    data: str
    top1: float | None
    top5: float | None
    sure: bool
    agreement: float | None
    reference: str | None
    classes: tuple[ClassScore, ...]


def best_classes(logits: NDArray[np.floating]) -> IntArray:
    """Return (I, `KEPT`) the classes with the largest of (I, K) logits; -1 where there are fewer.

    Of equal logits the class with the smaller index comes first.
    """
    count = min(KEPT, logits.shape[1])
    found = np.full((len(logits), KEPT), -1, np.int64)
    found[:, :count] = np.argsort(-logits, axis=1, kind="stable")[:, :count]
    return found


def score(
    best: IntArray,
    *,
    data: str,
    classes: int,
    labels: IntArray | None = None,
    sure: bool = True,
    names: Sequence[str] = (),
    expected: IntArray | None = None,
    reference: str | None = None,
) -> Accuracy:
    """Return what the answers come to.

    Args:
        best: (I, `KEPT`), see `best_classes`.
        data: What the images are, in words.
        classes: Logits of the artefact.
        labels: (I,) classes.
        sure: Whether it was said which class a label means.
        names: Names of the classes by index; empty when unknown.
        expected: (I,) the reference's classes.
        reference: Its file.
    """
    top1 = top5 = None
    by_class: list[ClassScore] = []
    if labels is not None:
        correct = best[:, 0] == labels
        top1 = float(correct.mean())
        if classes > KEPT:
            top5 = float((best == labels[:, None]).any(axis=1).mean())
        for label in np.unique(labels):
            its = labels == label
            by_class.append(
                ClassScore(
                    name=names[label] if names else str(label),
                    images=int(its.sum()),
                    correct=int(correct[its].sum()),
                )
            )
    return Accuracy(
        images=len(best),
        data=data,
        top1=top1,
        top5=top5,
        sure=sure,
        agreement=None if expected is None else float((best[:, 0] == expected).mean()),
        reference=reference,
        classes=tuple(by_class),
    )


def accuracy_lines(name: str, found: Accuracy, *, worst: int = 3) -> list[str]:
    """Return the answers of one artefact in words, its worst classes included."""
    parts = []
    if found.top1 is not None:
        doubt = "" if found.sure else " (if labels mean the classes in their order)"
        parts.append(f"accuracy {found.top1:.1%}{doubt}")
    if found.top5 is not None:
        parts.append(f"top 5 {found.top5:.1%}")
    if found.agreement is not None:
        parts.append(f"the class of {found.reference} on {found.agreement:.1%}")
    lines = [f"{name}: {', '.join(parts) or 'nothing to compare with'} · {found.data}"]
    weak = sorted(
        (one for one in found.classes if one.correct < one.images),
        key=lambda one: (one.correct / one.images, -one.images),
    )[:worst]
    if weak:
        listed = ", ".join(f"{one.name} {one.correct} of {one.images}" for one in weak)
        lines.append(f"weakest classes of {name}: {listed}")
    return lines
