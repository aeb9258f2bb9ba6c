"""`inspect FOLDER`: what is in a folder of tasks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines.commands import command
from engines.manifest import Manifest
from fpet_export.cli.verbs import Outcome
from fpet_export.reporter import Reporter
from fpet_export.workflow import next_commands

if TYPE_CHECKING:
    from engines.tasks.folder import TaskFolder
    from engines.tasks.index import Task

_HEADS = ("task", "method", "bits", "rank", "classes", "merges", "kB", "reference", "own export")
_MEANINGS = (
    "reference, own export: largest logit difference from the float64 model, and from an export "
    "of this run alone, divided by the largest logit",
)


def inspect(folder: Path, reporter: Reporter) -> Outcome:
    """Check every byte of a folder, and list its graphs and tasks."""
    from engines.tasks.folder import check_folder

    found = check_folder(folder)
    index = found.index
    reporter.step("tasks", f"whole: {found.describe()}")
    reporter.step("backbone", f"{_architecture(found)} · fingerprint {index.backbone[:16]}…")
    graphs = [_graph(found, number) for number in range(len(found.graphs))]
    for graph in graphs:
        reporter.step(
            "graph",
            f"{graph['file']} {graph['bytes'] / 1e6:.1f} MB · {graph['inputs']} inputs of a task · "
            f"serves {graph['serves']}" + (f" · {graph['engine']}" if graph["engine"] else ""),
        )
    tasks = [_task(task, found.tasks[task.name]) for task in index.tasks]
    reporter.line()
    reporter.table([_HEADS, *(_row(task) for task in tasks)])
    reporter.explain(_MEANINGS)
    return Outcome(
        document={
            "folder": str(folder),
            "backbone": index.backbone,
            "target": index.target,
            "created": index.created,
            "command": list(index.command),
            "graphs": graphs,
            "tasks": tasks,
        },
        result=str(folder),
        next=[command("bench", folder)] if _runs_here(found) else [next_commands.bundle(folder)],
    )


def _runs_here(found: TaskFolder) -> bool:
    return all(next_commands.runs_here(graph.manifest) for graph in found.graphs)


def _architecture(found: TaskFolder) -> str:
    model = found.graphs[0].manifest.model
    assert model is not None, "every shared graph states it"
    return model.architecture


def _graph(found: TaskFolder, number: int) -> dict[str, Any]:
    graph, structure = found.graphs[number], found.index.structures[number]
    return {
        "file": graph.path.name,
        "bytes": graph.manifest.total_bytes,
        "precision": graph.manifest.precision,
        "merge_block": structure.merge_block,
        "inputs": len(structure.inputs),
        "serves": sum(task.structure == number for task in found.index.tasks),
        "engine": None if graph.engine is None else graph.engine.name,
    }


def _task(task: Task, manifest: Manifest) -> dict[str, Any]:
    model, facts = manifest.model, manifest.task
    assert model is not None and facts is not None, "every task's manifest states them"
    return {
        "name": task.name,
        "method": model.method,
        "bits": model.bit,
        "rank": model.dim,
        "scale": model.scale,
        "classes": task.classes,
        "labels": list(task.labels),
        "merge_block": model.merge_block,
        "bytes": manifest.total_bytes,
        "weights": manifest.weights,
        "half": facts.half,
        "factor_error": facts.factor_error,
        "logit_error": facts.logit_error,
        "parity": _relative(manifest, "reference"),
        "passed": not _failures(manifest),
    }


def _rows(manifest: Manifest, kind: str) -> list[dict[str, Any]]:
    table = (manifest.parity or {}).get(kind, {})
    rows: list[dict[str, Any]] = table.get("rows", []) if isinstance(table, dict) else []
    return rows


def _relative(manifest: Manifest, kind: str) -> float | None:
    return next((row["relative"] for row in _rows(manifest, kind)), None)


def _failures(manifest: Manifest) -> list[str]:
    rows = [*_rows(manifest, "reference"), *_rows(manifest, "single")]
    return [failure for row in rows for failure in row["failures"]]


def _row(task: dict[str, Any]) -> tuple[str, ...]:
    def said(value: Any) -> str:
        return "–" if value is None else str(value)

    def small(value: float | None) -> str:
        return "–" if value is None else f"{value:.1e}"

    merges = "no" if task["merge_block"] is None else f"after {task['merge_block']}"
    bits = "32 → 16" if task["half"] == "fp16" else said(task["bits"])
    verdict = "" if task["passed"] else " drifts"
    return (
        task["name"], task["method"], bits, said(task["rank"]), str(task["classes"]), merges,
        f"{task['bytes'] / 1e3:.0f}", small(task["parity"]), small(task["logit_error"]) + verdict,
    )  # fmt: skip
