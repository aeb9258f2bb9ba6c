"""Edits on a model: attached as they were trained, or found again to be folded."""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import nn
from torch.nn import functional as F

from engines.errors import CheckpointError, FoldError
from fpet_export.model.edits import (
    Branch,
    Edit,
    LowRank,
    Own,
    PositionShift,
    SiteEdit,
    Tokens,
    Weights,
)
from fpet_export.model.vit import PROMPTS, Vit
from fpet_export.model.vit_spec import VitSpec

_THIRDS = {"q": 0, "k": 1, "v": 2}
_ALL = slice(None)


class Edited(nn.Module):
    """A layer of the network with edits, computed as in training.

    Attributes:
        layer: The layer itself: a linear, the patch convolution, or a LayerNorm.
        edits: In the order in which they act.
        rows: The outputs that each edit is about.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.edits = nn.ModuleList()
        self.rows: list[slice] = []

    def add(self, edit: SiteEdit, rows: slice) -> None:
        """Add an edit behind those that are there.

        Raises:
            CheckpointError: Its tensors do not fit the layer.
        """
        weight, bias = self._own_weights()
        size = (len(bias[rows]), weight.shape[1])
        for name, wanted in edit.shapes(size).items():
            tensor = getattr(edit, name)
            if tensor is not None and tensor.shape != wanted:
                raise CheckpointError(
                    f"{name} of {type(edit).__name__} is {tuple(tensor.shape)}, wanted {wanted}",
                    where=edit.site,
                    fix="give the backbone the run was trained on: --backbone FILE",
                )
        self.edits.append(edit)
        self.rows.append(rows)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the layer, and then what every edit makes of it."""
        y = self.layer(x)
        if isinstance(self.layer, nn.Conv2d):
            size = cast(tuple[int, int], self.layer.kernel_size)
            patches = F.unfold(x, size, stride=size).transpose(1, 2)
            edited = self._edit(patches, y.flatten(2).transpose(1, 2))
            return edited.transpose(1, 2).reshape(y.shape)
        if isinstance(self.layer, nn.LayerNorm):
            x = F.layer_norm(x, self.layer.normalized_shape, eps=self.layer.eps)
        return self._edit(x, y)

    def _edit(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Apply the edits to (…, out), which the layer made of (…, in)."""
        for index, (edit, rows) in enumerate(zip(self.edits, self.rows, strict=True)):
            start, stop, _ = rows.indices(y.shape[-1])
            before = functools.partial(self._weights_before, index, rows, y.dtype)
            part = edit(x, y[..., rows], before)
            y = torch.cat([y[..., :start], part, y[..., stop:]], dim=-1)
        return y

    def fold(self) -> nn.Module:
        """Put every edit into the weights of the layer, in float64, and return it.

        Where some cannot fold, return the layer with those alone.

        Raises:
            FoldError: The weights are not finite, or one acts on what one that stays has changed.
        """
        stay = Edited(self.layer)
        for edit, rows in self.kept():
            stay.edits.append(edit)
            stay.rows.append(rows)
        self._refuse_later()
        weight, bias = self._weights_after(len(self.rows))
        if not (weight.isfinite().all() and bias.isfinite().all()):
            raise FoldError(
                "the folded weights hold NaN or infinity",
                where=", ".join(sorted({cast(SiteEdit, edit).site for edit in self.edits})),
                fix="the adapter is damaged, or divides by a row of the backbone that is zero",
            )
        own = cast(torch.Tensor, self.layer.weight)
        self.layer.weight = _parameter(weight.reshape(own.shape).to(own.dtype))
        if self.layer.bias is not None or bias.any():
            self.layer.bias = _parameter(bias.to(own.dtype))
        return stay if stay.rows else self.layer

    def kept(self) -> list[tuple[SiteEdit, slice]]:
        """Return the edits that cannot fold, and the outputs that they are about."""
        pairs = zip(self.edits, self.rows, strict=True)
        return [(edit, rows) for edit, rows in pairs if not cast(SiteEdit, edit).folds]  # type: ignore[misc]

    def _refuse_later(self) -> None:
        """Refuse an edit of outputs that one before it changes and that cannot fold."""
        size = len(cast(torch.Tensor, self.layer.weight))
        changed: set[int] = set()
        for edit, rows in zip(self.edits, self.rows, strict=True):
            own = set(range(*rows.indices(size)))
            if own & changed:
                site = cast(SiteEdit, edit)
                raise FoldError(
                    f"{site.title} acts on what a gated update has changed",
                    where=site.site,
                    fix="give a run in which every layer has at most one gated update, and "
                    "nothing behind it",
                )
            changed |= own if not cast(SiteEdit, edit).folds else set()

    def as_product(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (in, R) and (R, out) float64 matrices whose product is what the edits add.

        The second is zero where the bottleneck of one edit meets the outputs of another.

        Raises:
            FoldError: An edit does more than add a product.
        """
        outputs = len(cast(torch.Tensor, self.layer.weight))
        downs, ups = [], []
        for edit, rows in zip(self.edits, self.rows, strict=True):
            if not isinstance(edit, LowRank) or edit.bias is not None:
                raise FoldError(
                    f"{type(edit).__name__} cannot be an input of a graph",
                    where=str(getattr(edit, "site", "")),
                    fix="export these runs one by one: fpet-export export",
                )
            up = torch.zeros(edit.up.shape[1], outputs, dtype=torch.float64)
            up[:, rows] = edit.scale * edit.up.T.double()
            downs.append(edit.down.double())
            ups.append(up)
        return torch.cat(downs).T, torch.cat(ups)

    def _own_weights(self) -> Weights:
        weight, bias = cast(torch.Tensor, self.layer.weight), self.layer.bias
        weight = weight.reshape(len(weight), -1)
        return weight, weight.new_zeros(len(weight)) if bias is None else cast(torch.Tensor, bias)

    def _weights_after(self, count: int) -> Weights:
        """Return float64 weights with the first edits folded, as far as they can."""
        own = self._own_weights()
        weight, bias = own[0].double(), own[1].double()
        for edit, rows in zip(self.edits[:count], self.rows[:count], strict=True):
            if not cast(SiteEdit, edit).folds:
                continue
            parts = cast(SiteEdit, edit).folded(weight[rows], bias[rows])
            start, stop, _ = rows.indices(len(bias))
            weight = torch.cat([weight[:start], parts[0], weight[stop:]])
            bias = torch.cat([bias[:start], parts[1], bias[stop:]])
        return weight, bias

    def _weights_before(self, index: int, rows: slice, dtype: torch.dtype) -> Weights:
        weight, bias = self._weights_after(index)
        return weight[rows].to(dtype), bias[rows].to(dtype)


def attach(model: Vit, edits: Sequence[Edit]) -> None:
    """Attach edits to a model, in place; those of one site act in the order given.

    Raises:
        CheckpointError: There is no such site in this network, or a tensor does not fit it.
    """
    for edit in edits:
        if isinstance(edit, Branch):
            _check_branch(model.spec, edit)
            owner = model.patch_embed if edit.block is None else model.each_block()[edit.block]
            owner.branches[edit.name] = edit.module
        elif isinstance(edit, Own):
            _replace(model, edit)
        elif isinstance(edit, Tokens):
            _add_prompts(model, edit)
        elif isinstance(edit, PositionShift):
            _shift_positions(model, edit)
        else:
            path, rows = _place(model.spec, edit.site)
            _edited(model, path, site=edit.site).add(edit, rows)


def edited_layers(model: nn.Module) -> list[tuple[str, Edited]]:
    """Return the layers that have edits, by module path."""
    return [(name, module) for name, module in model.named_modules() if isinstance(module, Edited)]


def replace_module(model: nn.Module, path: str, module: nn.Module) -> None:
    """Put another module at a path."""
    parent, _, leaf = path.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)


