"""Measure engines honestly: paired, interleaved, with the evidence beside every number.

A name of this page is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engines.lazy_names import imported_when_used

if TYPE_CHECKING:
    from benchmarks.comparison import bench, fastest, rebase
    from benchmarks.contenders import Opened
    from benchmarks.latency import Schedule
    from benchmarks.measurement import Measurement
    from benchmarks.measurement_file import read_measurement, write_measurement
    from benchmarks.peers import PeerSource
    from benchmarks.report.table import format_table

_HOME = {
    "Measurement": "benchmarks.measurement.Measurement",
    "Opened": "benchmarks.contenders.Opened",
    "PeerSource": "benchmarks.peers.PeerSource",
    "Schedule": "benchmarks.latency.Schedule",
    "bench": "benchmarks.comparison.bench",
    "fastest": "benchmarks.comparison.fastest",
    "format_table": "benchmarks.report.table.format_table",
    "read_measurement": "benchmarks.measurement_file.read_measurement",
    "rebase": "benchmarks.comparison.rebase",
    "write_measurement": "benchmarks.measurement_file.write_measurement",
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

__getattr__ = imported_when_used(__name__, _HOME)
