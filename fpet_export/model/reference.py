"""The float64 forward pass of the adapted model: what every later stage is compared with."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import torch
from torch import nn
from torch.func import functional_call

from engines.parity.model_outputs import ModelOutputs
from fpet_export.model.mergers import MergingModule
from fpet_export.model.merging import Trace
from fpet_export.model.vit import Vit, turns_after

_AT_ONCE = 8
"""Images that share one widening of the weights; more would cost memory and gain no time."""


def run(
    model: Vit,
    images: np.ndarray,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    *,
    dtype: torch.dtype = torch.float64,
    progress: Callable[[int], None] | None = None,
) -> ModelOutputs:
    """Classify images with the adapted model as it was trained.

    Weights are widened one block at a time, so that a float64 pass needs little more memory than
    the float32 weights.

    Args:
        model: Adapted or folded model.
        images: (I, 3, height, width) float32 pixels in 0..1.
        mean: Per channel, subtracted from the pixels.
        std: Per channel; the pixels are divided by it.
        dtype: Precision of the arithmetic.
        progress: Called with the number of images just done.

    Returns:
        Logits, and where tokens merge the match, its margins and the sizes.
    """
    found: list[tuple[torch.Tensor, Trace]] = []
    shift = torch.tensor(mean, dtype=dtype)[:, None, None]
    scale = torch.tensor(std, dtype=dtype)[:, None, None]
    with torch.inference_mode():
        for start in range(0, len(images), _AT_ONCE):
            chunk = torch.from_numpy(images[start : start + _AT_ONCE]).to(dtype)
            trace = Trace()
            found.append((_forward(model, (chunk - shift) / scale, trace), trace))
            if progress is not None:
                progress(len(chunk))
    logits = torch.cat([logits for logits, _ in found]).double().numpy()
    if not model.merges:
        return ModelOutputs(logits=logits, head=model.spec.head)
    traces = [trace for _, trace in found]
    return ModelOutputs(
        logits=logits,
        match=_side_by_side([trace.match for trace in traces]),
        margin=_side_by_side([trace.margin for trace in traces]),
        sources=tuple(part.shape[1] for part in traces[0].match.values()),
        size=np.concatenate([cast(torch.Tensor, trace.size).numpy() for trace in traces]),
        head=model.spec.head,
    )


def _side_by_side(parts: Sequence[dict[int, torch.Tensor]]) -> np.ndarray:
    """Return (I, sum of Na): the blocks that merge beside each other, images below each other."""
    return torch.cat([torch.cat(list(part.values()), dim=1) for part in parts]).numpy()


def _forward(model: Vit, pixels: torch.Tensor, trace: Trace) -> torch.Tensor:
    """Run `Vit.forward` with one block's weights at a time in the pixels' dtype."""
    dtype = pixels.dtype
    shell = _without_blocks(model, dtype)
    x, size, turns = shell.embed(pixels), None, model.turns()
    for index, block in enumerate(model.each_block()):
        merger = model.merger_of(index)
        if merger is not None:
            merger = copy.deepcopy(cast(MergingModule, merger)).to(dtype)
        turn = turns and turns.of(index)
        x, merged = functional_call(block, _widened(block, dtype), (x, size, merger, turn))
        trace.tokens.append(x.shape[1])
        if merged is not None:
            trace.add(index, merged)
            size, turns = merged.size, turns_after(turns, merger, merged)
    places = model.places(trace.match) if model.spec.head == "tokens" else None
    return shell.classify(x, size, places)


def _widened(block: nn.Module, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Return a block's weights in `dtype`; those that have it already are not copied."""
    tensors = itertools.chain(block.named_parameters(), block.named_buffers())
    return {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors
    }


def _without_blocks(model: Vit, dtype: torch.dtype) -> Vit:
    memo: dict[int, object] = {id(model.blocks): nn.ModuleList()}
    memo[id(model.merges)] = nn.ModuleDict()
    return copy.deepcopy(model, memo).to(dtype)
