"""Measure engines honestly: paired, interleaved, with the evidence beside every number.

A name of this page is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.comparison import Opened, bench, fastest, rebase
    from benchmarks.latency import Schedule
    from benchmarks.measurement import Measurement
    from benchmarks.measurement_file import read_measurement, write_measurement
    from benchmarks.peers import PeerSource
    from benchmarks.report.table import format_table

_HOME = {
    "Measurement": "benchmarks.measurement",
    "Opened": "benchmarks.comparison",
    "PeerSource": "benchmarks.peers",
    "Schedule": "benchmarks.latency",
    "bench": "benchmarks.comparison",
    "fastest": "benchmarks.comparison",
    "format_table": "benchmarks.report.table",
    "read_measurement": "benchmarks.measurement_file",
    "rebase": "benchmarks.comparison",
    "write_measurement": "benchmarks.measurement_file",
}

__all__ = [
    "Measurement",
    "Opened",
    "PeerSource",
    "Schedule",
    "bench",
    "fastest",
    "format_table",
    "read_measurement",
    "rebase",
    "write_measurement",
]


def __getattr__(name: str) -> Any:
    """Import a name of this page (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
