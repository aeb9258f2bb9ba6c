"""What a deployment made for one target."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.measurement import Measurement
    from engines.parity.rows import StageParity


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeployedTarget:
    """One target of a deployment: its graph, its engine, and their rows of the parity table.

    Attributes:
        target: Its name.
        graph: The exported float32 graph.
        typed: The graph that the engine was built from: that one, or another precision's.
        engine: The engine.
        rows: How its stages compare with the float64 reference.
        runs_here: Whether this machine ran it.
        row: The engine's own row; None where it did not run.
        not_run: Why no machine has run it; empty where one has.
        measurement: What was taken on another machine.
    """

    target: str
    graph: Path
    typed: Path
    engine: Path
    rows: tuple[StageParity, ...]
    runs_here: bool
    row: StageParity | None = None
    not_run: str = ""
    measurement: Measurement | None = None
