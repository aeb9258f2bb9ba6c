"""OpenVINO, imported so that it sends nothing, for `ov.py` and for the peer in `benchmarks`.

`import openvino` reports "general_import" to Google Analytics through the package
openvino_telemetry. It asks nobody first, no environment variable stops it (only `CI=true`, or the
command `opt_in_out --opt_out`), and it writes into ~/intel. Where that package cannot be imported,
OpenVINO takes a stub of its own. So it cannot, while OpenVINO loads.

Source: openvino/tools/ovc/__init__.py and telemetry_utils.py of OpenVINO 2026.4.
"""

from __future__ import annotations

import sys

_TELEMETRY = "openvino_telemetry"
_hidden = _TELEMETRY not in sys.modules
if _hidden:
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # an import of it now fails
try:
    import openvino
finally:
    if _hidden:
        del sys.modules[_TELEMETRY]

__all__ = ["openvino"]
