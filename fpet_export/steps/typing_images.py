"""The images of a quantization: those that ranges are found on, and those it is judged on."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from calibration.requirements import require_images
from engines.errors import InputError
from engines.imaging.source import collect, open_source
from engines.imaging.synthetic import synthetic_set
from engines.manifest import Preprocessing
from fpet_export.reporter import Reporter
from fpet_export.requests import Typing
from fpet_export.steps import check_images, typing_request

if TYPE_CHECKING:
    from engines.imaging.class_names import KnownClasses
    from engines.imaging.images import ImageSet
    from engines.imaging.source import ImageSource

DEFAULT_CALIBRATION = 128


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sources:
    """Images of a quantization.

    Attributes:
        calibration: To find ranges on; None for half precision, or where tables say it all.
        check: To compare on; None for synthetic images.
    """

    calibration: ImageSource | None
    check: ImageSource | None

    def images(self, preprocessing: Preprocessing, *, default: int) -> ImageSet:
        """Read the images to compare on, or make `default` synthetic ones."""
        if self.check is not None:
            return collect(self.check)
        return synthetic_set(preprocessing.size, default)


def sources(
    request: Typing,
    preprocessing: Preprocessing,
    known: KnownClasses,
    reporter: Reporter,
    *,
    needs: bool,
    limit: int,
) -> Sources:
    """List the images, and see to it that they can be read and what their labels mean.

    Args:
        request: Which images, and which tables.
        preprocessing: Preprocessing of the graph.
        known: What is known about the classes of the model.
        reporter: Hears what the images are.
        needs: Whether there is something to calibrate.
        limit: Images to check, at most.

    Raises:
        InputError: There are fewer than asked for, or too few to calibrate on; some cannot be
            read, or labels are no classes of the model.
        UsageError: INT8 or FP8 without images, or `--max-drop` without `--data`.
    """
    typing_request.refuse_without_images(request, needs=needs)
    found = _listed(request, preprocessing, needs=needs)
    check = found.check
    if check is not None:
        check = check_images.checked(check.spread(limit), known, request, reporter)
    calibration = found.calibration
    if calibration is not None:
        calibration = check_images.without_bad(calibration, request, reporter)
        if not request.table:
            require_images(len(calibration), calibration.description)
        left_out = calibration.left_out()
        if left_out and request.calibration is not None:
            text = f"{calibration.description} · left out: {', '.join(left_out)}"
            reporter.step("calibrate", text, passed=None)
        check_images.say_remarks(calibration.remarks(), reporter, name="calibrate")
    return Sources(calibration=calibration, check=check)


def _listed(request: Typing, preprocessing: Preprocessing, *, needs: bool) -> Sources:
    """List the images, without reading them."""
    data = None if request.data is None else open_source(request.data, preprocessing)
    if not needs:
        return Sources(calibration=None, check=data)
    if request.calibration is not None:
        found = open_source(request.calibration, preprocessing)
        wanted = _count(request, len(found), str(request.calibration))
        return Sources(calibration=found.spread(wanted), check=data)
    if data is not None and not request.table:
        half, rest = data.halves()
        wanted = _count(request, len(half), f"half of {request.data}")
        return Sources(calibration=half.spread(wanted), check=rest)
    return Sources(calibration=None, check=data)


def _count(request: Typing, available: int, where: str) -> int:
    if request.images is None:
        return min(DEFAULT_CALIBRATION, available)
    if request.images > available:
        raise InputError(
            f"{request.images} calibration images were asked for, there are {available}",
            where=where,
            fix=f"give more images, or ask for --images {available}",
        )
    return request.images
