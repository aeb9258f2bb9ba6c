"""The line for a README says what is known and nothing else."""

from __future__ import annotations

import dataclasses
import xml.etree.ElementTree as ET
from typing import Any

import pytest

from benchmarks.accuracy.scores import Accuracy
from benchmarks.measurement import Answers, Measurement
from benchmarks.report.page import render_report, report_of
from benchmarks.report.summary_line import badge, summary_line, summary_lines
from tests.benchmarks.made_measurements import NOISE, measurement
from tests.benchmarks.report.test_fleet import changed, with_energy


def line(one: Measurement) -> str:
    found = summary_line(one, one.contenders[1])
    assert found is not None
    return found


def test_everything_that_is_known_is_in_it() -> None:
    on_board = measurement(5.0, 3.9, mode="MAXN_SUPER", jetpack="6.2")
    assert line(with_energy(on_board, 40.0, 31.2)) == (
        "ViT-B/16 merged, FP16, Orin Nano 8 GB MAXN_SUPER, JetPack 6.2: 3.9 ms, 31 mJ, "
        "99.8 % of the checkpoint's answers"
    )


def test_what_is_not_known_is_left_out() -> None:
    assert line(measurement(5.0, 3.9, agreement=None)) == (
        "ViT-B/16 merged, FP16, Orin Nano 8 GB, TensorRT 10.3.0: 3.9 ms"
    )


def test_answers_on_the_users_images_count_before_the_check() -> None:
    one = measurement(5.0, 3.9)
    scored = Accuracy(
        images=201, data="val", top1=0.731, top5=None, sure=True, agreement=0.985,
        reference="model.onnx", classes=(),
    )  # fmt: skip
    contenders = tuple(dataclasses.replace(each, accuracy=scored) for each in one.contenders)

    found = line(dataclasses.replace(one, contenders=contenders))
    assert found.endswith("73.1 % right, 98.5 % of the answers of model.onnx")


def test_a_batch_says_what_the_figures_are_of() -> None:
    found = line(with_energy(measurement(40.0, 30.0, batch=8), 40.0, 31.2))

    assert "30 ms a batch of 8, 31 mJ an image" in found


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        (None, ""),
        (Answers(agreement=1.0, images=4, on="4 images", of="adapted model in float64"), ""),
        (Answers(agreement=1.0, images=500, on="500 synthetic images", of="adapted model"), ""),
        (
            Answers(agreement=1.0, images=500, on="500 images", of="artefact model.onnx"),
            "100.0 % of its graph's answers",
        ),
    ],
)
def test_too_little_evidence_of_answers_is_left_out(answers: Answers | None, words: str) -> None:
    found = line(changed(measurement(), "merged", answers=answers))

    assert ("answers" in found) is bool(words)
    assert words in found


def test_random_weights_are_said() -> None:
    assert line(changed(measurement(), "merged", weights="random")).endswith("random weights")


def test_a_measurement_that_is_not_valid_has_no_line() -> None:
    one = measurement(findings=(NOISE,))

    assert summary_lines(one) == []
    assert "not valid" in badge(one, one.contenders[1])
    assert "ms" not in badge(one, one.contenders[1]).partition("<title>")[2].partition("</")[0]


def test_the_plain_model_has_no_line_of_its_own() -> None:
    assert len(summary_lines(measurement())) == 1
    alone = dataclasses.replace(measurement(), plain=None)
    assert len(summary_lines(alone)) == 2


def test_a_badge_is_a_whole_small_svg() -> None:
    one = measurement()
    evil = changed(one, "merged", network=None)
    evil = dataclasses.replace(
        evil, contenders=(dataclasses.replace(evil.contenders[1], name="<a&b>"),)
    )

    for text in (badge(one, one.contenders[1]), badge(evil, evil.contenders[0])):
        assert ET.fromstring(text).tag.endswith("svg")
        assert len(text) < 2000


def test_the_page_shows_line_and_prediction(monkeypatch: Any) -> None:
    pytest.importorskip("matplotlib")
    from benchmarks.predicted import with_predictions

    one = with_predictions(measurement(0.6, 0.64, board=None, gpu="NVIDIA H200", target="cuda"))
    page = render_report(report_of(one, title="t", again=""))

    assert "merged: predicted" in page
    assert "ViT-B/16 merged, FP16, NVIDIA H200" in page
