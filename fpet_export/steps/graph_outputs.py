"""What a graph says about images in ONNX Runtime, with what merged where."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from engines.backends import ort
from engines.imaging.images import PixelArray
from engines.onnx_graph.taps import with_outputs
from engines.parity.model_outputs import ModelOutputs
from engines.parity.outputs import as_written, engine_outputs, manifest_of

Progress = Callable[[int], None]


def graph_outputs(
    path: Path, pixels: PixelArray, *, progress: Progress | None = None
) -> ModelOutputs:
    """Run a graph with its probes as additional outputs."""
    manifest = manifest_of(path)
    with tempfile.TemporaryDirectory(prefix="fpet-export-") as folder:
        probed = with_outputs(path, manifest.probes.values(), Path(folder))
        with ort.open_engine(probed, None, options=as_written(manifest)) as engine:
            return engine_outputs(engine, manifest, pixels, progress=progress)
