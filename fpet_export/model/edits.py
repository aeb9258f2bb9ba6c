"""What a fine-tune did to a ViT, whatever method and file format wrote it.

A method is a page that turns names and tensors into edits. How they act while they are attached,
how they fold, and what is left afterwards is stated here, once for all methods:

* An edit of a **site** changes one layer: a linear, the patch embedding or a LayerNorm. It says
  what it does to the output of the layer, as in training (`forward`), and, independently of that,
  what it does to the weights (`folded`). Attached and folded model can be compared.
* A **branch** is a small network beside or behind the MLP of one block. It is not linear and stays.
* **Tokens** are prompts, which stand beside the tokens of an image in one block or in all.

Sites are called as timm calls the layers: "patch_embed", "norm_pre", "blocks.3.norm1",
"blocks.3.attn.q", "…k", "…v", "…qkv", "…proj", "blocks.3.norm2", "blocks.3.mlp.fc1", "…fc2",
"norm", "head", "head_dist". The third of qkv that belongs to q is a site of its own.
"""

from __future__ import annotations

import abc
import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeAlias

import torch
from torch import nn
from torch.nn import functional as F

from engines.plurals import counted
from fpet_export.model.gates import LargeEnough, NormRule
from fpet_export.model.kept import BranchModule, Extra

Weights: TypeAlias = tuple[torch.Tensor, torch.Tensor]
"""(out, in) weight and (out,) bias of a site; of a LayerNorm (out, 1), which is a diagonal."""


class SiteEdit(nn.Module, abc.ABC):
    """A change of one layer.

    Attributes:
        title: What it is, for people to read.
        site: Which layer, see the top of this file.
    """

    title: ClassVar[str]

    def __init__(self, site: str, **tensors: torch.Tensor | None) -> None:
        super().__init__()
        self.site = self.path = site
        for name, tensor in tensors.items():
            kept = None if tensor is None else nn.Parameter(tensor, requires_grad=False)
            self.register_parameter(name, kept)

    @property
    def folds(self) -> bool:
        """Whether its weights can move into those of the layer."""
        return True

    @property
    def block(self) -> int | None:
        """The 0-based block of its layer, or None outside."""
        found = re.match(r"blocks\.(\d+)\.", self.site)
        return None if found is None else int(found[1])

    def extra(self) -> Extra:
        """Return what it costs: nothing, once it is folded."""
        return Extra()

    @abc.abstractmethod
    def shapes(self, size: tuple[int, int]) -> dict[str, tuple[int, ...]]:
        """Return the shape that each tensor must have at a layer of size (out, in)."""

    @abc.abstractmethod
    def forward(
        self, x: torch.Tensor, y: torch.Tensor, before: Callable[[], Weights]
    ) -> torch.Tensor:
        """Return the edited output of the layer.

        Args:
            x: (…, in) what the layer reads; of a LayerNorm the normalised tokens.
            y: (…, out) what it gives with the edits before this one.
            before: Returns its weights with the edits before this one folded.
        """

    @abc.abstractmethod
    def folded(self, weight: torch.Tensor, bias: torch.Tensor) -> Weights:
        """Return float64 weights (out, in) and bias (out,) with this edit inside."""


class LowRank(SiteEdit):
    """`y + scale * (up(down(x)) + bias)`: LoRA, rsLoRA, FacT.

    Args:
        site: A linear or the patch embedding.
        down: (R, in) projection to the bottleneck.
        up: (out, R) projection back.
        scale: Dimensionless.
        bias: (out,) of the projection back, or None.

    Source: Hu et al. 2021, eq. 3.
    """

    title = "low-rank update"

    down: torch.Tensor
    up: torch.Tensor
    bias: torch.Tensor | None

    def __init__(
        self,
        site: str,
        *,
        down: torch.Tensor,
        up: torch.Tensor,
        scale: float = 1.0,
        bias: torch.Tensor | None = None,
    ) -> None:
        super().__init__(site, down=down, up=up, bias=bias)
        self.scale = scale

    def shapes(self, size: tuple[int, int]) -> dict[str, tuple[int, ...]]:
        """Return the shapes of its tensors."""
        rank = len(self.down)
        return {"down": (rank, size[1]), "up": (size[0], rank), "bias": (size[0],)}

    def forward(
        self, x: torch.Tensor, y: torch.Tensor, before: Callable[[], Weights]
    ) -> torch.Tensor:
        """Add the two products."""
        return y + self.update(x)

    def update(self, x: torch.Tensor) -> torch.Tensor:
        """Return what is added, (…, out)."""
        change: torch.Tensor = self.scale * F.linear(x @ self.down.T, self.up, self.bias)
        return change

    def folded(self, weight: torch.Tensor, bias: torch.Tensor) -> Weights:
        """Add the product of the two matrices."""
        weight = weight + self.scale * (self.up.double() @ self.down.double())
        return weight, bias if self.bias is None else bias + self.scale * self.bias.double()


