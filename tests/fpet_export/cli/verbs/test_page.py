"""What a page of `deploy` shows of its engines: tiles of one that ran, and no claim too many."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks.paired_statistics import Verdict
from fpet_export.workflow import deploying, deployment_page, deployment_verdict
from tests.fpet_export.cli.verbs.test_headline import RTX, built, judged
from tests.fpet_export.cli.verbs.test_verdict import GOOD, NOISE, measurement, row, table
from tests.fpet_export.pictures.fpet_groups import fpet_groups


@pytest.mark.parametrize(
    ("ratio", "verdict", "value", "label", "state"),
    [
        (0.5, "faster", "2.00×", "faster than the same ViT without merging (model.cpu)", "good"),
        (1.25, "slower", "1.25×", "slower than the same ViT without merging (model.cpu)", "bad"),
        (
            0.95, "no difference shown", "–",
            "no difference in speed shown to the same ViT without merging (model.cpu)", "open",
        ),
    ],
)  # fmt: skip
def test_no_factor_stands_there_that_was_not_shown(
    ratio: float, verdict: Verdict, value: str, label: str, state: str
) -> None:
    (tile,) = deployment_page._speed_tiles([judged(ratio, verdict)])

    assert (tile.value, tile.label, tile.state) == (value, label, state)


def test_an_invalid_measurement_has_a_tile_without_a_number() -> None:
    (tile,) = deployment_page._speed_tiles([measurement(NOISE)])

    assert (tile.value, tile.state) == ("–", "open")
    assert "is not valid" in tile.label


def test_the_tiles_are_those_of_the_engine_that_ran() -> None:
    rows = table(*GOOD.rows, row("rtx onnx", accuracy=0.1, largest_logit_difference=9.0))

    tiles = deployment_page._tiles(rows, [RTX, built()], [])

    assert [tile.value for tile in tiles] == ["20/20", "3.0e-06", "85.0%"]
    assert all("cpu engine" in tile.label for tile in tiles)
    assert tiles[2].label.endswith("85.0% before the export")


def test_where_nothing_ran_the_last_graph_is_named() -> None:
    tiles = deployment_page._tiles(table(row("rtx onnx")), [RTX], [])

    assert [tile.value for tile in tiles] == ["19/20", "3.0e-06"]
    assert all("rtx onnx" in tile.label for tile in tiles)
    assert tiles[0].state == "open"


def verdict_of(rows: Any, *measurements: Any, **not_run: str) -> deployment_verdict.Verdict:
    return deployment_verdict.of_deployment(
        rows, measurements, not_run=not_run, again="measure again"
    )


def test_the_verdict_is_as_good_as_its_worst_sentence() -> None:
    drifted = table(row("cpu onnx", failures=("relative difference 0.3",)))

    def state(verdict: deployment_verdict.Verdict) -> str:
        return deployment_page._shown(verdict, "a sentence", "").state

    assert state(verdict_of(GOOD, measurement())) == "good"
    assert state(verdict_of(GOOD, measurement(NOISE))) == "open"
    assert state(verdict_of(GOOD, measurement(), rtx="no GPU")) == "open"
    assert state(verdict_of(drifted, measurement())) == "bad"


def test_the_merge_is_drawn_small_and_said_in_words() -> None:
    groups = fpet_groups(np.array([0, 4, 0, 7, 6, 1, 5, 7]), (4, 4))
    pixels = np.zeros((16, 16, 3), np.uint8)

    shown = deploying.merge_figure(pixels, groups, name="cat.jpg", blocks="block 6")

    (_, name, before), (_, block, after) = shown.pngs
    assert (name, block) == ("cat.jpg", "after block 6")
    assert before == "The input image, cat.jpg."
    assert "16 patches became 8 tokens" in after
    assert "16 patches became 8 tokens" in shown.caption
    assert "the same number and colour belong together" in shown.caption
