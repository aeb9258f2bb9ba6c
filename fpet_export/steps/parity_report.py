"""A parity table for people, and the error of the first stage that drifted."""

from __future__ import annotations

from engines.parity import table as parity_table
from engines.parity.rows import ParityTable, judge
from fpet_export.reporter import Reporter


def show_table(table: ParityTable, reporter: Reporter, *, heading: str = "stage") -> None:
    """Print the parity table, its remarks and what its columns mean; `heading`: what a row is."""
    reporter.line()
    reporter.paragraph(f"parity on {table.images}, against the {table.reference}")
    reporter.table(parity_table.table_rows(table.rows, heading=heading))
    for remark in parity_table.remarks(table):
        reporter.paragraph(f"{remark}.")
    reporter.line()
    reporter.explain(parity_table.meanings(table.rows))


def require(table: ParityTable) -> None:
    """Raise a ParityError that names the first stage which drifted, if one did."""
    judge(table, fix="report this with the run; the table above and parity.json show every stage")
