"""`fpet-export doctor`: what this machine has, what is missing, and what mends it."""

from __future__ import annotations

import argparse
from pathlib import Path

from fpet_export.cli.verbs import Outcome
from fpet_export.doctor import diagnose
from fpet_export.reporter import Reporter
from fpet_export.requests import made

DESCRIPTION = """\
Check Python, packages, processor, memory, disk and GPU; name what mends each gap.

On a Jetson, or with --board, it asks for what running needs: numpy and one runtime, not torch. It
says which board this is, its power mode, clocks and swap, and with --bundle whether what an
unpacked bundle holds fits this machine. What cannot be known is said to be unknown.

  fpet-export doctor
  python3 agent.pyz doctor
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "--board", action="store_true", help="ask for what running needs, not exporting"
    )
    parser.add_argument(
        "--bundle", type=Path, metavar="DIR", help="an unpacked bundle: does it fit this machine?"
    )


def run(options: argparse.Namespace, reporter: Reporter) -> Outcome:
    """Check one thing after the other; exit 4 when something that every job needs is missing."""
    found = diagnose.diagnose(made(diagnose.DoctorRequest, vars(options)), reporter)
    return Outcome(
        document=found.to_json(),
        result=f"lacking {', '.join(found.lacking)}" if found.lacking else "ready",
        next=found.next,
        exit_code=found.exit_code,
    )