class GatedLowRank(LowRank):
    """`y + gate * scale * (up(down(x)) + bias)`, with a gate for every token: TS-PEFT.

    Whether the update of a token acts depends on the token, so that it cannot fold, unless the
    threshold lets every update act, or none.

    Args:
        rule: When an update acts.
        **update: See `LowRank`.

    Source: TS-PEFT, arXiv 2511.16147.
    """

    title = "gated low-rank update"

    def __init__(self, site: str, *, rule: NormRule, **update: Any) -> None:
        super().__init__(site, **update)
        self.rule = rule
        self.decides = LargeEnough(rule)

    @property
    def folds(self) -> bool:
        """Whether the gate is the same for every token."""
        return self.rule.is_open or self.rule.is_shut

    def forward(
        self, x: torch.Tensor, y: torch.Tensor, before: Callable[[], Weights]
    ) -> torch.Tensor:
        """Add the update of the tokens on which it acts."""
        if self.rule.is_shut:
            return y
        update = self.update(x)
        output = y if self.rule.bias == "with" else y - before()[1]
        changed: torch.Tensor = y + self.decides(update, output) * update
        return changed

    def folded(self, weight: torch.Tensor, bias: torch.Tensor) -> Weights:
        """Fold an update that always acts; leave out one that never does."""
        return (weight, bias) if self.rule.is_shut else LowRank.folded(self, weight, bias)

    def extra(self) -> Extra:
        """Return what it costs: the update, for every token that the layer computes."""
        if self.folds:
            return Extra()
        macs, layer = self.down.numel() + self.up.numel(), self.site.rpartition(".")[2]
        if layer in ("k", "v", "qkv"):
            return Extra(keys=macs)
        return Extra(queries=macs) if layer in ("q", "proj") else Extra(outputs=macs)


class Magnitude(SiteEdit):
    """Give every row of the weight a length: DoRA, after its low-rank part.

    Args:
        site: A linear or the patch embedding.
        norm: (out,) lengths.

    Source: Liu et al. 2024, eq. 5.
    """

    title = "length of rows"

    norm: torch.Tensor

    def __init__(self, site: str, *, norm: torch.Tensor) -> None:
        super().__init__(site, norm=norm)

    def shapes(self, size: tuple[int, int]) -> dict[str, tuple[int, ...]]:
        """Return the shapes of its tensors."""
        return {"norm": (size[0],)}

    def forward(
        self, x: torch.Tensor, y: torch.Tensor, before: Callable[[], Weights]
    ) -> torch.Tensor:
        """Scale what the weight gives, not the bias."""
        weight, bias = before()
        factor: torch.Tensor = self.norm / torch.linalg.vector_norm(weight, dim=1)
        return bias + (y - bias) * factor

    def folded(self, weight: torch.Tensor, bias: torch.Tensor) -> Weights:
        """Scale the rows."""
        length = torch.linalg.vector_norm(weight, dim=1)
        return weight * (self.norm.double() / length)[:, None], bias


class Affine(SiteEdit):
    """`scale * y + shift`, channel by channel: SSF, and BitFit with a shift alone.

    Args:
        site: Any.
        scale: (out,), or None for one.
        shift: (out,), or None for zero.

    Source: Lian et al. 2022, eq. 2.
    """

    title = "scale and shift"

    scale: torch.Tensor | None
    shift: torch.Tensor | None

    def __init__(
        self, site: str, *, scale: torch.Tensor | None = None, shift: torch.Tensor | None = None
    ) -> None:
        super().__init__(site, scale=scale, shift=shift)

    def shapes(self, size: tuple[int, int]) -> dict[str, tuple[int, ...]]:
        """Return the shapes of its tensors."""
        return {"scale": (size[0],), "shift": (size[0],)}

    def forward(
        self, x: torch.Tensor, y: torch.Tensor, before: Callable[[], Weights]
    ) -> torch.Tensor:
        """Scale and shift the output."""
        y = y if self.scale is None else y * self.scale
        return y if self.shift is None else y + self.shift

    def folded(self, weight: torch.Tensor, bias: torch.Tensor) -> Weights:
        """Scale rows and bias, shift the bias."""
        if self.scale is not None:
            weight, bias = weight * self.scale.double()[:, None], bias * self.scale.double()
        return weight, bias if self.shift is None else bias + self.shift.double()


