"""What both trainings share: the order of the samples, the optimiser, the learning rate."""

import math
from collections.abc import Iterator

import torch
from torch import nn


def batches(count: int, batch_size: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Yield shuffled index batches of one epoch; a smaller last batch is skipped.

    Args:
        count: Number of samples.
        batch_size: Indices in a batch.
        generator: Source of the order.
    """
    order = torch.randperm(count, generator=generator)
    for start in range(0, count - batch_size + 1, batch_size):
        yield order[start : start + batch_size]


def make_optimizer(model: nn.Module, *, weight_decay: float) -> torch.optim.AdamW:
    """Make AdamW over what requires a gradient; vectors and position embeddings do not decay."""
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    decays = [p for name, p in trained if p.ndim > 1 and "pos_embed" not in name]
    keeps = [p for name, p in trained if p.ndim <= 1 or "pos_embed" in name]
    groups = [
        {"params": decays, "weight_decay": weight_decay},
        {"params": keeps, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98))


def set_learning_rate(
    optimizer: torch.optim.Optimizer, step: int, steps: int, *, warmup: int, peak: float
) -> None:
    """Set the learning rate of a linear warm-up followed by a cosine to one hundredth of `peak`.

    Args:
        optimizer: Whose groups are set.
        step: Steps done so far.
        steps: Steps of the whole training.
        warmup: Steps of the linear rise.
        peak: Learning rate at the end of the rise.
    """
    if step < warmup:
        rate = peak * (step + 1) / warmup
    else:
        progress = (step - warmup) / max(1, steps - warmup)
        rate = peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))
    for group in optimizer.param_groups:
        group["lr"] = rate
