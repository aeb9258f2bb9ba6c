"""The limits of `bench`: a budget, and a measurement of before, asked for early and judged late."""

from __future__ import annotations

from benchmarks import gates
from benchmarks.limits import parse_limit, unmeasured
from benchmarks.measurement import Measurement
from benchmarks.measurement_file import read_measurement
from engines.errors import UsageError
from fpet_export.reporter import Reporter
from fpet_export.requests import BenchRequest


def refuse(request: BenchRequest) -> None:
    """Refuse limits that could not be judged after the measurement.

    Raises:
        UsageError: A quantity will not be measured, one of two options is missing, or several
            batches or, for a baseline, several boards are asked for.
        InputError: The measurement of before cannot be read.
    """
    found = [parse_limit(text) for text in request.budget]
    for text, how in unmeasured(found, energy=request.energy, cold="cold" in request.scenario):
        raise UsageError(
            f"what {text} limits would not be measured", where="--budget", fix=f"{how}, too"
        )
    if (request.baseline is None) != (request.max_regress is None):
        raise UsageError(
            "--baseline and --max-regress are asked for together",
            where="--baseline" if request.max_regress is None else "--max-regress",
            fix="add --max-regress 3%" if request.max_regress is None else "add --baseline FILE",
        )
    if request.baseline is not None and request.remote is not None and "," in request.remote:
        raise UsageError(
            f"a baseline is of one device, and --remote {request.remote} names several",
            where="--baseline",
            fix="measure each board against its own: --remote HOST",
        )
    several = request.batches is not None and len(request.batches) > 1
    if several and (request.budget or request.baseline is not None):
        raise UsageError(
            "a limit is for one batch, and several are asked for",
            where="--batches",
            fix="measure each batch with its own limit",
        )
    if request.baseline is not None:
        read_measurement(request.baseline)


def hold(measurement: Measurement, request: BenchRequest, reporter: Reporter) -> None:
    """Judge a measurement by the limits that were asked for.

    Raises:
        BudgetError: One is missed, or what it limits is not known.
        InputError: The measurement of before is of another device, batch or artefact.
    """
    rival = None if request.against is None else measurement.baseline
    if request.budget:
        found = [parse_limit(text) for text in request.budget]
        for line in gates.judge_budget(measurement, found, rival=rival):
            reporter.step("budget", line)
    if request.baseline is not None and request.max_regress is not None:
        before = read_measurement(request.baseline)
        compared = gates.regressions(measurement, before, where=str(request.baseline), rival=rival)
        for line in gates.judge_regressions(compared, most_percent=request.max_regress):
            reporter.step("baseline", line)
