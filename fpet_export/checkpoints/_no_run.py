"""What a folder or a file is that is no run, and what to do with it now."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from engines.plurals import counted

USAGE = "give the folder of a run, DIR/NAME for NAME.pth and NAME.bin, or random:NAME:SEED"
_CONVERT = (
    'its factors can be written as a run: docs/checkpoints.md, "From other formats"; or tune again '
    "with the authors' FPET code"
)
_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.ckpt", "*.npz", "*.tar")


def explain(path: Path) -> tuple[str, str]:
    """Return what `path` is instead of a run, and what to do."""
    if path.is_dir():
        return _folder(path)
    if path.exists():
        return (
            f"{path.name} is not a run: one is NAME.pth, and NAME.bin with what has few bits",
            USAGE,
        )
    near = sorted(p.stem for p in path.parent.glob("*.pth")) if path.parent.is_dir() else []
    beside = f"; beside it are {', '.join(near[:5])}" if near else ""
    return f"there is no such run{beside}", USAGE


def _folder(path: Path) -> tuple[str, str]:
    adapter = path / "adapter_config.json"
    if adapter.is_file():
        kind = _field(adapter, "peft_type")
        return (
            f"this is a folder of Hugging Face PEFT (adapter_config.json, peft_type {kind!r}); "
            "only runs of the FPET authors' format are read yet",
            _CONVERT,
        )
    config = path / "config.json"
    files = sorted(file.name for pattern in _WEIGHTS for file in path.glob(pattern))
    if config.is_file():
        name = _field(config, "architecture") or _field(config, "model_type")
        held = ", ".join(files[:4]) or "no weights"
        return (
            f"this is the folder of a whole model (config.json names {name!r}; {held}); whole "
            "fine-tuned models are not read as runs yet",
            f"as a backbone it is given by its file, beside a run: RUN --backbone {path}/"
            f"{files[0] if files else 'FILE'}; as a run, {USAGE}",
        )
    if files:
        return f"this folder holds no run: no .pth file in it, but {', '.join(files[:5])}", USAGE
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
