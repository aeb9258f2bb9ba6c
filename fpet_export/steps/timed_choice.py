"""Graphs beside each other on the target: which of them is shown to be the fastest."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from benchmarks.measurement import Measurement
from benchmarks.report.table import format_table
from engines.contract import BuildOptions, OpenOptions
from engines.engine import build
from engines.errors import MeasurementError
from engines.targets import Target
from fpet_export.reporter import Reporter
from fpet_export.requests import MachineSetting, Typing
from fpet_export.steps import built_engine, measuring


def built(graph: Path, target: Target, stem: Path, request: Typing, reporter: Reporter) -> Path:
    """Build the engine of a graph under another name; whether its check failed does not matter.

    Args:
        graph: With its manifest.
        target: What to build for.
        stem: Where, without the ending.
        request: Whose command is recorded.
        reporter: Hears how far it is.
    """
    with built_engine.build_progress(reporter) as progress:
        return build(
            graph,
            target=target,
            out=stem.with_name(stem.name + target.suffix),
            options=BuildOptions(
                command=request.command,
                progress=progress,
                allow_failed=True,  # the verb has asked whether that is wanted
                any_form=True,
            ),
        )


def measured(
    graphs: Mapping[str, Path], target: Target, request: Typing, reporter: Reporter
) -> Measurement:
    """Build and time graphs in the same rounds, the first as the baseline, and show the table.

    Args:
        graphs: By name.
        target: What runs here.
        request: Whose rounds and command are used.
        reporter: Hears the table.
    """
    with tempfile.TemporaryDirectory(prefix="fpet-export-") as folder:
        measurement = measuring.measure(
            [
                built(graph, target, Path(folder) / name, request, reporter)
                for name, graph in graphs.items()
            ],
            against=None,
            peers=(),
            settings=measuring.Settings(
                rounds=request.rounds,
                opening=OpenOptions(allow_failed=True),
                setting=request if isinstance(request, MachineSetting) else MachineSetting(),
            ),
            folder=Path(folder),
            command=request.command,
            reporter=reporter,
        )
    reporter.line()
    reporter.line(format_table(measurement, width=reporter.width))
    reporter.line()
    return measurement


def fastest(measurement: Measurement, names: tuple[str, ...]) -> str:
    """Return the contender that is shown to be the fastest; the baseline when none is.

    Args:
        measurement: Measurement of the candidates; its baseline is one of them.
        names: The candidates.
    """
    best, ratio = measurement.baseline, 1.0
    for name in names:
        against = measurement.result(name).against
        if against is not None and against.verdict == "faster" and against.ratio < ratio:
            best, ratio = name, against.ratio
    return best


def require_valid(measurement: Measurement, *, where: str, fix: str) -> None:
    """Refuse to choose by a measurement that does not count.

    Raises:
        MeasurementError: It does not.
    """
    if not measurement.valid:
        raise MeasurementError(
            f"the measurement is not valid: {measuring.reasons(measurement.spoiled_by)}",
            where=where,
            fix=fix,
        )
