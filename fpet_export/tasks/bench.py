"""`bench FOLDER`: the tasks of a folder as contenders, and what a switch between them takes."""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.comparison import bench as measured
from benchmarks.contenders import Opened
from benchmarks.measurement import describe_artefact
from benchmarks.task_switch import switch_times_ns
from engines.engine import load_target
from engines.errors import UsageError
from engines.machine.processor import usable_cores
from engines.manifest import read_manifest
from engines.tasks.index import read_index
from engines.tasks.open_tasks import TaskEngine, open_tasks
from fpet_export.board import session
from fpet_export.reporter import SILENT, Reporter
from fpet_export.steps import machine_setting, measuring, plain_vit, usable
from fpet_export.tasks import remote_tasks
from fpet_export.workflow import bench as artefact_bench
from fpet_export.workflow.bench import Benched, BenchRequest

if TYPE_CHECKING:
    from benchmarks.measurement import Measurement
    from engines.contract import OpenOptions

_SWITCH = "switch_ms"


def bench(request: BenchRequest, reporter: Reporter = SILENT) -> Benched:
    """Measure the tasks of a folder, and graphs or engines beside them, and keep the evidence.

    Raises:
        MeasurementError: Noise has spoiled it, and a marked one was not asked for; what was
            measured is written all the same.
        UsageError: Two folders, peers or the plain model were asked for, or more than the folder
            on another machine.
        UnknownNameError: There is no such task.
    """
    artefact_bench.refuse(request)
    if request.batches is not None:
        raise UsageError(
            "the tasks of a folder are measured at the batch of their graph",
            where="--batches",
            fix="leave it out, or export one of the runs and bench that graph",
        )
    return artefact_bench.keep(_measure(request, reporter), request, reporter)


def _measure(request: BenchRequest, reporter: Reporter) -> Measurement:
    """Measure all of them in the same rounds.

    What a contender's runtime records tells the switch to it, too.
    """
    folder = _the_folder(request)
    index = read_index(folder)
    names = index.chosen(request.task, where=str(folder))
    usable.require_tasks(folder, index, names, request, reporter)
    if request.remote is not None:
        return _there(folder, names, request, reporter)
    threads = request.threads or usable_cores()
    settings = measuring.Settings.of(request)
    opening = dataclasses.replace(request.open_options(), threads=threads)
    with contextlib.ExitStack() as stack:
        lock = stack.enter_context(measuring.one_at_a_time(reporter))
        watcher = stack.enter_context(machine_setting.held(request, reporter, lock=lock))
        switches = switch_times_ns(folder, names, options=opening)
        peak = settings.gemm_peak()
        tasks = _opened(folder, names, opening, stack, reporter)
        files = [path for path in request.artefacts if path != folder]
        manifests = [one.engine.manifest() for one in tasks if isinstance(one.engine, TaskEngine)]
        with reporter.phases("measuring") as tell:
            found = measured(
                [*tasks, *files],
                against=request.against,
                batch=measuring.smallest_batch(manifests) if not files else None,
                threads=threads,
                options=opening,
                schedule=settings.schedule(),
                gemm_peak_macs_per_s=peak,
                scenarios=settings.scenarios,
                energy=settings.energy_meter(),
                strict=False,
                attempts=measuring.ATTEMPTS,
                again=measuring.saying(reporter),
                command=request.command,
                watcher=watcher,
                progress=measuring.telling(tell, request.rounds),
            )
    _say_switches(switches, reporter)
    return _with_switches(found, switches)


def _the_folder(request: BenchRequest) -> Path:
    folders = [path for path in request.artefacts if path.is_dir()]
    for name, is_given, what, fix in (
        ("X", len(folders) > 1, "tasks of one folder are measured at a time", "name one folder"),
        (
            "X", request.remote is not None and len(request.artefacts) > 1,
            "another machine measures the tasks of a folder by themselves",
            "leave the other artefacts out, or measure them in a run of their own",
        ),
        (
            "--peers", bool(request.peers), "peers run the plain model of one export, not of tasks",
            "leave them out, or export one of the runs and bench that graph",
        ),
        (
            "--remote", request.remote is not None and "," in request.remote,
            "tasks are measured on one machine at a time", "name one, and repeat it for the others",
        ),
        (
            "--data", request.data is not None, "tasks are measured, their answers are not judged",
            "leave it out, and judge one with compare RUN FOLDER --task NAME --data SET",
        ),
        (
            "--against", request.against == plain_vit.PLAIN,
            "the plain model is that of one export, not of tasks",
            "name a task or a graph, or export one of the runs and bench that graph",
        ),
    ):  # fmt: skip
        if is_given:
            raise UsageError(what, where=name, fix=fix)
    return folders[0]


def _there(
    folder: Path, names: tuple[str, ...], request: BenchRequest, reporter: Reporter
) -> Measurement:
    """Build and check the folder on another machine, and measure tasks there."""
    if request.against is not None and request.against not in names:
        raise UsageError(
            "another machine measures the tasks of a folder by themselves",
            where="--against",
            fix=f"name one of the tasks {', '.join(names)}, or leave it out",
        )
    argv = [*session.measuring_argv(request), "--task", ",".join(names)]
    argv += [] if request.against is None else ["--against", request.against]
    with remote_tasks.unpacked_there(folder, request, reporter) as board:
        board.prove()
        return board.measure(argv)


def _opened(
    folder: Path,
    names: tuple[str, ...],
    opening: OpenOptions,
    stack: contextlib.ExitStack,
    reporter: Reporter,
) -> list[Opened]:
    """Open the tasks as contenders; all of their weights stay in memory."""
    tasks = stack.enter_context(open_tasks(folder, options=opening))
    found = []
    for name in names:
        handle = tasks.task(name)
        artefact = describe_artefact(handle.manifest())
        own = read_manifest(folder / handle.task.delta.file).model
        macs = None if own is None else own.macs
        artefact = dataclasses.replace(artefact, macs=macs)
        found.append(Opened(name=name, engine=handle, artefact=artefact, macs=macs))
    target = tasks.index.target
    runs = sorted({str(entry.artefact.file) for entry in found if entry.artefact is not None})
    missing = [file for file in runs if not file.endswith(load_target(target).suffix)]
    if missing:
        reporter.step(
            "engine", f"no {target} engine is here: {', '.join(missing)} runs", passed=None
        )
    return found


def _say_switches(switches: Mapping[str, int], reporter: Reporter) -> None:
    if not switches:
        return
    times = [ns / 1e6 for ns in switches.values()]
    slowest = max(switches, key=lambda name: switches[name])
    reporter.step(
        "switch",
        f"{statistics.median(times):.1f} ms to a task whose weights are not in memory "
        f"(median; {slowest}: {max(times):.1f}); in memory it is another set of pointers",
    )


def _with_switches(found: Measurement, switches: Mapping[str, int]) -> Measurement:
    return dataclasses.replace(
        found,
        contenders=tuple(
            dataclasses.replace(
                result,
                runtime={**result.runtime, _SWITCH: f"{switches[result.name] / 1e6:.3f}"},
            )
            if result.name in switches
            else result
            for result in found.contenders
        ),
    )
