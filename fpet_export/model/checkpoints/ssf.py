"""SSF: a whole ViT of timm with a scale and a shift behind every layer (dongzelian/SSF).

The file is what timm's `CheckpointSaver` writes; its backbone is the rest of it.
"""

from __future__ import annotations

import re
from pathlib import Path

from engines.errors import CheckpointError
from fpet_export.model.checkpoints import Hints
from fpet_export.model.checkpoints._contents import TIMM_ANCHOR, is_marked
from fpet_export.model.checkpoints._read_tuned import read_tuned
from fpet_export.model.checkpoints._tuned_file import Shapes, Tensors, TunedFile
from fpet_export.model.edits import Affine, Edit
from fpet_export.model.vit_spec import VitSpec

MARK = re.compile(r"(^|\.)ssf_(scale|shift)_\d+$")

_OF_BLOCK = {
    "norm1": "ssf_{}_1",
    "norm2": "ssf_{}_2",
    "attn.qkv": "attn.ssf_{}_1",
    "attn.proj": "attn.ssf_{}_2",
    "mlp.fc1": "mlp.ssf_{}_1",
    "mlp.fc2": "mlp.ssf_{}_2",
}
"""Layers of a block, and what the scale and the shift behind them are called."""


def recognises(text: str) -> bool:
    """Whether `text` is a file with such scales and shifts."""
    return is_marked(Path(text), MARK)


def read(text: str, hints: Hints) -> Ssf:
    """Read the file; see `fpet_export.model.checkpoints.Format`."""
    return read_tuned(Ssf, text, hints, TIMM_ANCHOR)


class Ssf(TunedFile):
    """`scale * y + shift` behind each linear, each LayerNorm and the patch embedding.

    Source: Lian et al. 2022, eq. 2.
    """

    method = "ssf"
    brings_backbone = True

    def is_tuned(self, name: str) -> bool:
        """Whether a tensor is a scale or a shift."""
        return bool(MARK.search(name))

    def shapes(self, spec: VitSpec) -> Shapes:
        """Return names and shapes of all scales and shifts.

        Raises:
            CheckpointError: The network normalises behind its pooling, which this code does not.
        """
        if spec.pool_norm:
            raise CheckpointError(
                "the network has its last norm behind the pooling (fc_norm); SSF scales the tokens "
                "before that, which is not the same",
                where=str(self.path),
                fix="only SSF on networks with timm's norm is read",
            )
        wide = {"attn.qkv": 3 * spec.width, "mlp.fc1": spec.hidden}
        shapes: Shapes = {}
        for site, pattern in _places(spec):
            width = next((w for layer, w in wide.items() if site.endswith(layer)), spec.width)
            shapes |= {pattern.format(kind): (width,) for kind in ("scale", "shift")}
        return shapes

    def edits(self, spec: VitSpec, tensors: Tensors) -> list[Edit]:
        """Return one edit for each layer."""
        return [
            Affine(
                site,
                scale=tensors[pattern.format("scale")],
                shift=tensors[pattern.format("shift")],
            )
            for site, pattern in _places(spec)
        ]


def _places(spec: VitSpec) -> list[tuple[str, str]]:
    """Return every layer with a scale and a shift, and what these are called."""
    places = [("patch_embed", "patch_embed.ssf_{}_1"), ("norm", "ssf_{}_1")]
    for block in range(spec.depth):
        places += [
            (f"blocks.{block}.{site}", f"blocks.{block}.{pattern}")
            for site, pattern in _OF_BLOCK.items()
        ]
    return places
