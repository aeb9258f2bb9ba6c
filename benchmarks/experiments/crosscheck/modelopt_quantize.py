"""Quantize a float32 ONNX graph as NVIDIA ModelOpt does when nobody tells it anything.

A file of its own, for an environment of its own: it is started there by `crosscheck` with
`python -I`, and imports nothing of this project. Arrays and an ONNX file in, an ONNX file out.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the quantized graph."""
    options = _parse(arguments)
    quantization = importlib.import_module("modelopt.onnx.quantization")
    with np.load(options.calibration) as archive:
        calibration = {name: archive[name] for name in archive.files}
    quantization.quantize(
        onnx_path=str(options.onnx),
        quantize_mode=options.precision,
        calibration_data=calibration,
        output_path=str(options.output),
    )
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("onnx", type=Path, help="float32 graph; files beside it may be written")
    parser.add_argument("--precision", choices=("int8", "fp8"), required=True)
    parser.add_argument(
        "--calibration", type=Path, required=True, help=".npz with (I, ...) by input name"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="graph to write")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
