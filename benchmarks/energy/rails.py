"""Which rails of a board make its total: what its target says, never a guess."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from engines.machine import jetson
from engines.targets import Device, _lookup
from engines.targets._jetson import OLDER_RAILS

if TYPE_CHECKING:
    from engines.machine.jetson import JetsonIdentity
    from engines.targets import PowerRails


def rails_of_board(board: JetsonIdentity) -> PowerRails | str:
    """Return the rails of a board, or why they are not known."""
    older = _older(board.numbers)
    if older is not None:
        return older
    if board.target is None:
        return f"which rails make the total of this board is not known: {board.doubt}"
    entry = _lookup.entry(board.target.partition("@")[0])
    assert isinstance(entry, Device) and entry.board is not None, "modules belong to boards"
    return entry.board.rails


def _older(numbers: Sequence[str]) -> PowerRails | None:
    """Return the rails of a module that is no target, but may run graphs for the CPU."""
    families = {number.partition("-")[0] for number in numbers}
    known = [rails for family, rails in OLDER_RAILS.items() if family in families]
    return known[0] if len(known) == 1 else None


def read_board(root: Path) -> JetsonIdentity | None:
    """Return which Jetson this is; None on another machine."""
    return jetson.read_board(_lookup.modules(), root)


def indices_of_total(rails: PowerRails, names: Sequence[str]) -> tuple[int, ...] | str:
    """Return where the rails of the total stand among those found, or why there is no total.

    Args:
        rails: The rule of the board.
        names: Rails that were found, in the order of a reading.
    """
    missing = [name for name in rails.total if name not in names]
    listed = ", ".join(names) or "none"
    if missing:
        return f"{rails.rule}, and {', '.join(missing)} is missing; found: {listed}"
    double = [name for name, count in Counter(names).items() if count > 1 and name in rails.total]
    if double:
        return f"{rails.rule}, and several sensors are called {', '.join(double)}: {listed}"
    return tuple(names.index(name) for name in rails.total)
