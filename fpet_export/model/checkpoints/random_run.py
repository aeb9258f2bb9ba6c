"""`random:NAME:SEED` as a run: right shapes, random weights, to measure speed before training.

The method, its size and the merge block come from the options; without them the plain ViT.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch

from engines.errors import UsageError
from fpet_export.model import methods, qlinear
from fpet_export.model.backbones import Backbone, random_weights
from fpet_export.model.checkpoints import Checkpoint, Hints, _records
from fpet_export.model.facts import Fact
from fpet_export.model.merge_plan import at_block, require_block
from fpet_export.model.vit_spec import VitSpec

_DEFAULT_DIM = 8
_FULL_BITS = 32
_REFINEMENT_BITS = 1


def recognises(text: str) -> bool:
    """Whether `text` starts with `random:`."""
    return random_weights.recognises(text)


def read(text: str, hints: Hints) -> RandomRun:
    """Return the run; nothing is drawn before `decode`."""
    if hints.config is not None:
        raise UsageError(
            "--config describes a trained run", where=text, fix="leave it out for random weights"
        )
    random_weights.parse(text)
    if hints.bit not in (None, *qlinear.LOW_BITS, _FULL_BITS):
        raise UsageError(
            f"bit is {hints.bit}, wanted 1, 2, 4, 8 or 32", where="--bit", fix="choose one of them"
        )
    if hints.rank is not None and hints.rank < 1:
        raise UsageError(
            f"rank is {hints.rank}, wanted at least 1", where="--rank", fix="correct it"
        )
    if hints.scale is not None and not math.isfinite(hints.scale):
        raise UsageError(
            f"scale is {hints.scale}, wanted a number", where="--scale", fix="correct it"
        )
    return RandomRun(text=text, hints=hints)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomRun:
    """Random weights of a named shape; see `fpet_export.model.checkpoints.Run`."""

    text: str
    hints: Hints

    @property
    def name(self) -> str:
        """The architecture's name."""
        return self.text.split(":")[1]

    @property
    def backbone(self) -> str:
        """The same text names the backbone."""
        return self.text

    @property
    def architecture(self) -> None:
        """None: the name shapes a backbone only where no other is given."""

    @property
    def pool(self) -> None:
        """None: a run that was never trained says nothing of its backbone."""

    @property
    def normalisation(self) -> None:
        """None, likewise."""

    @property
    def weights(self) -> frozenset[str]:
        """No file, and so no choice."""
        return frozenset()

    def check(self, backbone: Backbone) -> None:
        """Fit every backbone."""

    def head_width(self, depth: int, width: int) -> None:
        """Return None: the shape is known from the name."""

    def decode(self, spec: VitSpec) -> Checkpoint:
        """Draw adapters, refinement and head."""
        hints = self.hints
        merge_block = None if hints.merge_block in (None, "none") else hints.merge_block
        assert merge_block is None or isinstance(merge_block, int)
        if merge_block is not None:
            require_block(merge_block, spec, where="--merge-block")
        generator = torch.Generator().manual_seed(random_weights.parse(self.text)[1] + 1)
        bit, dim = hints.bit or _FULL_BITS, hints.rank or _DEFAULT_DIM
        factors: list[dict[str, torch.Tensor]] = []
        if hints.method is not None:
            layers = methods.load(hints.method).layers(spec.width, dim)
            factors = [
                {layer.name: _draw(layer.shape, bit, generator) for layer in layers}
                for _ in range(spec.depth)
            ]
        refinement = None
        if merge_block is not None:
            down, up = _records.refinement_layers(spec.head_width)
            refinement = (
                _draw(down.shape, _REFINEMENT_BITS, generator),
                _draw(up.shape, _REFINEMENT_BITS, generator),
            )
        classes = spec.classes or random_weights.CLASSES
        drawn = random_weights.draw(dataclasses.replace(spec, depth=0, classes=classes), 0)
        facts: dict[str, Fact[Any]] = {
            "method": Fact(hints.method or "none", "the options"),
            "bit": Fact(bit, "the options"),
            "dim": Fact(dim, "the options"),
            "merge block": Fact(merge_block, "the options"),
            "classes": Fact(classes, "random, as many as the backbone's own head has")
            if spec.classes
            else Fact(classes, "random; the backbone has no head"),
        }
        return Checkpoint(
            name=self.name,
            method=hints.method or "none",
            bit=bit if hints.method else None,
            dim=dim if hints.method else None,
            scale=(1.0 if hints.scale is None else hints.scale) if hints.method else None,
            merge=at_block(merge_block),
            factors=tuple(factors),
            refinement=refinement,
            head={name: t for name, t in drawn.items() if name.startswith("head")},
            quality="random",
            files=(),
            facts=facts,
        )


def _draw(shape: tuple[int, int], bit: int, generator: torch.Generator) -> torch.Tensor:
    weight = 0.3 * torch.randn(shape, generator=generator) / shape[1] ** 0.5
    return weight if bit not in qlinear.LOW_BITS else qlinear.fake_quantize(weight, bit)
