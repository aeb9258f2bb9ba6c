"""The parity table for people: one row a stage, its columns in words, each explained below.

A column appears where a stage has its figure. Two figures have no column: unexplained flips fail a
stage and are named there, and lost tokens are a sentence of their own.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

from engines.parity.rows import ParityTable, StageParity
from engines.plurals import counted

_UNKNOWN = "–"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figure:
    """What one column shows.

    Attributes:
        key: Key of the figure in code and in JSON.
        name: Its heading, on the terminal and on the page.
        meaning: One line for someone who reads it for the first time.
        text: The value as text.
    """

    key: str
    name: str
    meaning: str
    text: Callable[[float], str]

    def of_outputs(self) -> Figure:
        """Return the same of features and tokens, which are no logits."""
        name, meaning = (text.replace("logit", "output") for text in (self.name, self.meaning))
        return dataclasses.replace(self, name=name, meaning=meaning)


FIGURES = (
    Figure(
        key="largest_logit_difference",
        name="largest logit difference",
        meaning="how far an output of the stage is from the reference, at most",
        text=lambda value: f"{value:.1e}",
    ),
    Figure(
        key="relative",
        name="relative",
        meaning="that difference, divided by the largest logit of the reference",
        text=lambda value: f"{value:.1e}",
    ),
    Figure(
        key="sqnr_db",
        name="signal to noise (SQNR)",
        meaning="power of the logits over that of their error, in decibels; more is better",
        text=lambda value: "∞" if math.isinf(value) and value > 0 else f"{value:.1f} dB",
    ),
    Figure(
        key="agreement",
        name="agreement",
        meaning="images that get the class that the reference gives them",
        text=lambda value: f"{value:.1%}",
    ),
    Figure(
        key="cosine",
        name="smallest cosine",
        meaning="between an output vector and that of the reference, at worst; 1 is equal",
        text=lambda value: f"{value:.6f}",
    ),
    Figure(
        key="same_partner",
        name="same partner",
        meaning="patches that merge into the same patch as in the reference",
        text=lambda value: f"{value:.1%}" if value == 1 else f"{min(value, 0.9999):.2%}",
    ),
    Figure(
        key="accuracy",
        name="accuracy",
        meaning="images that get the class of their label",
        text=lambda value: f"{value:.1%}",
    ),
)


def shown(rows: Sequence[StageParity]) -> list[Figure]:
    """Return the figures that at least one of the rows has, in words that suit what they are of."""
    of_logits = all(row.cosine is None for row in rows)
    return [
        figure if of_logits else figure.of_outputs()
        for figure in FIGURES
        if any(getattr(row, figure.key) is not None for row in rows)
    ]


def why_not(row: StageParity) -> str:
    """Return why a stage is not equal, "" where it is.

    One that nobody judges is not equal without numbers.
    """
    if row.failures or math.isfinite(row.largest_logit_difference):
        return "; ".join(row.failures)
    return f"{'logits' if row.cosine is None else 'outputs'} that are not finite"


def table_rows(rows: Sequence[StageParity], *, heading: str = "stage") -> list[tuple[str, ...]]:
    """Return the table as text cells, heading first; an unknown cell is a dash.

    A stage that is not equal is marked with a cross.

    Args:
        rows: One a line.
        heading: What a line is, above the first column.
    """
    figures = shown(rows)
    lines = [(heading, *(figure.name for figure in figures))]
    for row in rows:
        values = ((figure, getattr(row, figure.key)) for figure in figures)
        cells = (_UNKNOWN if value is None else figure.text(value) for figure, value in values)
        lines.append((f"✗ {row.stage}" if why_not(row) else row.stage, *cells))
    return lines


def meanings(rows: Sequence[StageParity]) -> list[str]:
    """Return a line a column that says what it means."""
    return [f"{figure.name}: {figure.meaning}" for figure in shown(rows)]


def remarks(table: ParityTable) -> list[str]:
    """Return what the table says besides its columns.

    How the labels of its accuracy were found, stages on fewer images, tokens that a stage lost,
    and ties.
    """
    said = [] if table.labels is None else [f"labels: {table.labels}"]
    most = max((row.images for row in table.rows), default=0)
    said += [
        f"{row.stage} was compared on the first {counted(row.images, 'image')}"
        for row in table.rows
        if row.images < most
    ]
    said += [
        f"{row.stage} keeps {row.tokens_kept} of {row.tokens_expected} tokens on the worst image"
        for row in table.rows
        if None not in (row.tokens_kept, row.tokens_expected)
        and row.tokens_kept != row.tokens_expected
    ]
    said += [f"{row.stage}: {row.unjudged}" for row in table.rows if row.unjudged]
    said += [f"{row.stage}: {warning}" for row in table.rows for warning in row.warnings]
    if table.tied_images:
        said.append(
            f"the published rule would drop a tied token on {counted(table.tied_images, 'image')}; "
            "the argmax keeps it"
        )
    return said
