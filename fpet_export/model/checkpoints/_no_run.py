"""What a folder or a file is that is no run, and what to do with it now."""

from __future__ import annotations

import json
import shlex
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
            "only runs in the FPET authors' format can be read so far",
            _CONVERT,
        )
    config = path / "config.json"
    files = sorted(file.name for pattern in _WEIGHTS for file in path.glob(pattern))
    if config.is_file():
        return _whole_model(config, files)
    if files:
        return f"this folder holds no run: no .pth file in it, but {', '.join(files[:5])}", USAGE
    below = sorted(file.parent for file in path.glob("*/*.pth"))
    if below:
        return (
            f"no .pth file lies in this folder, but in {counted(len(below), 'folder')} below",
            f"name one of them: {below[0]}",
        )
    return "this folder holds no run: no .pth file in it", USAGE


def _whole_model(config: Path, files: list[str]) -> tuple[str, str]:
    """Say what the folder of a model of timm or of transformers is good for today."""
    held = ", ".join(files[:4]) or "no weights"
    architecture = _field(config, "architecture")
    if architecture is None:
        return (
            f"this is a folder of Hugging Face's transformers (model_type "
            f"{_field(config, 'model_type')!r}; {held}), which is not read yet, neither as a run "
            "nor as a backbone",
            "give a run of the FPET authors' format, and the backbone as timm has it: "
            "--backbone timm:NAME",
        )
    file = config.with_name(files[0] if files else "FILE")
    return (
        f"this is the folder of a whole model of timm ({architecture}; {held}); whole fine-tuned "
        "models are not read as runs yet",
        f"give it as the backbone of a run: RUN --backbone {shlex.quote(str(file))}",
    )


def _field(path: Path, name: str) -> Any:
    try:
        document = json.loads(path.read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return None
    return document.get(name) if isinstance(document, dict) else None
