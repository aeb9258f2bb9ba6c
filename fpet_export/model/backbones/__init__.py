"""Where the frozen backbone comes from: one file a source.

An entry offers `recognises(spec) -> bool` on the text after `--backbone`, and
`read(spec, options) -> Backbone`. Exactly one entry must recognise a text.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import torch

from engines import registry
from engines.errors import CheckpointError
from engines.manifest import Head, Preprocessing
from fpet_export.model import backbones
from fpet_export.model.facts import Fact
from fpet_export.model.vit_spec import VitSpec


@dataclasses.dataclass(frozen=True, kw_only=True)
class BackboneOptions:
    """What the user says about a backbone whose file does not say it.

    Attributes:
        heads: Attention heads.
        image: (height, width) of the input: of a grid that is not square, or to resample to.
        pool: What the head reads: the class token, or the mean over patches.
        weights: Which set of weights, in a file that holds several.
        head_width: Gives, for a depth and a token width, the width of one head as another file
            of the run reveals it, and that file's name.
        run_pool: What the run's own code reads ("class" or "mean"), where its format says so.
        run_network: The architecture that the run's files name.
        arch: timm's name of the architecture, where no file says it.
        own_pixels: Whether the run's format says how its own code prepares pixels, so that what
            lies beside the backbone does not matter.
        within: How the network's own tensors lie in a file that holds a run's, too.
        head: What the network is to give.
        resamples: Whether positions may be resampled for another `image` as timm does.
    """

    heads: int | None = None
    image: tuple[int, int] | None = None
    pool: Literal["token", "avg"] | None = None
    weights: str | None = None
    head_width: Callable[[int, int], tuple[int, str] | None] | None = None
    run_pool: Fact[str] | None = None
    run_network: Fact[VitSpec] | None = None
    arch: str | None = None
    own_pixels: bool = False
    within: Within | None = None
    head: Head = "logits"
    resamples: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Within:
    """A backbone that lies in the file of a run, beside tensors of the run's own.

    Attributes:
        path: The file.
        anchor: Name of a tensor that the set of weights in it has; see `state_dicts.read`.
        select: Takes the network's tensors, by timm's names, out of all of them.
    """

    path: Path
    anchor: str
    select: Callable[[Mapping[str, torch.Tensor]], dict[str, torch.Tensor]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Backbone:
    """A backbone that has been read.

    Attributes:
        spec: What it is; `classes` is that of the weights' own head, or 0.
        weights: timm's names to float32 tensors; a head, if there is one, included.
        source: How to name it in a manifest and to a reader.
        quality: "random" marks weights that are good for speed only.
        preprocessing: What the weights were trained with, as far as the source tells.
        normalisation: Where mean and std in it come from; None where the source does not say them.
        files: Files it was read from, for their hashes.
        facts: What was decided, and from what.
        names: What `--weights` may call the set of weights that was read.
        labels: Class names of the weights' own head in the order of its rows, where a file says
            them.
    """

    spec: VitSpec
    weights: dict[str, torch.Tensor]
    source: str
    quality: Literal["trained", "random"]
    preprocessing: Preprocessing
    normalisation: str | None = None
    files: tuple[Path, ...] = ()
    facts: dict[str, Fact[Any]] = dataclasses.field(default_factory=dict)
    names: frozenset[str] = frozenset()
    labels: Fact[tuple[str, ...]] | None = None


class BackboneSource(Protocol):
    """What a file in `fpet_export/model/backbones/` offers."""

    def recognises(self, text: str) -> bool:
        """Whether `text` names a backbone of this kind, without reading it."""

    def read(self, text: str, options: BackboneOptions) -> Backbone:
        """Read the backbone, strictly."""


def read(text: str, options: BackboneOptions | None = None) -> Backbone:
    """Read the backbone that `text` names.

    Args:
        text: A path to `.npz`, `.safetensors`, `.pth` or `.bin`; `timm:NAME`; `random:NAME:SEED`.
        options: What the files do not say.

    Raises:
        CheckpointError: No source recognises `text`, or the file is not a ViT this toolkit runs.
    """
    sources = {
        name: cast(BackboneSource, registry.load(backbones, name))
        for name in registry.available(backbones)
    }
    found = [name for name, source in sources.items() if source.recognises(text)]
    if len(found) == 1:
        return sources[found[0]].read(text, options or BackboneOptions())
    path = Path(text)
    fix = "give a .npz, .safetensors, .pth or .bin file, timm:NAME or random:NAME:SEED"
    if text and path.is_dir():
        files = sorted(str(p) for p in path.iterdir() if _recognised(sources, str(p)))
        what = f"{text!r} is a folder, and a backbone is one file"
        fix = f"name the file: --backbone {shlex.quote(files[0])}" if files else fix
    elif found:
        what = f"{text!r} is recognised by {' and '.join(found)}"
    else:
        what = f"{text!r} is not a backbone"
    raise CheckpointError(what, where="--backbone", fix=fix)


def _recognised(sources: Mapping[str, BackboneSource], text: str) -> bool:
    """Whether one of the sources recognises `text`."""
    return any(source.recognises(text) for source in sources.values())
