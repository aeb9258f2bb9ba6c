"""Compare typed graphs with the float32 graph they were made from, on images.

The typed graph runs on the CPU as it is written: Q and DQ are executed and not fused into integer
kernels, bfloat16 is emulated by rounding. That is what its types say, whatever a runtime makes of
it.
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from calibration.accuracy import Quality
from calibration.emulate import emulate_bfloat16
from calibration.rounding import add_rounding_errors
from engines import precisions
from engines.contract import OpenOptions, Rewrites
from engines.engine import open_engine
from engines.imaging.images import ImageSet
from engines.manifest import Manifest
from engines.onnx_graph.files import Graph, read_graph, write_graph
from engines.onnx_graph.taps import with_outputs
from engines.parity.comparison import ReferenceOutputs
from engines.parity.finite import require_finite
from engines.parity.gates import NO_GATES, gates_of
from engines.parity.model_outputs import FloatArray, ModelOutputs
from engines.parity.outputs import batches, match_in, tokens_of
from engines.parity.rounding import image_errors
from engines.parity.rows import StageParity

Progress = Callable[[int], None]

MODEL_IMAGES, MODEL_SEEDS = 8, 2
"""Runs of the float32 graph with modelled errors; the median over them varies by a fifth."""

_FLOAT32_ROUNDING = 1e-5
"""Of a cosine of 64 products in float32, twice over; the margin of a float32 graph's gate."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GraphEvaluator:
    """A set of images, and what the reference said about them.

    Attributes:
        reference: What the float64 model, or the float32 graph, said about the images.
        metric: (I, N, D) refined keys of the float32 graph; None without a merge.
        prefix: Prefix tokens.
        graph: The float32 graph, on which rounding is modelled; None leaves that out.
        manifest: Manifest of that graph.
    """

    reference: ReferenceOutputs
    metric: FloatArray | None = None
    prefix: int = 0
    graph: Path | None = None
    manifest: Manifest | None = None

    def outputs(
        self, graph: Graph, manifest: Manifest, *, progress: Progress | None = None
    ) -> ModelOutputs:
        """Run a typed graph, which is changed, over the images."""
        emulate_bfloat16(graph)
        keys = None if self.metric is None else metric_tensor(graph)
        with tempfile.TemporaryDirectory(prefix="fpet-export-") as folder:
            path = Path(folder) / "typed.onnx"
            write_graph(graph, path)
            found = _run(path, manifest, self.images, keys, progress, rewrites="keep-qdq")
        metric = found.pop("metric", None)
        actual = _outputs(found, manifest)
        if metric is None or self.metric is None or actual.match is None:
            return actual
        error = score_error(metric, self.metric, prefix=self.prefix, sources=actual.match.shape[1])
        return dataclasses.replace(actual, score_error=error)

    @property
    def images(self) -> ImageSet:
        """What is compared on."""
        return self.reference.images

    def quality(self, actual: ModelOutputs) -> Quality:
        """Say how far a typed graph's answers are from the reference."""
        row = self.reference.compare("typed", actual, gates=NO_GATES)
        return Quality(
            images=row.images,
            sqnr_db=row.sqnr_db,
            agreement=row.agreement,
            cosine=row.cosine,
            accuracy=row.accuracy,
            reference_accuracy=self.reference.accuracy(),
        )

    def row(self, stage: str, actual: ModelOutputs, precision: str) -> StageParity:
        """Compare a typed graph with the reference and judge it by its precision's gates."""
        gates = gates_of(precision, rounding=self.rounding(precision))
        return self.reference.compare(stage, actual, gates=gates)

    def rounding(self, precision: str) -> float | None:
        """Return what rounding to a precision explains in the median image.

        None where it is no half precision, there is no graph to ask, or the modelled errors leave
        the range of float32.
        """
        if self.graph is None or self.manifest is None or not precisions.is_half(precision):
            return None
        few = self.on_fewer(MODEL_IMAGES)
        wanted = few.reference.outputs.flat
        errors = []
        for seed in range(MODEL_SEEDS):
            graph = read_graph(self.graph)
            add_rounding_errors(graph, precision, seed=seed)
            with tempfile.TemporaryDirectory(prefix="fpet-export-") as folder:
                path = Path(folder) / "rounding.onnx"
                write_graph(graph, path)
                found = _run(path, self.manifest, few.images, None, None, rewrites="keep-qdq")
            given = found["logits"].reshape(wanted.shape)
            errors.append(image_errors(given - wanted, wanted))
        median = float(np.median(np.concatenate(errors)))
        return median if math.isfinite(median) else None

    def on_fewer(self, count: int) -> GraphEvaluator:
        """Return an evaluator on `count` of the images, spread evenly."""
        if count >= len(self.images):
            return self
        chosen = np.arange(count) * len(self.images) // count
        return dataclasses.replace(
            self,
            reference=self.reference.at(chosen),
            metric=None if self.metric is None else self.metric[chosen],
        )


