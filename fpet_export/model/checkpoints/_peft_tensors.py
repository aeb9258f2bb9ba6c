"""The tensors of a PEFT adapter: named after a module of the model and what they are to it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from engines.errors import CheckpointError
from fpet_export.model import torch_files

_PREFIX = "base_model.model."

_SUFFIXES = {
    ".lora_A.weight": "down",
    ".lora_B.weight": "up",
    ".lora_B.bias": "up bias",
    ".lora_magnitude_vector": "norm",
    ".lora_magnitude_vector.weight": "norm",
    ".base_layer.bias": "bias",
}
OF_ADAPTER = ("down", "up", "up bias", "norm")
"""What only a module with an adapter has."""

_COPIES = (".modules_to_save", ".original_module")
"""What PEFT writes a second time beside the plain name, with `bias="all"`."""


def read_tensors(path: Path, *, thresholds: str) -> dict[str, torch.Tensor]:
    """Return the tensors by their names without PEFT's prefix and without its second copies.

    Args:
        path: The file.
        thresholds: How names of thresholds end, which may be infinite.

    Raises:
        CheckpointError: The file cannot be read, or holds anything but finite floating tensors with
            PEFT's names.
    """
    content = torch_files.read_content(path)
    if not isinstance(content, dict) or not content:
        raise CheckpointError(
            f"wanted a dictionary of tensors, found {type(content).__name__}",
            where=str(path),
            fix="copy the folder that PEFT saved again",
        )
    found: dict[str, torch.Tensor] = {}
    for name, tensor in content.items():
        if not isinstance(name, str) or not name.startswith(_PREFIX):
            raise CheckpointError(
                f"{name!r} does not begin with {_PREFIX!r}, as every tensor of PEFT does",
                where=str(path),
                fix="save the adapter with PEFT's save_pretrained",
            )
        found[name.removeprefix(_PREFIX)] = _checked(
            name, tensor, path, infinite=name.endswith(thresholds)
        )
    return {name: tensor for name, tensor in found.items() if not _is_copy(name, found)}


def _is_copy(name: str, names: Mapping[str, Any]) -> bool:
    for copy in _COPIES:
        module, found, part = name.partition(copy + ".")
        if found and f"{module}.{part}" in names:
            return True
    return False


def _checked(name: str, tensor: Any, path: Path, *, infinite: bool) -> torch.Tensor:
    if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
        raise CheckpointError(
            f"{name} is {getattr(tensor, 'dtype', type(tensor).__name__)}, wanted floating point",
            where=str(path),
            fix="save the adapter with PEFT's save_pretrained, not quantized",
        )
    if not tensor.numel():
        raise CheckpointError(
            f"{name} is empty, its shape is {tuple(tensor.shape)}",
            where=str(path),
            fix="save the adapter with PEFT's save_pretrained, or copy the folder again",
        )
    if tensor.isnan().any() or not (infinite or tensor.isfinite().all()):
        raise CheckpointError(
            f"{name} holds NaN or infinity",
            where=str(path),
            fix="the file is damaged, or the training diverged",
        )
    return tensor.float()


def parts_of(name: str) -> tuple[str, str]:
    """Return the module of a tensor, and what the tensor is to it.

    "down", "up", "up bias" and "norm" belong to an adapter; "bias" is the trained bias of a layer
    that has one, "weight" and "own bias" are those of a layer that has none.
    """
    for suffix, part in _SUFFIXES.items():
        if name.endswith(suffix):
            return name.removesuffix(suffix), part
    module, _, leaf = name.rpartition(".")
    return module, {"weight": "weight", "bias": "own bias"}.get(leaf, leaf)


def file_name(part: str) -> str:
    """Return how the name of such a tensor ends in the file."""
    return next((end.lstrip(".") for end, name in _SUFFIXES.items() if name == part), part)
