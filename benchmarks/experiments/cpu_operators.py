"""Where a CPU spends its time: each kind of operator, without merging and with it.

`python -m benchmarks.experiments.cpu_operators -o benchmarks/results/NAME.json` runs both ViT-B/16
in turns under ONNX Runtime's profiler. Of every node it keeps the shortest run: what else happens
on the machine only lengthens runs, so a kind's sum says what its arithmetic and memory take, and
two kinds can be compared where the machine is not quiet. It is no latency: `cpu_latency` has these.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.conditions.environment import read_environment
from benchmarks.experiments.cpu_latency import build_frozen
from benchmarks.experiments.subjects import IMAGE, RUN
from benchmarks.measurement_file import to_text
from engines import registry, storage
from engines.errors import FpetError
from engines.precisions import FP32, INT8

SCHEMA = 1
_PAIRS = {FP32: ("frozen_no_merge", "frozen"), INT8: ("frozen_int8_no_merge", "frozen_int8")}
_KINDS = {
    "linears": ("QGemm", "Gemm", "FusedGemm"),
    "attention: products": ("MatMul", "FusedMatMul"),
    "attention: softmax": ("Softmax",),
    "GELU": ("Gelu",),
    "norms": ("LayerNormalization", "SkipLayerNormalization"),
    "rounding to INT8": ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"),
    "patch convolution": ("Conv", "ReorderInput", "ReorderOutput"),
    "additions, scaling": ("Add", "Mul"),
}
MERGE, LAYOUT = "the merge itself", "layout (transposes, splits, reshapes)"
_AFTER = "_kernel_time"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of operator in both graphs.

    Attributes:
        name: For the table.
        plain_ms: Sum of the shortest runs of its nodes, without merging.
        merged_ms: Likewise, with merging.
    """

    name: str
    plain_ms: float
    merged_ms: float


def kind_of(node: str, operator: str) -> str:
    """Return the kind of a node, by its operator, or by its name where it belongs to the merge."""
    parts = node.split("/")
    if "merge" in parts or (parts[0] == "graph" and parts[1] in ("Log", "Gather")):
        return MERGE
    for kind, operators in _KINDS.items():
        if operator in operators:
            return kind
    return LAYOUT


def shortest(events: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Return milliseconds by kind: of every node the shortest run, the first one left out.

    Args:
        events: What ONNX Runtime's profiler wrote, with microseconds.
    """
    runs: dict[str, list[float]] = {}
    operators: dict[str, str] = {}
    for event in events:
        name = str(event.get("name", ""))
        if event.get("cat") == "Node" and name.endswith(_AFTER):
            node = name.removesuffix(_AFTER)
            runs.setdefault(node, []).append(event["dur"] / 1e3)
            operators[node] = event["args"]["op_name"]
    sums: dict[str, float] = {}
    for node, durations in runs.items():
        kind = kind_of(node, operators[node])
        sums[kind] = sums.get(kind, 0.0) + min(durations[1:] or durations)
    return sums


def profile(engines: Sequence[Path], *, rounds: int, threads: int) -> list[dict[str, float]]:
    """Run built graphs in turns and return milliseconds by kind of each."""
    onnxruntime: Any = registry.import_or_explain("onnxruntime")
    image = np.random.default_rng(0).random((1, *IMAGE), dtype=np.float32)
    with tempfile.TemporaryDirectory() as folder:
        sessions = []
        for number, path in enumerate(engines):
            settings = onnxruntime.SessionOptions()
            settings.intra_op_num_threads = threads
            settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
            settings.enable_profiling = True
            settings.profile_file_prefix = str(Path(folder) / str(number))
            sessions.append(
                onnxruntime.InferenceSession(
                    str(path), settings, providers=["CPUExecutionProvider"]
                )
            )
        for _ in range(rounds):
            for session in sessions:
                session.run(None, {session.get_inputs()[0].name: image})
        files = [Path(session.end_profiling()) for session in sessions]
        return [shortest(json.loads(file.read_text())) for file in files]


def compare(plain: Mapping[str, float], merged: Mapping[str, float]) -> list[Kind]:
    """Return both by kind, what takes longest first."""
    kinds = [
        Kind(name=name, plain_ms=plain.get(name, 0.0), merged_ms=merged.get(name, 0.0))
        for name in {*plain, *merged}
    ]
    return sorted(kinds, key=lambda kind: (-kind.plain_ms, kind.name))


def format_kinds(kinds: Sequence[Kind]) -> str:
    """Return the table as text, with the sum in its last line."""
    plain, merged = sum(k.plain_ms for k in kinds), sum(k.merged_ms for k in kinds)
    lines = [f"{'':38}{'plain ms':>10}{'merged ms':>11}{'ratio':>7}"]
    for kind in (*kinds, Kind(name="all", plain_ms=plain, merged_ms=merged)):
        ratio = f"{kind.merged_ms / kind.plain_ms:.2f}" if kind.plain_ms else "–"
        lines.append(f"{kind.name:38}{kind.plain_ms:10.2f}{kind.merged_ms:11.2f}{ratio:>7}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the experiment and return the exit code."""
    options = _parse(arguments)
    try:
        storage.refuse_overwrite(options.output, force=options.force)
        with tempfile.TemporaryDirectory() as folder:
            built = [build_frozen(name, 1, Path(folder)) for name in _PAIRS[options.precision]]
            plain, merged = profile(built, rounds=options.rounds, threads=options.threads)
        kinds = compare(plain, merged)
        document = {
            "schema": SCHEMA,
            "kind": "cpu_operators",
            "run": RUN,
            "precision": options.precision,
            "threads": options.threads,
            "rounds": options.rounds,
            "environment": dataclasses.asdict(read_environment()),
            "kinds": [dataclasses.asdict(kind) for kind in kinds],
        }
        storage.write_text(options.output, to_text(document))
        sys.stdout.write(f"{format_kinds(kinds)}\n\n{options.output}\n")
    except FpetError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.experiments.cpu_operators",
        description=(__doc__ or "").partition("\n")[0],
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--precision", choices=sorted(_PAIRS), default=INT8)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--rounds", type=int, default=30, help="runs of each graph")
    parser.add_argument("--force", action="store_true", help="replace the JSON file")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
