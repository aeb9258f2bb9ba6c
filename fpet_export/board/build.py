"""What `build --remote` does: the graph to the board, built and checked there, the engine back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engines.engine import refuse_output
from engines.manifest import Manifest
from engines.targets._lookup import load_target
from fpet_export.board import packing, transfer
from fpet_export.reporter import Reporter
from fpet_export.requests import BuildRequest
from fpet_export.steps import usable


@dataclasses.dataclass(frozen=True, kw_only=True)
class BuiltThere:
    """An engine that was built on another machine and fetched.

    Attributes:
        engine: Where it lies here.
        manifest: Of it.
        parity: It against its graph, as JSON; None where nothing says what the graph answers.
    """

    engine: Path
    manifest: Manifest
    parity: Mapping[str, Any] | None


def build_there(
    request: BuildRequest, target: str, argv: Sequence[str], reporter: Reporter
) -> BuiltThere:
    """Build and check a graph on another machine, and fetch the engine.

    Args:
        request: The graph, and the machine.
        target: Where the engine runs.
        argv: Options of `build` for the agent.
        reporter: Hears of each step.
    """
    item = packing.checked(request.onnx, target, request, reporter)
    out = request.out or request.onnx.with_name(item.engine)
    refuse_output(out, load_target(target), force=request.force)
    with transfer.unpacked_there([item], request, reporter) as board:
        more = [*argv, *usable.form_words(request)]
        parity = board.prove(item, engine=out.name, more=more)
        return BuiltThere(engine=out, manifest=board.fetch(out), parity=parity)
