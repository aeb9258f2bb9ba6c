"""What exporting and building cost: wall time and peak memory of each command, on a ViT-B/16.

`python -m benchmarks.experiments.export_cost -o benchmarks/results/export_cost.json`. Each command
runs in a fresh process, as a user types it; the weights are random, which decides nothing here. The
export ends in a graph whose parity has been checked. TensorRT-RTX builds without a GPU.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.conditions.environment import read_environment
from benchmarks.conditions.failures import last_words
from benchmarks.experiments.subjects import MERGE_BLOCK, RUN
from benchmarks.measurement_file import to_text
from engines import storage
from engines.errors import BudgetError, EngineError, FpetError, MissingDependencyError

SCHEMA = 1
COMMAND_LINE = "import sys; from fpet_export.cli.start import run; sys.exit(run())"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TimedStep:
    """One command and what it may cost.

    Attributes:
        name: For the table.
        words: The arguments of `fpet-export`; relative to the working folder.
        goal_s: Most seconds on an idle machine with two cores; None without a goal.
        goal_bytes: Most memory; None without a goal.
        program: What runs instead of the command line, for work that has no verb of its own.
    """

    name: str
    words: tuple[str, ...]
    goal_s: float | None = None
    goal_bytes: int | None = None
    program: str = COMMAND_LINE

    @property
    def command(self) -> tuple[str, ...]:
        """What to type, or what ran in its place."""
        tool = "fpet-export" if self.program == COMMAND_LINE else "python -c …"
        return (tool, *self.words)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
    """What one command cost.

    Attributes:
        name: Name of the step.
        command: What was typed.
        wall_s: From the start of the process to its end.
        cpu_s: User and system time of all threads; above `wall_s` where several worked.
        peak_bytes: Largest resident memory.
        goal_s: What the step may take, in seconds.
        goal_bytes: What the step may take of memory.
    """

    name: str
    command: tuple[str, ...]
    wall_s: float
    cpu_s: float
    peak_bytes: int
    goal_s: float | None
    goal_bytes: int | None

    def missed(self) -> list[str]:
        """Return the goals that were missed, in words."""
        problems = []
        if self.goal_s is not None and self.wall_s > self.goal_s:
            problems.append(f"{self.name} took {self.wall_s:.1f} s, goal {self.goal_s:g} s")
        if self.goal_bytes is not None and self.peak_bytes > self.goal_bytes:
            problems.append(
                f"{self.name} took {self.peak_bytes / 1e9:.2f} GB, goal {self.goal_bytes / 1e9:g}"
            )
        return problems


def steps(run: str = RUN, merge_block: int = MERGE_BLOCK) -> list[TimedStep]:
    """Return the commands in the order in which they need each other's files."""
    form = ("--method", "lora", "--merge-block", str(merge_block))
    return [
        TimedStep(
            name="export, checked",
            words=("export", run, *form, "-o", "cpu"),
            goal_s=40.0,
            goal_bytes=2_500_000_000,
        ),
        TimedStep(
            name="export for rtx", words=("export", run, *form, "--target", "rtx", "-o", "rtx")
        ),
        TimedStep(
            name="build rtx, FP32",
            words=("build", "rtx/model.onnx", "--target", "rtx"),
            goal_s=10.0,
        ),
        TimedStep(
            name="FP16 graph, checked",
            words=("quantize", "rtx/model.onnx", "--precision", "fp16", "-o", "fp16.onnx"),
        ),
        TimedStep(
            name="build rtx, FP16",
            words=("build", "fp16.onnx", "--target", "rtx"),
            goal_s=10.0,
        ),
    ]


def measure(step: TimedStep, folder: Path) -> Cost:
    """Run one command in `folder` and return what it cost.

    Raises:
        MissingDependencyError: It ended with exit code 4.
        EngineError: It failed otherwise.
    """
    said = folder / "said.txt"
    start = time.monotonic()
    with said.open("wb") as file:
        # The peak of a child includes what its parent held when it was started, so this process
        # imports neither torch nor onnx.
        child = subprocess.Popen(
            [sys.executable, "-c", step.program, *step.words],
            cwd=folder,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
        _, status, used = os.wait4(child.pid, 0)
    wall_s = time.monotonic() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        error = MissingDependencyError if child.returncode == 4 else EngineError
        raise error(
            f"exit code {child.returncode}: {last_words(said)}",
            where=" ".join(step.command),
            fix="run the command by itself",
        )
    return Cost(
        name=step.name,
        command=step.command,
        wall_s=wall_s,
        cpu_s=used.ru_utime + used.ru_stime,
        peak_bytes=used.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        goal_s=step.goal_s,
        goal_bytes=step.goal_bytes,
    )


def format_costs(costs: Sequence[Cost]) -> str:
    """Return the table as text."""
    lines = [("", "wall s", "goal", "cpu s", "peak GB", "goal")]
    for cost in costs:
        lines.append(
            (
                cost.name,
                f"{cost.wall_s:.1f}",
                "" if cost.goal_s is None else f"{cost.goal_s:g}",
                f"{cost.cpu_s:.1f}",
                f"{cost.peak_bytes / 1e9:.2f}",
                "" if cost.goal_bytes is None else f"{cost.goal_bytes / 1e9:g}",
            )
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        f"{line[0]:<{widths[0]}}  "
        + "  ".join(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))
        for line in lines
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and return the exit code: 8 when a goal is missed."""
    options = _parse(arguments)
    costs: list[Cost] = []
    absent: list[str] = []
    try:
        storage.refuse_overwrite(options.output, force=options.force)
        environment = dataclasses.asdict(read_environment())
        with tempfile.TemporaryDirectory() as folder:
            for step in steps():
                try:
                    costs.append(measure(step, Path(folder)))
                except MissingDependencyError as error:
                    absent.append(f"{step.name}: {error.what}")
                storage.write_text(options.output, to_text(_document(costs, absent, environment)))
        sys.stdout.write("\n".join([format_costs(costs), *absent, "", f"{options.output}\n"]))
        problems = [problem for cost in costs for problem in cost.missed()]
        if problems:
            raise BudgetError(
                "; ".join(problems),
                where=str(options.output),
                fix="measure again on an idle machine; then look for what takes the time",
            )
    except FpetError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    return 0


def _document(
    costs: Sequence[Cost], absent: Sequence[str], environment: dict[str, Any]
) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "kind": "export_cost",
        "run": RUN,
        "weights": "random",
        "environment": environment,
        "command": ["python", "-m", "benchmarks.experiments.export_cost"],
        "costs": [dataclasses.asdict(cost) | {"missed": cost.missed()} for cost in costs],
        "absent": list(absent),
    }


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.experiments.export_cost",
        description=(__doc__ or "").partition("\n")[0],
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--force", action="store_true", help="replace the JSON file")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
