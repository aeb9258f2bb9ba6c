"""Measure a ViT-B/16 on this machine's GPU in every way that it offers, plain and frozen.

`python -m benchmarks.gpu_check [-o FILE] [--batches 1,8,64] [--quick]`. Needs torch and a CUDA
device; what else is installed joins. A part that fails is recorded with its reason, and the others
go on. Exits with 4 where there is no GPU.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import gpu_peers
from benchmarks.gpu_batch import BatchCheck, check_batch, format_check
from benchmarks.latency import Schedule
from benchmarks.measurement import to_text
from benchmarks.subjects import default_subjects
from engines import registry, storage
from engines.errors import FpetError, MeasurementError, MissingDependencyError

SCHEMA = 1
_SLOW = ("compiled_autotune",)  # minutes of kernel search for every subject and batch


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the check and return the exit code."""
    options = _parse(arguments)
    try:
        device = _device()
        ways = [
            way
            for way in registry.available(gpu_peers)
            if not (options.quick and way in _SLOW) and way not in options.skip
        ]
        schedule = Schedule(
            min_rounds=40 if options.quick else 200,
            min_s=1.0 if options.quick else 3.0,
            max_rounds=2000,
            max_s=options.max_s,
            settle_s=0.0,
        )
        if options.output is not None:
            storage.refuse_overwrite(options.output, force=options.force)
        checks: list[BatchCheck] = []
        with tempfile.TemporaryDirectory() as folder:
            for batch in options.batches:
                checks.append(
                    check_batch(
                        batch,
                        ways=ways,
                        subjects=default_subjects(),
                        folder=Path(folder),
                        schedule=schedule,
                        say=_tell,
                    )
                )
                sys.stdout.write(format_check(checks[-1]) + "\n\n")
                sys.stdout.flush()
                if options.output is not None:  # after each batch: a time limit loses only the rest
                    write_checks(options.output, device, checks)
        if all(check.measurement is None for check in checks):
            raise MeasurementError(
                "nothing could be measured", where=device["name"], fix="see the reasons above"
            )
    except FpetError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    return 0


def write_checks(path: Path, device: dict[str, str], checks: Sequence[BatchCheck]) -> None:
    """Write all batches with the device's name, atomically."""
    document = {
        "schema": SCHEMA,
        "kind": "gpu_check",
        "device": device,
        "batches": [dataclasses.asdict(check) for check in checks],
    }
    storage.write_text(path, to_text(document))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_check", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("-o", "--output", type=Path, help="JSON file to write")
    parser.add_argument(
        "--batches", type=_numbers, default=[1, 8, 64], help="sizes, such as 1,8,64"
    )
    parser.add_argument("--quick", action="store_true", help="no kernel search, fewer rounds")
    parser.add_argument("--skip", type=lambda text: text.split(","), default=[], help="ways")
    parser.add_argument("--max-s", type=float, default=60.0, help="seconds of rounds a batch")
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
