"""RepAdapter of luogen1996/RepAdapter: `models/{repattn|repblock}/NAME.pt`, adapters and the head.

An adapter stands between a LayerNorm and the layer that reads it: before qkv, and with `repblock`
before fc1, too. The scale is in the run's YAML.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from engines.errors import CheckpointError
from fpet_export.model.checkpoints import Hints
from fpet_export.model.checkpoints._contents import is_marked
from fpet_export.model.checkpoints._read_tuned import read_tuned
from fpet_export.model.checkpoints._tuned_file import Shapes, Tensors, TunedFile, block_diagonal
from fpet_export.model.edits import Edit, InputLowRank
from fpet_export.model.facts import Fact
from fpet_export.model.vit_spec import VitSpec

MARK = re.compile(r"\.adapter_(attn|mlp)\.conv_[AB]\.(weight|bias)$")

_SITES = {"adapter_attn": "attn.qkv", "adapter_mlp": "mlp.fc1"}
"""Where an adapter is, and which layer reads what it gives."""


def recognises(text: str) -> bool:
    """Whether `text` is a file with such adapters."""
    return is_marked(Path(text), MARK)


def read(text: str, hints: Hints) -> RepAdapter:
    """Read the file; see `fpet_export.model.checkpoints.Format`."""
    return read_tuned(RepAdapter, text, hints, "head.weight", "blocks.0.adapter_attn.conv_A.weight")


class RepAdapter(TunedFile):
    """`z + scale * (B (A z + a) + b)`, B in groups, on what qkv and fc1 read.

    Source: Luo et al. 2023, eq. 6 to 8.
    """

    method = "repadapter"
    says = frozenset({"scale", "rank", "config"})

    def is_tuned(self, name: str) -> bool:
        """Whether a tensor is one of an adapter."""
        return bool(MARK.search(name))

    def settings(self, spec: VitSpec) -> dict[str, Fact[Any]]:
        """Return scale, width of the bottleneck, and groups."""
        scale = self.asked("scale", unsaid="give the run's YAML (--config FILE), or --scale S")
        rank, groups = self._sizes()
        source = f"the tensors in {self.path.name}"
        return {"scale": scale, "rank": self.shown("rank", rank), "groups": Fact(groups, source)}

    def shapes(self, spec: VitSpec) -> Shapes:
        """Return names and shapes of every adapter."""
        rank, groups = self._sizes()
        if spec.width % groups:
            raise CheckpointError(
                f"conv_B has {groups} groups, which do not divide the width {spec.width} of "
                "the backbone",
                where=str(self.path),
                fix="give the backbone the run was trained on: --backbone FILE",
            )
        return {
            f"blocks.{block}.{adapter}.{name}": shape
            for block in range(spec.depth)
            for adapter in self._adapters()
            for name, shape in {
                "conv_A.weight": (rank, spec.width, 1),
                "conv_A.bias": (rank,),
                "conv_B.weight": (spec.width, rank // groups, 1),
                "conv_B.bias": (spec.width,),
            }.items()
        }

    def edits(self, spec: VitSpec, tensors: Tensors) -> list[Edit]:
        """Return what every adapter does to the input of a layer."""
        scale, groups = self.settings(spec)["scale"].value, self._sizes()[1]
        found: list[Edit] = []
        for block in range(spec.depth):
            for adapter in self._adapters():
                name = f"blocks.{block}.{adapter}"
                grouped = tensors[f"{name}.conv_B.weight"][:, :, 0].chunk(groups)
                found.append(
                    InputLowRank(
                        f"blocks.{block}.{_SITES[adapter]}",
                        down=tensors[f"{name}.conv_A.weight"][:, :, 0],
                        down_bias=tensors[f"{name}.conv_A.bias"],
                        up=block_diagonal(grouped),
                        up_bias=tensors[f"{name}.conv_B.bias"],
                        scale=scale,
                    )
                )
        return found

    def _adapters(self) -> list[str]:
        """Return which adapters the run has: `repattn` has one in a block, `repblock` two."""
        return [one for one in _SITES if any(f".{one}." in name for name in self.found.tensors)]

    def _sizes(self) -> tuple[int, int]:
        """Return the width of the bottleneck, and in how many groups it is mapped back.

        Raises:
            CheckpointError: The first adapter does not show them.
        """
        name = f"blocks.0.{self._adapters()[0]}"
        rank = self.extent(f"{name}.conv_A.weight", 0, of=3)
        each = self.extent(f"{name}.conv_B.weight", 1, of=3)
        if rank % each:
            raise CheckpointError(
                f"{name}.conv_B.weight reads {each} channels in a group, which does not divide "
                f"the {rank} of {name}.conv_A.weight",
                where=str(self.path),
                fix="give the file that the run's training wrote",
            )
        return rank, rank // each
