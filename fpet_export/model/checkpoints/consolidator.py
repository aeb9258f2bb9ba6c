"""Consolidator (THU-MIG/Consolidator): a whole ViT with grouped maps beside its linears.

The file is the `checkpoint.pth` of its training script, a dictionary with `model`; qkv, proj, fc1
and fc2 are in it as `fc_origin` with branches beside them. Whether the channels were shuffled
before the groups leaves no tensor behind.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from engines.errors import CheckpointError
from fpet_export.model.checkpoints import Hints
from fpet_export.model.checkpoints._contents import TIMM_ANCHOR, is_marked
from fpet_export.model.checkpoints._read_tuned import read_tuned
from fpet_export.model.checkpoints._tuned_file import Shapes, Tensors, TunedFile, block_diagonal
from fpet_export.model.edits import Added, Edit
from fpet_export.model.facts import Fact
from fpet_export.model.vit_spec import VitSpec

MARK = re.compile(r"\.fc_origin\.(weight|bias)$|\.fc_rep_branches\.\d+\.")

_BRANCH = re.compile(r"\.fc_rep_branches\.\d+\.")
_ORIGIN = re.compile(r"\.fc_origin\.(weight|bias)$")
_LAYERS = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")


def recognises(text: str) -> bool:
    """Whether `text` is a file with such layers."""
    return is_marked(Path(text), MARK)


def read(text: str, hints: Hints) -> Consolidator:
    """Read the file; see `fpet_export.model.checkpoints.Format`."""
    return read_tuned(Consolidator, text, hints, TIMM_ANCHOR)


class Consolidator(TunedFile):
    """`y + sum of W_j shuffle(x) + b_j`, each W_j in groups.

    Source: Hao et al. 2023, eq. 3 to 6.
    """

    method = "consolidator"
    says = frozenset({"channel_shuffle"})
    brings_backbone = True

    def is_tuned(self, name: str) -> bool:
        """Whether a tensor is one of a branch."""
        return bool(_BRANCH.search(name))

    def network(self, tensors: Tensors) -> dict[str, torch.Tensor]:
        """Return the network's own tensors; those of a layer with branches are a 1x1 convolution.

        Raises:
            CheckpointError: One of them is no such convolution.
        """
        found = {}
        for name, tensor in tensors.items():
            own = _ORIGIN.sub(r".\1", name)
            if own != name and own in tensors:
                raise CheckpointError(
                    f"both {own} and {name} are in the file",
                    where=str(self.path),
                    fix="give the file that the run's training wrote",
                )
            if own != name and name.endswith("weight"):
                if tensor.ndim != 3 or tensor.shape[2] != 1:
                    raise CheckpointError(
                        f"{name} has shape {tuple(tensor.shape)}, wanted (out, in, 1)",
                        where=str(self.path),
                        fix="give the file that the run's training wrote",
                    )
                tensor = tensor[:, :, 0]
            if not self.is_tuned(name):
                found[own] = tensor
        return found

    def settings(self, spec: VitSpec) -> dict[str, Fact[Any]]:
        """Return whether channels are shuffled, which the user says.

        Raises:
            CheckpointError: Nobody says it.
        """
        if self.hints.channel_shuffle is None:
            raise CheckpointError(
                "nothing says whether the channels were shuffled before the groups; both leave "
                "the same tensors",
                where=str(self.path),
                fix="add --channel-shuffle off, as the released training script has it, or "
                "--channel-shuffle on",
            )
        return {"channel shuffle": Fact(self.hints.channel_shuffle, "--channel-shuffle")}

    def shapes(self, spec: VitSpec) -> Shapes:
        """Return names and shapes of every branch; the groups of each are its own."""
        shapes: Shapes = {}
        for layer, (out, width) in self._layers(spec).items():
            self._check_layer(layer)
            for branch in self._branches(layer):
                weight = f"{branch}.group_fc.weight"
                each = self.extent(weight, 1, of=3)
                if width % each or out % (width // each):
                    raise CheckpointError(
                        f"{weight} reads {each} of {width} channels in a group and gives {out}, "
                        "which is not the same number of groups",
                        where=str(self.path),
                        fix="give the file that the run's training wrote",
                    )
                shapes |= {weight: (out, each, 1), f"{branch}.group_fc.bias": (out,)}
        return shapes

    def edits(self, spec: VitSpec, tensors: Tensors) -> list[Edit]:
        """Return what the branches of each layer add."""
        shuffled = self.settings(spec)["channel shuffle"].value == "on"
        found: list[Edit] = []
        for layer, (_, width) in self._layers(spec).items():
            for branch in self._branches(layer):
                grouped = tensors[f"{branch}.group_fc.weight"][:, :, 0]
                groups = width // grouped.shape[1]
                weight = block_diagonal(grouped.chunk(groups))
                if shuffled:  # channel a * groups + b of the shuffled was b * (width / groups) + a
                    order = torch.arange(width).reshape(groups, -1).T.flatten()
                    weight = torch.zeros_like(weight).index_copy(1, order, weight)
                found.append(Added(layer, weight=weight, bias=tensors[f"{branch}.group_fc.bias"]))
        return found

    def _layers(self, spec: VitSpec) -> dict[str, tuple[int, int]]:
        """Return the layers that have branches, with their (out, in)."""
        width, hidden = spec.width, spec.hidden
        sizes = ((3 * width, width), (width, width), (hidden, width), (width, hidden))
        return {
            f"blocks.{block}.{layer}": size
            for block in range(spec.depth)
            for layer, size in zip(_LAYERS, sizes, strict=True)
        }

    def _check_layer(self, layer: str) -> None:
        """Refuse a layer that has branches and no origin, or the other way round."""
        has_origin = f"{layer}.fc_origin.weight" in self.found.tensors
        if has_origin != bool(self._branches(layer)):
            found = "fc_origin without fc_rep_branches" if has_origin else "no fc_origin"
            raise CheckpointError(
                f"{layer} has {found}",
                where=str(self.path),
                fix="give the file that the run's training wrote",
            )

    def _branches(self, layer: str) -> list[str]:
        """Return the paths of the branches of a layer that the file has, from 0 on."""
        start = f"{layer}.fc_rep_branches."
        numbers = {
            name[len(start) :].partition(".")[0]
            for name in self.found.tensors
            if name.startswith(start)
        }
        return [f"{start}{index}" for index in range(len(numbers))]
