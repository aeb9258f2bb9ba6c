"""A folder of Hugging Face's transformers that holds a whole image classifier."""

from __future__ import annotations

from pathlib import Path

from fpet_export.model.backbones import hf_folder
from fpet_export.model.checkpoints import Hints
from fpet_export.model.checkpoints._whole_model import WholeModel, whole_model


def recognises(text: str) -> bool:
    """Whether `text` is a folder with a configuration of transformers, and no adapters in it."""
    return hf_folder.recognises(text) and not (Path(text) / "adapter_config.json").is_file()


def read(text: str, hints: Hints) -> WholeModel:
    """Return the run; see `fpet_export.model.checkpoints.Format`.

    Raises:
        CheckpointError: No weights lie in the folder.
        UsageError: The user describes adapters.
    """
    folder = Path(text)
    weights = hf_folder.weights_in(folder)
    parts = hf_folder.parts_of(weights)
    return whole_model(folder.resolve().name, folder, hints, weights, parts=parts)