def _place(spec: VitSpec, site: str) -> tuple[str, slice]:
    """Return the module path of a site, and which of its outputs are meant."""
    head, _, leaf = site.rpartition(".")
    if head.endswith(".attn") and leaf in _THIRDS:
        start = _THIRDS[leaf] * spec.width
        return f"{head}.qkv", slice(start, start + spec.width)
    if site == "norm":
        return ("fc_norm" if spec.pool_norm else "norm"), _ALL
    return ("patch_embed.proj" if site == "patch_embed" else site), _ALL


def _edited(model: Vit, path: str, *, site: str) -> Edited:
    """Return the edited layer at a path, which it becomes now if it is not one yet."""
    try:
        layer = model.get_submodule(path)
    except AttributeError:
        layer = None
    if isinstance(layer, Edited):
        return layer
    if not isinstance(layer, nn.Linear | nn.Conv2d | nn.LayerNorm):
        raise CheckpointError(
            f"{model.spec.describe()} has no layer {site}",
            where=site,
            fix="give the backbone the run was trained on: --backbone FILE",
        )
    edited = Edited(layer)
    replace_module(model, path, edited)
    return edited


def _check_branch(spec: VitSpec, edit: Branch) -> None:
    for name, shape in edit.module.shapes(spec.width).items():
        tensor = operator.attrgetter(name)(edit.module)
        if tensor is not None and tensor.shape != shape:
            raise CheckpointError(
                f"{name} of a {edit.title} is {tuple(tensor.shape)}, wanted {shape}",
                where=edit.path,
                fix="give the backbone the run was trained on: --backbone FILE",
            )


