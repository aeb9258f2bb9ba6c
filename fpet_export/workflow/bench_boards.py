"""`bench --remote a,b,c`: the same artefacts on several boards at the same time."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.measurement_file import to_document, write_measurement
from benchmarks.report.fleet import groups_of
from benchmarks.report.fleet_page import render_fleet
from benchmarks.report.fleet_text import markdown
from benchmarks.report.gathering import Found
from engines import storage
from engines.errors import BudgetError, FpetError, MeasurementError, UsageError
from fpet_export.reporter import Reporter
from fpet_export.requests import BenchRequest
from fpet_export.steps import limits, measuring, plain_vit

if TYPE_CHECKING:
    from benchmarks.measurement import Measurement

SCHEMA = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Boards:
    """What was measured on each board.

    Attributes:
        measurements: By the board's name.
        written: Files that were written.
    """

    measurements: dict[str, Measurement]
    written: tuple[Path, ...]

    @property
    def verdict(self) -> str:
        """The boards side by side, as Markdown."""
        return markdown(groups_of(_found(self.measurements))).rstrip()


def boards_document(names: Sequence[str], measurements: Sequence[Measurement]) -> dict[str, Any]:
    """Return measurements by their boards as what `json.dumps` takes."""
    boards = dict(zip(names, map(to_document, measurements), strict=True))
    return {"kind": "boards", "schema": SCHEMA, "boards": boards}


def hosts_of(request: BenchRequest) -> tuple[str, ...]:
    """Return the machines of `--remote`, each once; none where the work is done here.

    Raises:
        UsageError: A name is missing between two commas, or stands there twice.
    """
    if request.remote is None:
        return ()
    hosts = tuple(part.strip() for part in request.remote.split(","))
    if "" in hosts or len(set(hosts)) < len(hosts):
        raise UsageError(
            f"{request.remote!r} does not name each machine once",
            where="--remote",
            fix="write --remote orin1,orin2",
        )
    return hosts


def file_of(folder: Path, host: str) -> Path:
    """Return where a board's measurement goes."""
    return folder / f"{re.sub('[^A-Za-z0-9._-]+', '-', host)}.latency.json"


def refuse_outputs(request: BenchRequest, hosts: Sequence[str]) -> None:
    """Refuse outputs that exist, or that are no folder of JSON files.

    Raises:
        UsageError: One is.
    """
    if request.out is not None:
        if request.out.is_file() or request.out.suffix == ".json":
            raise UsageError(
                "several boards have a JSON each, and this names one file",
                where=f"-o {request.out}",
                fix="name a folder",
            )
        files = [file_of(request.out, host) for host in hosts]
        if len(set(files)) < len(files):
            raise UsageError(
                "two machines would have one file",
                where=f"--remote {request.remote}",
                fix="give them names of other letters and digits in the configuration of ssh",
            )
        for path in files:
            storage.refuse_overwrite(path, force=request.force)
    if request.badge is not None:
        raise UsageError(
            "a badge shows one measurement",
            where="--badge",
            fix="leave it out, or measure one board for its badge",
        )
    if request.html is not None:
        storage.refuse_overwrite(request.html, force=request.force)


def bench_boards(request: BenchRequest, hosts: Sequence[str], reporter: Reporter) -> Boards:
    """Measure on all boards at the same time, and put the results side by side.

    A board that fails keeps no other one from its result: what was measured is written first.

    Raises:
        FpetError: What failed on the first of the boards that did.
        MeasurementError: Noise has spoiled a measurement, and a marked one was not asked for.
        BudgetError: A board misses a limit.
    """
    from fpet_export.board import packing  # not on a board
    from fpet_export.board.bench import bench_there
    from fpet_export.board.side_by_side import named

    lock = threading.Lock()

    def measure(host: str) -> Measurement:
        with named(host, reporter, lock) as own:
            return bench_there(dataclasses.replace(request, remote=host), own)

    with contextlib.ExitStack() as stack:
        if request.against == plain_vit.PLAIN and request.plain is None:
            # Once, for all: PyTorch exports in one thread at a time.
            first = packing.checked(request.artefacts[0], None, request, reporter)
            plain = stack.enter_context(packing.plain_of(first, reporter))
            request = dataclasses.replace(request, plain=plain)
        pool = stack.enter_context(concurrent.futures.ThreadPoolExecutor(len(hosts)))
        running = {host: pool.submit(measure, host) for host in hosts}
    errors: dict[str, FpetError] = {}
    measurements: dict[str, Measurement] = {}
    for host, future in running.items():
        try:
            measurements[host] = future.result()
        except FpetError as error:
            errors[host] = error
            reporter.step("bench", f"{host}: {error.what}", passed=False)
    found = Boards(measurements=measurements, written=_write(request, measurements))
    for failed in errors.values():
        raise failed
    _refuse_noise(request, measurements)
    for host, measurement in measurements.items():
        with named(host, reporter, lock) as own:
            _hold(host, measurement, request, own)
    return found


def _hold(host: str, measurement: Measurement, request: BenchRequest, reporter: Reporter) -> None:
    """Judge a board's measurement by the limits, and name the board where one is missed."""
    try:
        limits.hold(measurement, request, reporter)
    except BudgetError as error:
        raise BudgetError(f"{host}: {error.what}", where=error.where, fix=error.fix) from error


def _write(request: BenchRequest, measurements: dict[str, Measurement]) -> tuple[Path, ...]:
    written = []
    if request.out is not None:
        request.out.mkdir(parents=True, exist_ok=True)
        for host, measurement in measurements.items():
            path = file_of(request.out, host)
            write_measurement(path, measurement, force=request.force)
            written.append(path)
    if request.html is not None and measurements:
        title = f"{' and '.join(path.name for path in request.artefacts)} on {request.remote}"
        page = render_fleet(groups_of(_found(measurements)), (), title=title)
        storage.write_text(request.html, page)
        written.append(request.html)
    return tuple(written)


def _refuse_noise(request: BenchRequest, measurements: dict[str, Measurement]) -> None:
    for host, one in measurements.items():
        if not one.valid and not request.allow_noise:
            raise MeasurementError(
                f"the measurement on {host} is not valid: {measuring.reasons(one.spoiled_by)}",
                where="bench",
                fix=f"{one.spoiled_by[0].fix}; then measure again (or add --allow-noise)",
            )


def _found(measurements: dict[str, Measurement]) -> list[Found]:
    return [Found(measurement=one, file=host) for host, one in measurements.items()]