class InputLowRank(SiteEdit):
    """The layer reads `x + scale * (up(down(x) + down_bias) + up_bias)`: RepAdapter.

    Args:
        site: A linear.
        down: (R, in) projection to the bottleneck.
        up: (in, R) projection back.
        down_bias: (R,) added in the bottleneck.
        up_bias: (in,) added behind it.
        scale: Dimensionless.

    Source: Luo et al. 2023, eq. 6 to 8.
    """

    title = "low-rank map of the input"

    down: torch.Tensor
    up: torch.Tensor
    down_bias: torch.Tensor
    up_bias: torch.Tensor

    def __init__(
        self,
        site: str,
        *,
        down: torch.Tensor,
        up: torch.Tensor,
        down_bias: torch.Tensor,
        up_bias: torch.Tensor,
        scale: float = 1.0,
    ) -> None:
        super().__init__(site, down=down, up=up, down_bias=down_bias, up_bias=up_bias)
        self.scale = scale

    def shapes(self, size: tuple[int, int]) -> dict[str, tuple[int, ...]]:
        """Return the shapes of its tensors."""
        rank, width = len(self.down), size[1]
        wide: dict[str, tuple[int, ...]] = {"down": (rank, width), "up": (width, rank)}
        return wide | {"down_bias": (rank,), "up_bias": (width,)}

    def forward(
        self, x: torch.Tensor, y: torch.Tensor, before: Callable[[], Weights]
    ) -> torch.Tensor:
        """Add what the layer makes of the change of its input."""
        change = F.linear(F.linear(x, self.down, self.down_bias), self.up, self.up_bias)
        return y + self.scale * apply(before()[0], change)

    def folded(self, weight: torch.Tensor, bias: torch.Tensor) -> Weights:
        """Multiply the weight by the map of the input."""
        up = self.scale * self.up.double()
        constant = up @ self.down_bias.double() + self.scale * self.up_bias.double()
        return weight + (weight @ up) @ self.down.double(), bias + weight @ constant


class Added(SiteEdit):
    """`y + weight x + bias`: Consolidator, whose maps in groups have no small bottleneck.

    Args:
        site: A linear or the patch embedding.
        weight: (out, in) added to the weight.
        bias: (out,) added to the output.

    Source: Hao et al. 2023, eq. 3 to 6.
    """

    title = "added map"

    weight: torch.Tensor
    bias: torch.Tensor

    def __init__(self, site: str, *, weight: torch.Tensor, bias: torch.Tensor) -> None:
        super().__init__(site, weight=weight, bias=bias)

    def shapes(self, size: tuple[int, int]) -> dict[str, tuple[int, ...]]:
        """Return the shapes of its tensors."""
        return {"weight": size, "bias": (size[0],)}

    def forward(
        self, x: torch.Tensor, y: torch.Tensor, before: Callable[[], Weights]
    ) -> torch.Tensor:
        """Add what the map gives."""
        return y + F.linear(x, self.weight, self.bias)

    def folded(self, weight: torch.Tensor, bias: torch.Tensor) -> Weights:
        """Add both."""
        return weight + self.weight.double(), bias + self.bias.double()


