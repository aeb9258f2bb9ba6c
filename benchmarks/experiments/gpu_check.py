"""Measure a ViT-B/16 on this machine's GPU in every way that it offers, plain and frozen.

`python -m benchmarks.experiments.gpu_check [-o FILE] [--batches 1,8,64] [--quick] [--processes 8]`.
Needs torch and a CUDA device; what else is installed joins. A part that fails is recorded with its
reason, and the others go on. Exits with 4 where there is no GPU.

Compiling takes longer than measuring. With `--processes` every way of every subject is opened once
in a process of its own, several at a time: graphs and engines stay in the folder, and PyTorch's
compiled kernels in its cache, where the measurement finds them.

Each batch is measured by a process of its own. One that a runtime kills is started again without
the way that it was opening, and that is recorded: on an H200 a package of PyTorch ended one.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.experiments import gpu_peers
from benchmarks.experiments.gpu_batch import check_batch, format_check, source_of, suits
from benchmarks.experiments.subjects import default_subjects
from benchmarks.feeds import synthetic_feeds
from benchmarks.latency import Schedule
from benchmarks.measurement_file import to_text
from benchmarks.peers import load_peer
from engines import registry, storage
from engines.errors import FpetError, MeasurementError, MissingDependencyError

SCHEMA = 1
_NOW = "opening.txt"
_SLOW = ("compiled_autotune",)  # minutes of kernel search for every subject and batch


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the check and return the exit code."""
    options = _parse(arguments)
    if options.open_once:
        return open_once(*options.open_once, folder=options.folder)
    try:
        device = _device()
        ways = [
            way
            for way in registry.available(gpu_peers)
            if not (options.quick and way in _SLOW)
            and way not in options.skip
            and way in (options.ways or [way])
        ]
        if options.output is not None:
            storage.refuse_overwrite(options.output, force=options.force)
        with contextlib.ExitStack() as stack:
            folder = Path(
                options.folder
                or stack.enter_context(tempfile.TemporaryDirectory(prefix="fpet-gpu-"))
            )
            if options.processes > 1:
                prepare(options.batches, ways, folder, options.processes)
            if options.prepare_only:
                return 0
            if options.in_process:
                (batch,) = options.batches
                _check(batch, ways, folder, options)
                return 0
            found: list[dict[str, Any]] = []
            document = {"schema": SCHEMA, "kind": "gpu_check", "device": device, "batches": found}
            for batch in options.batches:
                found.append(isolated(batch, ways, folder, options))
                if options.output is not None:  # after each batch: a time limit loses only the rest
                    storage.write_text(options.output, to_text(document))
        if all(check["measurement"] is None for check in found):
            raise MeasurementError(
                "nothing could be measured", where=device["name"], fix="see the reasons above"
            )
    except FpetError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    return 0


def prepare(batches: Sequence[int], ways: Sequence[str], folder: Path, processes: int) -> None:
    """Open every way of every subject at every batch once, several at a time."""
    wanted = [
        [str(batch), subject.name, way]
        for batch in batches
        for subject in default_subjects()
        for way in ways
        if suits(subject, way)
    ]

    def run(words: Sequence[str]) -> None:
        line = [sys.executable, "-m", "benchmarks.experiments.gpu_check", "--folder", str(folder)]
        began = time.monotonic()
        done = subprocess.run(
            [*line, "--open-once", *words], capture_output=True, text=True, errors="replace"
        )
        said = done.stderr.strip().splitlines()[-1:] if done.returncode else []
        _tell(f"prepared {' '.join([*words, *said])}: {time.monotonic() - began:.0f} s")

    with concurrent.futures.ThreadPoolExecutor(processes) as pool:
        list(pool.map(run, wanted))


def open_once(batch: str, subject: str, way: str, *, folder: Path) -> int:
    """Open a way of a subject, run it once, and return the exit code."""
    found = next(entry for entry in default_subjects() if entry.name == subject)
    try:
        source = source_of(found, way, int(batch), folder)
        with load_peer(gpu_peers, way).open_peer(source, threads=1) as engine:
            engine.run(synthetic_feeds(engine.inputs, batch=int(batch), seed=0, name=subject))
    except FpetError as error:
        _tell(f"error: {error}")
        return error.exit_code
    return 0


