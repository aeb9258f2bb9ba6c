"""What `build`, `bench` and `deploy` say about an engine."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING

from engines.contract import Progress
from engines.errors import FpetError
from engines.fusion.report import FusionReport, fusion_of, fusion_path
from engines.imaging.synthetic import synthetic_set
from engines.manifest import Manifest, manifest_path, read_manifest
from engines.parity.outputs import CONTROL, DEFAULT_IMAGES, compare_built, reference_of, runnable
from engines.parity.reference_file import read_reference
from engines.parity.rows import ParityTable, StageParity
from engines.tasks.check import check_path, read_task_reference
from engines.tasks.folder import check_folder
from engines.tasks.index import read_index
from engines.tasks.parity import compare_tasks, has_tasks, references_of_graph, tasks_of
from fpet_export.reporter import Reporter

if TYPE_CHECKING:
    from engines.parity.comparison import ReferenceOutputs


def describe(path: Path, manifest: Manifest) -> str:
    """Return the one line that says what was built."""
    parts = [f"{path.name} {manifest.total_bytes / 1e6:.1f} MB"]
    runtime = manifest.runtime
    if runtime is not None:
        parts.append(f"{runtime.flavour} {runtime.version}")
        if runtime.compute_capabilities:
            parts.append("SM " + ", ".join(runtime.compute_capabilities))
        if "kernels" in runtime.settings:
            fused = runtime.settings.get("fused_attentions", "0")
            parts.append(f"{runtime.settings['kernels']} kernels, {fused} fused attentions")
        if "int8_products" in runtime.settings:
            parts.append(f"INT8 products {runtime.settings['int8_products']}")
        if "int8_weights" in runtime.settings:
            parts.append(f"INT8 weights {runtime.settings['int8_weights']}")
    return " · ".join(parts)


def report_fusion(artefact: Path, manifest: Manifest, reporter: Reporter) -> FusionReport | None:
    """Say what was fused, in two lines, with `-v` kernel by kernel; None for no plan."""
    if artefact.suffix != ".plan":
        _say_operators({} if manifest.runtime is None else manifest.runtime.settings, reporter)
        return None
    if not fusion_path(artefact).exists():
        reporter.step("fusion", "not known: this TensorRT does not list its kernels", passed=None)
        return None
    report = fusion_of(artefact, manifest)
    summary, how = report.summary()
    reporter.step("fusion", summary)
    reporter.step("fusion", how, passed=None if report.leaks or report.weight_only else True)
    for line in report.in_words()[2:]:
        reporter.detail(line)
    return report


def _say_operators(settings: Mapping[str, str], reporter: Reporter) -> None:
    """Say which operators ONNX Runtime's CUDA provider got, where they are recorded."""
    if "operators" not in settings:
        return
    fused = settings["fused_attentions"]
    left, _, whole = fused.partition(" of ")
    reporter.step(
        "fusion",
        f"{fused} attentions are one operator, {settings['fused_skip_norms']} norms hold the sum "
        f"before them, {settings['fused_bias_gelus']} GELUs their bias",
        passed=True if left == whole else None,
    )
    blocks = settings["operators_per_block"]
    reporter.step("fusion", f"{settings['operators']} operators; in each block: {blocks}")
    reporter.detail(settings["operator_types"])


@contextlib.contextmanager
def build_progress(reporter: Reporter) -> Iterator[Progress]:
    """Yield a callback for a build; it shows a bar a phase, and names each phase with `-v`."""
    seen: set[str] = set()
    with reporter.phases("building") as tell:

        def report(phase: str, done: int, total: int) -> bool:
            if phase not in seen:
                seen.add(phase)
                reporter.detail(phase)
            tell(phase, done, total)
            return True

        yield report


