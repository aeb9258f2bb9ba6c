"""Where the frozen backbone comes from: one file a source.

An entry offers `recognises(spec) -> bool` on the text after `--backbone`, and
`read(spec, options) -> Backbone`. Exactly one entry must recognise a text.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Literal, Protocol, cast

import torch

from engines import registry
from engines.errors import CheckpointError
from engines.manifest import Preprocessing
from fpet_export import backbones
from fpet_export.vit import VitSpec

PUBLISHED_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}
"""Width to heads of ViT-Ti/S/B/L/H (Dosovitskiy et al. 2021, table 1; Touvron et al. 2021)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BackboneOptions:
    """What the user says about a backbone whose file does not say it.

    Attributes:
        heads: Attention heads.
        image: (height, width) of the input, for grids that are not square.
        head_width: Gives, for a depth and a token width, the width of one head as another file
            of the run reveals it, and that file's name.
    """

    heads: int | None = None
    image: tuple[int, int] | None = None
    head_width: Callable[[int, int], tuple[int, str] | None] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Backbone:
    """A backbone that has been read.

    Attributes:
        spec: What it is; `classes` is that of the weights' own head, or 0.
        weights: timm's names to float32 tensors; a head, if there is one, included.
        source: How to name it in a manifest and to a reader.
        quality: "random" marks weights that are good for speed only.
        preprocessing: What the weights were trained with, as far as the source tells.
        files: Files it was read from, for their hashes.
        facts: What was decided, and from what, for `inspect`.
    """

    spec: VitSpec
    weights: dict[str, torch.Tensor]
    source: str
    quality: Literal["trained", "random"]
    preprocessing: Preprocessing
    files: tuple[Path, ...] = ()
    facts: dict[str, str] = dataclasses.field(default_factory=dict)


class BackboneSource(Protocol):
    """What a file in `fpet_export/backbones/` offers."""

    def recognises(self, text: str) -> bool:
        """Whether `text` names a backbone of this kind, without reading it."""

    def read(self, text: str, options: BackboneOptions) -> Backbone:
        """Read the backbone, strictly."""


def read(text: str, options: BackboneOptions | None = None) -> Backbone:
    """Read the backbone that `text` names.

    Args:
        text: A path to `.npz`, `.safetensors` or `.pth`; `timm:NAME`; `random:NAME:SEED`.
        options: What the files do not say.

    Raises:
        CheckpointError: No source recognises `text`, or the file is not a ViT this toolkit runs.
    """
    sources = {
        name: cast(BackboneSource, registry.load(backbones, name))
        for name in registry.available(backbones)
    }
    found = [name for name, source in sources.items() if source.recognises(text)]
    if len(found) != 1:
        raise CheckpointError(
            f"{text!r} is not a backbone"
            if not found
            else f"{text!r} is recognised by {' and '.join(found)}",
            where="--backbone",
            fix="give a .npz, .safetensors or .pth file, timm:NAME or random:NAME:SEED",
        )
    return sources[found[0]].read(text, options or BackboneOptions())
