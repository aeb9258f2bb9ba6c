"""Draw the kernels of a plan: a row a block, a box a kernel, its colour the type it computes in."""

from __future__ import annotations

import dataclasses
import io

from PIL import Image, ImageDraw, ImageFont

from engines.fusion.kernels import Kernel
from engines.fusion.report import FusionReport

_BOX, _GAP, _ROW_GAP, _MARGIN = (168, 64), 8, 12, 28
_LABEL, _COUNT = 118, 150
"""Widths of the columns at the left and at the right of the boxes."""

_MOST_IN_A_LINE = 18
_BACKGROUND, _INK, _FAINT, _ALARM = (252, 252, 250), (30, 30, 30), (110, 110, 110), (190, 20, 20)
_COLOURS = {
    "Float": (233, 120, 96),
    "Half": (108, 172, 222),
    "BFloat16": (98, 190, 176),
    "Int8": (132, 192, 92),
    "FP8": (242, 180, 72),
}
_OTHER_TYPE = (190, 190, 190)
_TYPES = {
    "Float": "float32",
    "Half": "float16",
    "BFloat16": "bfloat16",
    "Int8": "int8",
    "FP8": "fp8",
}

Colour = tuple[int, int, int]
Corner = tuple[int, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Style:
    """How a box looks, apart from its colour.

    Attributes:
        tint: Share of white in its colour: matrix products and attentions have none.
        hatched: Whether it is hatched: it moves data and computes nothing.
        outline: Its border.
        width: Width of the border in pixels.
    """

    tint: float = 0.55
    hatched: bool = False
    outline: Colour = (150, 150, 150)
    width: int = 1


def plan_picture(report: FusionReport) -> bytes:
    """Return a PNG of the plan that `report` describes."""
    lines = [
        (label if start == 0 else "", kernels[start : start + _MOST_IN_A_LINE])
        for label, kernels in report.rows().items()
        for start in range(0, len(kernels), _MOST_IN_A_LINE)
    ]
    boxes = max(len(kernels) for _, kernels in lines)
    title, legend = _title(report), _legend(report)
    widths = [_BOX[0] * boxes + _GAP * (boxes - 1) + _LABEL + _COUNT]
    widths += [int(_font(size).getlength(text)) for text, size, _ in title]
    widths += [sum(_swatch_width(text) for _, _, text in legend)]
    top = _MARGIN + sum(size + 14 for _, size, _ in title) + 62
    height = top + len(lines) * (_BOX[1] + _ROW_GAP) + _MARGIN - _ROW_GAP
    canvas = Image.new("RGB", (max(widths) + 2 * _MARGIN, height), _BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    y = _MARGIN
    for text, size, colour in title:
        draw.text((_MARGIN, y), text, fill=colour, font=_font(size))
        y += size + 14
    _draw_legend(canvas, legend, y + 4)
    rows = report.rows()
    for index, (label, kernels) in enumerate(lines):
        y = top + index * (_BOX[1] + _ROW_GAP)
        draw.text((_MARGIN, y + _BOX[1] // 2), label, fill=_INK, font=_font(20), anchor="lm")
        whole = rows[kernels[0].row]
        if kernels[-1] is whole[-1]:
            x = _MARGIN + _LABEL + len(kernels) * (_BOX[0] + _GAP) + _GAP
            _draw_count(draw, report, whole, (x, y))
        for column, kernel in enumerate(kernels):
            x = _MARGIN + _LABEL + column * (_BOX[0] + _GAP)
            _draw_box(canvas, (x, y), _BOX, _colour(kernel.dtype), _style(kernel, report))
            _draw_role(draw, kernel.role, (x, y))
    buffer = io.BytesIO()
    canvas.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _title(report: FusionReport) -> list[tuple[str, int, Colour]]:
    summary, how = report.summary()
    name = " · ".join(filter(None, (report.engine, report.runtime))) or "a plan"
    alarm = report.leaks or report.weight_only
    return [(name, 30, _INK), (summary, 21, _INK), (how, 21, _ALARM if alarm else _INK)]


def _style(kernel: Kernel, report: FusionReport) -> _Style:
    if kernel.name in report.leaks or kernel.name in report.weight_only:
        return _Style(outline=_ALARM, width=4, hatched=kernel.stray)
    if kernel.work == "attention":
        return _Style(tint=0, outline=_INK, width=3)
    return _Style(tint=0 if kernel.work == "product" else 0.55, hatched=kernel.stray)


def _legend(report: FusionReport) -> list[tuple[Colour, _Style, str]]:
    """Return colour, style and words of what the picture has, and of nothing else."""
    types = list(dict.fromkeys(kernel.dtype for kernel in report.kernels))
    known = [name for name in _COLOURS if name in types]
    entries = [(_COLOURS[name], _Style(tint=0), _TYPES[name]) for name in known]
    if set(types) - set(known):
        entries.append((_OTHER_TYPE, _Style(tint=0), "other types"))
    plain = _colour(known[-1]) if known else _OTHER_TYPE
    entries.append((plain, _Style(), "pale: no matrix product"))
    if report.attentions:
        entries.append((plain, _Style(tint=0, outline=_INK, width=3), "fused attention"))
    if report.stray:
        entries.append((plain, _Style(hatched=True), "only converts or moves data"))
    if report.leaks:
        entries.append((_COLOURS["Float"], _Style(outline=_ALARM, width=4), "unexpected float32"))
    if report.weight_only:
        words = "quantized weights multiplied as floats"
        entries.append((plain, _Style(outline=_ALARM, width=4), words))
    return entries


def _draw_legend(canvas: Image.Image, legend: list[tuple[Colour, _Style, str]], y: int) -> None:
    x = _MARGIN
    for colour, style, text in legend:
        _draw_box(canvas, (x, y), (36, 24), colour, style)
        position = (x + 46, y + 12)
        ImageDraw.Draw(canvas).text(position, text, fill=_FAINT, font=_font(18), anchor="lm")
        x += _swatch_width(text)


def _swatch_width(text: str) -> int:
    return 46 + int(_font(18).getlength(text)) + 30


def _draw_box(
    canvas: Image.Image, corner: Corner, size: Corner, colour: Colour, style: _Style
) -> None:
    box = Image.new("RGB", size, _mixed(colour, (255, 255, 255), style.tint))
    draw = ImageDraw.Draw(box)
    if style.hatched:
        for start in range(-size[1], size[0], 12):
            ends = [(start, size[1]), (start + size[1], 0)]
            draw.line(ends, fill=_mixed(colour, (255, 255, 255), 0.3), width=3)
    draw.rectangle((0, 0, size[0] - 1, size[1] - 1), outline=style.outline, width=style.width)
    canvas.paste(box, corner)


def _draw_role(draw: ImageDraw.ImageDraw, role: str, corner: Corner) -> None:
    """Write a role into its box, in the largest letters that fit."""
    for size in (17, 15, 13, 11):
        lines = _wrapped(role, size, _BOX[0] - 12)
        if len(lines) * (size + 3) <= _BOX[1] - 6:
            break
    centre = (corner[0] + _BOX[0] // 2, corner[1] + _BOX[1] // 2)
    draw.multiline_text(
        centre, "\n".join(lines), fill=_INK, font=_font(size), anchor="mm", align="center",
        spacing=3,
    )  # fmt: skip


def _wrapped(role: str, size: int, width: int) -> list[str]:
    """Break a role before its plus signs, and between words where that is not enough."""
    lines: list[str] = []
    for part in role.replace(" + ", "\n+ ").split("\n"):
        joined = f"{lines[-1]} {part}" if lines else part
        if lines and len(lines) > 1 and _font(size).getlength(joined) <= width:
            lines[-1] = joined
            continue
        lines.append("")
        for word in part.split():
            longer = f"{lines[-1]} {word}".strip()
            if lines[-1] and _font(size).getlength(longer) > width:
                lines.append(word)
            else:
                lines[-1] = longer
    return lines


def _draw_count(
    draw: ImageDraw.ImageDraw, report: FusionReport, row: list[Kernel], corner: Corner
) -> None:
    """Write the number of kernels behind a row, and of its neighbours where it differs."""
    uneven = [
        one for one in report.uneven if (row[0].section, row[0].block) == ("block", one.block)
    ]
    x, middle = corner[0], corner[1] + _BOX[1] // 2
    colour = _INK if uneven else _FAINT
    position = (x, middle - 10 * len(uneven))
    draw.text(position, str(len(row)), fill=colour, font=_font(22), anchor="lm")
    for one in uneven:
        others = " and ".join(map(str, sorted(set(one.neighbours))))
        words = f"neighbours {others}"
        draw.text((x, middle + 14), words, fill=_ALARM, font=_font(16), anchor="lm")


def _colour(dtype: str) -> Colour:
    return _COLOURS.get(dtype, _OTHER_TYPE)


def _mixed(one: Colour, other: Colour, share: float) -> Colour:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return red, green, blue


def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)
