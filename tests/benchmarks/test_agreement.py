from __future__ import annotations

import numpy as np
import pytest

from benchmarks.agreement import agreement, check_agreement
from engines.errors import MeasurementError

LOGITS = np.array([[1.0, 2.0, -4.0], [3.0, 0.0, 1.0]], np.float32)


def test_difference_is_relative_to_the_largest_logit() -> None:
    other = LOGITS.copy()
    other[0, 0] += 0.4

    found = agreement(other, LOGITS, reference="r", required=False)

    assert found.relative == pytest.approx(0.1)
    assert found.top1 == 1.0


def test_top1_counts_images() -> None:
    other = LOGITS.copy()
    other[0, 0] = 9.0

    assert agreement(other, LOGITS, reference="r", required=False).top1 == 0.5


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    other = LOGITS.copy()
    other[1, 1] = value

    with pytest.raises(MeasurementError, match="not finite"):
        agreement(other, LOGITS, reference="r", required=False)


def test_other_shapes_are_refused() -> None:
    with pytest.raises(MeasurementError, match="shapes"):
        agreement(LOGITS[:1], LOGITS, reference="r", required=False)


def test_a_group_is_held_to_its_first_member_and_others_to_the_baseline() -> None:
    outputs = {"base": LOGITS, "p": LOGITS + 1, "q": LOGITS + 1, "z": LOGITS * 2}

    found = check_agreement(outputs, baseline="base", agree=[["p", "absent", "q"]], limit=1e-6)

    assert set(found) == {"q", "z"}
    assert (found["q"].reference, found["q"].required) == ("p", True)
    assert (found["z"].reference, found["z"].required) == ("base", False)


def test_a_member_that_differs_is_named() -> None:
    outputs = {"base": LOGITS, "p": LOGITS, "q": LOGITS + 1}

    with pytest.raises(
        MeasurementError,
        match=r"q differs from p by 2\.50e-01 of its largest logit; the limit is 1e-03",
    ):
        check_agreement(outputs, baseline="base", agree=[["p", "q"]], limit=1e-3)


def test_another_number_of_classes_in_no_group_is_left_alone() -> None:
    outputs = {"base": LOGITS, "other": LOGITS[:, :2]}

    assert check_agreement(outputs, baseline="base", agree=[], limit=1e-3) == {}
