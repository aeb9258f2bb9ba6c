"""AdaptFormer's own code (ShoufaChen/AdaptFormer): a whole ViT with adapters beside its MLPs.

`checkpoint-N.pth` with `model`. Attention has q, k and v apart, the MLP has no module of its own.
The scale of the adapters is a tensor where it was learned, else it is on the command line of the
training alone. The head is a BatchNorm and a linear, or a linear.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import torch

from engines.errors import CheckpointError, UsageError
from fpet_export.model.bottleneck import Bottleneck
from fpet_export.model.checkpoints import Hints
from fpet_export.model.checkpoints._batch_norm_head import folded_head
from fpet_export.model.checkpoints._contents import TIMM_ANCHOR, is_marked
from fpet_export.model.checkpoints._read_tuned import read_tuned
from fpet_export.model.checkpoints._thirds import joined
from fpet_export.model.checkpoints._tuned_file import Shapes, Tensors, TunedFile
from fpet_export.model.edits import Branch, Edit
from fpet_export.model.facts import Fact
from fpet_export.model.vit_spec import VitSpec

MARK = re.compile(r"\.adaptmlp\.(down_proj|up_proj)\.(weight|bias)$")

_TUNED = re.compile(r"^blocks\.\d+\.adaptmlp\.")
_THIRD = re.compile(r"^(blocks\.\d+\.attn\.)([qkv]_proj\.(?:weight|bias))$")
_MLP = re.compile(r"^(blocks\.\d+\.)(fc[12]\.(?:weight|bias))$")


_OF_DYT = re.compile(r"\.mlp_token_select\.")
"""Gates beside the same adapters are another method."""


def recognises(text: str) -> bool:
    """Whether `text` is a file with such adapters."""
    return is_marked(Path(text), MARK) and not is_marked(Path(text), _OF_DYT)


def read(text: str, hints: Hints) -> AdaptFormerModel:
    """Read the file; see `fpet_export.model.checkpoints.Format`."""
    run = read_tuned(AdaptFormerModel, text, hints, TIMM_ANCHOR)
    tensors, facts = folded_head(run.found.tensors, path=run.path)
    found = dataclasses.replace(run.found, tensors=tensors, facts=run.found.facts | facts)
    return dataclasses.replace(run, found=found)


class AdaptFormerModel(TunedFile):
    """`x + MLP(LN2 x) + scale * (up(relu(down x + b_d)) + b_u)`.

    Source: Chen et al. 2022, eq. 2 and 3; `custom_modules.py` and `adapter.py` of its repository.
    """

    method = "adaptformer"
    says = frozenset({"scale", "rank"})
    brings_backbone = True

    def is_tuned(self, name: str) -> bool:
        """Whether a tensor is one of an adapter."""
        return bool(_TUNED.match(name))

    def network(self, tensors: Tensors) -> dict[str, torch.Tensor]:
        """Return the network's own tensors as timm has them: q, k and v one under the other.

        Raises:
            CheckpointError: One of the three is missing, or they do not fit each other.
        """
        plain, _ = folded_head(tensors, path=self.path)
        own = {name: tensor for name, tensor in plain.items() if not self.is_tuned(name)}
        return by_timm(own, where=str(self.path))

    def settings(self, spec: VitSpec) -> dict[str, Fact[Any]]:
        """Return width and scale; a scale that was learned is in the file, block by block.

        Raises:
            UsageError: The user states a scale that was learned.
        """
        found: dict[str, Fact[Any]] = {"rank": self.shown("rank", self._width())}
        if not self._learns_scale():
            unsaid = "add --scale S, which is 0.1 in the released setting"
            return found | {"scale": self.asked("scale", unsaid=unsaid)}
        if self.hints.scale is not None:
            raise UsageError(
                "the scale of each adapter is in the file, as it was learned",
                where="--scale",
                fix="leave --scale out",
            )
        return found

    def shapes(self, spec: VitSpec) -> Shapes:
        """Return names and shapes of every adapter."""
        rank = self._width()
        shapes: Shapes = {}
        for block in range(spec.depth):
            path = f"blocks.{block}.adaptmlp"
            shapes |= {
                f"{path}.down_proj.weight": (rank, spec.width),
                f"{path}.down_proj.bias": (rank,),
                f"{path}.up_proj.weight": (spec.width, rank),
                f"{path}.up_proj.bias": (spec.width,),
            }
            if self._learns_scale():
                shapes[f"{path}.scale"] = (1,)
        if any(".adapter_layer_norm_before." in name for name in self.found.tensors):
            raise CheckpointError(
                "the adapters have a LayerNorm, which stands before or behind them; the file does "
                "not say where",
                where=str(self.path),
                fix="only adapters without one, as in the released setting, are read",
            )
        return shapes

    def edits(self, spec: VitSpec, tensors: Tensors) -> list[Edit]:
        """Return one branch for each block."""
        said = self.settings(spec).get("scale")
        found: list[Edit] = []
        for block in range(spec.depth):
            path = f"blocks.{block}.adaptmlp"
            scale = float(tensors[f"{path}.scale"]) if said is None else said.value
            module = Bottleneck(
                tensors[f"{path}.down_proj.weight"],
                tensors[f"{path}.up_proj.weight"],
                scale=scale,
                down_bias=tensors[f"{path}.down_proj.bias"],
                up_bias=tensors[f"{path}.up_proj.bias"],
            )
            found.append(Branch(block=block, name="adaptmlp", module=module))
        return found

    def _width(self) -> int:
        return self.extent("blocks.0.adaptmlp.down_proj.weight", 0, of=2)

    def _learns_scale(self) -> bool:
        return any(name.endswith(".adaptmlp.scale") for name in self.found.tensors)


def by_timm(tensors: Tensors, *, where: str) -> dict[str, torch.Tensor]:
    """Return a network in the layout of AdaptFormer's code by timm's names.

    Raises:
        CheckpointError: One of q, k and v is missing, or they do not fit each other.
    """
    own = {
        _MLP.sub(r"\1mlp.\2", _THIRD.sub(r"\1qkv.\2", name)): tensor
        for name, tensor in tensors.items()
    }
    return joined(own, ("q_proj", "k_proj", "v_proj"), where=where)
