"""Everything that a machine with a GPU can tell about this toolkit, in ten minutes.

`python -m benchmarks.experiments.gpu_visit -o FOLDER [--limit-s 600] [--device cpu]`, from the
project's root, with torch, onnx, onnx-graphsurgeon and onnxruntime-gpu installed.

The parts run in the order of their worth, each with a limit of its own, and what one cannot do is
recorded while the others go on. FOLDER gets `visit.json` (what ran, how long, how it ended), the
output of each part, and the files that parts write. `--device cpu` tries all of it without a GPU,
on targets of the CPU and in float32.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from engines import storage
from engines.precisions import FP16

_LAST_LINES = 12
_DIGITS = Path("examples/digits")
_VIT = "random:vit_base_patch16_224:0"
_TRIAL_VIT = "random:vit_tiny_patch16_224:0"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """A command and what it answers.

    Attributes:
        name: Its name, which is also that of its output.
        question: What it answers.
        words: The command; `fpet-export` stands for this toolkit's.
        limit_s: Seconds after which it is stopped.
    """

    name: str
    question: str
    words: tuple[str, ...]
    limit_s: float


def parts(device: str, out: Path) -> list[Part]:
    """Return the parts in the order of their worth.

    Args:
        device: "cuda", or "cpu" for a trial.
        out: Where they write.
    """
    gpu = device == "cuda"
    ort, torch = ("cuda", "torch-cuda") if gpu else ("cpu", "torch-cpu")
    half = ["--precision", FP16] if gpu else []
    network = _VIT if gpu else _TRIAL_VIT
    digits = ["--backbone", str(_DIGITS / "backbone.safetensors")]
    data = ["--data", str(_DIGITS / "test.npz"), "--limit", "64"]
    rounds = ["--rounds", "40", "--allow-noise"]
    sizes = "1,8,64" if gpu else "1,2"
    graph = out / "dynamic" / ("model.fp16.onnx" if gpu else "model.onnx")
    built = out / "dynamic" / f"{graph.stem}.{ort}.onnx"

    def module(name: str, *words: str) -> tuple[str, ...]:
        return (sys.executable, "-m", name, *words)

    def deploy(target: str) -> tuple[str, ...]:
        words = ["deploy", str(_DIGITS / "runs" / "lora"), *digits, "--target", target, *half]
        return ("fpet-export", *words, *data, "--rounds", "40", "-o", str(out / target), "--force")

    found = [
        Part(
            name="machine",
            question="which GPU, driver, clocks and power limit?",
            words=("nvidia-smi", "-q") if gpu else module("platform"),
            limit_s=20,
        ),
        Part(
            name="tests",
            question="do CUDA's calls, ONNX Runtime's provider and PyTorch's packages work?",
            words=module(
                "pytest", "-q", "-p", "no:cacheprovider", "tests/engines/cuda/test_device.py",
                "tests/engines/backends/ort/test_providers.py",
                *(
                    ["tests/engines/backends/aoti/test_backend.py", "-m", "gpu or not slow"]
                    if gpu else []
                ),
            ),
            limit_s=120,
        ),
        Part(
            name="check",
            question="how fast is each way, plain and merged, and is it right?",
            words=module(
                "benchmarks.experiments.gpu_check", "--quick", "--skip", "eager,graph",
                "--batches", "8,64,1", "--processes", "12", "--max-s", "8",
                "-o", str(out / "gpu_check.json"), "--force",
            ),
            limit_s=280,
        ),
        Part(
            name="deploy",
            question="does a tuned run keep its answers, and does merging pay?",
            words=deploy(ort),
            limit_s=120,
        ),
        Part(
            name="deploy-torch",
            question="the same, compiled by PyTorch",
            words=deploy(torch),
            limit_s=150,
        ),
        Part(
            name="dynamic",
            question="is a graph with a dynamic batch written?",
            words=(
                "fpet-export", "export", network, "--method", "lora", "--merge-block", "6",
                "--target", ort, *half, "--batch", f"dyn:1-{sizes.rpartition(',')[2]}",
                "--limit", "1", "-o", str(out / "dynamic"), "--force",
            ),
            limit_s=100,
        ),
        Part(
            name="dynamic-build",
            question="is its engine built, and can its runs be recorded?",
            words=(
                "fpet-export", "build", str(graph), "--target", ort, "-o", str(built), "--force",
            ),
            limit_s=60,
        ),
        Part(
            name="batches",
            question="from which batch does merging pay?",
            words=(
                "fpet-export", "bench", str(built), "--against", "plain", "--batches", sizes,
                *rounds, "-o", str(out / "batches.json"), "--force",
            ),
            limit_s=120,
        ),
        Part(
            name="tasks",
            question="does one engine serve two tasks?",
            words=(
                "fpet-export", "tasks", f"lora={_DIGITS / 'runs' / 'lora'}",
                f"adapt={_DIGITS / 'runs' / 'adaptformer'}", *digits, "--target", ort, "--limit",
                "8", "-o", str(out / "tasks"), "--force",
            ),
            limit_s=100,
        ),
        Part(
            name="tasks-build",
            question="is its engine equal to its graph, task by task?",
            words=("fpet-export", "build", str(out / "tasks"), "--force"),
            limit_s=60,
        ),
        Part(
            name="doctor",
            question="what does the toolkit say about this machine?",
            words=("fpet-export", "doctor"),
            limit_s=60,
        ),
    ]  # fmt: skip
    return [part for part in found if gpu or part.name != "check"]


def run(part: Part, out: Path, seconds_left: float) -> dict[str, object]:
    """Run a part and return what is recorded of it; its output goes into `NAME.txt`."""
    limit = min(part.limit_s, seconds_left)
    words = list(part.words)
    if words[0] == "fpet-export":
        program = "import sys; from fpet_export.cli.start import run; sys.exit(run())"
        words[:1] = [sys.executable, "-c", program]
    began = time.monotonic()
    log = out / f"{part.name}.txt"
    with log.open("w", encoding="utf-8") as stream:
        try:
            done = subprocess.run(
                words,
                stdout=stream,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                timeout=limit,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
            ended = f"exit {done.returncode}"
        except subprocess.TimeoutExpired:
            ended = f"stopped after {limit:.0f} s"
        except OSError as error:
            ended = f"not started: {error.strerror}"
    return {
        "name": part.name,
        "question": part.question,
        "command": " ".join(part.words),
        "ended": ended,
        "seconds": round(time.monotonic() - began, 1),
        "last_lines": log.read_text("utf-8", "replace").splitlines()[-_LAST_LINES:],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts while there is time; exit with 0 where all of them ended with 0."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.experiments.gpu_visit",
        description=(__doc__ or "").partition("\n")[0],
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--limit-s", type=float, default=600.0, help="of all parts together")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--only", type=lambda text: text.split(","), help="names of parts")
    options = parser.parse_args(arguments)
    out: Path = options.output
    out.mkdir(parents=True, exist_ok=True)
    began, records = time.monotonic(), list[dict[str, object]]()
    for part in parts(options.device, out):
        left = options.limit_s - (time.monotonic() - began)
        if (options.only and part.name not in options.only) or left < 1:
            continue
        sys.stdout.write(f"{part.name}: {part.question}\n")
        sys.stdout.flush()
        records.append(run(part, out, left))
        sys.stdout.write(f"  {records[-1]['ended']}, {records[-1]['seconds']} s\n")
        storage.write_text(out / "visit.json", json.dumps(records, indent=1) + "\n")
    return 0 if all(record["ended"] == "exit 0" for record in records) else 1


if __name__ == "__main__":
    sys.exit(main())
