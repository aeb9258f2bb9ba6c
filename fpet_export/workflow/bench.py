"""`bench`: paired, interleaved latency of artefacts, the plain model and peers."""

from __future__ import annotations

import dataclasses
import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import batches as documents
from benchmarks.measurement_file import to_document, write_measurement
from benchmarks.report.energy import format_energy, unknown_energies
from benchmarks.report.page import report_of, write_report
from benchmarks.report.summary_line import summary_lines, write_badge
from benchmarks.report.table import format_table
from benchmarks.scenarios.words import format_scenarios
from engines import storage
from engines.errors import MeasurementError, UsageError
from fpet_export.reporter import SILENT, Reporter
from fpet_export.requests import BenchRequest as BenchRequest
from fpet_export.steps import batches, limits, machine_setting, measuring, usable
from fpet_export.steps import plain_vit as plain
from fpet_export.steps.accuracy import judge_answers, require_judged
from fpet_export.steps.task_names import refuse_tasks
from fpet_export.workflow.bench_boards import (
    bench_boards,
    boards_document,
    hosts_of,
    refuse_outputs,
)

if TYPE_CHECKING:
    from benchmarks.measurement import Measurement


@dataclasses.dataclass(frozen=True, kw_only=True)
class Benched:
    """What was measured.

    Attributes:
        measurements: One, or one a batch size, rising, or one a board.
        written: Files that were written.
        verdict: What it comes to, a line a contender.
        by_batch: Whether it is one a batch size.
        boards: The boards that they were taken on, one each; empty for one machine.
    """

    measurements: tuple[Measurement, ...]
    written: tuple[Path, ...]
    verdict: str
    by_batch: bool = False
    boards: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the same as plain values: a measurement, or all by batch or board."""
        if self.boards:
            return boards_document(self.boards, self.measurements)
        if self.by_batch:
            return documents.batches_document(self.measurements)
        return to_document(self.measurements[0])


def bench(request: BenchRequest, reporter: Reporter = SILENT) -> Benched:
    """Measure artefacts here or on another machine, and keep the evidence.

    The tasks of a folder are measured by `fpet_export.tasks.bench`.

    Raises:
        MeasurementError: Noise has spoiled it, and a marked one was not asked for; what was
            measured is written all the same.
        FpetError: What is wrong with an artefact, the baseline or the machine.
    """
    refuse(request)
    if request.remote is None:
        measuring.refuse_unknown_baseline(request.against, request.artefacts, request.peers)
    if request.batches is not None:
        return _at_batches(request, request.batches, reporter)
    refuse_tasks(request.artefacts[0], request.task)
    hosts = hosts_of(request)
    if len(hosts) > 1:
        boards = bench_boards(request, hosts, reporter)
        return Benched(
            measurements=tuple(boards.measurements.values()),
            boards=tuple(boards.measurements),
            written=boards.written,
            verdict=boards.verdict,
        )
    if request.remote is None:
        measurement = _here(request, reporter)
    else:
        from fpet_export.board.bench import bench_there  # not on a board

        measurement = bench_there(request, reporter)
    if measurement.valid or request.allow_noise:
        (measurement,) = judge_answers([measurement], request, reporter)
    return keep(measurement, request, reporter)


def refuse(request: BenchRequest) -> None:
    """Refuse what can be refused before anything is opened.

    Raises:
        UsageError: Nothing is to be measured, settings contradict each other, or they make no
            valid measurement.
    """
    if not request.artefacts:
        raise UsageError(
            "nothing to measure was given", where="bench", fix="name a graph or engine"
        )
    hosts = hosts_of(request)
    if len(hosts) > 1:
        refuse_outputs(request, hosts)
    else:
        for path in (request.out, request.html, request.badge):
            if path is not None:
                storage.refuse_overwrite(path, force=request.force)
    measuring.check_peers(request.peers)
    _refuse_contradictions(request)
    limits.refuse(request)
    measuring.refuse_few_rounds(request)
    machine_setting.refuse(request)
    measuring.refuse_energy(request)
    require_judged(request)
    _refuse_twice(request.artefacts)


def keep(measurement: Measurement, request: BenchRequest, reporter: Reporter) -> Benched:
    """Report a measurement, write what is asked for, and judge whether it counts."""
    if request.remote is None:  # the agent's own table was heard already
        reporter.line()
        reporter.line(format_table(measurement, width=reporter.width))
        reporter.line()
        energy = format_energy(measurement, width=reporter.width)
        for line in [*energy, ""] if energy else []:
            reporter.line(line)
        for line in format_scenarios(measurement):
            reporter.paragraph(line)
        for line in summary_lines(measurement):
            reporter.paragraph(line)
    if request.out is not None:
        write_measurement(request.out, measurement, force=request.force)
    if request.html is not None:
        page = report_of(measurement, title=_title(request), again=shlex.join(request.command))
        write_report(request.html, page, force=request.force)
    if request.badge is not None:
        write_badge(request.badge, measurement, force=request.force)
    _refuse_noise([measurement], request)
    if _written(request):
        batches.report([measurement], reporter)
    limits.hold(measurement, request, reporter)
    how = batches.hint(measurement, request.artefacts)
    if how:
        reporter.line(f"From which batch merging pays: {how}")
    return Benched(
        measurements=(measurement,),
        written=_written(request),
        verdict=measuring.verdict(measurement),
    )


def _at_batches(request: BenchRequest, sizes: Sequence[int], reporter: Reporter) -> Benched:
    """Do the same at several batch sizes."""
    _refuse_batches(request, sizes)
    _require_usable(request, reporter)
    against = [] if request.against in (None, plain.PLAIN) else [Path(str(request.against))]
    graph = [] if request.plain is None else [request.plain]
    for path in (*request.artefacts, *against, *graph):
        batches.require_dynamic(path, sizes)
    with tempfile.TemporaryDirectory(prefix="fpet-bench-") as folder:
        found = measuring.measure_batches(
            request.artefacts,
            batches=sizes,
            against=request.against,
            peers=request.peers,
            settings=measuring.Settings.of(request),
            folder=Path(folder),
            command=request.command,
            reporter=reporter,
            plain=request.plain,
        )
    if all(one.valid for one in found) or request.allow_noise:
        found = judge_answers(found, request, reporter)
    reporter.line()
    reporter.line(documents.format_batches(found, width=reporter.width))
    for measurement in found:
        lines = format_energy(measurement, width=reporter.width)
        for line in ["", f"batch {measurement.batch}", *lines] if lines else []:
            reporter.line(line)
    reporter.line()
    for measurement in found:
        for line in summary_lines(measurement):
            reporter.paragraph(line)
    if request.out is not None:
        documents.write_batches(request.out, found, force=request.force)
    if request.html is not None:
        again = shlex.join(request.command)
        page = documents.report_of_batches(found, title=_title(request), again=again)
        write_report(request.html, page, force=request.force)
    if request.badge is not None:
        write_badge(request.badge, found[0], force=request.force)
    _refuse_noise(found, request)
    if _written(request):
        batches.report(found, reporter)
    said = measuring.merging(found) or [documents.summary(found)]
    return Benched(
        measurements=tuple(found),
        written=_written(request),
        verdict="\n".join(said),
        by_batch=True,
    )


def _written(request: BenchRequest) -> tuple[Path, ...]:
    paths = (request.out, request.html, request.badge)
    return tuple(path for path in paths if path is not None)


def _refuse_batches(request: BenchRequest, sizes: Sequence[int]) -> None:
    """Refuse several sizes where only one can be measured.

    Raises:
        UsageError: Another machine is asked for.
    """
    if request.remote is not None:
        listed = ",".join(map(str, sizes))
        raise UsageError(
            "--remote measures one batch size at a time",
            where="--batches",
            fix="unpack a bundle there (`fpet-export bundle GRAPH --with-plain`) and type: "
            f"python3 agent.pyz bench --against plain --batches {listed}",
        )


def _title(request: BenchRequest) -> str:
    names = [path.name for path in request.artefacts]
    alike = len(set(names)) < len(names)
    return f"Latency of {' and '.join(map(str, request.artefacts) if alike else names)}"


def _refuse_noise(measurements: Sequence[Measurement], request: BenchRequest) -> None:
    """Refuse measurements that noise has spoiled, unless that is wanted; they are written by now.

    Raises:
        MeasurementError: There is one, or an energy that was asked for is not known.
    """
    spoiled = [one for one in measurements if not one.valid]
    again = shlex.join(request.command) or "measure again"
    if request.allow_noise:
        return
    if not spoiled:
        _refuse_unknown_energy(measurements, again)
        return
    at = f" at batch {spoiled[0].batch}" if len(measurements) > 1 else ""
    raise MeasurementError(
        f"the measurement{at} is not valid: {measuring.reasons(spoiled[0].spoiled_by)}",
        where="bench",
        fix=f"{spoiled[0].spoiled_by[0].fix}; then: {again} (or add --allow-noise)",
    )


def _refuse_unknown_energy(measurements: Sequence[Measurement], again: str) -> None:
    """Refuse to end well without the energy that was asked for.

    Raises:
        MeasurementError: It is not known.
    """
    reasons = unknown_energies(measurements)
    if reasons:
        raise MeasurementError(
            f"the energy is not known: {'; '.join(reasons)}",
            where="--energy",
            fix=f"{again} (the latencies are valid: leave --energy out to have them alone)",
        )


def _require_usable(request: BenchRequest, reporter: Reporter) -> None:
    against = [] if request.against in (None, plain.PLAIN) else [Path(request.against)]
    graph = [] if request.plain is None else [request.plain]
    for path in (*request.artefacts, *against, *graph):
        usable.require_file(path, request, reporter)


def _here(request: BenchRequest, reporter: Reporter) -> Measurement:
    _require_usable(request, reporter)
    with tempfile.TemporaryDirectory(prefix="fpet-bench-") as folder:
        return measuring.measure(
            request.artefacts,
            against=request.against,
            peers=request.peers,
            settings=measuring.Settings.of(request),
            folder=Path(folder),
            command=request.command,
            reporter=reporter,
            plain=request.plain,
        )


def _refuse_twice(artefacts: Sequence[Path]) -> None:
    """Refuse a file beside itself; tasks of one folder are told by their own verb."""
    seen: set[Path] = set()
    for path in artefacts:
        if path.is_file() and path.resolve() in seen:
            raise UsageError(
                f"{path} was given twice",
                where="bench",
                fix="name each file once; a single artefact can be measured, too",
            )
        seen.add(path.resolve())


def _refuse_contradictions(request: BenchRequest) -> None:
    """Refuse a plain graph that nothing is measured against, and what a board cannot run."""
    if request.plain is not None and request.against != plain.PLAIN:
        raise UsageError(
            "--plain names the graph that --against plain builds",
            where="--plain",
            fix="add --against plain",
        )
    measuring.refuse_peers(request)
