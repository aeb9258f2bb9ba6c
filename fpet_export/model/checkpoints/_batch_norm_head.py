"""The head of MAE and AdaptFormer, a BatchNorm before the linear, as one linear."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from engines.errors import CheckpointError
from fpet_export.model.facts import Fact

_EPS = 1e-6
_NAMES = ("head.0.running_mean", "head.0.running_var", "head.1.weight", "head.1.bias")


def folded_head(
    tensors: Mapping[str, torch.Tensor], *, path: Path
) -> tuple[dict[str, torch.Tensor], dict[str, Fact[str]]]:
    """Return the tensors with a plain head, and what was done; those without such a head as is.

    Raises:
        CheckpointError: The head is not whole, has weights in its BatchNorm, or its parts do not
            fit each other.
    """
    if not any(name.startswith(("head.0.", "head.1.")) for name in tensors):
        return dict(tensors), {}
    missing = [name for name in _NAMES if name not in tensors]
    own = {"head.0.weight", "head.0.bias", "head.weight", "head.bias"} & set(tensors)
    if missing or own:
        problem = f"{missing[0]} is missing" if missing else f"{min(own)} is there, too"
        raise CheckpointError(
            f"the head is a BatchNorm without weights and a linear (head.0, head.1); {problem}",
            where=str(path),
            fix="give the file that the run's training wrote; other heads than this one and a "
            "single linear are not read",
        )
    mean, variance, weight, bias = (tensors[name].double() for name in _NAMES)
    fits = weight.ndim == 2 and mean.shape == variance.shape == weight.shape[1:]
    if not fits or bias.shape != weight.shape[:1] or not weight.numel():
        shapes = ", ".join(f"{name} {tuple(tensors[name].shape)}" for name in _NAMES)
        raise CheckpointError(
            f"the parts of the head do not fit each other: {shapes}",
            where=str(path),
            fix="give the file that the run's training wrote",
        )
    parts = (mean, variance, weight, bias)
    if not all(part.float().isfinite().all() for part in parts) or variance.min() < 0:
        raise CheckpointError(
            "the head (head.0, head.1) holds NaN, values beyond float32 or a negative variance",
            where=str(path),
            fix="the file is damaged; fetch it again",
        )
    weight = weight / (variance + _EPS).sqrt()
    rest = {name: tensor for name, tensor in tensors.items() if name not in _NAMES}
    head = {"head.weight": weight.float(), "head.bias": (bias - weight @ mean).float()}
    said = Fact(f"with its BatchNorm inside, epsilon {_EPS:g}", "the code of MAE and AdaptFormer")
    return rest | head, {"head": said}
