"""Write a float32 graph in another precision: ranges from images, Q/DQ, casts, and their proof.

`calibration.quantize(onnx, precision=…)` does all of it. A name of this page is imported when it is
first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engines.lazy_names import imported_when_used

if TYPE_CHECKING:
    from calibration.accuracy import AccuracyConstraint
    from calibration.collect import calibrate
    from calibration.quantizing import quantize
    from calibration.table import CalibrationTable, read_table, write_table

_HOME = {
    "AccuracyConstraint": "calibration.accuracy.AccuracyConstraint",
    "CalibrationTable": "calibration.table.CalibrationTable",
    "calibrate": "calibration.collect.calibrate",
    "quantize": "calibration.quantizing.quantize",
    "read_table": "calibration.table.read_table",
    "write_table": "calibration.table.write_table",
}

__all__ = [
    "AccuracyConstraint",
    "CalibrationTable",
    "calibrate",
    "quantize",
    "read_table",
    "write_table",
]

__getattr__ = imported_when_used(__name__, _HOME)
