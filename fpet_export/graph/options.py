"""How a frozen graph is written, and in which opset."""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args, get_origin, get_type_hints

from engines.errors import UsageError
from engines.targets import Target

OLDEST_OPSET, NEWEST_OPSET = 17, 23
"""What this toolkit writes: from the first opset with LayerNormalization to the last one tried."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FreezeOptions:
    """How the frozen graph is written.

    Attributes:
        batch: Images per inference, or the (smallest, largest) of a dynamic batch dimension.
        input: "float32" takes pixels in 0..1, NCHW; the others take raw pixels.
        attention_scale: Where d^(-1/2) sits; see `engines.targets.Target`.
        last_block: What the last block computes; see `engines.targets.Target`.
        ties: "argmax" keeps every token; "reference" drops the token of a tied row, as the
            published rule does.
        updates: "folded" refuses updates of the qkv projection that were not folded; "low-rank"
            keeps them as two products, for a graph that takes them as inputs.
        attention: "primitive" writes attention out, as ONNX graphs have it; "fused" is PyTorch's
            own operator, to run the module there. Both give the same up to rounding.

    Raises:
        UsageError: A value is none of these.
    """

    batch: int | tuple[int, int] = 1
    input: Literal["float32", "uint8-nchw", "uint8-nhwc"] = "float32"
    attention_scale: Literal["split", "folded"] = "split"
    last_block: Literal["class-token", "all-tokens"] = "class-token"
    ties: Literal["argmax", "reference"] = "argmax"
    updates: Literal["folded", "low-rank"] = "folded"
    attention: Literal["primitive", "fused"] = "primitive"

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(FreezeOptions).items():
            value = getattr(self, name)
            if get_origin(hint) is Literal and value not in get_args(hint):
                known = " or ".join(map(repr, get_args(hint)))
                raise UsageError(f"{name} is {value!r}", where="freeze", fix=f"give {known}")
        sizes = self.batch if isinstance(self.batch, tuple) else (self.batch, self.batch)
        whole = len(sizes) == 2 and all(type(size) is int for size in sizes)
        if not whole or not 1 <= sizes[0] <= sizes[1]:
            raise UsageError(
                f"batch is {self.batch!r}",
                where="freeze",
                fix="give a whole number from 1, or (smallest, largest) of a dynamic batch",
            )


def with_opset(target: Target, opset: int) -> Target:
    """Return `target` with another opset.

    Raises:
        UsageError: Its runtime does not read that opset, or this toolkit does not write it.
    """
    if opset > target.opset_ceiling:
        raise UsageError(
            f"{target.name} reads opsets up to {target.opset_ceiling}, not {opset}",
            where="--opset",
            fix=f"leave --opset out ({target.opset} suits {target.name} best), or choose another "
            "target",
        )
    require_opset(opset)
    return dataclasses.replace(target, opset=opset)


def require_opset(opset: int) -> None:
    """Refuse an opset that this toolkit does not write.

    Raises:
        UsageError: It is too old or too new.
    """
    if not OLDEST_OPSET <= opset <= NEWEST_OPSET:
        raise UsageError(
            f"graphs are written in the opsets {OLDEST_OPSET} to {NEWEST_OPSET}, not in {opset}",
            where="--opset",
            fix="20 suits every target",
        )
