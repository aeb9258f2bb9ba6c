"""Tensor names of other projects, for a refusal that says what a file is and what to do now."""

from __future__ import annotations

import re
from collections.abc import Iterable

_PATTERNS = (
    (
        r"lora_[AB]\.|lora_embedding",
        "these are the adapters of a Hugging Face PEFT run: give the folder of adapter_config.json "
        "as the run, and the model that it was trained on as --backbone",
    ),
    (
        r"embeddings\.patch_embeddings\.projection|encoder\.layer\.\d+\.attention\.attention",
        "these are Hugging Face's names of a ViT, which are read together with the config.json "
        "beside them: give the folder of both",
    ),
    (
        r"(^|\.)conv_proj\.|encoder_layer_\d+",
        "these are torchvision's names of a ViT: give the whole state_dict(), with conv_proj",
    ),
    (
        r"(^|\.)class_embedding$|(^|\.)visual\.conv1\.weight$|resblocks\.\d+",
        "these are CLIP's own names, which are not read: give the image tower as timm has it "
        "(--backbone timm:vit_base_patch16_clip_224, or a file that timm saved)",
    ),
    (
        r"embedding/kernel|encoderblock_\d+/",
        "these are the names of the original JAX release: give its .npz file",
    ),
    (
        r"(^|\.)layers\.\d+\.(blocks|downsample)\.|(^|\.)stages\.\d+\.|(^|\.)layer\d\.\d+\.conv",
        "this is another kind of network; only plain ViTs are read (see the README, Limits)",
    ),
)


def whose(names: Iterable[str]) -> str | None:
    """Return whose names these are and what to do about it, or None where that is unknown."""
    known = list(names)
    for pattern, advice in _PATTERNS:
        if any(re.search(pattern, name) for name in known):
            return advice
    return None
