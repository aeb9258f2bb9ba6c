"""How a frozen graph is written."""

from __future__ import annotations

import dataclasses
from typing import Literal


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
    """

    batch: int | tuple[int, int] = 1
    input: Literal["float32", "uint8-nchw", "uint8-nhwc"] = "float32"
    attention_scale: Literal["split", "folded"] = "split"
    last_block: Literal["class-token", "all-tokens"] = "class-token"
    ties: Literal["argmax", "reference"] = "argmax"
    updates: Literal["folded", "low-rank"] = "folded"
    attention: Literal["primitive", "fused"] = "primitive"
