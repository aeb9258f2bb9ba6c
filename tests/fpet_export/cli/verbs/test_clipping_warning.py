"""Who asks for a rule that clips where a network relies on very large values is told."""

from __future__ import annotations

import numpy as np
import pytest

from calibration.table import CalibrationTable, seen
from fpet_export.cli.console import Console
from fpet_export.requests import Typing
from fpet_export.steps.typed_graph import warn_of_clipping
from tests.calibration.test_table import PREPROCESSING


def table_with(largest: float) -> CalibrationTable:
    values = np.linspace(0, 1, 40_000, dtype=np.float32).reshape(-1, 4)
    far = values.copy()
    far[-1, -1] = largest
    return CalibrationTable(
        graph="a" * 64,
        graph_file="model.onnx",
        preprocessing=PREPROCESSING,
        images=(),
        description="a test",
        records={
            "blocks/0/fc2/input": seen(far, channels=True),
            "blocks/1/fc2/input": seen(values, channels=True),
            "blocks/1/attn/q": seen(far * 100, channels=False),
        },
    )


@pytest.mark.parametrize(
    ("largest", "observer", "warns"),
    [
        (13.4, {"input": "mse"}, True),
        (13.4, {"input": "percentile"}, True),
        (13.4, {"input": "absmax"}, False),
        (13.4, {"probabilities": "percentile"}, False),
        (1.5, {"input": "mse"}, False),
    ],
)
def test_a_rule_that_clips_massive_inputs_is_warned_of(
    largest: float, observer: dict[str, str], warns: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    warn_of_clipping(table_with(largest), Typing(observer=observer), Console())

    said = " ".join(capsys.readouterr().err.split())
    assert ("8 to 11 dB" in said) == warns
    assert ("1 layer of 2" in said and "blocks/0/fc2: 13 times" in said) == warns