def isolated(
    batch: int, ways: Sequence[str], folder: Path, options: argparse.Namespace
) -> dict[str, Any]:
    """Check a batch in a process of its own, again without what kills that process."""
    left, lost = list(ways), list[dict[str, str]]()
    while left:
        result = folder / f"check.b{batch}.json"
        result.unlink(missing_ok=True)
        line = [sys.executable, "-m", "benchmarks.experiments.gpu_check", "--in-process"]
        line += ["--folder", str(folder), "--batches", str(batch), "--max-s", str(options.max_s)]
        line += ["--ways", ",".join(left), *(["--quick"] if options.quick else [])]
        done = subprocess.run(line)
        if result.exists():
            found: dict[str, Any] = json.loads(result.read_text("utf-8"))
            return {**found, "failed": [*found["failed"], *lost]}
        now = folder / _NOW
        way = now.read_text("utf-8").split()[-1] if now.exists() else ""
        reason = f"the process ended with {done.returncode}"
        lost.append({"name": f"{way or 'this batch'}", "reason": reason, "fix": "see what it said"})
        _tell(f"batch {batch}: {way or 'nothing'} was being opened, and {reason}")
        if way not in left:
            break
        left.remove(way)
    return {"batch": batch, "measurement": None, "parity": {}, "pairs": [], "failed": lost}


def _check(batch: int, ways: Sequence[str], folder: Path, options: argparse.Namespace) -> None:
    """Check a batch here, and leave the result in the folder."""
    schedule = Schedule(
        min_rounds=40 if options.quick else 200,
        min_s=1.0 if options.quick else 3.0,
        max_rounds=2000,
        max_s=options.max_s,
        settle_s=0.0,
    )

    def say(line: str) -> None:
        (folder / _NOW).write_text(line, "utf-8")
        _tell(line)

    found = check_batch(
        batch, ways=ways, subjects=default_subjects(), folder=folder, schedule=schedule, say=say
    )
    sys.stdout.write(format_check(found) + "\n\n")
    storage.write_text(folder / f"check.b{batch}.json", to_text(dataclasses.asdict(found)))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.experiments.gpu_check",
        description=(__doc__ or "").partition("\n")[0],
    )
    parser.add_argument("-o", "--output", type=Path, help="JSON file to write")
    parser.add_argument(
        "--batches", type=_numbers, default=[1, 8, 64], help="sizes, such as 1,8,64"
    )
    parser.add_argument("--quick", action="store_true", help="no kernel search, fewer rounds")
    parser.add_argument("--skip", type=lambda text: text.split(","), default=[], help="ways")
    parser.add_argument("--ways", type=lambda text: text.split(","), help="these alone")
    parser.add_argument("--in-process", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--max-s", type=float, default=60.0, help="seconds of rounds a batch")
    parser.add_argument("--folder", type=Path, help="where graphs and engines stay")
    parser.add_argument("--processes", type=int, default=1, help="that prepare at the same time")
    parser.add_argument(
        "--prepare-only", action="store_true", help="measure nothing; give --folder, too"
    )
    parser.add_argument(
        "--open-once", nargs=3, metavar=("BATCH", "SUBJECT", "WAY"), help=argparse.SUPPRESS
    )
    parser.add_argument("--force", action="store_true", help="replace the JSON file")
    return parser.parse_args(arguments)


def _numbers(text: str) -> list[int]:
    numbers = [int(word) for word in text.split(",")]
    if min(numbers) < 1:
        raise ValueError(text)
    return numbers


def _device() -> dict[str, str]:
    torch = registry.import_or_explain("torch")
    if not torch.cuda.is_available():
        raise MissingDependencyError(
            "there is no CUDA device that torch can use",
            where="this machine",
            fix="run it on a machine with an NVIDIA GPU and a CUDA build of torch",
        )
    major, minor = torch.cuda.get_device_capability()
    return {
        "name": torch.cuda.get_device_name(),
        "compute_capability": f"{major}.{minor}",
        "torch": torch.__version__,
        "cuda": str(torch.version.cuda),
    }


def _tell(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
