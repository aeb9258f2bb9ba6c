"""What `deploy --remote` does for one target: every candidate to the board, the best one back."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.comparison import rebase
from engines.commands import command
from engines.errors import FpetError
from engines.manifest import read_manifest
from engines.parity.rows import StageParity
from engines.targets import Target
from fpet_export.board import packing, session, transfer
from fpet_export.reporter import Reporter
from fpet_export.requests import Deploying
from fpet_export.steps import best_precision, plain_vit, timed_choice

if TYPE_CHECKING:
    from benchmarks.measurement import Measurement
    from engines.imaging.images import ImageSet
    from fpet_export.board.packing import Item

_IMAGES_THERE = 16
"""On which another machine checks its engines."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Deployed:
    """An engine that was built on another machine and fetched.

    Attributes:
        typed: The graph that it was built from.
        engine: Where it lies here.
        rows: How each candidate's engine compares there with its graph.
        row: That of the engine; None where it could not be compared.
        measurement: All candidates, and the plain model where it was wanted; None where one
            candidate was only built and checked.
    """

    typed: Path
    engine: Path
    rows: tuple[StageParity, ...]
    row: StageParity | None
    measurement: Measurement | None


def deploy_there(
    found: best_precision.Candidates,
    target: Target,
    images: ImageSet,
    request: Deploying,
    reporter: Reporter,
) -> Deployed:
    """Build, check and measure the candidates on a board in one run, and fetch the best one.

    Args:
        found: Graphs that keep the promise here.
        target: Where they run.
        images: What the first engines are checked on.
        request: What is deployed, and where.
        reporter: Hears of each step.

    Raises:
        EngineError: No candidate can be built there.
        MeasurementError: The measurement by which to choose is not valid.
        ParityError: The only candidate's answers are not its graph's.
        RemoteError: The machine cannot be reached.
    """
    items = [
        packing.Item(path=graph, manifest=read_manifest(graph), target=target)
        for graph in found.graphs.values()
    ]
    names = dict(zip((item.engine for item in items), found.graphs, strict=True))
    is_choice, host = len(items) > 1, request.remote
    kind = {engine: f"{precision} " if is_choice else "" for engine, precision in names.items()}

    def out(item: Item, error: FpetError) -> None:
        reporter.step(names[item.engine], f"out: {error.what}", passed=None)

    with contextlib.ExitStack() as stack:
        plain = stack.enter_context(packing.plain_of(items[0], reporter)) if request.bench else None
        images = images.first(_IMAGES_THERE)
        board = stack.enter_context(
            transfer.unpacked_there(items, request, reporter, images=images, plain=plain)
        )
        measurement = None
        if is_choice or request.bench:
            trial = board.trial(
                session.bench_argv(request),
                against=plain_vit.PLAIN if request.bench else None,
                refused=out if is_choice else None,
            )
            rows, measurement = dict(trial.rows), trial.measurement
        else:
            rows = {items[0].engine: session.row_of(board.prove(items[0]))}
        best = next(iter(rows))
        if is_choice:
            assert measurement is not None
            left = {engine: names[engine] for engine in rows}
            best = _choose(measurement, left, found, request, reporter)
        (chosen,) = (item for item in items if item.engine == best)
        engine = chosen.path.with_name(best)
        board.fetch(engine)
    named = {
        name: dataclasses.replace(row, stage=f"{target.name} {kind[name]}on {host}")
        for name, row in rows.items()
        if row is not None
    }
    return Deployed(
        typed=chosen.path,
        engine=engine,
        rows=tuple(named.values()),
        row=named.get(best),
        measurement=measurement,
    )


def _choose(
    measurement: Measurement,
    precisions: dict[str, str],
    found: best_precision.Candidates,
    request: Deploying,
    reporter: Reporter,
) -> str:
    """Return the engine that is fastest there; the first stays unless another is shown to be.

    Args:
        measurement: Measurement of all engines, and perhaps the plain model.
        precisions: By engine, of those that took part.
        found: What each one kept of the promise here.
        request: Which says where.
        reporter: Hears of the choice.
    """
    host = request.remote
    engines = {precision: engine for engine, precision in precisions.items()}
    first = next(iter(engines))
    if len(engines) == 1:
        reporter.step("best", f"{first}: nothing else is left")
        return engines[first]
    again = command("bench", *found.graphs.values(), "--against", "plain")
    timed_choice.require_valid(
        measurement,
        where=f"--precision best on {host}",
        fix=f"close other programs there; the graphs exist, so measure them again: "
        f"{again} {request.remote_argv()}",
    )
    candidates = tuple(
        dataclasses.replace(measurement.result(Path(engine).stem), name=precision)
        for precision, engine in engines.items()
    )
    paired = rebase(dataclasses.replace(measurement, contenders=candidates), first)
    best = timed_choice.fastest(paired, tuple(engines))
    reporter.step("best", f"on {host}: {best_precision.verdict(paired, best)}")
    if best in found.made:
        row = found.made[best].row
        known = "" if row.accuracy is None else f" · accuracy {row.accuracy:.1%}"
        reporter.step(
            "limits",
            f"{best} here: signal to noise (SQNR) {row.sqnr_db:.1f} dB · "
            f"{row.agreement_in_words}{known}",
        )
    return engines[best]
