"""A folder of timm's hub layout: `config.json` with an `architecture`, and the weights beside it.

So does Hugging Face's wrapper around timm save its models, too.
"""

from __future__ import annotations

import json
from pathlib import Path

from fpet_export.model.backbones import Backbone, BackboneOptions, weights_file

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""In the order in which timm looks for them."""


def recognises(text: str) -> bool:
    """Whether `text` is such a folder, with weights in it."""
    return bool(text) and bool(weights_in(Path(text)))


def read(text: str, options: BackboneOptions) -> Backbone:
    """Read the file of its weights, and what lies beside it."""
    return weights_file.read(str(weights_in(Path(text))[0]), options)


def weights_in(folder: Path) -> list[Path]:
    """Return the weights of timm's hub layout, where the folder has it; timm takes the first."""
    try:
        document = json.loads((folder / "config.json").read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return []
    if not isinstance(document, dict) or not isinstance(document.get("architecture"), str):
        return []
    return [folder / name for name in _WEIGHTS if (folder / name).is_file()]
