"""Write a float32 graph in another precision: ranges from images, Q/DQ, casts, and their proof.

`calibration.quantize(onnx, precision=…)` does all of it. A name of this page is imported when it is
first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from calibration.accuracy import AccuracyConstraint
    from calibration.collect import calibrate
    from calibration.quantizing import quantize
    from calibration.table import CalibrationTable, read_table, write_table

_HOME = {
    "AccuracyConstraint": "calibration.accuracy",
    "CalibrationTable": "calibration.table",
    "calibrate": "calibration.collect",
    "quantize": "calibration.quantizing",
    "read_table": "calibration.table",
    "write_table": "calibration.table",
}

__all__ = [
    "AccuracyConstraint",
    "CalibrationTable",
    "calibrate",
    "quantize",
    "read_table",
    "write_table",
]


def __getattr__(name: str) -> Any:
    """Import a name of this page (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