def check_against_graph(graph: Path, artefact: Path, reporter: Reporter) -> ParityTable | None:
    """Compare an engine's logits with its graph's, on synthetic images or those of a bundle.

    Returns:
        The parity table, not judged yet; None where the engine cannot run on this machine or
        nobody knows the graph's preprocessing. Both are said.
    """
    if not manifest_path(graph).exists():
        reporter.step("parity", "not checked: the graph has no manifest", passed=None)
        return None
    manifest = read_manifest(graph)
    if manifest.preprocessing is None:
        reporter.step("parity", "not checked: the graph's preprocessing is unknown", passed=None)
        return None
    recorded = [] if _margins_are_known_here() else _recorded(graph, manifest)
    for what in (artefact,) if recorded else (artefact, graph):
        problem = runnable(what)
        if problem is not None:
            reporter.step(
                "parity", f"{what.name} is not run here: {short_reason(problem)}", passed=None
            )
            return None
    if manifest.is_shared:
        if has_tasks(graph):
            return _check_tasks(graph, artefact, recorded, reporter)
        reporter.step("parity", "not checked: the graph's tasks are not beside it", passed=None)
        return None
    table = compare_built(graph, artefact, expected=_expected(graph, *recorded))
    *controls, row = table.rows
    for control in controls:
        reporter.step("parity", f"the graph against itself, {_format_difference(control, CONTROL)}")
    reporter.step(
        "parity",
        f"{row.difference} against the graph on {_on(row, table)}"
        if not controls
        else f"the engine against its graph as written, {_format_difference(row, _on(row, table))}",
        passed=row.passed,
    )
    return table


def _expected(graph: Path, recorded: Path | None = None) -> ReferenceOutputs:
    """Return what the graph says, and how sure its match is wherever that can be known."""
    if recorded is not None:
        return read_reference(recorded)
    if not _margins_are_known_here():
        return reference_of(graph)
    from fpet_export.steps.expectation import reference_with_margin

    return reference_with_margin(graph)


def _recorded(graph: Path, manifest: Manifest) -> list[Path]:
    """Return the answers that came with a graph in a bundle; of a shared one, those of its tasks.

    None of them where one is missing.
    """
    paths = [graph.with_name(f"{graph.stem}.check.npz")]
    if manifest.is_shared:
        names = tasks_of(graph) if has_tasks(graph) else ()
        paths = [check_path(graph.parent, name) for name in names]
    return paths if all(path.is_file() for path in paths) else []


def _margins_are_known_here() -> bool:
    """Say whether a graph can be asked how sure its match is; the agent cannot edit graphs."""
    return all(
        util.find_spec(name)
        for name in ("fpet_export.steps.expectation", "onnx", "onnx_graphsurgeon")
    )


def _check_tasks(
    graph: Path, artefact: Path, recorded: Sequence[Path], reporter: Reporter
) -> ParityTable:
    """Compare the engine of a shared graph with it, task by task."""
    table = compare_tasks(graph, artefact, references=_task_references(graph, recorded))
    for row in table.rows:
        what = f"{row.difference} against the graph on {_on(row, table)}"
        reporter.step("parity", f"{row.stage}: {what}", passed=row.passed)
    return table


def _task_references(graph: Path, recorded: Sequence[Path]) -> list[tuple[str, ReferenceOutputs]]:
    """Return what every task of a graph says, and how sure its match is where that is known."""
    folder, names = graph.parent, tasks_of(graph)
    if _margins_are_known_here():
        from fpet_export.steps.task_references import references_of_tasks

        found = check_folder(folder, with_engines=False)
        preprocessing = read_manifest(graph).preprocessing
        assert preprocessing is not None, "checked by the caller"
        images = synthetic_set(preprocessing.size, DEFAULT_IMAGES)
        return list(references_of_tasks(found, dict.fromkeys(names, images)))
    if recorded:
        index = read_index(folder)
        tasks = (index.task(name, where=str(folder)) for name in names)
        return [(task.name, read_task_reference(folder, task)) for task in tasks]
    return list(references_of_graph(graph))


def _on(row: StageParity, table: ParityTable) -> str:
    """Return the images in words, and how many of them were judged."""
    return f"{table.images} ({row.unjudged})" if row.unjudged else table.images


def _format_difference(row: StageParity, on: str) -> str:
    noise = "no difference" if row.sqnr_db == math.inf else f"{row.sqnr_db:.1f} dB"
    return f"{on}: {noise}, {row.difference}, {row.agreement_in_words}"


def short_reason(problem: FpetError) -> str:
    """Return why an engine does not run here, without the details that `-v` or its error give."""
    return problem.what.partition(":")[0] if ";" in problem.what else problem.what
