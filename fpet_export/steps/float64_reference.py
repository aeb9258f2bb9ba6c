"""What every stage of an export is compared with: the adapted model in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from engines.errors import InputError
from engines.imaging.images import ImageSet
from engines.parity.comparison import ReferenceOutputs

if TYPE_CHECKING:
    from fpet_export.stages import Adapted

Progress = Callable[[int], None]
REFERENCE = "adapted model in float64"


def begin(
    adapted: Adapted, images: ImageSet, *, progress: Progress | None = None
) -> ReferenceOutputs:
    """Run the float64 reference over `images`.

    Raises:
        InputError: The images are labelled with classes that are not the model's.
    """
    spec = adapted.model.spec
    check_labels(images, spec.classes)
    reference = adapted.outputs(images.pixels, progress=progress)
    plan = adapted.merge_plan()
    tokens = spec.tokens if plan.counts_patches else None
    return ReferenceOutputs(name=REFERENCE, images=images, outputs=reference, tokens=tokens)


def check_labels(images: ImageSet, classes: int) -> None:
    """Refuse images whose labels cannot mean the classes of the model.

    Raises:
        InputError: A label is out of range, or another number of classes is named; a label is a
            place among the names, so with a class missing it would mean another class.
    """
    labels = images.labels
    if labels is None:
        return
    if not 0 <= labels.min() <= labels.max() < classes:
        raise InputError(
            f"labels {labels.min()} to {labels.max()} for a model of {classes} classes",
            where=images.description,
            fix="give the data set this run was tuned for",
        )
    if images.class_names and len(images.class_names) != classes:
        raise InputError(
            f"{len(images.class_names)} classes for a model of {classes} classes",
            where=images.description,
            fix="give the data set that this run was tuned for, with every class (a folder "
            "may be empty), or images without labels",
        )
