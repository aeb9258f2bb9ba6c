"""Gated updates of a linear layer with static shapes: TS-PEFT."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from engines.errors import FoldError
from fpet_export.model.attached import Edited
from fpet_export.model.edits import GatedLowRank
from fpet_export.model.gates import FrozenLargeEnough


class FrozenGate(nn.Module):
    """One update: two products, of which the decision lets a token's pass or not."""

    def __init__(self, edit: GatedLowRank, bias: torch.Tensor) -> None:
        super().__init__()
        self.down = _constant(edit.down.T)
        self.up = _constant(edit.scale * edit.up.T.double())
        own = edit.bias
        self.shift = None if own is None else _constant(edit.scale * own.double())
        self.decides = FrozenLargeEnough(edit.rule)
        subtracts = edit.rule.bias == "without" and bool(bias.any())
        self.bias = _constant(bias) if subtracts else None

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Return the output (…, out) of the layer, made of (…, in), with the update added."""
        update = x @ self.down @ self.up
        update = update if self.shift is None else update + self.shift
        output = y if self.bias is None else y - self.bias
        changed: torch.Tensor = y + self.decides(update, output) * update
        return changed


class FrozenGates(nn.Module):
    """All gated updates of a layer, each about a part of its outputs."""

    def __init__(self, gates: Sequence[tuple[GatedLowRank, slice]], bias: torch.Tensor) -> None:
        super().__init__()
        size = len(bias)
        ordered = sorted(gates, key=lambda pair: pair[1].indices(size)[0])
        self.parts = [rows.indices(size)[:2] for _, rows in ordered]
        self.gates = nn.ModuleList(FrozenGate(edit, bias[rows]) for edit, rows in ordered)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Return the output (…, out) of the layer, made of (…, in), with all updates added."""
        found, end = [], 0
        for gate, (start, stop) in zip(self.gates, self.parts, strict=True):
            found += [y[..., end:start]] if end < start else []
            found.append(gate(x, y[..., start:stop]))
            end = stop
        found += [y[..., end:]] if end < y.shape[-1] else []
        return found[0] if len(found) == 1 else torch.cat(found, dim=-1)


def gated_rows(layer: nn.Module) -> list[tuple[GatedLowRank, slice]]:
    """Return the gated updates of a layer, and the outputs that each is about."""
    if not isinstance(layer, Edited):
        return []
    return [(edit, rows) for edit, rows in layer.kept() if isinstance(edit, GatedLowRank)]


def require_folded(layer: nn.Module) -> None:
    """Refuse a layer with an edit that should have been folded.

    Raises:
        FoldError: It has one.
    """
    if isinstance(layer, Edited) and len(gated_rows(layer)) != len(layer.rows):
        raise FoldError(
            f"{len(layer.rows)} updates of a layer reached the freeze",
            where="freeze",
            fix="fold the model first: load(run).fold().freeze()",
        )


def gates_of(
    layer: nn.Module, bias: torch.Tensor, *, rows: tuple[int, int] | None = None
) -> FrozenGates | None:
    """Return the gated updates of a layer, or of some of its outputs; None where there are none.

    Args:
        layer: A layer of the folded model.
        bias: (out,) of the layer.
        rows: First output, and the one behind the last; None for all.
    """
    first, last = rows or (0, len(bias))
    found = []
    for edit, own in gated_rows(layer):
        start, stop, _ = own.indices(len(bias))
        if first <= start and stop <= last:
            found.append((edit, slice(start - first, stop - first)))
    return FrozenGates(found, bias[first:last]) if found else None


def _constant(tensor: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.float().contiguous(), requires_grad=False)
