"""Nineteen tasks on one ViT-B/16: memory, switches, file sizes, and the price of inputs.

`python -m benchmarks.experiments.many_tasks -o benchmarks/results/many_tasks.json`. The runs have
random weights and the numbers of classes of VTAB-1k's tasks; they are written as the authors' files
and read back. Memory is that of fresh processes which serve one task, or all nineteen in turn.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.comparison import bench
from benchmarks.conditions.environment import read_environment
from benchmarks.conditions.failures import as_engine_error
from benchmarks.contenders import Opened
from benchmarks.experiments.fidelity import Cell, write_run
from benchmarks.experiments.subjects import MERGE_BLOCK
from benchmarks.feeds import synthetic_feeds
from benchmarks.latency import Schedule
from benchmarks.measurement import Measurement
from benchmarks.measurement_file import to_document, to_text
from benchmarks.report.table import format_table
from engines import registry, storage
from engines.contract import OpenOptions
from engines.engine import open_engine
from engines.errors import BudgetError, EngineError, FpetError
from engines.imaging.synthetic import synthetic_set
from engines.manifest import read_manifest
from engines.parity.outputs import outputs_of
from engines.precisions import FP16, FP32
from engines.tasks.open_tasks import open_tasks

SCHEMA = 1
ARCHITECTURE = "vit_base_patch16_224"
CLASSES = {
    "caltech101": 102, "cifar": 100, "dtd": 47, "oxford_flowers102": 102, "oxford_iiit_pet": 37,
    "svhn": 10, "sun397": 397, "patch_camelyon": 2, "eurosat": 10, "resisc45": 45,
    "diabetic_retinopathy": 5, "clevr_count": 8, "clevr_dist": 6, "dmlab": 6, "kitti": 4,
    "dsprites_loc": 16, "dsprites_ori": 16, "smallnorb_azi": 18, "smallnorb_ele": 9,
}  # fmt: skip
"""Tasks of VTAB-1k and their classes (Zhai et al. 2019, table of data sets)."""

LORA = Cell(method="lora", bit=32, merge_block=MERGE_BLOCK)
ADAPTFORMER = Cell(method="adaptformer", bit=1, merge_block=MERGE_BLOCK)
SETS = {
    "lora": (LORA, LORA),
    "adaptformer": (ADAPTFORMER, ADAPTFORMER),
    "mixed": (LORA, ADAPTFORMER),
}
"""What the tasks of each set are tuned with, in turn."""

MEMORY_GOAL, SWITCH_GOAL_MS = 1.10, 50.0
SIZE_GOALS = {"lora fp32": 1.6e6, "lora fp16": 0.9e6, "adaptformer 1 bit": 0.4e6}
_SIZED_CLASSES = 100
_REPEATS = 3
_WARM_UP, _PRICED_ROUNDS = 3, 30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Served:
    """One set of tasks, served.

    Attributes:
        name: Name of the set.
        tasks: How many.
        one_bytes: RSS of a process that serves one of them, median over repeats.
        all_bytes: RSS of a process that serves all of them.
        one_proportional_bytes: PSS of the first.
        all_proportional_bytes: PSS of the second.
        imported_bytes: RSS of both before anything was opened.
        resident_tasks: Tasks whose assembled weights were in memory at the end.
        cold_switch_ms: Median time to a task whose weights had to be read and assembled.
        warm_switch_ms: Median time to one whose weights were there.
        switches: Switches of each kind.
    """

    name: str
    tasks: int
    one_bytes: int
    all_bytes: int
    one_proportional_bytes: int
    all_proportional_bytes: int
    imported_bytes: int
    resident_tasks: int
    cold_switch_ms: float
    warm_switch_ms: float
    switches: int

    @property
    def ratio(self) -> float:
        """Memory of all tasks over that of one."""
        return self.all_bytes / self.one_bytes

    def missed(self) -> list[str]:
        """Return the goals that were missed, in words."""
        problems = []
        if self.ratio > MEMORY_GOAL:
            problems.append(f"{self.name}: {self.ratio:.3f} of one task's memory, goal 1.10")
        if self.cold_switch_ms > SWITCH_GOAL_MS:
            problems.append(f"{self.name}: switch {self.cold_switch_ms:.1f} ms, goal 50")
        return problems


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sized:
    """One kind of delta, with a head of 100 classes.

    Attributes:
        name: What it is.
        delta_bytes: The task's file.
        export_bytes: The graph that exporting the run by itself gives.
        goal_bytes: Most bytes of the delta.
        factor_error: See `engines.manifest.TaskFacts`.
        logit_error: Largest |logit difference| to the run's own float32 export, over its largest
            |logit|, on synthetic images.
    """

    name: str
    delta_bytes: int
    export_bytes: int
    goal_bytes: float
    factor_error: float
    logit_error: float

    def missed(self) -> list[str]:
        """Return the goal that was missed, in words."""
        if self.delta_bytes <= self.goal_bytes:
            return []
        return [f"{self.name}: {self.delta_bytes / 1e6:.3f} MB, goal {self.goal_bytes / 1e6:g}"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Priced:
    """Processor time of one inference on one thread, which other work on the machine moves little.

    Attributes:
        method: Method of the task.
        own_ms: Median of the task's own export.
        shared_ms: Median of the shared graph.
        ratio: Median of paired ratios, shared over own.
        rounds: Pairs.
    """

    method: str
    own_ms: float
    shared_ms: float
    ratio: float
    rounds: int


class Files:
    """Runs, their folders of tasks and their own exports, written once each."""

    def __init__(self, folder: Path, architecture: str) -> None:
        self.folder, self.architecture = folder, architecture
        self._written: dict[Path, Path] = {}
        backbones = registry.import_or_explain("fpet_export.model.backbones")
        self.backbone = backbones.read(f"random:{architecture}:0")

    def run(self, name: str, cell: Cell, classes: int, seed: int) -> Any:
        """Write a run as the authors do and read it back."""
        folder = self.folder / "runs" / f"{name}-{cell.method}-{classes}"
        if folder not in self._written:
            self._written[folder] = write_run(
                folder, cell, self.architecture, seed=seed, classes=classes
            )
        load = registry.import_or_explain("fpet_export").load
        return load(self._written[folder], backbone=self.backbone)

    def tasks(self, name: str, runs: dict[str, Any], **options: Any) -> Path:
        """Write a folder of tasks."""
        export = registry.import_or_explain("fpet_export.tasks.export")
        export.export_tasks(runs, self.folder / name, export.TaskOptions(**options))
        return self.folder / name

    def single(self, name: str, run: Any) -> Path:
        """Export a run by itself."""
        path: Path = run.fold().freeze(target="cpu").to_onnx(self.folder / f"{name}.onnx")
        return path


def serve(files: Files, name: str, *, threads: int) -> Served:
    """Write one set of nineteen tasks, and measure processes that serve them."""
    cells = SETS[name]
    runs = {
        task: files.run(task, cells[index % 2], classes, index)
        for index, (task, classes) in enumerate(CLASSES.items())
    }
    folder = files.tasks(f"set-{name}", runs)
    del runs
    first = next(iter(CLASSES))
    ones = [probe(folder, [first], threads=threads) for _ in range(_REPEATS)]
    alls = [probe(folder, list(CLASSES), threads=threads) for _ in range(_REPEATS)]
    cold = [ns for found in alls for ns in found["cold_ns"]]
    warm = [ns for found in alls for ns in found["warm_ns"]]
    return Served(
        name=name,
        tasks=len(CLASSES),
        one_bytes=_median(ones, "at_end", "resident_bytes"),
        all_bytes=_median(alls, "at_end", "resident_bytes"),
        one_proportional_bytes=_median(ones, "at_end", "proportional_bytes"),
        all_proportional_bytes=_median(alls, "at_end", "proportional_bytes"),
        imported_bytes=_median(alls, "imported", "resident_bytes"),
        resident_tasks=alls[0]["resident_tasks"],
        cold_switch_ms=statistics.median(cold) / 1e6,
        warm_switch_ms=statistics.median(warm) / 1e6,
        switches=len(cold),
    )


def probe(folder: Path, names: Sequence[str], *, threads: int) -> dict[str, Any]:
    """Serve tasks in a fresh process and return what it says of itself.

    Raises:
        EngineError: It failed.
    """
    words = [str(folder), "--tasks", ",".join(names), "--threads", str(threads)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.experiments.task_probe", *words],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise EngineError(
            f"exit code {done.returncode}: {done.stderr.strip().splitlines()[-1:]}",
            where="benchmarks.experiments.task_probe",
            fix="run it by itself",
        )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _median(found: Sequence[dict[str, Any]], moment: str, kind: str) -> int:
    return int(statistics.median(entry[moment][kind] for entry in found))


def size(files: Files) -> list[Sized]:
    """Measure the files of a task with 100 classes, and what half precision costs."""
    found = []
    images = synthetic_set(files.backbone.spec.image, 4)
    for name, cell, half in (
        ("lora fp32", LORA, FP32),
        ("lora fp16", LORA, FP16),
        ("adaptformer 1 bit", ADAPTFORMER, FP32),
    ):
        run = files.run("sized", cell, _SIZED_CLASSES, 7)
        folder = files.tasks(f"sized-{name}", {"task": run}, half=half)
        single = files.single(f"sized-{name}", run)
        registry.import_or_explain("engines.backends.ort")
        expected = outputs_of(single, images.pixels).logits
        with open_tasks(folder) as tasks:
            outputs = registry.import_or_explain("engines.parity.outputs")
            handle = tasks.task("task")
            actual = outputs.engine_outputs(handle, handle.manifest(), images.pixels).logits
        manifest = read_manifest(folder / "tasks" / "task.safetensors")
        assert manifest.task is not None
        found.append(
            Sized(
                name=name,
                delta_bytes=manifest.total_bytes,
                export_bytes=read_manifest(single).total_bytes,
                goal_bytes=SIZE_GOALS[name],
                factor_error=manifest.task.factor_error,
                logit_error=float(abs(actual - expected).max() / abs(expected).max()),
            )
        )
        single.unlink()
    return found


def price(
    files: Files, *, threads: int, schedule: Schedule
) -> tuple[list[Measurement], list[Priced]]:
    """Measure tasks of the mixed set against their own exports, in the same rounds.

    Other work on the machine moves both latencies alike; what it leaves is an indication.
    """
    measurements, priced = [], []
    for index, cell in enumerate((LORA, ADAPTFORMER)):
        task, classes = list(CLASSES.items())[index]
        run = files.run(task, cell, classes, index)
        single = files.single(f"single-{cell.method}", run)
        options = OpenOptions(threads=threads)
        with contextlib.ExitStack() as stack:
            own = stack.enter_context(open_engine(single, options=options))
            tasks = stack.enter_context(open_tasks(files.folder / "set-mixed", options=options))
            names = f"{cell.method}, own export", f"{cell.method}, shared graph"
            measurements.append(
                bench(
                    [
                        Opened(name=names[0], engine=own),
                        Opened(name=names[1], engine=tasks.task(task)),
                    ],
                    against=names[0],
                    threads=threads,
                    agree=[list(names)],
                    schedule=schedule,
                    strict=False,
                    command=_COMMAND,
                )
            )
        priced.append(_processor_time(cell.method, single, files.folder / "set-mixed", task))
        single.unlink()
    return measurements, priced


def _processor_time(method: str, single: Path, folder: Path, task: str) -> Priced:
    options = OpenOptions(threads=1)
    with open_engine(single, options=options) as own, open_tasks(folder, options=options) as tasks:
        handle = tasks.task(task)
        feeds = synthetic_feeds(own.inputs, batch=1, seed=0, name=task)
        runs = [engine.bind(feeds) for engine in (own, handle)]
        times: list[list[int]] = [[], []]
        for round_ in range(_WARM_UP + _PRICED_ROUNDS):
            for index, run_once in enumerate(runs):
                start = time.process_time_ns()
                run_once()
                if round_ >= _WARM_UP:
                    times[index].append(time.process_time_ns() - start)
    ratios = [shared / one for one, shared in zip(*times, strict=True)]
    return Priced(
        method=method,
        own_ms=statistics.median(times[0]) / 1e6,
        shared_ms=statistics.median(times[1]) / 1e6,
        ratio=statistics.median(ratios),
        rounds=len(ratios),
    )


_COMMAND = ["python", "-m", "benchmarks.experiments.many_tasks"]


def format_served(found: Sequence[Served]) -> str:
    """Return the table of the sets as text."""
    lines = [("set", "tasks", "one MB", "all MB", "ratio", "in memory", "cold ms", "warm ms")]
    for entry in found:
        lines.append(
            (
                entry.name,
                str(entry.tasks),
                f"{entry.one_bytes / 1e6:.1f}",
                f"{entry.all_bytes / 1e6:.1f}",
                f"{entry.ratio:.3f}",
                str(entry.resident_tasks),
                f"{entry.cold_switch_ms:.2f}",
                f"{entry.warm_switch_ms:.4f}",
            )
        )
    return _aligned(lines)


def format_sized(found: Sequence[Sized]) -> str:
    """Return the table of the file sizes as text."""
    lines = [("delta", "MB", "goal", "own export MB", "factor error", "logit error")]
    for entry in found:
        lines.append(
            (
                entry.name,
                f"{entry.delta_bytes / 1e6:.3f}",
                f"{entry.goal_bytes / 1e6:g}",
                f"{entry.export_bytes / 1e6:.1f}",
                f"{entry.factor_error:.1e}",
                f"{entry.logit_error:.1e}",
            )
        )
    return _aligned(lines)


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and return the exit code: 8 when a goal is missed."""
    options = _parse(arguments)
    try:
        storage.refuse_overwrite(options.output, force=options.force)
        environment = dataclasses.asdict(read_environment())
        with tempfile.TemporaryDirectory() as folder, as_engine_error("many tasks"):
            files = Files(Path(folder), options.arch)
            sized = size(files)
            sys.stdout.write(format_sized(sized) + "\n\n")
            sys.stdout.flush()
            served = []
            for name in SETS:
                served.append(serve(files, name, threads=options.threads))
                sys.stdout.write(format_served(served[-1:]) + "\n\n")
                sys.stdout.flush()
            schedule = Schedule(min_rounds=options.rounds, max_s=options.max_s)
            latency, priced = price(files, threads=options.threads, schedule=schedule)
        sys.stdout.writelines(format_table(measurement) + "\n\n" for measurement in latency)
        sys.stdout.writelines(
            f"{one.method}: {one.ratio:.3f} of its own export's processor time "
            f"({one.shared_ms:.1f} against {one.own_ms:.1f} ms, one thread)\n"
            for one in priced
        )
        missed = [text for size_of in sized for text in size_of.missed()]
        missed += [text for entry in served for text in entry.missed()]
        document = {
            "schema": SCHEMA,
            "kind": "many_tasks",
            "architecture": options.arch,
            "weights": "random",
            "threads": options.threads,
            "environment": environment,
            "command": _COMMAND,
            "served": [dataclasses.asdict(entry) | {"ratio": entry.ratio} for entry in served],
            "sizes": [dataclasses.asdict(entry) for entry in sized],
            "latency": [to_document(measurement) for measurement in latency],
            "processor_time": [dataclasses.asdict(one) for one in priced],
            "missed": missed,
        }
        storage.write_text(options.output, to_text(document))
        sys.stdout.write(f"{options.output}\n")
        if missed:
            raise BudgetError(
                "; ".join(missed), where=str(options.output), fix="look for what takes it"
            )
    except FpetError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.experiments.many_tasks",
        description=(__doc__ or "").partition("\n")[0],
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--arch", default=ARCHITECTURE, help=f"default: {ARCHITECTURE}")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of an inference")
    parser.add_argument("--rounds", type=int, default=40, help="least rounds of the latency")
    parser.add_argument("--max-s", type=float, default=120.0, help="most seconds of the latency")
    parser.add_argument("--force", action="store_true", help="replace the JSON file")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
