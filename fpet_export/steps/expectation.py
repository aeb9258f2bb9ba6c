"""What an engine must say, with how sure the graph's match was where rounding may decide it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from calibration.evaluator import evaluator_for
from engines.imaging.images import ImageSet
from engines.manifest import read_manifest
from engines.parity.comparison import ReferenceOutputs
from engines.parity.outputs import reference_of


def reference_with_margin(graph: Path, images: ImageSet | None = None) -> ReferenceOutputs:
    """Run a graph as it is written, and a float32 one that merges also for its margins.

    Another CPU or GPU adds up in another order. Where the two best targets of a token differ by
    less than that, either is right, and one of two correct engines merges otherwise: on emulated
    arm64 that moved the logits of 1 of 16 images by 9.5e-4 of the largest, ten times the gate.
    Rounded graphs are held to gates that a token merged elsewhere does not reach.

    Args:
        graph: With its manifest.
        images: What to run on; by default a few synthetic images.
    """
    expected, manifest = reference_of(graph, images), read_manifest(graph)
    if not manifest.is_float32 or "match" not in manifest.probes:
        return expected
    margin = evaluator_for(graph, manifest, expected.images).reference.outputs.margin
    outputs = dataclasses.replace(expected.outputs, margin=margin)
    return dataclasses.replace(expected, outputs=outputs)
