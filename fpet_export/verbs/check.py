"""`fpet-export check ENGINE`: the engine on this machine against what its graph said on another."""

from __future__ import annotations

import argparse
from pathlib import Path

from engines.errors import InputError
from fpet_export.console import Console
from fpet_export.verbs import Outcome, _steps

HELP = "compare an engine with what its graph said where it was bundled"
DESCRIPTION = """\
Run an engine on the images of a check file (`bundle` writes one: a few images with the logits of
the graph, and how far an engine may be from them) and compare. Exits 7 when it drifts.

  fpet-export check board/model.tensorrt.plan --expect board/model.check.npz
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("engine", type=Path, metavar="ENGINE", help="an engine, or a graph")
    parser.add_argument(
        "--expect",
        type=Path,
        metavar="NPZ",
        help="the check file (default: the only *.check.npz beside the engine)",
    )


def run(options: argparse.Namespace, console: Console) -> Outcome:
    """Run, print the row, and judge it."""
    from engines.check_file import read_check
    from engines.parity import ParityTable

    path = options.expect or _beside(options.engine)
    expected = read_check(path)
    with console.progress(options.engine.name, len(expected.images)) as advance:
        row = expected.judge(options.engine, progress=advance)
    table = ParityTable(
        images=expected.images.description,
        reference=f"logits of {expected.graph} in {path.name}",
        rows=(row,),
    )
    _steps.show_table(table, console)
    _steps.require(table)
    return Outcome(
        document={"engine": str(options.engine), "parity": table.to_json()},
        result=str(options.engine),
        next=[f"fpet-export bench {options.engine}"],
    )


def _beside(engine: Path) -> Path:
    found = sorted(engine.parent.glob("*.check.npz"))
    if len(found) != 1:
        raise InputError(
            f"there are {len(found)} check files beside the engine",
            where=str(engine.parent),
            fix="name one: --expect NAME.check.npz (`fpet-export bundle` writes it)",
        )
    return found[0]
