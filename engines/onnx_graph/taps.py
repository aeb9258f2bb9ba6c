"""A graph with inner tensors as additional outputs, for ranges and for audits."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import onnx

from engines.errors import ExportError


def with_outputs(path: Path, tensors: Iterable[str], folder: Path) -> Path:
    """Write the model of `path` with inner tensors as additional outputs.

    Args:
        path: A graph that this toolkit wrote.
        tensors: Names of inner tensors.
        folder: Where to write it, its weights in a file beside it, which a runtime can map
            instead of copying.

    Returns:
        The file's path.

    Raises:
        ExportError: A tensor is not in the graph.
    """
    model = onnx.load(str(path))
    known = {value.name: value for value in model.graph.value_info}
    outputs = {value.name for value in model.graph.output}
    for name in tensors:
        if name not in known and name not in outputs:
            raise ExportError(
                f"the graph has no tensor {name!r}",
                where=str(path),
                fix="export the run again with this version",
            )
        if name not in outputs:
            model.graph.output.append(known[name])
    tapped = folder / f"tapped_{path.name}"
    onnx.save_model(
        model, str(tapped), save_as_external_data=True, location=f"{tapped.name}.weights"
    )
    return tapped
