"""Quantize a float32 ONNX graph with NNCF, as its documentation says for a transformer.

A file of its own, for an environment of its own: it is started there by `crosscheck` with
`python -I`, and imports nothing of this project. Arrays and an ONNX file in, an ONNX file out.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

FORMS = ("smoothquant", "plain")
"""With SmoothQuant, which NNCF does to a transformer by itself, and without."""


def settings(form: str, nncf: Any) -> dict[str, Any]:
    """Return the keyword arguments of `nncf.quantize` beyond model, images and their number.

    Args:
        form: One of `FORMS`.
        nncf: The package.
    """
    found = {"model_type": nncf.ModelType.TRANSFORMER}
    if form == "plain":
        found["advanced_parameters"] = nncf.AdvancedQuantizationParameters(smooth_quant_alpha=-1)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the quantized graph."""
    options = _parse(arguments)
    nncf, onnx = (importlib.import_module(name) for name in ("nncf", "onnx"))
    with np.load(options.calibration) as archive:
        feeds = {name: archive[name] for name in archive.files}
    count = min(len(array) for array in feeds.values())
    images = [{name: array[at : at + 1] for name, array in feeds.items()} for at in range(count)]
    model = nncf.quantize(
        onnx.load(str(options.onnx)),
        nncf.Dataset(images),
        subset_size=count,
        **settings(options.form, nncf),
    )
    onnx.save(model, str(options.output))
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
