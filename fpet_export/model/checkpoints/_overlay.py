"""Which files hold a part of a network with timm's names: a head, and what was tuned with it."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from engines.errors import CheckpointError
from fpet_export.model.checkpoints import _contents, _side_files

_OF_ADAPTERS = re.compile(r"adapter_|\.lora_|prompt|ssf_")
_OF_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)\.(weight|bias)$")
_HEAD = re.compile(r"(^|\.)head(_dist|\.[01])?\.(weight|bias|running_\w+|num_batches_tracked)$")


def is_overlay(path: Path) -> bool:
    """Whether a file holds a head and no whole network, no adapters, and no part of another run.

    A run of the authors' FPET code keeps its head in a `.pth`, too, with other files beside it.
    """
    names = _contents.tensor_names(path)
    if not _contents.ends_like_tensors(path) or not any(_HEAD.search(name) for name in names):
        return False
    if any(_OF_ADAPTERS.search(name) for name in names) or _contents.is_tuned_file(path):
        return False
    if any(_contents.holds(path, anchor) for anchor in _contents.WHOLE):
        return False
    return not _has_files_of_fpet(path)


def is_of_head(name: str) -> bool:
    """Whether a tensor belongs to the head."""
    return bool(_HEAD.search(name))


def _has_files_of_fpet(path: Path) -> bool:
    folder, name = path.parent, _contents.stem(path)
    stream = folder / f"{name}.bin"
    if (stream != path and stream.is_file()) or (folder / name / "params.sh").is_file():
        return True
    try:
        return _side_files.find_config(folder, name, {}) is not None
    except CheckpointError:  # several of them fit
        return True


def half_layer(names: Iterable[str]) -> str | None:
    """Return a weight or a bias that a layer lacks in one block and has in another, or None."""
    blocks: dict[str, dict[str, set[str]]] = defaultdict(dict)
    for name in names:
        found = _OF_BLOCK.search(name)
        if found:
            blocks[found[2]].setdefault(found[1], set()).add(found[3])
    for layer, own in sorted(blocks.items()):
        wanted = set().union(*own.values())
        for block, kinds in sorted(own.items()):
            if kinds != wanted:
                return f"blocks.{block}.{layer}.{min(wanted - kinds)}"
    return None
