"""DyT (NUS-HPC-AI-Lab/Dynamic-Tuning): adapters, and gates that skip the MLP of a token.

The released variant, with a gate at the MLP of every block. The file holds what was tuned, or a
whole network in the layout of AdaptFormer's code, from which DyT's is made. A skipped token keeps
what the attention and the adapter give it. In a static graph the MLP is computed for every token
and multiplied by zero or one: the same answers, and no time saved.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from fpet_export.model.bottleneck import Bottleneck
from fpet_export.model.checkpoints import Hints, _contents
from fpet_export.model.checkpoints._read_tuned import read_tuned
from fpet_export.model.checkpoints._tuned_file import Shapes, Tensors, TunedFile
from fpet_export.model.checkpoints.adaptformer_model import by_timm
from fpet_export.model.edits import Branch, Edit
from fpet_export.model.facts import Fact
from fpet_export.model.gates import Decision
from fpet_export.model.kept import BranchModule
from fpet_export.model.vit_spec import VitSpec

MARK = re.compile(r"\.mlp_token_select\.mlp_head\.(weight|bias)$")

_TUNED = re.compile(r"^blocks\.\d+\.(mlp_token_select|adaptmlp)\.")
_GATE, _ADAPTER = "mlp_token_select", "adaptmlp"


def recognises(text: str) -> bool:
    """Whether `text` is a file with such gates."""
    return _contents.is_marked(Path(text), MARK)


def read(text: str, hints: Hints) -> Dyt:
    """Read the file; see `fpet_export.model.checkpoints.Format`."""
    if _contents.holds(Path(text), _contents.TIMM_ANCHOR):
        return read_tuned(DytModel, text, hints, _contents.TIMM_ANCHOR)
    return read_tuned(Dyt, text, hints, "head.weight")


class Dyt(TunedFile):
    """`x + g MLP(LN2 x) + scale * (up(relu(down x + b_d)) + b_u)`, `g = (w x + c > 0)`.

    Source: Zhao et al. 2024, section 3; `models/dynamic_adapter.py` of its repository.
    """

    method = "dyt"
    says = frozenset({"scale", "rank"})

    def is_tuned(self, name: str) -> bool:
        """Whether a tensor is one of a gate or an adapter."""
        return bool(_TUNED.match(name))

    def settings(self, spec: VitSpec) -> dict[str, Fact[Any]]:
        """Return width and scale of the adapters."""
        unsaid = "add --scale S, which is on the command line of the training alone"
        return {
            "rank": self.shown("rank", self._width()),
            "scale": self.asked("scale", unsaid=unsaid),
        }

    def shapes(self, spec: VitSpec) -> Shapes:
        """Return names and shapes of every gate and every adapter.

        Raises:
            CheckpointError: The network has other tokens in front of the patches than DyT's.
        """
        self.require_class_token(spec, "whose gate is always open")
        rank = self._width()
        shapes: Shapes = {}
        for block in range(spec.depth):
            adapter = f"blocks.{block}.{_ADAPTER}"
            shapes |= {
                f"blocks.{block}.{_GATE}.mlp_head.weight": (1, spec.width),
                f"blocks.{block}.{_GATE}.mlp_head.bias": (1,),
                f"{adapter}.down_proj.weight": (rank, spec.width),
                f"{adapter}.down_proj.bias": (rank,),
                f"{adapter}.up_proj.weight": (spec.width, rank),
                f"{adapter}.up_proj.bias": (spec.width,),
            }
        return shapes

    def edits(self, spec: VitSpec, tensors: Tensors) -> list[Edit]:
        """Return a gate and an adapter for each block."""
        scale = self.settings(spec)["scale"].value
        found: list[Edit] = []
        for block in range(spec.depth):
            gate, adapter = (f"blocks.{block}.{name}" for name in (_GATE, _ADAPTER))
            opens = MlpGate(tensors[f"{gate}.mlp_head.weight"], tensors[f"{gate}.mlp_head.bias"])
            bottleneck = Bottleneck(
                tensors[f"{adapter}.down_proj.weight"],
                tensors[f"{adapter}.up_proj.weight"],
                scale=scale,
                down_bias=tensors[f"{adapter}.down_proj.bias"],
                up_bias=tensors[f"{adapter}.up_proj.bias"],
            )
            found.append(Branch(block=block, name=_GATE, module=opens))
            found.append(Branch(block=block, name=_ADAPTER, module=bottleneck))
        return found

    def _width(self) -> int:
        return self.extent(f"blocks.0.{_ADAPTER}.down_proj.weight", 0, of=2)


class DytModel(Dyt):
    """The same in a file that holds the whole network."""

    brings_backbone = True

    def network(self, tensors: Tensors) -> dict[str, torch.Tensor]:
        """Return the network's own tensors by timm's names."""
        own = {name: tensor for name, tensor in tensors.items() if not self.is_tuned(name)}
        return by_timm(own, where=str(self.path))


class MlpGate(BranchModule):
    """Whether the MLP acts on a token; on the class token it always does."""

    title = "gate of the MLP"
    reads = "residual"
    gates = True

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        super().__init__()
        self.decides = Positive(weight, bias)

    def shapes(self, width: int) -> Mapping[str, tuple[int, ...]]:
        """Return the shapes of its tensors."""
        return {"decides.weight": (1, width), "decides.bias": (1,)}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map tokens (B, N, C), the class token first, to zeros and ones (B, N, 1)."""
        decided: torch.Tensor = self.decides(x)
        return torch.cat([torch.ones_like(decided[:, :1]), decided[:, 1:]], dim=1)

    def macs(self) -> int:
        """Return the multiply-adds of one token."""
        return self.decides.weight.numel()

    def frozen(self, queries: int | None) -> nn.Module:
        """Return the gate itself; the class token alone needs none."""
        return AlwaysOpen() if queries == 1 else self


class AlwaysOpen(nn.Module):
    """A gate that lets everything pass."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ones (B, N, 1)."""
        return torch.ones_like(x[..., :1])


class Positive(Decision):
    """Whether a linear score is above zero, which is when its sigmoid is above a half."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = nn.Parameter(bias, requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (…, C) to zeros and ones (…, 1)."""
        score = F.linear(x.to(self.weight.dtype), self.weight, self.bias)
        return (score > 0).to(x.dtype)
