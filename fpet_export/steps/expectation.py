"""What an engine must say, with how sure the graph's match was where rounding may decide it."""

from __future__ import annotations

from pathlib import Path

from calibration.evaluator import evaluator_for
from engines.imaging.images import ImageSet
from engines.manifest import read_manifest
from engines.parity.comparison import ReferenceOutputs
from engines.parity.model_outputs import ModelOutputs
from engines.parity.outputs import default_images, reference_of


def reference_with_margin(graph: Path, images: ImageSet | None = None) -> ReferenceOutputs:
    """Run a graph as it is written; a float32 one that merges says its margins in the same run.

    Another CPU or GPU adds up in another order. Where the two best targets of a token differ by
    less than that, either is right, and one of two correct engines merges otherwise: on emulated
    arm64 that moved the logits of 1 of 16 images by 9.5e-4 of the largest, ten times the gate.
    Rounded graphs are held to gates that a token merged elsewhere does not reach.

    Args:
        graph: With its manifest.
        images: What to run on; by default a few synthetic images.
    """
    images = default_images(graph) if images is None else images
    manifest = read_manifest(graph)
    if not manifest.is_float32 or not manifest.shows_match:
        return reference_of(graph, images)
    found = evaluator_for(graph, manifest, images).reference.outputs
    outputs = ModelOutputs(logits=found.logits, margin=found.margin, head=found.head)
    return reference_of(graph, images, outputs=outputs)
