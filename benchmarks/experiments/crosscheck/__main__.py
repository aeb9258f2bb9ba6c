"""`python -m benchmarks.experiments.crosscheck run` and `… table`; see the package."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.conditions.environment import read_environment
from benchmarks.experiments.crosscheck.graphs import (
    PRETRAINED,
    SUBJECTS,
    TARGET,
    Attempt,
    Counts,
    Subject,
    attempts,
    prepare,
    require_images,
    require_modelopt,
)
from benchmarks.experiments.crosscheck.measure import EXECUTOR, outputs_of, row_of
from benchmarks.experiments.crosscheck.rows import (
    GAIN_DB,
    SCHEMA,
    Result,
    missed,
    quality_of,
    read_results,
    to_json,
    to_markdown,
)
from benchmarks.measurement_file import to_text
from engines import storage
from engines.errors import BudgetError, FpetError, UsageError

RESULT = Path("benchmarks/results/crosscheck.json")
JUDGED = SUBJECTS[0].name
"""The network that the goal is about."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the two and return the exit code: 8 when the goal is missed."""
    options = _parse(arguments)
    try:
        if options.verb == "table":
            sys.stdout.write(to_markdown(read_results(options.result)) + "\n")
        else:
            _run(options)
    except FpetError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    return 0


def _run(options: argparse.Namespace) -> None:
    storage.refuse_overwrite(options.output, force=options.force)
    chosen = [
        subject
        for subject in SUBJECTS
        if (options.only in subject.name if options.only else subject.weights != PRETRAINED)
    ]
    if not chosen:
        raise UsageError(
            f"no network is called {options.only!r}",
            where="--only",
            fix=f"choose from {', '.join(subject.name for subject in SUBJECTS)}",
        )
    for subject in chosen:
        require_images(subject)
    versions = require_modelopt(options.modelopt_python)
    environment = dataclasses.asdict(read_environment())
    done: list[Result] = []
    for subject in chosen:
        so_far = None
        for so_far in _measured(subject, options):
            document = _document([*done, so_far], versions, environment, options)
            storage.write_text(options.output, to_text(document))
        done += [so_far] if so_far else []
    sys.stdout.write(f"\n{to_markdown(done)}\n\n{options.output}\n")
    problems = _problems(done)
    if problems:
        raise BudgetError(
            "; ".join(problems),
            where=str(options.output),
            fix="compare with the committed table, and look for what changed in the recipe",
        )


def _measured(subject: Subject, options: argparse.Namespace) -> Iterator[Result]:
    """Yield what is known of a network after every graph."""
    start = time.monotonic()

    def say(text: str) -> None:
        sys.stdout.write(f"{time.monotonic() - start:6.0f} s  {subject.name}: {text}\n")
        sys.stdout.flush()

    counts = Counts(
        calibration=options.calibration, images=options.images, labelled=options.labelled
    )
    say("export")
    prepared = prepare(subject, options.work / subject.folder, counts)
    say("float32 graph")
    reference = outputs_of(prepared.onnx, prepared)
    result = Result(
        subject=subject.name,
        run=" ".join(subject.run),
        weights=subject.weights,
        calibration=prepared.calibration.description,
        images=prepared.measured.description,
        accuracy=quality_of(reference, reference, prepared.measured.labels).accuracy,
    )
    for attempt in _chosen(list(attempts(prepared, options.modelopt_python)), options.graphs):
        name = f"{attempt.tool} {attempt.precision} {attempt.settings}"
        say(name)
        row = row_of(attempt, prepared, reference)
        result = dataclasses.replace(result, rows=(*result.rows, row))
        yield result


def _chosen(offered: Sequence[Attempt], names: Sequence[str]) -> Sequence[Attempt]:
    known = [attempt.output.stem for attempt in offered]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UsageError(
            f"no graph is called {', '.join(unknown)}",
            where="--graphs",
            fix=f"choose from {', '.join(known)}",
        )
    return [attempt for attempt in offered if not names or attempt.output.stem in names]


def _problems(results: Sequence[Result]) -> list[str]:
    return [problem for each in results if each.subject == JUDGED for problem in missed(each)]


def _document(
    results: Sequence[Result],
    versions: dict[str, str],
    environment: dict[str, Any],
    options: argparse.Namespace,
) -> dict[str, Any]:
    words = [f"--calibration={options.calibration}", f"--images={options.images}"]
    words += [] if options.labelled is None else [f"--labelled={options.labelled}"]
    words += [f"--only={options.only}"] if options.only else []
    words += ["--graphs", *options.graphs] if options.graphs else []
    return {
        "schema": SCHEMA,
        "kind": "crosscheck",
        "executor": EXECUTOR,
        "reference": f"the float32 graph exported for {TARGET}, in the same executor",
        "goals": {"subject": JUDGED, "int8_gain_db": GAIN_DB},
        "environment": environment,
        "modelopt_environment": versions,
        "command": ["python", "-m", "benchmarks.experiments.crosscheck", "run", *words],
        "missed": _problems(results),
        "results": [to_json(result) for result in results],
    }


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.experiments.crosscheck",
        description="Our typed graphs beside those of ONNX Runtime, NVIDIA ModelOpt and NNCF.",
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    run = verbs.add_parser("run", help="quantize with every tool and measure")
    run.add_argument("-o", "--output", type=Path, default=RESULT, help="JSON file to write")
    run.add_argument(
        "--modelopt-python", type=Path, required=True, help="interpreter that has ModelOpt and NNCF"
    )
    run.add_argument(
        "--work", type=Path, default=Path("out/crosscheck"), help="where the graphs are kept"
    )
    run.add_argument(
        "--only",
        default="",
        metavar="NAME",
        help="networks whose name has this; stamps are measured only so",
    )
    run.add_argument(
        "--graphs", nargs="+", metavar="FILE", default=(),
        help="these alone, as the files are called: ours-int8-vit-linear, nncf-plain …",
    )  # fmt: skip
    run.add_argument("--calibration", type=int, default=128, help="natural images to calibrate on")
    run.add_argument("--images", type=int, default=32, help="natural images to measure on")
    run.add_argument("--labelled", type=int, help="labelled images to measure on (default: all)")
    run.add_argument("--force", action="store_true", help="replace the JSON file")
    table = verbs.add_parser("table", help="write a result as Markdown")
    table.add_argument("result", type=Path, nargs="?", default=RESULT, help="JSON of `run`")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