def evaluator_for(
    onnx: Path,
    manifest: Manifest,
    images: ImageSet,
    *,
    reference: ModelOutputs | None = None,
    progress: Progress | None = None,
) -> GraphEvaluator:
    """Run the float32 graph over images, with its match, sizes and keys.

    Args:
        onnx: The exported float32 graph.
        manifest: Its manifest.
        images: What to compare on.
        reference: A better reference's evidence, such as the float64 model's; None takes the
            graph's own.
        progress: Called with the number of images done since the last call.

    Raises:
        ParityError: Its logits are not finite.
    """
    model = manifest.model
    joins_once = model is not None and model.joins_once
    keys = metric_tensor(read_graph(onnx)) if joins_once else None
    found = _run(onnx, manifest, images, keys, progress, rewrites="all")
    metric = found.pop("metric", None)
    own = _outputs(found, manifest)
    require_finite(own, images.names, of=onnx)
    prefix = manifest.model.prefix_tokens if manifest.model is not None else 0
    if metric is not None and own.match is not None:
        sources = own.match.shape[1]
        own = dataclasses.replace(own, margin=margins(metric, prefix=prefix, sources=sources))
    if reference is not None and not joins_once:
        # How far rounding moves the decisions of such a merge is not known: answers are judged.
        reference = dataclasses.replace(reference, margin=None)
    return GraphEvaluator(
        reference=ReferenceOutputs(
            name=onnx.name,
            images=images,
            outputs=reference or own,
            tokens=tokens_of(manifest),
        ),
        metric=metric,
        prefix=prefix,
        graph=onnx,
        manifest=manifest,
    )


def score_error(
    metric: FloatArray, reference: FloatArray, *, prefix: int, sources: int
) -> FloatArray:
    """Return (I, Na) how far the difference of two cosines of an A token can have moved.

    With u the unit key of an A token and v, w those of two B tokens, u·(v - w) moves by at most
    2·|u' - u| + |v' - v| + |w' - w|.

    Args:
        metric: (I, N, D) refined keys in the order prefix, set B, set A.
        reference: The same of the reference.
        prefix: Prefix tokens.
        sources: Tokens of set A, Na.
    """
    moved = np.linalg.norm(_unit(metric) - _unit(reference), axis=-1)
    largest: FloatArray = moved[:, prefix:-sources].max(axis=1, keepdims=True)
    error: FloatArray = 2 * moved[:, -sources:] + 2 * largest + _FLOAT32_ROUNDING
    return error


def margins(metric: FloatArray, *, prefix: int, sources: int) -> FloatArray:
    """Return (I, Na) the best cosine minus the second best; see `score_error`."""
    unit = _unit(metric)
    cosines = unit[:, -sources:] @ unit[:, prefix:-sources].transpose(0, 2, 1)
    if cosines.shape[-1] < 2:
        return np.full(cosines.shape[:2], np.inf)
    best = np.partition(cosines, -2, axis=-1)
    margin: FloatArray = best[..., -1] - best[..., -2]
    return margin


def _unit(metric: FloatArray) -> FloatArray:
    wide = metric.astype(np.float64)
    unit: FloatArray = wide / np.maximum(np.linalg.norm(wide, axis=-1, keepdims=True), 1e-6)
    return unit


def metric_tensor(graph: Graph) -> str | None:
    """Return the name of the refined keys, of which set B is cut out; None without a merge."""
    search = next((node for node in graph.nodes if node.op == "ArgMax"), None)
    if search is None:
        return None
    target = search.inputs[0].inputs[0].inputs[1]
    while target.inputs[0].op != "Slice":
        target = target.inputs[0].inputs[0]
    return str(target.inputs[0].inputs[0].name)


def _run(
    path: Path,
    manifest: Manifest,
    images: ImageSet,
    metric: str | None,
    progress: Progress | None,
    *,
    rewrites: Rewrites,
) -> dict[str, FloatArray]:
    """Run a graph over images; return its logits, probes by role, and its keys as "metric"."""
    roles = {name: role for role, name in manifest.probes.items()}
    if metric is not None:
        roles[metric] = "metric"
    rows: dict[str, list[FloatArray]] = {}
    with tempfile.TemporaryDirectory(prefix="fpet-export-") as folder:
        tapped = with_outputs(path, roles, Path(folder))
        with open_engine(tapped, options=OpenOptions(rewrites=rewrites)) as engine:
            roles[engine.outputs[0].name] = "logits"
            for feeds, count in batches(engine, manifest, images.pixels):
                for name, value in engine.run(feeds).items():
                    rows.setdefault(roles[name], []).append(value[:count])
                if progress is not None:
                    progress(count)
    return {role: np.concatenate(values) for role, values in rows.items()}


def _outputs(found: Mapping[str, Any], manifest: Manifest) -> ModelOutputs:
    return ModelOutputs(
        logits=found["logits"],
        match=match_in(found, manifest),
        size=found.get("size"),
        head=manifest.head,
    )
