"""What a folder or a file is that is no run, and what to do with it now."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from engines.plurals import counted
from fpet_export.model import torch_files
from fpet_export.model.checkpoints import _contents
from fpet_export.model.foreign_names import whose

USAGE = (
    "give the folder of a run or of a whole model, DIR/NAME for NAME.pth and NAME.bin, a file of "
    "weights, or random:NAME:SEED"
)
_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.ckpt", "*.npz", "*.tar")


def explain(path: Path) -> tuple[str, str]:
    """Return what `path` is instead of a run, and what to do.

    Raises:
        CheckpointError: It is a file of tensors that cannot be read.
    """
    if path.is_dir():
        return _folder(path)
    if path.exists():
        return _file(path)
    near = sorted(p.stem for p in path.parent.glob("*.pth")) if path.parent.is_dir() else []
    beside = f"; beside it are {', '.join(near[:5])}" if near else ""
    return f"there is no such run{beside}", USAGE


def _file(path: Path) -> tuple[str, str]:
    if path.with_suffix(".pth").is_file() and path.suffix == ".bin":
        return (
            f"{path.name} is one half of a run, and {path.stem}.pth beside it is the other",
            f"name the run by its .pth: {path.with_suffix('.pth')}",
        )
    if not _contents.ends_like_tensors(path):
        return f"{path.name} is not a run: it is no file of weights", USAGE
    torch_files.read_content(path)  # which says what is wrong with a damaged file
    names = _contents.tensor_names(path)
    if not names:
        return f"{path.name} holds no tensors", USAGE
    return (
        f"{path.name} is neither a run nor a whole model: it holds {counted(len(names), 'tensor')} "
        f"such as {min(names)}, and no {_contents.TIMM_ANCHOR}",
        whose(names) or USAGE,
    )


def _folder(path: Path) -> tuple[str, str]:
    files = sorted(file.name for pattern in _WEIGHTS for file in path.glob(pattern))
    held = f", only {', '.join(files[:5])}" if files else ""
    config = path / "config.json"
    if config.is_file():
        named = _field(config, "architecture")
        return (
            f"config.json is that of {named!r}, and no whole model of that kind lies beside it: "
            f"neither model.safetensors nor pytorch_model.bin{held}",
            "fetch the weights into this folder, under one of these names",
        )
    if files:
        return (
            f"this folder holds no run and no whole model: no .pth file in it{held}",
            f"name one file, to read what it is: {path / files[0]}",
        )
    below = sorted(file.parent for file in path.glob("*/*.pth"))
    if below:
        return (
            f"no .pth file lies in this folder, but in {counted(len(below), 'folder')} below",
            f"name one of them: {below[0]}",
        )
    return "this folder holds no run: no .pth file in it", USAGE


def _field(path: Path, name: str) -> Any:
    try:
        document = json.loads(path.read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return None
    return document.get(name) if isinstance(document, dict) else None
