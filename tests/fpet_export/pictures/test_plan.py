"""The picture of a plan: a box a kernel in the colour of its type, and a legend of them."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engines.backends._trt.log import Message, kernels_of
from engines.fusion.report import FusionReport, report_on
from fpet_export.pictures import plan

GOLDEN = Path(__file__).parents[2] / "golden"
LEFT = plan._MARGIN + plan._LABEL
WIDE, HIGH = plan._BOX


def recorded(kind: str) -> FusionReport:
    text = (GOLDEN / f"fusion_{kind}.log").read_text("utf-8")
    report = report_on(kernels_of([Message("VERBOSE", text)]), "verbose log")
    return dataclasses.replace(report, engine=f"model.{kind}.rtx.plan", runtime="tensorrt_rtx 1.7")


def pixels(report: FusionReport) -> np.ndarray:
    image = Image.open(io.BytesIO(plan.plan_picture(report)))
    assert image.format == "PNG"
    return np.asarray(image.convert("RGB"))


def rows_of_boxes(canvas: np.ndarray, report: FusionReport) -> list[np.ndarray]:
    """Cut the lines of boxes out of the canvas, from the bottom up."""
    step, count = HIGH + plan._ROW_GAP, len(report.rows())
    bottom = canvas.shape[0] - plan._MARGIN
    tops = [bottom - HIGH - step * place for place in reversed(range(count))]
    return [canvas[top : top + HIGH] for top in tops]


def inside(row: np.ndarray, column: int) -> np.ndarray:
    left = LEFT + column * (WIDE + plan._GAP)
    return row[6:-6, left + 6 : left + WIDE - 6]


@pytest.mark.parametrize("kind", ["fp16", "int8"])
def test_every_kernel_is_a_box_in_the_colour_of_its_type(kind: str) -> None:
    report = recorded(kind)
    rows = rows_of_boxes(pixels(report), report)

    for row, kernels in zip(rows, report.rows().values(), strict=True):
        for column, kernel in enumerate(kernels):
            corner = tuple(int(value) for value in inside(row, column)[0, 0])
            colour = plan._COLOURS[kernel.dtype]
            solid = kernel.work != "other"
            if solid:
                assert corner == colour, kernel.name
            else:
                share = (255 - np.array(corner)) / (255 - np.array(colour))
                assert np.ptp(share) < 0.03, kernel.name  # the same colour, with white in it
                assert 0.3 < share.mean() < 0.8
        beyond = inside(row, len(kernels))[:4]  # above the count
        assert (beyond == np.array(plan._BACKGROUND)).all()


def test_stray_kernels_are_hatched_and_others_are_not() -> None:
    report = recorded("fp16")
    rows = dict(zip(report.rows(), rows_of_boxes(pixels(report), report), strict=True))

    for place, kernels in report.rows().items():
        for column, kernel in enumerate(kernels):
            edge = inside(rows[place], column)[:3].reshape(-1, 3)
            assert (len(np.unique(edge, axis=0)) > 1) == kernel.stray, kernel.name


def test_a_leak_has_an_alarming_border() -> None:
    report = recorded("fp16")
    name = report.rows()["block 2"][1].name
    leak = dataclasses.replace(report.float32[0], kernel=name, reason="unexpected")

    plain = pixels(report)
    leaky = pixels(dataclasses.replace(report, float32=(leak,)))

    alarm = np.array(plan._ALARM)
    row = list(report.rows()).index("block 2")
    border = rows_of_boxes(leaky, report)[row][1, LEFT + WIDE + plan._GAP + 20]
    assert (border == alarm).all()
    assert not (rows_of_boxes(plain, report)[row] == alarm).all(axis=-1).any()


def test_the_legend_names_what_is_there() -> None:
    def words(report: FusionReport) -> list[str]:
        return [text for _, _, text in plan._legend(report)]

    assert words(recorded("fp16")) == [
        "float32",
        "float16",
        "pale: no matrix product",
        "fused attention",
        "only converts or moves data",
    ]
    assert "int8" in words(recorded("int8"))
    other = dataclasses.replace(
        recorded("fp16"),
        kernels=tuple(dataclasses.replace(k, dtype="Bool") for k in recorded("fp16").kernels),
    )
    assert words(other)[0] == "other types"


def test_a_long_row_goes_on_in_the_next_line() -> None:
    report = recorded("fp16")
    many = dataclasses.replace(
        report, kernels=tuple(dataclasses.replace(k, section="other") for k in report.kernels)
    )
    lines = -(-len(report.kernels) // plan._MOST_IN_A_LINE)

    assert list(many.rows()) == ["other"]
    step = HIGH + plan._ROW_GAP
    assert pixels(report).shape[0] - pixels(many).shape[0] == step * (len(report.rows()) - lines)


@pytest.mark.parametrize("size", [11, 17])
@pytest.mark.parametrize(
    "role", ["attention", "LayerNorm + dequantize + bias + residual + quantize", "a b c d e f g h"]
)
def test_a_role_is_broken_between_its_words_only(role: str, size: int) -> None:
    lines = plan._wrapped(role, size, WIDE - 12)

    assert " ".join(lines) == role
    assert all(plan._font(size).getlength(line) <= WIDE - 12 for line in lines)
