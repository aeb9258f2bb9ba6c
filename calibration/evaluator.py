"""Compare typed graphs with the float32 graph they were made from, on images.

The typed graph runs on the CPU as it is written: Q and DQ are executed and not fused into integer
kernels, bfloat16 is emulated by rounding. That is what its types say, whatever a runtime makes of
it.
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from calibration.accuracy import Quality
from calibration.emulate import emulate_bfloat16
from calibration.merge_evidence import Evidence, decided, evidence_of, unsupported
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class GraphEvaluator:
    """A set of images, and what the reference said about them.

    Attributes:
        reference: What the float64 model, or the float32 graph, said about the images.
        graph: The float32 graph, on which rounding is modelled; None leaves that out.
        manifest: Manifest of that graph.
    """

    reference: ReferenceOutputs
    graph: Path | None = None
    manifest: Manifest | None = None

    def outputs(
        self, graph: Graph, manifest: Manifest, *, progress: Progress | None = None
    ) -> ModelOutputs:
        """Run a typed graph, which is changed, over the images."""
        evidence = evidence_in(graph, manifest)
        emulate_bfloat16(graph)
        with tempfile.TemporaryDirectory(prefix="fpet-export-") as folder:
            path = Path(folder) / "typed.onnx"
            write_graph(graph, path)
            found = _run(path, manifest, self.images, evidence, progress, rewrites="keep-qdq")
        actual = _outputs(found, manifest)
        if actual.match is None or "decided" not in found:
            return actual
        wrong = unsupported(actual.match, found["decided"], found["won"])
        return dataclasses.replace(actual, unsupported=wrong)

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
                found = _run(path, self.manifest, few.images, (), None, rewrites="keep-qdq")
            given = found["logits"].reshape(wanted.shape)
            errors.append(image_errors(given - wanted, wanted))
        median = float(np.median(np.concatenate(errors)))
        return median if math.isfinite(median) else None

    def on_fewer(self, count: int) -> GraphEvaluator:
        """Return an evaluator on `count` of the images, spread evenly."""
        if count >= len(self.images):
            return self
        chosen = np.arange(count) * len(self.images) // count
        return dataclasses.replace(self, reference=self.reference.at(chosen))


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
    evidence = evidence_in(read_graph(onnx), manifest)
    found = _run(onnx, manifest, images, evidence, progress, rewrites="all")
    own = dataclasses.replace(_outputs(found, manifest), margin=found.get("won"))
    require_finite(own, images.names, of=onnx)
    return GraphEvaluator(
        reference=ReferenceOutputs(
            name=onnx.name,
            images=images,
            outputs=reference or own,
            tokens=tokens_of(manifest),
            drops_ties=manifest.model is not None and manifest.model.joins_once,
        ),
        graph=onnx,
        manifest=manifest,
    )


def evidence_in(graph: Graph, manifest: Manifest) -> tuple[Evidence, ...]:
    """Return by what a graph decides where its tokens merge; nothing where it does not show it."""
    if manifest.model is None or not manifest.shows_match:
        return ()
    return evidence_of(graph, manifest.model)


def _run(
    path: Path,
    manifest: Manifest,
    images: ImageSet,
    evidence: Sequence[Evidence],
    progress: Progress | None,
    *,
    rewrites: Rewrites,
) -> dict[str, FloatArray]:
    """Run a graph over images; return its logits and probes by role.

    With evidence, also what follows from it, as "decided", and by how much it was won, as "won",
    (I, Na) of all blocks side by side. The evidence itself is too large to keep.
    """
    roles = {name: role for role, name in manifest.probes.items()}
    asked = [name for each in evidence for name in each.tensors]
    prefix = 0 if manifest.model is None else manifest.model.prefix_tokens
    rows: dict[str, list[FloatArray]] = {}
    with tempfile.TemporaryDirectory(prefix="fpet-export-") as folder:
        tapped = with_outputs(path, dict.fromkeys((*roles, *asked)), Path(folder))
        with open_engine(tapped, options=OpenOptions(rewrites=rewrites)) as engine:
            roles[engine.outputs[0].name] = "logits"
            for feeds, count in batches(engine, manifest, images.pixels):
                found = engine.run(feeds)
                for name, role in roles.items():
                    rows.setdefault(role, []).append(found[name][:count])
                if evidence:
                    said = [decided(each, found, prefix) for each in evidence]
                    for role, parts in zip(
                        ("decided", "won"), zip(*said, strict=True), strict=True
                    ):
                        rows.setdefault(role, []).append(np.concatenate(parts, axis=1)[:count])
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
