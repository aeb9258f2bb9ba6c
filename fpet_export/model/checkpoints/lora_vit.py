"""LoRA-ViT (JamesQFreeman/LoRA-ViT): `w_a_000`, `w_b_000` and a head without its bias.

Factors are numbered over the network: of block i those of q are 2 i, those of v are 2 i + 1.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import torch

from engines.errors import CheckpointError
from fpet_export.model.checkpoints import Hints
from fpet_export.model.checkpoints._contents import is_marked
from fpet_export.model.checkpoints._read_tuned import read_tuned
from fpet_export.model.checkpoints._tuned_file import Shapes, Tensors, TunedFile
from fpet_export.model.edits import Edit, LowRank
from fpet_export.model.facts import Fact
from fpet_export.model.vit_spec import VitSpec

MARK = re.compile(r"(^|\.)w_[ab]_\d{3}$")

_HEAD = re.compile(r"fc_(\d+)in_(\d+)out")

_ALPHA = (
    "add --alpha N, as the training called LoRA_ViT; versions of its code without an alpha "
    "multiply by 1, which an alpha as large as the rank does, too"
)


def recognises(text: str) -> bool:
    """Whether `text` is a file with such factors."""
    return is_marked(Path(text), MARK)


def read(text: str, hints: Hints) -> LoraVit:
    """Read the file; see `fpet_export.model.checkpoints.Format`."""
    run = read_tuned(LoraVit, text, hints, "w_a_000")
    tensors = dict(run.found.tensors)
    heads = [name for name in tensors if _HEAD.fullmatch(name)]
    if len(heads) != 1:
        raise CheckpointError(
            f"wanted one head called fc_INin_OUTout, found {', '.join(heads) or 'none'}",
            where=text,
            fix="put the factors and the one head of the training (save_fc_parameters) into one "
            "file: safetensors.torch.save_file({**load_file(LORA), **load_file(FC)}, PATH)",
        )
    width, classes = map(int, _HEAD.fullmatch(heads[0]).groups())  # type: ignore[union-attr]
    weight = tensors.pop(heads[0])
    if weight.shape != (classes, width):
        raise CheckpointError(
            f"{heads[0]} has shape {tuple(weight.shape)}, wanted {(classes, width)}",
            where=text,
            fix="give the file that the run's training wrote",
        )
    tensors |= {"head.weight": weight, "head.bias": torch.zeros(classes)}
    return dataclasses.replace(run, found=dataclasses.replace(run.found, tensors=tensors))


class LoraVit(TunedFile):
    """`(alpha // r) * B A x` added to q and v.

    Source: `lora.py` of its repository.
    """

    method = "lora-vit"
    says = frozenset({"alpha", "rank"})
    warnings = (
        "the file holds no bias of the head, and zero is taken: if the training had one, the "
        "logits are shifted by it",
    )

    def is_tuned(self, name: str) -> bool:
        """Whether a tensor is a factor."""
        return bool(MARK.search(name))

    def settings(self, spec: VitSpec) -> dict[str, Fact[Any]]:
        """Return alpha, rank, and the factor that its code makes of them.

        Raises:
            CheckpointError: Alpha is no whole number, or below the rank.
        """
        alpha = self.asked("alpha", unsaid=_ALPHA)
        rank = self.shown("rank", self.extent("w_a_000", 0, of=2))
        if alpha.value != int(alpha.value):
            raise CheckpointError(
                f"alpha is {alpha.value}, and this code divides whole numbers",
                where=alpha.source,
                fix="give the alpha of the training",
            )
        scale = int(alpha.value) // rank.value
        if scale == 0:
            raise CheckpointError(
                f"alpha {alpha.value:g} // rank {rank.value} is 0, with which nothing is learnt",
                where=alpha.source,
                fix="give the alpha of the training",
            )
        return {
            "alpha": alpha,
            "rank": rank,
            "scale": Fact(scale, f"alpha // rank, rounded down, as its code does: {alpha.source}"),
            "head bias": Fact("zero", "the file holds none"),
        }

    def shapes(self, spec: VitSpec) -> Shapes:
        """Return names and shapes of the factors of q and v of every block."""
        rank = self.extent("w_a_000", 0, of=2)
        shapes: Shapes = {}
        for index in range(2 * spec.depth):
            shapes[f"w_a_{index:03d}"] = (rank, spec.width)
            shapes[f"w_b_{index:03d}"] = (spec.width, rank)
        return shapes

    def edits(self, spec: VitSpec, tensors: Tensors) -> list[Edit]:
        """Return the updates of q and v of every block."""
        scale = float(self.settings(spec)["scale"].value)
        return [
            LowRank(
                f"blocks.{block}.attn.{third}",
                down=tensors[f"w_a_{2 * block + index:03d}"],
                up=tensors[f"w_b_{2 * block + index:03d}"],
                scale=scale,
            )
            for block in range(spec.depth)
            for index, third in enumerate("qv")
        ]
