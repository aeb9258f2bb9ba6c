"""Where an engine runs: one data file a target, every fact with its source, no code.

A target decides how the graph is written (opset, where the attention scale sits, what the last
block computes) and which runtime builds it.
"""

from __future__ import annotations

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """One place to run.

    Attributes:
        name: The file's name.
        summary: One line for the table of targets.
        backend: Name of the file in `engines/backends/`.
        module: Python package of the runtime ("onnxruntime", "openvino", "tensorrt",
            "tensorrt_rtx"); a manifest's `runtime.flavour`.
        suffix: Ending of the artefact: ".plan" for TensorRT, else ".onnx".
        opset: ONNX opset that the runtime reads and that suits it best.
        opset_ceiling: Newest opset that the oldest supported version of the runtime reads.
        typing: "strong" where the types in the graph decide every precision; "weak" where the
            graph is float32 and the builder is told which lower precisions it may choose.
        attention_scale: "split" scales q and k by d^(-1/4) each; "folded" puts d^(-1/2) into
            the query weights.
        last_block: "class-token" computes in the last block only what the head reads;
            "all-tokens" keeps the block uniform.
        precisions: What its graphs may be typed as.
        integers: How INT8 is written for it: "pairs" puts Q/DQ pairs around tensors of a
            half-precision graph, "gemm" makes integer products with integer biases in a float32
            graph.
        int8_weights: Range of INT8 weights that its runtime multiplies exactly on every machine it
            may meet: "full", or "reduced" to magnitudes up to 64.
        compute_capabilities: GPU generations to build for when the caller names none, as "8.6".
        sources: Where each fact comes from, one sentence each.
    """

    name: str
    summary: str
    backend: str
    module: str
    suffix: str
    opset: int
    opset_ceiling: int
    attention_scale: Literal["split", "folded"]
    last_block: Literal["class-token", "all-tokens"]
    precisions: tuple[str, ...]
    sources: tuple[str, ...]
    typing: Literal["strong", "weak"] = "strong"
    integers: Literal["pairs", "gemm"] = "pairs"
    int8_weights: Literal["full", "reduced"] = "full"
    compute_capabilities: tuple[str, ...] = ()
