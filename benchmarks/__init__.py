"""Measure engines honestly: paired, interleaved, with the evidence beside every number."""

from benchmarks.comparison import Opened, bench, fastest, rebase
from benchmarks.latency import Schedule
from benchmarks.measurement import Measurement, read_measurement, write_measurement
from benchmarks.peers import PeerSource
from benchmarks.report.table import format_table

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
