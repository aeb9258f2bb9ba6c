"""Convpass (JieShibo/PETL-ViT): `models/{convpass|convpass_attn}/NAME.pt`, branches and the head.

A branch stands beside the attention and, with `convpass`, beside the MLP, and convolves the patches
as an image. Its scale is in the run's YAML.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from fpet_export.model.checkpoints import Hints
from fpet_export.model.checkpoints._contents import is_marked
from fpet_export.model.checkpoints._read_tuned import read_tuned
from fpet_export.model.checkpoints._tuned_file import Shapes, Tensors, TunedFile
from fpet_export.model.edits import Branch, Edit
from fpet_export.model.facts import Fact
from fpet_export.model.kept import BranchModule, Reads
from fpet_export.model.vit import activate
from fpet_export.model.vit_spec import VitSpec

MARK = re.compile(r"\.adapter_(attn|mlp)\.adapter_conv\.(weight|bias)$")

_TUNED = re.compile(r"^blocks\.\d+\.adapter_(attn|mlp)\.adapter_(down|conv|up)\.(weight|bias)$")
_READS: dict[str, Reads] = {"adapter_attn": "norm1", "adapter_mlp": "norm2"}
"""Where a branch is, and what it reads."""


def recognises(text: str) -> bool:
    """Whether `text` is a file with such branches."""
    return is_marked(Path(text), MARK)


def read(text: str, hints: Hints) -> ConvpassRun:
    """Read the file; see `fpet_export.model.checkpoints.Format`."""
    return read_tuned(ConvpassRun, text, hints, "head.weight")


class ConvpassRun(TunedFile):
    """`scale * up(f(conv(f(down LN x))))` beside attention and MLP, f is QuickGELU.

    Source: Jie and Deng 2022, eq. 4 and 5; `convpass.py` of its repository.
    """

    method = "convpass"
    says = frozenset({"scale", "rank", "config"})

    def is_tuned(self, name: str) -> bool:
        """Whether a tensor is one of a branch."""
        return bool(_TUNED.match(name))

    def settings(self, spec: VitSpec) -> dict[str, Fact[Any]]:
        """Return scale and width of the branches."""
        scale = self.asked("scale", unsaid="give the run's YAML (--config FILE), or --scale S")
        return {"scale": scale, "rank": self.shown("rank", self._width())}

    def shapes(self, spec: VitSpec) -> Shapes:
        """Return names and shapes of every branch.

        Raises:
            CheckpointError: The network has other tokens in front of the patches than Convpass's.
        """
        self.require_class_token(spec, "which is convolved as an image of one patch")
        rank = self._width()
        return {
            f"blocks.{block}.{branch}.adapter_{name}": shape
            for block in range(spec.depth)
            for branch in self._branches()
            for name, shape in {
                "down.weight": (rank, spec.width),
                "down.bias": (rank,),
                "conv.weight": (rank, rank, 3, 3),
                "conv.bias": (rank,),
                "up.weight": (spec.width, rank),
                "up.bias": (spec.width,),
            }.items()
        }

    def edits(self, spec: VitSpec, tensors: Tensors) -> list[Edit]:
        """Return every branch."""
        scale = self.settings(spec)["scale"].value
        return [
            Branch(
                block=block,
                name=branch,
                module=Convpass(
                    {
                        name: tensors[f"blocks.{block}.{branch}.adapter_{layer}.{kind}"]
                        for name, (layer, kind) in _TENSORS.items()
                    },
                    scale=scale,
                    grid=spec.grid,
                    reads=_READS[branch],
                ),
            )
            for block in range(spec.depth)
            for branch in self._branches()
        ]

    def _branches(self) -> list[str]:
        """Return which branches the run has: `convpass_attn` has one in a block."""
        return [one for one in _READS if any(f".{one}." in name for name in self.found.tensors)]

    def _width(self) -> int:
        return self.extent(f"blocks.0.{self._branches()[0]}.adapter_down.weight", 0, of=2)


_TENSORS = {
    "down": ("down", "weight"),
    "down_bias": ("down", "bias"),
    "conv": ("conv", "weight"),
    "conv_bias": ("conv", "bias"),
    "up": ("up", "weight"),
    "up_bias": ("up", "bias"),
}
"""Tensors of a branch, and layer and kind by which the file calls them."""


class Convpass(BranchModule):
    """Two projections with a 3x3 convolution of the patches between them.

    The class token is an image of one patch, of which only the middle of the kernel sees anything.

    Args:
        tensors: By the names of `_TENSORS`.
        scale: Dimensionless factor of the output.
        grid: (rows, columns) of patches.
        reads: What it is called with.
    """

    title = "convolution"
    needs_grid = True

    down: torch.Tensor
    down_bias: torch.Tensor
    conv: torch.Tensor
    conv_bias: torch.Tensor
    up: torch.Tensor
    up_bias: torch.Tensor

    def __init__(
        self,
        tensors: Mapping[str, torch.Tensor],
        *,
        scale: float,
        grid: tuple[int, int],
        reads: Reads,
    ) -> None:
        super().__init__()
        for name in _TENSORS:
            self.register_parameter(name, nn.Parameter(tensors[name], requires_grad=False))
        self.scale, self.grid, self.reads = scale, grid, reads

    def shapes(self, width: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of its tensors."""
        rank = len(self.down)
        return {
            "down": (rank, width),
            "down_bias": (rank,),
            "conv": (rank, rank, 3, 3),
            "conv_bias": (rank,),
            "up": (width, rank),
            "up_bias": (width,),
        }

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, N, C), the class token first; without patches (B, 1, C)."""
        hidden = activate(F.linear(x, self.down, self.down_bias), "quick_gelu")
        seen = F.linear(hidden[:, :1], self.conv[:, :, 1, 1], self.conv_bias)
        if x.shape[1] > 1:
            image = hidden[:, 1:].transpose(1, 2).reshape(len(x), -1, *self.grid)
            image = F.conv2d(image, self.conv, self.conv_bias, padding=1)
            seen = torch.cat([seen, image.flatten(2).transpose(1, 2)], dim=1)
        change = F.linear(activate(seen, "quick_gelu"), self.up, self.up_bias)
        return change if self.scale == 1.0 else self.scale * change

    def folded(self) -> Convpass:
        """Return the same with its scale inside the last projection."""
        tensors = {name: getattr(self, name) for name in _TENSORS}
        for name in ("up", "up_bias"):
            tensors[name] = (tensors[name].double() * self.scale).to(tensors[name].dtype)
        return Convpass(tensors, scale=1.0, grid=self.grid, reads=self.reads)

    def macs(self) -> int:
        """Return the multiply-adds of one patch."""
        return self.down.numel() + self.conv.numel() + self.up.numel()

    def frozen(self, queries: int | None) -> nn.Module:
        """Return the branch itself, whose shapes are static."""
        return self
