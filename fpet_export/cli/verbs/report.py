"""`fpet-export report FILE|DIR…`: results of several boards side by side."""

from __future__ import annotations

import argparse
from pathlib import Path

from fpet_export.cli.verbs import Outcome
from fpet_export.reporter import Reporter
from fpet_export.requests import made
from fpet_export.workflow import report

DESCRIPTION = """\
Put measurements side by side: boards and engines with latency, energy, answers and conditions, and
which engine no other on its device beats. A measurement that is not valid is shown as such and
never ranked. In folders, files that are no measurements are listed as skipped; a file that is named
must be one.

Without --html, --markdown and --csv the table is printed as Markdown.

  fpet-export report results/ --html boards.html --markdown boards.md --csv boards.csv
  fpet-export report orin.latency.json thor.latency.json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "results",
        type=Path,
        nargs="+",
        metavar="FILE|DIR",
        help="what bench or deploy wrote, or folders of it",
    )
    parser.add_argument("--html", type=Path, help="write one self-contained HTML page")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write a table for a README")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write a table for a spreadsheet")
    parser.add_argument("--force", action="store_true", help="replace files that exist")


def run(options: argparse.Namespace, reporter: Reporter) -> Outcome:
    """Put the results together, and print what was written or the table."""
    found = report.report(made(report.ReportRequest, vars(options)), reporter)
    written = "\n".join(map(str, found.written))
    return Outcome(document=found.to_json(), result=written or found.markdown.rstrip())
