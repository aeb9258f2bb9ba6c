"""What a deployment left: for each target, and in all."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.measurement_file import to_document
from engines.manifest import read_manifest

if TYPE_CHECKING:
    from benchmarks.measurement import Measurement
    from engines.parity.rows import ParityTable, StageParity
    from engines.targets import Target
    from fpet_export.workflow.deployment_verdict import Verdict


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Deployment:
    """What a deployment left and showed.

    Attributes:
        report: The HTML page.
        parity: Every stage of every target against the float64 reference.
        targets: What was made for each target.
        measurements: Measurements of the engines that run, against the plain ViT.
        sentence: What it comes to, in one sentence.
        verdict: The same about answers, accuracy, speed and merging.
        next: Commands to type next.
    """

    report: Path
    parity: ParityTable
    targets: tuple[DeployedTarget, ...]
    measurements: tuple[Measurement, ...]
    sentence: str
    verdict: Verdict
    next: Sequence[str] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the same as plain values."""
        return {
            "report": str(self.report),
            "parity": self.parity.to_json(),
            "engines": {one.target: str(one.engine) for one in self.targets},
            "precisions": {one.target: read_manifest(one.typed).precision for one in self.targets},
            "latency": to_document(self.measurements[0]) if self.measurements else None,
            "sentence": self.sentence,
            "verdict": self.verdict.to_json(),
        }


def latency_path(folder: Path, target: Target) -> Path:
    """Return where the measurement of a further target lies, which a board takes by itself."""
    return folder / target.file_name / "latency.json"
