"""Answers that are no numbers, and figures that JSON cannot say."""

from __future__ import annotations

import math

import numpy as np
import pytest

from engines.errors import ParityError
from engines.parity.finite import json_ready, require_finite
from engines.parity.model_outputs import ModelOutputs


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_the_first_image_without_an_answer_is_named(value: float) -> None:
    logits = np.zeros((3, 4))
    logits[1, 2] = logits[2] = value
    outputs = ModelOutputs(logits=logits)
    with pytest.raises(ParityError, match=r"for 2 of 3 images; the first is b\.png, with 1 of 4"):
        require_finite(outputs, ["a.png", "b.png", "c.png"], of="model.onnx")
    with pytest.raises(ParityError, match="the first is number 1"):
        require_finite(outputs, (), of="model.onnx")


def test_large_logits_are_numbers() -> None:
    large = ModelOutputs(logits=np.full((2, 3), np.finfo(np.float32).max))
    require_finite(large, (), of="model.onnx")


def test_infinite_figures_are_null_and_the_rest_stays() -> None:
    document = {"a": [1.5, math.inf, (-math.inf, "x", None, True)], "b": {"c": 2}}
    assert json_ready(document) == {"a": [1.5, None, [None, "x", None, True]], "b": {"c": 2}}


def test_what_is_not_a_number_is_an_error_with_its_place() -> None:
    with pytest.raises(ParityError, match=r"rows\[1\]\.share is not a number"):
        json_ready({"rows": [{"share": 0.5}, {"share": math.nan}]})
