"""The `.bin` byte stream of low-bit linear records: which layers it holds, and where FPET merges.

The stream has no header and no names; its length and the statistics at the end of each record
are all there is. `plausible` is the test that lets the merge block be found from the bytes: a
record read at a wrong offset has packed codes where its mean and deviation should be.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence

import torch

from engines.errors import CheckpointError
from fpet_export.model import mergers, qlinear
from fpet_export.model.methods import Layer, all_methods

REFINEMENT_DOWN, REFINEMENT_UP = "refinement.adapter_down", "refinement.adapter_up"
_REFINEMENT_BITS = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class StreamLayout:
    """What a stream is believed to hold.

    Attributes:
        layers: The adapter of one block, in stream order; empty for a 32-bit run.
        depth: Number of blocks.
        bits: Bits of the adapter weights.
        head_width: Width D of one attention head.
    """

    layers: tuple[Layer, ...]
    depth: int
    bits: int
    head_width: int

    def adapter_bytes(self) -> int:
        """Return the bytes of all adapters, without a refinement."""
        return self.depth * sum(qlinear.record_bytes(x.shape, self.bits) for x in self.layers)

    def records(self, merge_block: int | None) -> Iterator[tuple[int, Layer, int]]:
        """Yield (block, layer, bits) in stream order."""
        for block in range(self.depth):
            for layer in self.layers:
                yield block, layer, self.bits
            if block == merge_block:
                for layer in refinement_layers(self.head_width):
                    yield block, layer, _REFINEMENT_BITS


def refinement_layers(head_width: int) -> tuple[Layer, ...]:
    """Return the two layers of the merger's refinement adapter; always stored with 1 bit."""
    return mergers.load().layers(head_width)


def refinement_bytes(head_width: int) -> int:
    """Return the bytes of the refinement's two records."""
    layers = refinement_layers(head_width)
    return sum(qlinear.record_bytes(layer.shape, _REFINEMENT_BITS) for layer in layers)


def head_width_of(refinement: int) -> int | None:
    """Return the head width whose refinement has this many bytes, or None."""
    per_width = refinement_bytes(1) - refinement_bytes(0)
    width, rest = divmod(refinement - refinement_bytes(0), per_width)
    return width if rest == 0 and width > 0 else None


def plausible(record: bytes) -> bool:
    """Whether the record's mean and deviation can be those of a trained weight.

    The bounds are wide on purpose: deviations from 0.0056 to 0.41 and |mean| / deviation up to
    1.24 occur in the 152 published Binary Adapter files.
    """
    mean, std = qlinear.statistics(record)
    return math.isfinite(mean) and math.isfinite(std) and 1e-5 < std < 10 and abs(mean) < 10 * std


def split(
    stream: bytes, layout: StreamLayout, merge_block: int | None
) -> dict[tuple[int, str], bytes]:
    """Cut the stream into records by (block, layer name); its length must fit exactly."""
    pieces, at = {}, 0
    for block, layer, bits in layout.records(merge_block):
        size = qlinear.record_bytes(layer.shape, bits)
        pieces[block, layer.name] = stream[at : at + size]
        at += size
    assert at == len(stream), "the caller checks the length"
    return pieces


def possible_merge_blocks(stream: bytes, layout: StreamLayout) -> list[int]:
    """Return the merge blocks for which every record of the stream is plausible."""
    return [
        block
        for block in range(layout.depth)
        if all(plausible(record) for record in split(stream, layout, block).values())
    ]


def decode(
    stream: bytes, layout: StreamLayout, merge_block: int | None
) -> tuple[list[dict[str, torch.Tensor]], tuple[torch.Tensor, torch.Tensor] | None]:
    """Return each block's adapter weights and the refinement's (down, up), all dense float32."""
    records = split(stream, layout, merge_block)
    factors: list[dict[str, torch.Tensor]] = [{} for _ in range(layout.depth)]
    refinement: dict[str, torch.Tensor] = {}
    for block, layer, bits in layout.records(merge_block):
        weight = qlinear.decode(records[block, layer.name], layer.shape, bits)
        target = refinement if layer.name.startswith("refinement.") else factors[block]
        target[layer.name] = weight
    pair = (refinement[REFINEMENT_DOWN], refinement[REFINEMENT_UP]) if refinement else None
    return factors, pair


def settings_that_fit(length: int, *, depth: int, width: int, head_width: int) -> list[str]:
    """Return the settings under which a stream has this length, as words for an error."""
    found = []
    for name, method in all_methods().items():
        for bits in qlinear.LOW_BITS:
            one = _stream_bytes(method.layers(width, 8), depth, bits)
            step = (_stream_bytes(method.layers(width, 16), depth, bits) - one) / 8
            base = one - 8 * step
            for merged, extra in (("FPET", refinement_bytes(head_width)), ("no FPET", 0)):
                dim = (length - extra - base) / step
                if dim >= 1 and dim == int(dim):
                    found.append(f"{name} bit {bits} rank {int(dim)} with {merged}")
    if length == refinement_bytes(head_width):
        found.append("any method bit 32 with FPET")
    return found


def _stream_bytes(layers: Sequence[Layer], depth: int, bits: int) -> int:
    return depth * sum(qlinear.record_bytes(layer.shape, bits) for layer in layers)


def check_plausible(
    stream: bytes, layout: StreamLayout, merge_block: int | None, *, where: str
) -> None:
    """Raise a CheckpointError naming the first record whose statistics cannot be a weight's."""
    for (block, name), record in split(stream, layout, merge_block).items():
        if plausible(record):
            continue
        mean, std = qlinear.statistics(record)
        others = [b for b in possible_merge_blocks(stream, layout) if b != merge_block]
        hint = f"; the bytes fit merge block {others[0]}" if len(others) == 1 else ""
        raise CheckpointError(
            f"blocks.{block}.{name} would have mean {mean:.3g} and deviation {std:.3g}, "
            f"which is not a trained weight{hint}",
            where=where,
            fix="check --merge-block, --method, --bit and --rank against the run; "
            "or the file is damaged",
        )
