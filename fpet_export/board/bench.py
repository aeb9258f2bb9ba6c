"""What `bench --remote` does: artefacts to the board, all of them measured there in one run."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from fpet_export.board import packing, session, transfer
from fpet_export.reporter import Reporter
from fpet_export.requests import BenchRequest
from fpet_export.steps import plain_vit as plain

if TYPE_CHECKING:
    from benchmarks.measurement import Measurement


def bench_there(request: BenchRequest, reporter: Reporter) -> Measurement:
    """Build graphs on another machine, check their engines, and measure all in one run."""
    items = [packing.checked(path, None, request, reporter) for path in request.artefacts]
    against: packing.Item | str | None = request.against
    if isinstance(against, str) and against != plain.PLAIN:
        against = packing.checked(Path(against), None, request, reporter)
        items += [] if against in items else [against]
    transfer.require_reachable(request)
    argv = session.measuring_argv(request)
    with contextlib.ExitStack() as stack:
        graph = request.plain
        if against == plain.PLAIN and graph is None:
            graph = stack.enter_context(packing.plain_of(items[0], reporter))
        board = stack.enter_context(transfer.unpacked_there(items, request, reporter, plain=graph))
        return board.trial(argv, against=against).measurement
