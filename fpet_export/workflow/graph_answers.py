"""What graphs say about images: a float32 one shows its keys, a typed one is run as written."""

from __future__ import annotations

from pathlib import Path

from calibration.evaluator import GraphEvaluator, evaluator_for
from engines.imaging.images import ImageSet
from engines.manifest import Manifest
from engines.onnx_graph.files import read_graph
from engines.parity.comparison import ReferenceOutputs
from engines.parity.model_outputs import ModelOutputs
from engines.parity.outputs import Progress
from fpet_export.steps.graph_outputs import graph_outputs


def of_first(
    path: Path, manifest: Manifest, images: ImageSet, progress: Progress
) -> tuple[ModelOutputs, GraphEvaluator | None]:
    """Run the graph that others are compared with; a float32 one has an evaluator, too."""
    if not manifest.is_float32:
        return graph_outputs(path, images.pixels, progress=progress), None
    evaluator = evaluator_for(path, manifest, images, progress=progress)
    return evaluator.reference.outputs, evaluator


def beside(
    path: Path,
    manifest: Manifest,
    reference: ReferenceOutputs,
    evaluator: GraphEvaluator | None,
    progress: Progress,
) -> ModelOutputs:
    """Run a graph that is compared with a reference, whose evaluator may be known."""
    if manifest.is_float32:
        return graph_outputs(path, reference.images.pixels, progress=progress)
    evaluator = evaluator or GraphEvaluator(reference=reference)
    return evaluator.outputs(read_graph(path), manifest, progress=progress)
