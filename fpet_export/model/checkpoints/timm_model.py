"""A plain or fully fine-tuned ViT of timm or torchvision: one file, or the folder of timm's hub.

The file is what timm, a training script or Lightning saved (`.safetensors`, `.pth`, `.pth.tar`,
`.pt`, `.bin`, `.ckpt`). What its tensors hide, `config.json` beside it says, or the options do. It
is told from a run of the authors' code by what is in it, never by its name.
"""

from __future__ import annotations

from pathlib import Path

from engines.errors import CheckpointError
from fpet_export.model.backbones import timm_folder
from fpet_export.model.checkpoints import Hints, _contents
from fpet_export.model.checkpoints._whole_model import WholeModel, whole_model

_PEFT = "adapter_config.json"


def recognises(text: str) -> bool:
    """Whether `text` names a whole model: a file of one, or a folder with nothing but such."""
    path = Path(text)
    if path.is_dir():
        return bool(timm_folder.weights_in(path) or _alone(path))
    return _is_model(path)


def read(text: str, hints: Hints) -> WholeModel:
    """Return the run; see `fpet_export.model.checkpoints.Format`.

    Raises:
        CheckpointError: The folder holds several models.
        UsageError: The user describes adapters.
    """
    path = Path(text)
    if not path.is_dir():
        return whole_model(_contents.stem(path), path, hints, path)
    found = timm_folder.weights_in(path) or _alone(path)
    if len(found) > 1 and not timm_folder.recognises(text):
        raise CheckpointError(
            f"this folder holds {len(found)} whole models: {', '.join(p.name for p in found[:5])}",
            where=str(path),
            fix=f"name one of them: {found[0]}",
        )
    return whole_model(path.resolve().name, found[0], hints, found[0], passed_over=found[1:])


def _is_model(path: Path) -> bool:
    """Whether a file is a whole model with the names of timm or torchvision."""
    named = _contents.ends_like_tensors(path) and _contents.is_whole_model(path)
    return named and _contents.holds(path, _contents.TIMM_ANCHOR, _contents.TORCHVISION_ANCHOR)


def _alone(folder: Path) -> list[Path]:
    """Return the whole models in a folder that belongs to no other program."""
    if (folder / "config.json").exists() or (folder / _PEFT).exists():
        return []
    files = sorted(path for path in folder.iterdir() if _contents.ends_like_tensors(path))
    return files if files and all(_is_model(path) for path in files) else []
