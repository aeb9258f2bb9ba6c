"""What a page of `deploy` says first."""

from __future__ import annotations

import pytest

from benchmarks.paired_statistics import Comparison, Verdict
from fpet_export.verbs._page import speed_headline


def comparison(ratio: float, verdict: Verdict) -> Comparison:
    return Comparison(
        baseline="plain.cpu", ratio=ratio, low=ratio - 0.1, high=ratio + 0.1, confidence=0.95,
        speedup=1 / ratio, verdict=verdict,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("ratio", "verdict", "valid", "value", "label", "good"),
    [
        (0.5, "faster", True, "2.00×", "faster than the plain ViT", True),
        (1.25, "slower", True, "1.25×", "slower than the plain ViT", False),
        (0.95, "no difference shown", True, "–", "no difference shown to the plain ViT", False),
        (0.5, "faster", False, "–", "no speed: the measurement does not count", False),
    ],
)
def test_no_factor_stands_there_that_was_not_shown(
    ratio: float, verdict: Verdict, valid: bool, value: str, label: str, good: bool
) -> None:
    headline = speed_headline(comparison(ratio, verdict), valid=valid)

    assert (headline.value, headline.label, headline.good) == (value, label, good)
