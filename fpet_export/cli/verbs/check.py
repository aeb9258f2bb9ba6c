"""`fpet-export check ENGINE`: the engine on this machine against what its graph said on another."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from engines.commands import command
from engines.errors import InputError, UsageError
from engines.manifest import manifest_path, read_manifest, write_manifest
from fpet_export.cli import arguments
from fpet_export.cli.verbs import Outcome
from fpet_export.reporter import Reporter
from fpet_export.workflow import steps, usable

if TYPE_CHECKING:
    from engines.parity.rows import ParityTable

GROUP = "judge"
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
    arguments.add_tasks(parser)
    arguments.add_failed(parser)


def run(options: argparse.Namespace, reporter: Reporter) -> Outcome:
    """Run, print the row, and judge it."""
    from engines.parity.rows import judge

    table, artefacts = (_tasks if options.engine.is_dir() else _engine)(options, reporter)
    steps.show_table(table, reporter, heading="task" if options.engine.is_dir() else "stage")
    for artefact in artefacts:
        _record(artefact, table, reporter)
    judge(table, fix="build the engine again here; if it stays, report it with the table above")
    return Outcome(
        document={"engine": str(options.engine), "parity": table.to_json()},
        result=str(options.engine),
        next=[command("bench", options.engine)],
    )


def _engine(options: argparse.Namespace, reporter: Reporter) -> tuple[ParityTable, list[Path]]:
    from engines.parity.reference_file import read_reference
    from engines.parity.rows import ParityTable

    arguments.refuse_tasks(options.engine, options.task)
    usable.require_file(options.engine, options, reporter)
    path = options.expect or _beside(options.engine)
    expected = read_reference(path)
    with reporter.progress(options.engine.name, len(expected.images)) as advance:
        row = expected.judge(options.engine, progress=advance)
    table = ParityTable(
        **{**expected.images.in_words(), "images": expected.description()},
        reference=f"logits of {expected.graph} in {path.name}",
        rows=(row,),
    )
    return table, [options.engine] if _is_of(options.engine, expected.graph) else []


def _tasks(options: argparse.Namespace, reporter: Reporter) -> tuple[ParityTable, list[Path]]:
    """Compare tasks, each with its own check file."""
    from engines.tasks.check import check_tasks
    from engines.tasks.index import read_index
    from engines.tasks.open_tasks import artefact_of

    if options.expect is not None:
        raise UsageError(
            "every task of a folder has its own check file",
            where="--expect",
            fix="leave it out; --task NAME checks one",
        )
    folder = options.engine
    index = read_index(folder)
    names = index.chosen(options.task, where=str(folder))
    usable.require_tasks(folder, index, names, options, reporter)
    used = sorted({index.task(name, where=str(folder)).structure for name in names})
    runs = [artefact_of(folder, index, index.structures[number])[0] for number in used]
    for artefact in runs:
        usable.require_file(artefact, options, reporter)
    with reporter.progress("tasks", len(names)) as advance:
        return check_tasks(folder, names, progress=lambda name: advance(1)), runs


def _is_of(artefact: Path, graph: str) -> bool:
    """Say whether a check file of this graph says what the artefact must answer."""
    if not manifest_path(artefact).exists():
        return False
    manifest = read_manifest(artefact, verify=False)
    return graph in (manifest.file, *(parent.file for parent in manifest.parents))


def _record(artefact: Path, table: ParityTable, reporter: Reporter) -> None:
    """Keep a failed check in the manifest, so that nobody uses what drifted unawares.

    A check that passed changes nothing: the file may be signed, or listed in a bundle.
    """
    if table.first_failure() is None:
        return
    manifest = dataclasses.replace(read_manifest(artefact), parity=table.to_json())
    try:
        write_manifest(artefact, manifest)
    except InputError as error:  # a folder that is only read
        reporter.step("parity", f"not kept in its manifest: {error.what}", passed=None)
    else:
        reporter.step("parity", f"kept in {manifest_path(artefact).name}", passed=False)


def _beside(engine: Path) -> Path:
    found = sorted(engine.parent.glob("*.check.npz"))
    if len(found) != 1:
        raise InputError(
            f"there are {len(found)} check files beside the engine",
            where=str(engine.parent),
            fix=_expectation(found),
        )
    return found[0]


def _expectation(found: Sequence[Path]) -> str:
    if found:
        return f"name one: {shlex.join(('--expect', str(found[0])))}"
    return "bundle its graph, unpack that and check the engine there; `bundle` writes the file"
