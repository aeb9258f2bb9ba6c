"""Quantize a float32 ONNX graph with ONNX Runtime's `quantize_static`.

A process of its own, started by `crosscheck`: arrays and an ONNX file in, an ONNX file out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engines import registry

MULTIPLIED = ("MatMul", "Gemm", "Conv")
FORMS = ("defaults", "tensorrt", "tensorrt-no-match")
"""`quantize_static` as it is; with what TensorRT's parser takes; and the same with the match, the
merge and the adapters left alone, which nobody learns from ONNX Runtime's documentation."""

_LEFT_ALONE = ("merge", "adapters")


class Feeds:
    """What `quantize_static` reads its images from."""

    def __init__(self, path: Path) -> None:
        with np.load(path) as archive:
            self._arrays = {name: archive[name] for name in archive.files}
        self.rewind()

    def get_next(self) -> dict[str, Any] | None:
        """Return the feeds of the next image, or None behind the last."""
        return next(self._rest, None)

    def rewind(self) -> None:
        """Start again."""
        self._rest = self._images()

    def _images(self) -> Iterator[dict[str, Any]]:
        count = min(len(array) for array in self._arrays.values())
        for at in range(count):
            yield {name: array[at : at + 1] for name, array in self._arrays.items()}


def settings(form: str, nodes: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Return the keyword arguments of `quantize_static` beyond its files.

    Args:
        form: One of `FORMS`.
        nodes: (name, operator) of every node.
    """
    if form == "defaults":
        return {}
    excluded = []
    if form == "tensorrt-no-match":
        excluded = [name for name, _ in nodes if set(name.split("/")) & set(_LEFT_ALONE)]
    return {
        "per_channel": True,
        "op_types_to_quantize": list(MULTIPLIED),
        "nodes_to_exclude": excluded,
        "extra_options": {
            "ActivationSymmetric": True,  # TensorRT refuses a zero point that is not zero
            "WeightSymmetric": True,
            "QuantizeBias": False,  # and an INT32 bias
            "AddQDQPairToWeight": True,  # a weight stored as INT8 is multiplied in half precision
            "OpTypesToExcludeOutputQuantization": list(MULTIPLIED),
        },
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the quantized graph."""
    options = _parse(arguments)
    quantization = registry.import_or_explain("onnxruntime.quantization")
    onnx = registry.import_or_explain("onnx")
    graph = onnx.load(str(options.onnx), load_external_data=False).graph
    nodes = [(node.name, node.op_type) for node in graph.node]
    quantization.quantize_static(
        options.onnx,
        options.output,
        Feeds(options.calibration),
        **settings(options.form, nodes),
    )
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("onnx", type=Path, help="float32 graph")
    parser.add_argument("--form", choices=FORMS, required=True)
    parser.add_argument(
        "--calibration", type=Path, required=True, help=".npz with (I, ...) by input name"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="graph to write")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
