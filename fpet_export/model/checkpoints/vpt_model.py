"""A whole model of KMnP/vpt: `model.state_dict()` with prompts, backbone and head.

The names are those of its own ViT: `enc.transformer.`, with q, k and v apart.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import torch

from engines.errors import CheckpointError
from fpet_export.model.checkpoints import Hints, _prompts
from fpet_export.model.checkpoints._contents import is_marked
from fpet_export.model.checkpoints._read_tuned import read_tuned
from fpet_export.model.checkpoints._thirds import joined
from fpet_export.model.checkpoints._tuned_file import Shapes, Tensors, TunedFile
from fpet_export.model.edits import Edit
from fpet_export.model.vit_spec import VitSpec

MARK = re.compile(r"(^|\.)enc\.transformer\.(deep_)?prompt_(embeddings|proj\.\w+)$")

_ROOT = "enc.transformer."
_SHALLOW, _DEEP = f"{_ROOT}prompt_embeddings", f"{_ROOT}deep_prompt_embeddings"
_PROJECTION = (f"{_ROOT}prompt_proj.weight", f"{_ROOT}prompt_proj.bias")

_NAMES = {
    rf"^{_ROOT}embeddings\.patch_embeddings\.": "patch_embed.proj.",
    rf"^{_ROOT}embeddings\.position_embeddings$": "pos_embed",
    rf"^{_ROOT}embeddings\.cls_token$": "cls_token",
    rf"^{_ROOT}encoder\.layer\.(\d+)\.attention_norm\.": r"blocks.\1.norm1.",
    rf"^{_ROOT}encoder\.layer\.(\d+)\.ffn_norm\.": r"blocks.\1.norm2.",
    rf"^{_ROOT}encoder\.layer\.(\d+)\.attn\.out\.": r"blocks.\1.attn.proj.",
    rf"^{_ROOT}encoder\.layer\.(\d+)\.attn\.(query|key|value)\.": r"blocks.\1.attn.qkv.\2.",
    rf"^{_ROOT}encoder\.layer\.(\d+)\.ffn\.": r"blocks.\1.mlp.",
    rf"^{_ROOT}encoder\.encoder_norm\.": "norm.",
    r"^head\.last_layer\.": "head.",
}
"""Names of VPT's ViT, as patterns, and timm's."""


def recognises(text: str) -> bool:
    """Whether `text` is a file with such tensors."""
    return is_marked(Path(text), MARK)


def read(text: str, hints: Hints) -> VptModel:
    """Read the file; see `fpet_export.model.checkpoints.Format`."""
    run = read_tuned(VptModel, text, hints, _SHALLOW)
    tensors = {_by_timm(name): tensor for name, tensor in run.found.tensors.items()}
    found = dataclasses.replace(run.found, tensors=tensors)
    return dataclasses.replace(run, found=found)


class VptModel(TunedFile):
    """Constant tokens between the class token and the patches, in the first or in every block.

    Source: Jia et al. 2022, eq. 4 to 8; `vit_prompt/vit.py` of its repository.
    """

    method = "vpt"
    brings_backbone = True
    anchor = _SHALLOW

    def is_tuned(self, name: str) -> bool:
        """Whether a tensor is one of prompts, or of their projection."""
        return bool(MARK.search(name))

    def network(self, tensors: Tensors) -> dict[str, torch.Tensor]:
        """Return the network's own tensors as timm has them: q, k and v one under the other.

        Raises:
            CheckpointError: One of the three is missing, or the head has several layers.
        """
        more = sorted(name for name in tensors if name.startswith("head.projection."))
        if more:
            raise CheckpointError(
                f"the head has more than one layer ({more[0]}); only linear heads are read",
                where=str(self.path),
                fix="train with one linear layer: MODEL.MLP_NUM 0",
            )
        own = {_by_timm(n): t for n, t in tensors.items() if not self.is_tuned(n)}
        return joined(own, ("query", "key", "value"), where=str(self.path))

    def shapes(self, spec: VitSpec) -> Shapes:
        """Return names and shapes of the prompts and of their projection."""
        count = self.extent(_SHALLOW, 1, of=3)
        own = self.found.tensors
        found = _prompts.shapes(spec, _SHALLOW, _DEEP if _DEEP in own else None, count)
        if any(name in own for name in _PROJECTION):
            inner = self.extent(_PROJECTION[0], 1, of=2)
            found = {name: (*shape[:2], inner) for name, shape in found.items()}
            found |= dict(zip(_PROJECTION, [(spec.width, inner), (spec.width,)], strict=True))
        return found

    def edits(self, spec: VitSpec, tensors: Tensors) -> list[Edit]:
        """Return the prompts, after their projection."""

        def projected(prompts: torch.Tensor) -> torch.Tensor:
            if _PROJECTION[0] not in tensors:
                return prompts
            weight, bias = (tensors[name].double() for name in _PROJECTION)
            return (prompts.double() @ weight.T + bias).float()

        deep = tensors.get(_DEEP)
        return _prompts.edits(
            projected(tensors[_SHALLOW]), None if deep is None else projected(deep)
        )


def _by_timm(name: str) -> str:
    """Return timm's name of a tensor of the network, with q, k and v apart; others as they are."""
    for pattern, other in _NAMES.items():
        if re.search(pattern, name):
            return re.sub(pattern, other, name)
    return name