def _replace(model: Vit, edit: Own) -> None:
    path, _, leaf = edit.name.rpartition(".")
    own = dict(model.named_parameters()).get(edit.name)
    if own is None or own.shape != edit.tensor.shape:
        wanted = "none of that name" if own is None else str(tuple(own.shape))
        raise CheckpointError(
            f"{edit.name} is {tuple(edit.tensor.shape)}, and {model.spec.describe()} has {wanted}",
            where=edit.name,
            fix="give the backbone the run was trained on: --backbone FILE",
        )
    setattr(model.get_submodule(path), leaf, _parameter(edit.tensor.to(own.dtype)))


def _shift_positions(model: Vit, edit: PositionShift) -> None:
    spec = model.spec
    if not spec.absolute_positions:
        raise CheckpointError(
            "the run shifts the learned positions of the patches, and this network has none",
            where=edit.path,
            fix="give the backbone the run was trained on: --backbone FILE",
        )
    own = model.pos_embed
    if edit.tensor.shape != (spec.patches, spec.width):
        raise CheckpointError(
            f"positions of the patches are {tuple(edit.tensor.shape)}, wanted "
            f"{(spec.patches, spec.width)}",
            where=edit.path,
            fix="give the backbone the run was trained on: --backbone FILE",
        )
    shift = F.pad(edit.tensor.double(), (0, 0, spec.positions - spec.patches, 0))
    model.pos_embed = _parameter((own.double() + shift).to(own.dtype))


def _add_prompts(model: Vit, edit: Tokens) -> None:
    spec, (count, *width) = model.spec, edit.vectors.shape
    if spec.rotary is not None:
        raise CheckpointError(
            "prompts on a network with rotary positions: no code that trains them says by what "
            "they are turned",
            where=f"prompts of {edit.path}",
            fix="tune this network by other means, such as LoRA, or give the backbone the run was "
            "trained on: --backbone FILE",
        )
    if width != [spec.width] or not count:
        raise CheckpointError(
            f"prompts are {tuple(edit.vectors.shape)}, wanted (number, {spec.width})",
            where=f"prompts of {edit.path}",
            fix="give the backbone the run was trained on: --backbone FILE",
        )
    if edit.block is not None:
        model.each_block()[edit.block].prompts = _parameter(edit.vectors)
        return
    assert not model.merges, "a merger counts the tokens in front of the patches"
    prompts: list[Literal["prompt"]] = ["prompt"] * count
    model.spec = dataclasses.replace(spec, prefix=(*spec.prefix, *prompts))
    model.register_parameter(PROMPTS, _parameter(edit.vectors[None]))


def _parameter(tensor: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)
