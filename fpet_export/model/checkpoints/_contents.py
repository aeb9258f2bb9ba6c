"""What a file of tensors holds, as far as its names tell, before anyone reads it for good.

Formats share endings: `.pth` is a head with adapters of the authors' code, or a whole model of
timm. The names inside tell them apart; none of the weights are read for that where the file can be
mapped.
"""

from __future__ import annotations

import functools
import json
import re
import struct
from pathlib import Path

import torch

from engines import registry
from engines.errors import CheckpointError
from fpet_export.model import checkpoints, torch_files

ENDINGS = (".safetensors", ".pth.tar", ".pth", ".pt", ".bin", ".ckpt")
"""How files of tensors end; the longer of two first."""

TIMM_ANCHOR = "patch_embed.proj.weight"
"""The tensor that every ViT with timm's names has."""

TORCHVISION_ANCHOR = "conv_proj.weight"
"""The one that every ViT with torchvision's names has."""

WHOLE = (
    TIMM_ANCHOR,
    "embeddings.patch_embeddings.projection.weight",
    "vision_model.embeddings.patch_embedding.weight",
    TORCHVISION_ANCHOR,
    "visual.conv1.weight",
)
"""Patch projections of whole models: of timm, transformers, torchvision and OpenAI's CLIP."""

_ADAPTERS = ("adapter_", ".lora_")
"""What stands in the names of the authors' adapters."""


def tensor_names(path: Path) -> frozenset[str]:
    """Return the names of all tensors in a file; none where it cannot be read."""
    try:
        state = path.stat()
    except OSError:
        return frozenset()
    return _names(path, state.st_mtime_ns, state.st_size)


def holds(path: Path, *anchors: str) -> bool:
    """Whether a file has a tensor of one of these names, with or without a prefix."""
    return any(
        name == anchor or name.endswith("." + anchor)
        for name in tensor_names(path)
        for anchor in anchors
    )


def is_tuned_file(path: Path) -> bool:
    """Whether a file has tensors that one of the formats knows as its own by their names.

    Such a format states them as `MARK`; a file of one is none of a format that has no mark.
    """
    formats = (registry.load(checkpoints, name) for name in registry.available(checkpoints))
    marks = [mark for entry in formats if (mark := getattr(entry, "MARK", None)) is not None]
    return any(is_marked(path, mark) for mark in marks)


def is_marked(path: Path, mark: re.Pattern[str]) -> bool:
    """Whether a file has a tensor whose name fits."""
    return ends_like_tensors(path) and any(mark.search(name) for name in tensor_names(path))


def is_whole_model(path: Path) -> bool:
    """Whether a file holds a model and no adapters, and is no part of a run of the authors' code.

    A run keeps what has few bits in `NAME.bin` beside `NAME.pth`.
    """
    tuned = any(part in name for name in tensor_names(path) for part in _ADAPTERS)
    if tuned or is_tuned_file(path) or not holds(path, *WHOLE):
        return False
    stream = path.with_name(stem(path) + ".bin")
    return stream == path or not stream.is_file() or holds(stream, *WHOLE)


def stem(path: Path) -> str:
    """Return a file's name without the ending of a file of tensors."""
    lower = path.name.lower()
    ending = next((end for end in ENDINGS if lower.endswith(end)), "")
    return path.name[: len(path.name) - len(ending)]


def ends_like_tensors(path: Path) -> bool:
    """Whether `path` is a file that is named like one of tensors."""
    return path.name.lower().endswith(ENDINGS) and path.is_file()


@functools.lru_cache(maxsize=64)
def _names(path: Path, modified: int, size: int) -> frozenset[str]:
    """Return the names; a file that changes is another one."""
    try:
        if torch_files.is_safetensors(path):
            return _names_of_safetensors(path, size)
        return frozenset(_tensors_in(torch_files.read_content(path, mapped=True), 0))
    except (CheckpointError, OSError, ValueError, struct.error):
        return frozenset()  # what is wrong with the file is said by whoever reads it


def _names_of_safetensors(path: Path, size: int) -> frozenset[str]:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(min(length, size)))
    return frozenset(header) - {"__metadata__"} if isinstance(header, dict) else frozenset()


def _tensors_in(content: object, depth: int) -> list[str]:
    found: list[str] = []
    if depth > 6:
        return found
    if isinstance(content, dict):
        found += [k for k, v in content.items() if isinstance(k, str) and torch.is_tensor(v)]
        for value in content.values():
            found += _tensors_in(value, depth + 1)
    elif isinstance(content, list | tuple):
        for value in content:
            found += _tensors_in(value, depth + 1)
    return found
