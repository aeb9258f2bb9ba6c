"""`fpet-export check ENGINE`: the engine on this machine against what its graph said on another."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from engines.errors import InputError, UsageError
from fpet_export.console import Console
from fpet_export.verbs import Outcome, _arguments, _steps

if TYPE_CHECKING:
    from engines.parity import ParityTable

HELP = "compare an engine with what its graph said where it was bundled"
DESCRIPTION = """\
Run an engine on the images of a check file (`bundle` writes one: a few images with the logits of
the graph, and how far an engine may be from them) and compare. Exits 7 when it drifts. In the
folder of a bundle of tasks, every task is compared with its own check file.

  fpet-export check board/model.tensorrt.plan --expect board/model.check.npz
  fpet-export check board --task pets,cars
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "engine", type=Path, metavar="ENGINE", help="an engine, a graph, or a folder of tasks"
    )
    parser.add_argument(
        "--expect",
        type=Path,
        metavar="NPZ",
        help="the check file (default: the only *.check.npz beside the engine)",
    )
    _arguments.add_tasks(parser)


def run(options: argparse.Namespace, console: Console) -> Outcome:
    """Run, print the row, and judge it."""
    table = (_tasks if options.engine.is_dir() else _engine)(options, console)
    _steps.show_table(table, console)
    _steps.require(table)
    return Outcome(
        document={"engine": str(options.engine), "parity": table.to_json()},
        result=str(options.engine),
        next=[f"fpet-export bench {options.engine}"],
    )


def _engine(options: argparse.Namespace, console: Console) -> ParityTable:
    from engines.check_file import read_check
    from engines.parity import ParityTable

    _arguments.refuse_tasks(options.engine, options.task)
    path = options.expect or _beside(options.engine)
    expected = read_check(path)
    with console.progress(options.engine.name, len(expected.images)) as advance:
        row = expected.judge(options.engine, progress=advance)
    return ParityTable(
        **{**expected.images.in_words(), "images": expected.description()},
        reference=f"logits of {expected.graph} in {path.name}",
        rows=(row,),
    )


def _tasks(options: argparse.Namespace, console: Console) -> ParityTable:
    """Compare tasks, each with its own check file."""
    from engines.task_check import check_tasks
    from engines.task_index import read_index

    if options.expect is not None:
        raise UsageError(
            "every task of a folder has its own check file",
            where="--expect",
            fix="leave it out; --task NAME checks one",
        )
    names = read_index(options.engine).chosen(options.task, where=str(options.engine))
    with console.progress("tasks", len(names)) as advance:
        return check_tasks(options.engine, names, progress=lambda name: advance(1))


def _beside(engine: Path) -> Path:
    found = sorted(engine.parent.glob("*.check.npz"))
    if len(found) != 1:
        raise InputError(
            f"there are {len(found)} check files beside the engine",
            where=str(engine.parent),
            fix="name one: --expect NAME.check.npz (`fpet-export bundle` writes it)",
        )
    return found[0]
