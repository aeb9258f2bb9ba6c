"""An engine here beside what its graph said elsewhere: `CheckRequest`, `check`, `Checked`."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines.commands import command
from engines.errors import InputError, UsageError
from engines.manifest import manifest_path, read_manifest, write_manifest
from engines.parity.outputs import outputs_of
from engines.parity.reference_file import read_reference
from engines.parity.rows import judge
from engines.tasks.check import check_tasks
from engines.tasks.index import read_index
from engines.tasks.open_tasks import artefact_of
from fpet_export.reporter import SILENT, Reporter
from fpet_export.requests import AllowFailed
from fpet_export.steps import parity_report, task_names, usable

if TYPE_CHECKING:
    from engines.parity.rows import ParityTable


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckRequest(AllowFailed):
    """What is checked, and against what.

    Attributes:
        engine: An engine, a graph, or a folder of tasks.
        expect: The check file; None takes the only one beside the engine.
        task: Tasks of a folder; None takes all.
    """

    engine: Path
    expect: Path | None = None
    task: tuple[str, ...] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checked:
    """An engine, or a folder of tasks, whose answers are those of its graph.

    Attributes:
        engine: What was checked.
        table: A row an engine, or a task.
        next: Commands to type next.
    """

    engine: Path
    table: ParityTable
    next: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"engine": str(self.engine), "parity": self.table.to_json()}


def check(request: CheckRequest, reporter: Reporter = SILENT) -> Checked:
    """Run an engine on the images of a check file, and compare.

    What drifts is recorded in the engine's manifest, so that nobody uses it unawares.

    Raises:
        InputError: There is no check file, or there are several.
        ParityError: The engine drifts, or failed an earlier check.
        TrustError: A file is not what its manifest says.
    """
    is_folder = request.engine.is_dir()
    table, artefacts = (_tasks if is_folder else _engine)(request, reporter)
    parity_report.show_table(table, reporter, heading="task" if is_folder else "stage")
    for artefact in artefacts:
        _record(artefact, table, reporter)
    judge(
        table,
        fix="build the engine again here; if that does not help, report it with the table above",
    )
    return Checked(engine=request.engine, table=table, next=(command("bench", request.engine),))


def _engine(request: CheckRequest, reporter: Reporter) -> tuple[ParityTable, list[Path]]:

    task_names.refuse_tasks(request.engine, request.task)
    usable.require_file(request.engine, request, reporter)
    path = request.expect or _beside(request.engine)
    expected = read_reference(path)
    with reporter.progress(request.engine.name, len(expected.images)) as advance:
        found = outputs_of(request.engine, expected.images.pixels, progress=advance)
    table = expected.table(
        [expected.compare(request.engine.name, found)],
        reference=f"{expected.outputs.head} of {expected.name} in {path.name}",
    )
    return table, [request.engine] if _is_of(request.engine, expected.name) else []


def _tasks(request: CheckRequest, reporter: Reporter) -> tuple[ParityTable, list[Path]]:
    """Compare tasks, each with its own check file."""
    if request.expect is not None:
        raise UsageError(
            "every task of a folder has its own check file",
            where="--expect",
            fix="leave it out; --task NAME checks one",
        )
    folder = request.engine
    index = read_index(folder)
    names = index.chosen(request.task, where=str(folder))
    usable.require_tasks(folder, index, names, request, reporter)
    used = sorted({index.task(name, where=str(folder)).structure for name in names})
    runs = [artefact_of(folder, index, index.structures[number])[0] for number in used]
    for artefact in runs:
        usable.require_file(artefact, request, reporter)
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
            f"there are {len(found)} check files (*.check.npz) beside the engine"
            if found
            else "no check file (*.check.npz) lies beside the engine",
            where=str(engine.parent),
            fix=_expectation(found),
        )
    return found[0]


def _expectation(found: Sequence[Path]) -> str:
    if found:
        return f"name one: {shlex.join(('--expect', str(found[0])))}"
    return "bundle its graph, unpack that and check the engine there; `bundle` writes the file"
