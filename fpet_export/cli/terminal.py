"""How text fits a terminal: its width, wrapped sentences, tables that stay inside."""

from __future__ import annotations

import os
import re
import sys
import textwrap
from collections.abc import Iterator, Sequence

USUAL_WIDTH = 80
_GAP = 2
_LEAST_WORDS = 10  # columns that the last column of a table keeps, however long the others are

_COMMAND = re.compile(
    r"`[^`]+`|\b(?:fpet-export|pip install|python3?(?= -m| agent)|sudo|scp)"
    r" .+?(?=$|[;`]|, |,$| \(|\)| and | or | lists?\b| packs\b| says\b)"
)
"""A command inside a sentence: it is never broken, so that it can be pasted."""

_HELD = "\ue000"  # stands for a space inside something that stays whole


def terminal_width() -> int:
    """Return COLUMNS where it is set, else the width of the terminal on stderr, else 80."""
    stated = os.environ.get("COLUMNS", "")
    if stated.isdecimal() and int(stated) > 0:
        return int(stated)
    try:
        stream = sys.__stderr__
        return (stream and os.get_terminal_size(stream.fileno()).columns) or USUAL_WIDTH
    except (OSError, ValueError):  # no terminal behind it, or it is closed
        return USUAL_WIDTH


def wrapped(text: str, *, first: str = "", rest: str = "", width: int | None = None) -> str:
    """Break a text into lines between its words; commands and paths stay whole.

    Args:
        text: Line breaks in it are kept.
        first: What the first line begins with.
        rest: What every other line begins with.
        width: Width of a line; by default the terminal's.
    """
    width = max(width or terminal_width(), len(rest) + _LEAST_WORDS)
    lines = []
    for index, line in enumerate(text.split("\n")):
        begin = rest if index else first
        lines += _lines(line, width, first=begin, rest=rest) or [begin.rstrip() * (not index)]
    return "\n".join(lines)


def _lines(text: str, width: int, *, first: str = "", rest: str = "") -> list[str]:
    held = _COMMAND.sub(lambda found: found[0].replace(" ", _HELD), text)
    lines = textwrap.wrap(
        held.replace("· ", f"·{_HELD}"),
        width,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [line.replace(_HELD, " ") for line in lines]


def table(
    rows: Sequence[Sequence[str]],
    *,
    indent: str = "",
    words: bool = False,
    width: int | None = None,
) -> Iterator[str]:
    """Yield the lines of a table, heading first.

    The first column is aligned left, the others right. Where the lines would be too long, headings
    are broken between their words.

    Args:
        rows: Cells.
        indent: What every line begins with.
        words: The last column holds words: it is aligned left and broken into lines.
        width: Width of a line; by default the terminal's.
    """
    width = (width or terminal_width()) - len(indent)
    heading, *body = [list(row) for row in rows]
    count = len(heading)
    widths = [max(len(row[column]) for row in rows) for column in range(count)]
    if sum(widths) + _GAP * (count - 1) > width:
        widths = [
            max([len(row[column]) for row in body] + [_longest_word(heading[column])])
            for column in range(count)
        ]
    if words:
        others = sum(widths[:-1]) + _GAP * (count - 1)
        widths[-1] = min(widths[-1], max(width - others, _LEAST_WORDS))
    left = {0, count - 1} if words else {0}
    for number, row in enumerate(rows):
        cells = [
            _broken(cell, widths[column])
            if number == 0 or (words and column == count - 1)
            else [cell]
            for column, cell in enumerate(row)
        ]
        tallest = max(len(cell) for cell in cells)
        for line in range(tallest):
            parts = []
            for column, cell in enumerate(cells):
                above = tallest - len(cell) if number == 0 else 0  # headings stand on the rule
                text = cell[line - above] if 0 <= line - above < len(cell) else ""
                align = text.ljust if column in left else text.rjust
                parts.append(align(widths[column]))
            yield (indent + (" " * _GAP).join(parts)).rstrip()
        if number == 0:
            yield indent + (" " * _GAP).join("─" * each for each in widths)


def _longest_word(text: str) -> int:
    return max((len(word) for word in text.split()), default=0)


def _broken(text: str, width: int) -> list[str]:
    return _lines(text, width) or [""]
