"""Artefacts beside a reference, on the same images: `CompareRequest`, `compare`, `Comparison`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines import storage
from engines.errors import UsageError
from engines.imaging.preparation import pixels_in_words
from engines.manifest import ENDINGS, is_task_folder
from engines.parity.outputs import manifest_of, preprocessing_of
from engines.parity.rows import ParityTable, judge
from engines.tasks.index import read_index
from fpet_export.reporter import SILENT, Reporter
from fpet_export.request_fields import from_zero
from fpet_export.requests import CheckImages, RunFacts, Writing
from fpet_export.steps import check_images, parity_report, runs, task_names
from fpet_export.workflow import comparing

if TYPE_CHECKING:
    from engines.imaging.class_names import KnownClasses
    from engines.manifest import Preprocessing
    from fpet_export.stages import Adapted


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompareRequest(RunFacts, CheckImages, Writing):
    """What is compared, and on what.

    Attributes:
        artefacts: The reference, a run or an artefact; then graphs, engines, folders of tasks.
        task: Which task of the folders.
        limit: Images to compare on, at most.
        out: Where the table is written as JSON; None writes none.
        relative: Largest relative difference; None is that of each artefact's precision.
    """

    artefacts: tuple[str, ...]
    task: str | None = None
    limit: int = dataclasses.field(default=128, metadata={"least": 1})
    out: Path | None = None
    relative: float | None = from_zero(None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """What came out; every row of the table kept its gates.

    Attributes:
        table: A row an artefact behind the reference.
        out: Where the table was written; None where nowhere.
    """

    table: ParityTable
    out: Path | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the table as plain JSON values."""
        return self.table.to_json()


def compare(request: CompareRequest, reporter: Reporter = SILENT) -> Comparison:
    """Compare artefacts with the first one, and judge each by the gates of its precision.

    Raises:
        UsageError: There is nothing to compare, or a run is not the reference.
        InputError: Images or class names are refused.
        ParityError: An artefact drifts from the reference; the table is written all the same.
    """
    if len(request.artefacts) < 2:
        raise UsageError(
            "only one artefact was given", where="compare", fix="give the reference and another"
        )
    if request.out is not None:
        storage.refuse_overwrite(request.out, force=request.force)
    check_images.require_inputs(request)
    first, *others = request.artefacts
    folders = [name for name in others if is_task_folder(Path(name))]
    _require_task(request.task, folders)
    if any(not name.endswith(ENDINGS) for name in others if name not in folders):
        raise UsageError(
            "a run can only be the reference",
            where=" ".join(others),
            fix="put it first, or export it",
        )
    adapted = None
    if first.endswith(ENDINGS):
        preprocessing = preprocessing_of(Path(first))
        runs.refuse_run_facts(request, first)
    else:
        adapted = runs.load_run(
            runs.run_of(first, request),
            instead="put the run or its export first, the folder behind it, and name a --task",
        )
        preprocessing = adapted.preprocessing
    known = _known_classes(request, adapted, folders)
    images = check_images.check_set(request, preprocessing, known, reporter, default=8)
    _say_other_pixels(preprocessing, others, request.task, reporter)
    reference = comparing.reference_of(first, adapted, images, reporter)
    rows = []
    for name in others:
        with reporter.progress(Path(name).name, len(images)) as advance:
            if name in folders:
                assert request.task is not None, "_require_task has seen it"
                row = reference.task_row(Path(name), request.task, request.relative, advance)
            else:
                row = reference.row(Path(name), request.relative, advance)
            rows.append(row)
    table = reference.outputs.table(rows)
    parity_report.show_table(table, reporter)
    if request.out is not None:
        storage.write_text(request.out, json.dumps(table.to_json(), indent=1) + "\n")
    judge(table, fix="export or build the artefact again from the run")
    return Comparison(table=table, out=request.out)


def _say_other_pixels(
    preprocessing: Preprocessing, others: Sequence[str], task: str | None, reporter: Reporter
) -> None:
    """Warn of artefacts that would make other pixels of the same files than the first one."""
    wanted = pixels_in_words(preprocessing)
    for name in others:
        path = Path(name)
        is_task = task is not None and is_task_folder(path)
        manifest = task_names.task_manifest(path, str(task)) if is_task else manifest_of(path)
        own = manifest.preprocessing and pixels_in_words(manifest.preprocessing)
        if own not in (None, wanted):
            text = f"{name} takes {own}; here it gets those of the first artefact: {wanted}"
            reporter.warn("pixels", text, artefact=name, own=own, given=wanted)


def _require_task(task: str | None, folders: Sequence[str]) -> None:
    if folders and task is None:
        raise task_names.no_task(folders[0], read_index(Path(folders[0])).names)
    if task is not None and not folders:
        raise UsageError(
            "no folder of tasks follows the first artefact",
            where="--task",
            fix="leave --task out, or name the folder that `fpet-export tasks` wrote",
        )


def _known_classes(
    request: CompareRequest, adapted: Adapted | None, folders: Sequence[str]
) -> KnownClasses:
    """Return what the artefacts say about their classes; two that disagree are refused."""
    first, *others = request.artefacts
    graphs = [name for name in others if name not in folders]
    if adapted is None:
        graphs.insert(0, first)
        model = manifest_of(Path(first)).model
        count = None if model is None else model.classes
    else:
        count = adapted.known_classes.count
    manifests = [manifest_of(Path(name)) for name in graphs]
    manifests += [task_names.task_manifest(Path(name), str(request.task)) for name in folders]
    run = None if adapted is None else adapted.known_classes
    return check_images.known_classes(count, request.labels, manifests, run=run)
