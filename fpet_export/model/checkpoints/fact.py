"""FacT-TT and FacT-TK of JieShibo/PETL-ViT: `models/{tt|tk}/NAME.pt`, factors and the head.

All updates of a network share two factors; each layer has a small core between them. TT states the
cores, TK states three factors of them. Scale and rank are in the run's YAML.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from engines.errors import CheckpointError
from fpet_export.model.checkpoints import Hints
from fpet_export.model.checkpoints._contents import is_marked, tensor_names
from fpet_export.model.checkpoints._read_tuned import read_tuned
from fpet_export.model.checkpoints._tuned_file import Shapes, Tensors, TunedFile
from fpet_export.model.edits import Edit, LowRank
from fpet_export.model.facts import Fact
from fpet_export.model.vit_spec import VitSpec

MARK = re.compile(r"(^|\.)FacT[uvcp](\.weight)?$|_FacTs\.weight$")
_OF_TK = re.compile(r"(^|\.)FacT[cp]$")

_CORES = ("attn.q", "attn.k", "attn.v", "attn.proj", "mlp.fc1", "mlp.fc2")
_RATIO = 4
"""The MLP is cut into this many parts of the width of a token; the authors' code has no other."""

_OF_BLOCK = 4 + 2 * _RATIO
"""Columns of `FacTp` of one block: q, k, v, proj, then one for each part of fc1 and of fc2."""

_Cores = dict[str, torch.Tensor]
"""Float64 cores of one block by layer: (r, r), of fc1 (4 r, r), of fc2 (r, 4 r)."""


def recognises(text: str) -> bool:
    """Whether `text` is a file with such factors."""
    return is_marked(Path(text), MARK)


def read(text: str, hints: Hints) -> FactTt | FactTk:
    """Read the file; see `fpet_export.model.checkpoints.Format`."""
    anchors = ("head.weight", "FacTu.weight")
    if any(_OF_TK.search(name) for name in tensor_names(Path(text))):
        return read_tuned(FactTk, text, hints, *anchors)
    return read_tuned(FactTt, text, hints, *anchors)


class _Fact(TunedFile):
    """`scale * V core U x` added to what a linear gives.

    Source: Jie and Deng 2023, eq. 6 to 10.
    """

    says = frozenset({"scale", "rank", "config"})

    def is_tuned(self, name: str) -> bool:
        """Whether a tensor is one of the factors."""
        return bool(MARK.search(name))

    def settings(self, spec: VitSpec) -> dict[str, Fact[Any]]:
        """Return scale and rank."""
        scale = self.asked("scale", unsaid="give the run's YAML (--config FILE), or --scale S")
        return {"scale": scale, "rank": self.rank()}

    def shapes(self, spec: VitSpec) -> Shapes:
        """Return names and shapes of the shared factors."""
        if spec.hidden != _RATIO * spec.width:
            raise CheckpointError(
                f"the MLP of this backbone is {spec.hidden} wide; FacT's code cuts one of "
                f"{_RATIO * spec.width} into {_RATIO} parts",
                where=str(self.path),
                fix="give the backbone the run was trained on: --backbone FILE",
            )
        rank = self.rank().value
        return {"FacTu.weight": (rank, spec.width), "FacTv.weight": (spec.width, rank)}

    def rank(self) -> Fact[int]:
        """Return the rank, which the first factor shows."""
        return self.shown("rank", self.extent("FacTu.weight", 0, of=2))

    def cores(self, tensors: Tensors, block: int) -> _Cores:
        """Return the float64 cores of one block."""
        raise NotImplementedError

    def edits(self, spec: VitSpec, tensors: Tensors) -> list[Edit]:
        """Return the update of every linear of every block."""
        scale = self.settings(spec)["scale"].value
        u, v = tensors["FacTu.weight"].double(), tensors["FacTv.weight"].double()
        found: list[Edit] = []
        for block in range(spec.depth):
            for layer, core in self.cores(tensors, block).items():
                down, up = u, v
                if layer == "mlp.fc2":  # part by part of what it reads
                    down = torch.cat([part @ u for part in core.chunk(_RATIO, dim=1)], dim=1)
                elif layer == "mlp.fc1":  # part by part of what it gives
                    up = torch.cat([v @ part for part in core.chunk(_RATIO)])
                else:
                    up = v @ core
                site = f"blocks.{block}.{layer}"
                found.append(LowRank(site, down=down.float(), up=up.float(), scale=scale))
        return found


class FactTt(_Fact):
    """FacT in the tensor-train form."""

    method = "fact-tt"

    def shapes(self, spec: VitSpec) -> Shapes:
        """Return names and shapes of factors and cores."""
        rank = self.rank().value
        wide = {"mlp.fc1": (_RATIO * rank, rank), "mlp.fc2": (rank, _RATIO * rank)}
        return super().shapes(spec) | {
            f"blocks.{block}.{layer}_FacTs.weight": wide.get(layer, (rank, rank))
            for block in range(spec.depth)
            for layer in _CORES
        }

    def cores(self, tensors: Tensors, block: int) -> _Cores:
        """Return the cores, which the file states."""
        return {layer: tensors[f"blocks.{block}.{layer}_FacTs.weight"].double() for layer in _CORES}


class FactTk(_Fact):
    """FacT in the Tucker form."""

    method = "fact-tk"

    def shapes(self, spec: VitSpec) -> Shapes:
        """Return names and shapes of the four factors."""
        rank = self.rank().value
        cores = {"FacTc": (rank, rank, rank), "FacTp": (rank, _OF_BLOCK * spec.depth)}
        return super().shapes(spec) | cores

    def cores(self, tensors: Tensors, block: int) -> _Cores:
        """Return the cores, as the columns of this block mix them."""
        columns = tensors["FacTp"].double()[:, _OF_BLOCK * block : _OF_BLOCK * (block + 1)]
        mixed = tensors["FacTc"].double() @ columns  # (r, r, 12)
        rank, first = len(mixed), len(_CORES) - 2
        found = {layer: mixed[:, :, index].T for index, layer in enumerate(_CORES[:first])}
        fc1, fc2 = (p.reshape(rank, _RATIO * rank) for p in mixed[:, :, first:].chunk(2, dim=2))
        return found | {"mlp.fc1": fc1.T, "mlp.fc2": fc2}
