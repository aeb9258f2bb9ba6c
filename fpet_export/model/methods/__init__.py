"""Parameter-efficient tuning methods: one file a method.

Each file ends in `METHOD: PetMethod = …`, so that the type checker checks the promise where it is
made. Adding a method means one file here and one test; no list knows the names.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol, cast

import torch

from engines import registry
from fpet_export.model import methods
from fpet_export.model.edits import Edit

Factors = Mapping[str, torch.Tensor]
"""The dense float32 weights of one block's adapter, by the names of `PetMethod.layers`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layer:
    """One linear layer that a method adds to a block.

    Attributes:
        name: Module path below the block, as in the authors' checkpoints.
        shape: (out, in).
    """

    name: str
    shape: tuple[int, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bypass:
    """A bottleneck beside one of the block's own paths: `scale * up(f(down(x)))` is added to it.

    Attributes:
        down: Name of the layer that leads to the bottleneck, as in `PetMethod.layers`.
        up: Name of the layer that leads back.
        onto: What it is added to. On "query", "key" and "value", thirds of the qkv projection, f is
            the identity; on the residual stream ("branch") it is ReLU.
    """

    down: str
    up: str
    onto: Literal["query", "key", "value", "branch"]


class PetMethod(Protocol):
    """What the exporter needs to know about a tuning method."""

    @property
    def title(self) -> str:
        """The method's name as its paper writes it."""

    def layers(self, width: int, dim: int) -> Sequence[Layer]:
        """Return the layers of one block in the order in which the checkpoint stores them.

        Args:
            width: Token width C.
            dim: Rank or bottleneck width R.
        """

    def bypasses(self) -> Sequence[Bypass]:
        """Return where the layers of one block act, for graphs that take them as inputs."""

    def edits(self, block: int, factors: Factors, *, scale: float) -> Sequence[Edit]:
        """Return what the layers of one block did to the network."""


def load(name: str) -> PetMethod:
    """Return the method of this name; see `engines.registry.load` for the errors."""
    return cast(PetMethod, registry.load(methods, name).METHOD)


def all_methods() -> dict[str, PetMethod]:
    """Return every method by name."""
    return {name: load(name) for name in registry.available(methods)}
