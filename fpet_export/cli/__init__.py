"""The command line: the only folder that knows `argparse`."""

from __future__ import annotations

import importlib
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command in this process and return its exit code.

    Args:
        arguments: Words behind the program's name; None takes those of the process.
    """
    code: int = importlib.import_module("fpet_export.cli.dispatch").main(arguments)
    return code
