"""What building and running a TensorRT engine takes of memory, told before it is tried.

A board with 8 GB ends a build that takes too much by killing it, minutes later and without a word.
The estimate is a lower one: what a GPU's driver and libraries keep for themselves is not in it.
"""

from __future__ import annotations

import dataclasses

from engines.errors import MachineError
from engines.machine.sources import bytes_in
from engines.manifest import ModelFacts

BUILDER_BYTES = 350_000_000
WEIGHT_COPIES = 3
"""The peak of a build: the builder's own memory, and the weights so many times.

Fits the peaks of TensorRT-RTX 1.7.1 building a ViT-B/16 on x86-64 (resident memory of the process)
to 2 %: 1.38 GB from a graph of 343 MB, 0.88 GB from one of 172 MB
(benchmarks/results/export_cost.json).
"""

_SPARE = 0.8
"""A build is refused below this share of its estimate: the estimate is no measurement there."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Memory:
    """Memory of a machine in bytes; None where the system does not state it."""

    available: int | None
    free_swap: int | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """An estimate in bytes.

    Attributes:
        weights: Of the graph.
        activations: The most that one block holds at the largest batch; None where nobody knows
            the network.
        workspace: Limit of scratch memory; None where TensorRT chooses.
        is_shared: Whether CPU and GPU work in the same memory.
        has: The machine.
    """

    weights: int
    activations: int | None
    workspace: int | None
    is_shared: bool
    has: Memory

    @property
    def building(self) -> int:
        """What the process that builds takes at its peak, scratch memory not counted."""
        return BUILDER_BYTES + WEIGHT_COPIES * self.weights

    @property
    def running(self) -> int:
        """What an open engine takes."""
        return self.weights + (self.activations or 0)

    @property
    def room(self) -> int | None:
        """What the machine can give, swap included; None where it does not state it."""
        if self.has.available is None:
            return None
        return self.has.available + (self.has.free_swap or 0)

    def in_words(self) -> str:
        """Return the estimate and what there is in a line."""
        parts = [f"building takes about {_gb(self.building)}"]
        if self.is_shared and self.workspace is not None:
            parts.append(f"and up to {_gb(self.workspace)} of scratch memory")
        if self.has.available is not None:
            swap = f" and {_gb(self.has.free_swap)} of swap" if self.has.free_swap else ""
            parts.append(f"of {_gb(self.has.available)}{swap} that are free")
        parts.append(f"· running {_gb(self.running)} beside the driver")
        return " ".join(parts)

    def advice(self) -> str:
        """Return what to do where it may not be enough; "" where it is."""
        room = self.room
        if room is None or not self.is_shared or self.workspace is None:
            return ""
        left = room - self.building
        if left >= self.workspace:
            return ""
        megabytes = max(left // 2, 64 << 20) >> 20
        return f"scratch memory may not fit: --workspace-mb {megabytes} limits it"

    def require_room(self, where: str) -> None:
        """Refuse a build that the machine would kill.

        Raises:
            MachineError: Not even the weights and the builder fit.
        """
        room = self.room
        if room is not None and room < _SPARE * self.building:
            raise MachineError(
                f"building takes about {_gb(self.building)} ({WEIGHT_COPIES} copies of the "
                f"weights and the builder), and {_gb(room)} are free, swap included",
                where=where,
                fix="close other programs, add swap, or build from an FP16 graph, whose weights "
                "take half",
            )


def memory_plan(
    *,
    weights: int,
    model: ModelFacts | None,
    batch: int,
    bytes_each: int,
    workspace: int | None,
    is_shared: bool,
    meminfo: str,
) -> MemoryPlan:
    """Return the estimate for a graph on a machine.

    Args:
        weights: Size of the graph with its companions, in bytes.
        model: What the network is; None where nobody knows.
        batch: The largest.
        bytes_each: Of a number between layers.
        workspace: Limit of scratch memory in bytes.
        is_shared: Whether CPU and GPU work in the same memory.
        meminfo: Text of `/proc/meminfo`; "" where there is none.
    """
    return MemoryPlan(
        weights=weights,
        activations=None if model is None else batch * bytes_each * _numbers_at_once(model),
        workspace=workspace,
        is_shared=is_shared,
        has=Memory(
            available=bytes_in(meminfo, "MemAvailable"), free_swap=bytes_in(meminfo, "SwapFree")
        ),
    )


def _numbers_at_once(model: ModelFacts) -> int:
    """Return the numbers that the largest block holds for an image.

    Those are the residual stream beside either queries, keys, values and the probabilities, or the
    inner layer of the MLP.
    """
    rows, columns = model.grid
    tokens = model.prefix_tokens + rows * columns
    attention = 3 * tokens * model.width + model.heads * tokens**2
    mlp = tokens * model.hidden * (2 if model.gated else 1)
    return tokens * model.width + max(attention, mlp)


def _gb(count: int) -> str:
    return f"{count / 1e9:.1f} GB"