class Dense(SiteEdit):
    """Other weights: full and partial fine-tuning, LayerNorm tuning, BitFit's biases.

    Args:
        site: Any.
        weight: As the layer stores it, or None to keep the one that is there.
        bias: (out,), likewise.
    """

    title = "own weights"

    weight: torch.Tensor | None
    bias: torch.Tensor | None

    def __init__(
        self, site: str, *, weight: torch.Tensor | None = None, bias: torch.Tensor | None = None
    ) -> None:
        flat = None if weight is None else weight.reshape(len(weight), -1)
        super().__init__(site, weight=flat, bias=bias)

    def shapes(self, size: tuple[int, int]) -> dict[str, tuple[int, ...]]:
        """Return the shapes of its tensors."""
        return {"weight": size, "bias": (size[0],)}

    def forward(
        self, x: torch.Tensor, y: torch.Tensor, before: Callable[[], Weights]
    ) -> torch.Tensor:
        """Compute the layer again with the weights that are new."""
        weight, bias = before()
        weight = weight if self.weight is None else self.weight
        return apply(weight, x) + (bias if self.bias is None else self.bias)

    def folded(self, weight: torch.Tensor, bias: torch.Tensor) -> Weights:
        """Take the new ones."""
        return (
            weight if self.weight is None else self.weight.double(),
            bias if self.bias is None else self.bias.double(),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Branch:
    """A small network beside the layers of one block, which cannot fold: AdaptFormer.

    Attributes:
        block: 0-based; None beside the patch embedding, whose output it reads and is added to.
        name: Module path below the block, as the method's checkpoints have it.
        module: What it computes, and of what.
    """

    block: int | None
    name: str
    module: BranchModule

    @property
    def title(self) -> str:
        """What it is, for people to read."""
        return self.module.title

    @property
    def path(self) -> str:
        """Where it is."""
        return f"{'patch_embed' if self.block is None else f'blocks.{self.block}'}.{self.name}"

    def extra(self) -> Extra:
        """Return what it costs."""
        macs = self.module.macs()
        return Extra(queries=macs) if self.module.reads == "norm1" else Extra(outputs=macs)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Own:
    """Other values of what is no layer: tokens, positions, LayerScale. Nothing is left to fold.

    Attributes:
        name: timm's name of the tensor.
        tensor: In the shape that the network has it.
    """

    name: str
    tensor: torch.Tensor

    title: ClassVar[str] = Dense.title
    block: ClassVar[None] = None

    @property
    def path(self) -> str:
        """Where it is."""
        return self.name

    def extra(self) -> Extra:
        """Return what it costs: nothing."""
        return Extra()


@dataclasses.dataclass(frozen=True, kw_only=True)
class PositionShift:
    """Added to the positions of the patches: DePT. Nothing is left to fold.

    Attributes:
        tensor: (P, C), in raster order.

    Source: Shi and Lipani 2024, section 2.3.
    """

    tensor: torch.Tensor

    title: ClassVar[str] = "added positions"
    path: ClassVar[str] = "pos_embed"
    block: ClassVar[None] = None

    def extra(self) -> Extra:
        """Return what it costs: nothing."""
        return Extra()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tokens:
    """Prompts: tokens that are the same for every image.

    Attributes:
        vectors: (P, C).
        block: None for prompts that enter the network behind its own prefix tokens and stay. With a
            0-based block they stand beside the tokens of that block alone: what it makes of them
            is not used, so that of its attention they are keys and values that are constants.

    Source: Jia et al. 2022, eq. 4 to 8.
    """

    vectors: torch.Tensor
    block: int | None = None

    @property
    def title(self) -> str:
        """What it is, for people to read."""
        return f"{counted(len(self.vectors), 'prompt')} in front"

    @property
    def path(self) -> str:
        """What they stand in front of."""
        return "the first block" if self.block is None else f"blocks.{self.block}.each block"

    def extra(self) -> Extra:
        """Return what it costs: further keys and values for every query."""
        return Extra(queries=0 if self.block is None else 2 * self.vectors.numel())


Edit: TypeAlias = SiteEdit | Branch | Own | PositionShift | Tokens


def apply(weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Map (…, in) by a weight (out, in), or (…, C) by the diagonal (C, 1) of a LayerNorm."""
    return x * weight[:, 0] if weight.shape[1] == 1 else F.linear(x, weight)


def describe(edits: Sequence[Edit]) -> str:
    """Return what was tuned, such as "low-rank update of q, v (rank 8), own weights of norm"."""
    layers: dict[str, dict[str, None]] = {}
    ranks: dict[str, set[int]] = {}
    for edit in edits:
        leaf = edit.path.rpartition(".")[2]
        layers.setdefault(edit.title, {})[leaf] = None
        if isinstance(edit, LowRank | InputLowRank):
            ranks.setdefault(edit.title, set()).add(len(edit.down))
    return ", ".join(
        f"{title} of {', '.join(leaves)}{_ranks(ranks.get(title))}"
        for title, leaves in layers.items()
    )


def _ranks(found: set[int] | None) -> str:
    if found is None:
        return ""
    return f" (rank {min(found)})" if len(found) == 1 else f" (rank {min(found)} to {max(found)})"
