"""The README's numbers on precision: kernels, accuracy and what a calibration costs.

`python -m benchmarks.experiments.quantization -o benchmarks/results/quantization.json`. Every
number comes out of the command line, as a user types it: TensorRT-RTX builds without a GPU and
lists its kernels; the digits runs are trained and have labels; the ViT-B/16 has random weights, and
natural images. Parts can be chosen with `--parts`, and are kept from the file when they are not
measured again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.conditions.environment import read_environment
from benchmarks.experiments.export_cost import COMMAND_LINE, TimedStep, measure
from benchmarks.experiments.natural_images import natural_set
from benchmarks.experiments.subjects import IMAGE, MERGE_BLOCK, RUN
from benchmarks.measurement_file import to_text
from engines import storage
from engines.errors import BudgetError, EngineError, FpetError

SCHEMA = 2
DIGITS = Path("examples/digits")
CALIBRATION_SEED, TEST_SEED = 7, 99
"""Of the natural crops: no image is in both sets."""

_CALIBRATE = """
import sys
from pathlib import Path
from calibration.collect import calibrate
from engines.imaging.source import open_source
from engines.manifest import read_manifest
onnx, data, count = sys.argv[1:]
preprocessing = read_manifest(Path(onnx)).preprocessing
calibrate(Path(onnx), open_source(Path(data), preprocessing, limit=int(count)))
"""
_FORM = ("--method", "lora")
_PRESETS = ("vit-linear", "vit-attention")
_TYPED = (("fp16", ""), *((name, preset) for name in ("int8", "fp8") for preset in _PRESETS))
_SM = {"fp16": "8.6", "int8": "8.6", "fp8": "8.9"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Goal:
    """A limit on one number.

    Attributes:
        what: What it limits, for the message.
        value: What was measured.
        least: Smallest value allowed; None for no limit.
        most: Largest value allowed; None for no limit.
    """

    what: str
    value: float
    least: float | None = None
    most: float | None = None

    def missed(self) -> str | None:
        """Return the sentence when the limit is missed, or None."""
        if self.least is not None and self.value < self.least:
            return f"{self.what}: {self.value:g}, wanted {self.least:g} or more"
        if self.most is not None and self.value > self.most:
            return f"{self.what}: {self.value:g}, wanted {self.most:g} or less"
        return None


def tool(*words: str) -> dict[str, Any]:
    """Run `fpet-export` in a process of its own and return the document that it prints.

    Raises:
        EngineError: It failed.
    """
    command = [sys.executable, "-c", COMMAND_LINE, *words, "--json", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise EngineError(
            f"exit code {done.returncode}: {(done.stdout or done.stderr).strip()[-300:]}",
            where="fpet-export " + " ".join(words),
            fix="run the command by itself",
        )
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def kernels(folder: Path) -> dict[str, Any]:
    """Build the ViT-B/16 in every precision with TensorRT-RTX and count its kernels."""
    images = _natural(folder / "calibration.npz", 16, CALIBRATION_SEED)
    rows = []
    for name, merge, last in (
        ("plain", "none", "all-tokens"),
        ("merged", str(MERGE_BLOCK), "all-tokens"),
        ("merged, class token", str(MERGE_BLOCK), "class-token"),
    ):
        out = folder / name.replace(", ", "-").replace(" ", "-")
        graph = _exported(out, merge, last)
        for precision, preset in _TYPED if name == "merged" else _TYPED[:1]:
            rows.append(_built(graph, name, precision, preset, images))
    return {"model": f"{RUN}, merge block {MERGE_BLOCK}, batch 1", "rows": rows}


def _exported(out: Path, merge: str, last: str) -> Path:
    out.mkdir()
    words = ["export", RUN, *_FORM, "--merge-block", merge, "--target", "rtx", "--limit", "2"]
    tool(*words, "--last-block", last, "-o", str(out))
    return out / "model.onnx"


def _built(graph: Path, name: str, precision: str, preset: str, images: Path) -> dict[str, Any]:
    typed = graph.with_name(f"{precision}{preset}.onnx")
    words = ["quantize", str(graph), "--precision", precision, "-o", str(typed), "--limit", "1"]
    if preset:
        words += ["--preset", preset, "--calibration", str(images)]
    tool(*words)
    built = tool("build", str(typed), "--target", "rtx", "--sm", _SM[precision])
    typed.unlink()
    fusion = built["fusion"]
    return {
        "graph": name,
        "precision": precision,
        "preset": preset or None,
        "sm": _SM[precision],
        "fusion": {key: value for key, value in fusion.items() if key != "kernels"},
        "kernels": len(fusion["kernels"]),
        "plan_bytes": built["manifest"]["size_bytes"],
        "runtime": built["manifest"]["runtime"]["version"],
    }


def accuracy(folder: Path) -> dict[str, Any]:
    """Measure FP16, INT8 and FP8 of the digits runs on their test split.

    The reference is the exported float32 graph, which `export` holds against the float64 model.
    """
    rows = []
    for run in sorted(path.name for path in (DIGITS / "runs").iterdir() if path.is_dir()):
        out = folder / run
        words = ["export", str(DIGITS / "runs" / run), "--target", "rtx", "--limit", "8"]
        tool(*words, "--backbone", str(DIGITS / "backbone.safetensors"), "-o", str(out))
        graph, table = str(out / "model.onnx"), out / "int8vit-linear.table.json"
        for precision, preset in _TYPED:
            typed = out / f"{precision}{preset}.onnx"
            words = ["quantize", graph, "--precision", precision, "-o", str(typed)]
            words += ["--data", str(DIGITS / "test.npz"), "--limit", "360"]
            if preset:
                known = ["--table", str(table)] if table.exists() else []
                data = known or ["--calibration", str(DIGITS / "calibration.npz")]
                words += ["--preset", preset, *data]
            rows.append(_parity_row(run, precision, preset, tool(*words)))
    return {"data": "examples/digits/test.npz, 360 images", "rows": rows}


def natural(folder: Path) -> dict[str, Any]:
    """Measure FP16 of the ViT-B/16 on natural images, against float64."""
    images = _natural(folder / "test.npz", 32, TEST_SEED)
    words = ["export", RUN, *_FORM, "--merge-block", str(MERGE_BLOCK), "--target", "rtx"]
    words += ["--precision", "fp16", "--data", str(images), "-o", str(folder / "natural")]
    found = tool(*words)
    return {
        "data": f"32 natural crops, seed {TEST_SEED}",
        "rows": [_parity_row("ViT-B/16, random", "fp16", "", found)],
    }


def _parity_row(run: str, precision: str, preset: str, found: dict[str, Any]) -> dict[str, Any]:
    rows = {row["stage"]: row for row in found["parity"]["rows"]}
    row = rows[precision]
    quality = (found["manifest"].get("quantization") or {}).get("quality") or {}
    reference = quality.get("reference_accuracy")
    drop = None if reference is None else 100 * (reference - row["accuracy"])
    return {"run": run, "preset": preset or None, "drop_pp": drop, **row}


def memory(folder: Path) -> dict[str, Any]:
    """Calibrate the ViT-B/16 on 32, 128 and 512 images; peak memory and images a second."""
    images = _natural(folder / "calibration.npz", 512, CALIBRATION_SEED)
    words = ("export", RUN, *_FORM, "--merge-block", str(MERGE_BLOCK), "--target", "rtx")
    measure(TimedStep(name="export", words=(*words, "--limit", "2", "-o", "graph")), folder)
    rows = []
    for count in (32, 128, 512):
        step = TimedStep(
            name=f"{count} images",
            words=("graph/model.onnx", str(images), str(count)),
            program=_CALIBRATE,
        )
        cost = measure(step, folder)
        # The rewrites are fitted on 32 of the images first.
        rows.append(
            {
                "images": count,
                "peak_bytes": cost.peak_bytes,
                "wall_s": cost.wall_s,
                "cpu_s": cost.cpu_s,
                "images_per_s": (count + 32) / cost.wall_s,
            }
        )
    return {"model": f"{RUN}, merge block {MERGE_BLOCK}, batch 1", "rows": rows}


PARTS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "kernels": kernels,
    "natural": natural,
    "accuracy": accuracy,
    "memory": memory,
}


def goals(parts: dict[str, Any]) -> list[Goal]:
    """Return every limit on what was measured."""
    found = []
    for row in parts.get("kernels", {}).get("rows", ()):
        what = f"{row['graph']} {row['precision']} {row['preset'] or ''}".strip()
        if row["graph"] == "merged" and row["precision"] == "fp16":
            found.append(Goal(what=f"kernels, {what}", value=row["kernels"], most=112))
        if row["graph"] == "merged, class token":
            found.append(Goal(what=f"kernels, {what}", value=row["kernels"], most=116))
        if row["preset"] == "vit-attention":
            found.append(Goal(what=f"kernels, {what}", value=row["kernels"], most=123))
    for part in ("natural", "accuracy"):
        for row in parts.get(part, {}).get("rows", ()):
            what = f"{row['run']} {row['stage']} {row['preset'] or ''}".strip()
            found.append(Goal(what=f"flips, {what}", value=row["unexplained_flips"], most=0))
            if row["stage"] == "fp16":
                found.append(Goal(what=f"SQNR, {what}", value=row["sqnr_db"], least=50))
                agreement = row["agreement"]
                found.append(Goal(what=f"agreement, {what}", value=agreement, least=1))
            elif row["stage"] == "int8":
                most = 0.5 if row["preset"] == "vit-linear" else 1.0
                found.append(Goal(what=f"drop in pp, {what}", value=row["drop_pp"], most=most))
    for row in parts.get("memory", {}).get("rows", ()):
        what = f"peak GB, {row['images']} calibration images"
        found.append(Goal(what=what, value=row["peak_bytes"] / 1e9, most=3.0))
    return found


def format_parts(parts: dict[str, Any]) -> str:
    """Return the tables of the README, in Markdown."""
    lines = []
    if "kernels" in parts:
        lines += ["| graph | precision | kernels | plan MB |", "|---|---|---|---|"]
        lines += [
            f"| {row['graph']} | {row['precision']} {row['preset'] or ''} | {row['kernels']} | "
            f"{row['plan_bytes'] / 1e6:.0f} |"
            for row in parts["kernels"]["rows"]
        ]
        lines.append("")
    rows = [row for part in ("natural", "accuracy") for row in parts.get(part, {}).get("rows", ())]
    if rows:
        lines += ["| run | precision | SQNR dB | agreement | same partner | accuracy | drop pp |"]
        lines += ["|---|---|---|---|---|---|---|"]
        for row in rows:
            accuracy_of = "–" if row["accuracy"] is None else f"{row['accuracy']:.1%}"
            drop = "–" if row["drop_pp"] is None else f"{row['drop_pp'] + 0.0:.1f}"
            lines.append(
                f"| {row['run']} | {row['stage']} {row['preset'] or ''} | {row['sqnr_db']:.1f} | "
                f"{row['agreement']:.1%} | {row['same_partner']:.1%} | {accuracy_of} | "
                f"{drop} |"
            )
        lines.append("")
    if "memory" in parts:
        lines += ["| calibration images | peak GB | images/s |", "|---|---|---|"]
        lines += [
            f"| {row['images']} | {row['peak_bytes'] / 1e9:.2f} | {row['images_per_s']:.1f} |"
            for row in parts["memory"]["rows"]
        ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and return the exit code: 8 when a goal is missed."""
    options = _parse(arguments)
    try:
        document = _document(options)
        for name in options.parts:
            with tempfile.TemporaryDirectory() as folder:
                document["parts"][name] = PARTS[name](Path(folder))
            document["parts"][name]["environment"] = dataclasses.asdict(read_environment())
            storage.write_text(options.output, to_text(document))
        sys.stdout.write(format_parts(document["parts"]) + f"\n\n{options.output}\n")
        missed = [text for goal in goals(document["parts"]) if (text := goal.missed())]
        if missed:
            raise BudgetError(
                "; ".join(missed), where=str(options.output), fix="look at the part that missed"
            )
    except FpetError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    return 0


def _document(options: argparse.Namespace) -> dict[str, Any]:
    """Return what is written: parts that are not measured now are kept from the file."""
    kept: dict[str, Any] = {}
    if options.output.exists() and options.keep:
        kept = json.loads(options.output.read_text("utf-8"))["parts"]
    elif options.output.exists():
        storage.refuse_overwrite(options.output, force=options.force)
    return {
        "schema": SCHEMA,
        "kind": "quantization",
        "command": ["python", "-m", "benchmarks.experiments.quantization"],
        "parts": {name: part for name, part in kept.items() if name not in options.parts},
    }


def _natural(path: Path, count: int, seed: int) -> Path:
    np.savez(path, images=natural_set(IMAGE[1:], count, seed=seed).pixels)
    return path


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.experiments.quantization",
        description=(__doc__ or "").partition("\n")[0],
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument(
        "--parts", nargs="+", choices=tuple(PARTS), default=list(PARTS), help="what to measure"
    )
    parser.add_argument("--keep", action="store_true", help="keep the other parts of the file")
    parser.add_argument("--force", action="store_true", help="replace the JSON file")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
