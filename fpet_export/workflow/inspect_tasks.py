"""What is in a folder of tasks."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines.commands import command
from engines.manifest import Manifest
from engines.precisions import FP16
from engines.tasks.folder import check_folder
from fpet_export.reporter import Reporter
from fpet_export.steps import next_commands

if TYPE_CHECKING:
    from engines.tasks.folder import TaskFolder
    from engines.tasks.index import Task

_HEADS = ("task", "method", "bits", "rank", "classes", "merges", "kB", "reference", "own export")
_MEANINGS = (
    "reference, own export: largest logit difference from the float64 model, and from an export "
    "of this run alone, divided by the largest logit",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GraphFacts:
    """One shared graph.

    Attributes:
        file: Its name.
        bytes: Size of all its files.
        precision: What it is typed in.
        merge_block: 0-based block after whose attention tokens merge; None where none do.
        inputs: How many of its inputs are a task's.
        serves: How many tasks it serves.
        engine: The engine beside it; None where none is built.
    """

    file: str
    bytes: int
    precision: str
    merge_block: int | None
    inputs: int
    serves: int
    engine: str | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskFacts:
    """One task.

    Attributes:
        name: Name of the task.
        method: How it was tuned.
        bits: Bits of its stored adapter.
        rank: Or bottleneck width.
        scale: The method's scale.
        classes: Logits of its head.
        labels: Class names in their order; none where nobody states them.
        merge_block: As of its graph.
        bytes: Size of its file.
        weights: Whether they are trained or random.
        half: In what its dense factors are kept.
        factor_error: What keeping them so changed, relative to the largest factor.
        logit_error: Largest difference from its own export, relative to the largest logit.
        parity: Largest difference from its float64 model, likewise.
        passed: Whether it kept its gates when it was written.
    """

    name: str
    method: str
    bits: int | None
    rank: int | None
    scale: float | None
    classes: int
    labels: list[str]
    merge_block: int | None
    bytes: int
    weights: str
    half: str
    factor_error: float | None
    logit_error: float | None
    parity: float | None
    passed: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class FolderInspection:
    """What a folder of tasks holds; every byte of it is as its index says.

    Attributes:
        folder: Where it lies.
        backbone: Fingerprint of the backbone.
        target: What it runs on.
        created: When it was written.
        command: The command line that wrote it.
        graphs: What tasks share.
        tasks: In the order of the folder.
        next: Commands to type next.
    """

    folder: Path
    backbone: str
    target: str
    created: str
    command: tuple[str, ...]
    graphs: tuple[GraphFacts, ...]
    tasks: tuple[TaskFacts, ...]
    next: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The folder as it was named."""
        return str(self.folder)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "folder": str(self.folder),
            "backbone": self.backbone,
            "target": self.target,
            "created": self.created,
            "command": list(self.command),
            "graphs": [dataclasses.asdict(one) for one in self.graphs],
            "tasks": [dataclasses.asdict(one) for one in self.tasks],
        }


def inspect_tasks(folder: Path, reporter: Reporter) -> FolderInspection:
    """Check every byte of a folder, and list its graphs and tasks.

    Raises:
        TrustError: A file is not what the index says.
    """
    found = check_folder(folder)
    index = found.index
    reporter.step("tasks", f"whole: {found.describe()}")
    reporter.step("backbone", f"{_architecture(found)} · fingerprint {index.backbone[:16]}…")
    graphs = tuple(_graph(found, number) for number in range(len(found.graphs)))
    for graph in graphs:
        reporter.step(
            "graph",
            f"{graph.file} {graph.bytes / 1e6:.1f} MB · {graph.inputs} inputs of a task · "
            f"serves {graph.serves}" + (f" · {graph.engine}" if graph.engine else ""),
        )
    tasks = tuple(_task(task, found.tasks[task.name]) for task in index.tasks)
    reporter.line()
    reporter.table([_HEADS, *(_row(task) for task in tasks)])
    reporter.explain(_MEANINGS)
    return FolderInspection(
        folder=folder,
        backbone=index.backbone,
        target=index.target,
        created=index.created,
        command=tuple(index.command),
        graphs=graphs,
        tasks=tasks,
        next=(command("bench", folder) if _runs_here(found) else next_commands.bundle(folder),),
    )


def _runs_here(found: TaskFolder) -> bool:
    return all(next_commands.runs_here(graph.manifest) for graph in found.graphs)


def _architecture(found: TaskFolder) -> str:
    model = found.graphs[0].manifest.model
    assert model is not None, "every shared graph states it"
    return model.architecture


def _graph(found: TaskFolder, number: int) -> GraphFacts:
    graph, structure = found.graphs[number], found.index.structures[number]
    return GraphFacts(
        file=graph.path.name,
        bytes=graph.manifest.total_bytes,
        precision=graph.manifest.precision,
        merge_block=structure.merge_block,
        inputs=len(structure.inputs),
        serves=sum(task.structure == number for task in found.index.tasks),
        engine=None if graph.engine is None else graph.engine.name,
    )


def _task(task: Task, manifest: Manifest) -> TaskFacts:
    model, facts = manifest.model, manifest.task
    assert model is not None and facts is not None, "every task's manifest states them"
    return TaskFacts(
        name=task.name,
        method=model.method,
        bits=model.bit,
        rank=model.dim,
        scale=model.scale,
        classes=task.classes,
        labels=list(task.labels),
        merge_block=next(iter(model.merged_blocks), None),
        bytes=manifest.total_bytes,
        weights=manifest.weights,
        half=facts.half,
        factor_error=facts.factor_error,
        logit_error=facts.logit_error,
        parity=_relative(manifest, "reference"),
        passed=not _failures(manifest),
    )


def _rows(manifest: Manifest, kind: str) -> list[dict[str, Any]]:
    table = (manifest.parity or {}).get(kind, {})
    rows: list[dict[str, Any]] = table.get("rows", []) if isinstance(table, dict) else []
    return rows


def _relative(manifest: Manifest, kind: str) -> float | None:
    return next((row["relative"] for row in _rows(manifest, kind)), None)


def _failures(manifest: Manifest) -> list[str]:
    rows = [*_rows(manifest, "reference"), *_rows(manifest, "single")]
    return [failure for row in rows for failure in row["failures"]]


def _row(task: TaskFacts) -> tuple[str, ...]:
    def said(value: Any) -> str:
        return "–" if value is None else str(value)

    def small(value: float | None) -> str:
        return "–" if value is None else f"{value:.1e}"

    merges = "no" if task.merge_block is None else f"after {task.merge_block}"
    bits = "32 → 16" if task.half == FP16 else said(task.bits)
    verdict = "" if task.passed else " drifts"
    return (
        task.name, task.method, bits, said(task.rank), str(task.classes), merges,
        f"{task.bytes / 1e3:.0f}", small(task.parity), small(task.logit_error) + verdict,
    )  # fmt: skip
