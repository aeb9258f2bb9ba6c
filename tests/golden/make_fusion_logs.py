"""Record what TensorRT-RTX lists of tiny plans, in tests/golden/fusion_*.log.

Run it once for a new TensorRT-RTX, from the repository's root:

    python -m tests.golden.make_fusion_logs

The graphs are those of `tests/fpet_export/typed_graphs.py`. Only the lines that list a layer are
kept, without the hashes in the names of tactics.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import tensorrt_rtx as trt

from engines.backends._trt.builder import network_flags
from engines.backends._trt.log import recorder
from tests.fpet_export.typed_graphs import quantize, write_graph

FOLDER = Path(__file__).parent


def layer_lines(graph: Path) -> list[str]:
    """Build a plan for compute capability 8.6 and return the lines that list its layers."""
    log = recorder(trt)
    with log.recording() as messages:
        builder = trt.Builder(log)
        network = builder.create_network(network_flags(trt))
        parser = trt.OnnxParser(network, log)
        assert parser.parse_from_file(str(graph))
        config = builder.create_builder_config()
        config.clear_flag(trt.BuilderFlag.TF32)
        config.max_aux_streams = 0
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.SM86, 0)
        assert builder.build_serialized_network(network, config) is not None
    text = "\n".join(message.text for message in messages)
    return [line for line in text.splitlines() if ", LayerType: " in line]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        half = write_graph(Path(folder) / "fp16.onnx")
        graphs = {"fp16": half, "int8": quantize(half, Path(folder) / "int8.onnx")}
        for kind, graph in graphs.items():
            text = "\n".join(layer_lines(graph)) + "\n"
            no_hashes = re.sub(r", TacticName: [^,]*,", ", TacticName: ,", text)
            (FOLDER / f"fusion_{kind}.log").write_text(no_hashes, "utf-8")
