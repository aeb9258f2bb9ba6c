"""Ways to damage the files of a run: of any kind, at random, and repeatable."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import load_file, save_file

Rng = random.Random
Change = Callable[[Path, Rng], bool]
"""Damages something in a folder; says whether the intact run's answers are still allowed."""

UNSEEN = {
    "num_attention_heads", "num_heads", "hidden_act", "layer_norm_eps", "image_mean", "image_std",
    "mean", "std", "resample", "crop_pct", "interpolation", "id2label", "label2id", "label_names",
    "size", "crop_size", "do_normalize", "do_center_crop", "default_to_square",
    "image_processor_type", "global_pool", "pretrained_cfg", "rope_theta", "rope_temperature",
    "lora_alpha", "use_rslora", "alpha_pattern", "rope_grid_offset",
}  # fmt: skip
"""Keys whose other values make another valid run, or other pixels of the same one."""

UNREAD = ("mask_token", "post_layernorm", "vision_model.head.", "num_batches_tracked")
"""Tensors that a classifier does not read; SigLIP's norm is read all the same."""

VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 3, 7, 1024, 0.5, float("nan"), float("inf"), 1e30, "", "vit",
    "gelu", "none", [], {}, [16], [16, 16], [1, 2, 3], {"height": 16}, "ViTModel", 2**70,
)  # fmt: skip
_TENSORS = (".safetensors", ".pth", ".pt", ".bin")
_TEXTS = (".json", ".yaml")


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file())


def configuration(folder: Path, rng: Rng) -> bool:
    """Give a key of a configuration another value, take it away, or add one."""
    texts = [path for path in files_of(folder) if path.suffix in _TEXTS]
    if not texts:
        return tensors(folder, rng)
    path = rng.choice(texts)
    of_json = path.suffix == ".json"
    document = json.loads(path.read_text()) if of_json else yaml.safe_load(path.read_text())
    inner = document.get("model_args") or document.get("vision_config")
    section = inner if inner and rng.random() < 0.6 else document
    keys = sorted(set(section) - UNSEEN)
    if not keys or rng.random() < 0.2:
        section[rng.choice(["attention_heads", "rope_scaling", "extra"])] = rng.choice(VALUES)
    elif rng.random() < 0.3:
        del section[rng.choice(keys)]
    else:
        section[rng.choice(keys)] = rng.choice(VALUES)
    path.write_text(json.dumps(document) if of_json else yaml.safe_dump(document))
    return True


def bytes_of(folder: Path, rng: Rng) -> bool:
    """Cut a file off, or change a byte of a text or of a header."""
    path = rng.choice(files_of(folder))
    data = bytearray(path.read_bytes())
    if rng.random() < 0.5:
        path.write_bytes(data[: rng.randrange(len(data))])
        return True
    header = 8 + int.from_bytes(data[:8], "little") if path.suffix == ".safetensors" else 8
    index = rng.randrange(len(data) if path.suffix not in (".safetensors",) else header)
    if path.suffix in _TEXTS and chr(data[index]).isalnum():
        data[index] = ord("{")
    else:
        data[index] ^= 0xFF
    path.write_bytes(data)
    return True


def absent(folder: Path, rng: Rng) -> bool:
    """Take a file away, or put a folder or nothing in its place."""
    path, kind = rng.choice(files_of(folder)), rng.randrange(3)
    path.unlink()
    if kind == 1:
        path.mkdir()
    elif kind == 2:
        path.write_bytes(b"")
    return True


def tensors(folder: Path, rng: Rng) -> bool:
    """Break one tensor."""
    path = rng.choice([path for path in files_of(folder) if path.suffix in _TENSORS])
    whole: dict[str, Any] = (
        load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=False)
    )
    found: dict[str, Any] = whole.get("state_dict", whole)
    name = rng.choice(
        sorted(n for n, t in found.items() if hasattr(t, "shape") and 0 not in t.shape)
    )
    as_numpy = isinstance(found[name], np.ndarray)
    old = torch.from_numpy(found[name]) if as_numpy else found[name]
    kind = rng.randrange(9)
    if "prompt" in name and kind in (0, 3):
        kind = 8  # a run may have any number of prompts, and no deep ones: that is no damage
    changed: dict[str, torch.Tensor] = {}
    if kind in (0, 1):
        del found[name]
    if kind == 1:
        changed["x." + name] = old
    elif kind == 2:
        changed[name + ".copy"] = old.clone()
    elif kind == 3:
        changed[name] = torch.cat([old[None] if not old.ndim else old, old.reshape(-1)[:1] if not
                                   old.ndim else old[:1]])  # fmt: skip
    elif kind == 4:
        changed[name] = old[None].contiguous()
    elif kind == 5:
        changed[name] = torch.full_like(old.float(), rng.choice([torch.nan, torch.inf]))
    elif kind == 6:
        changed[name] = old.to(rng.choice([torch.int8, torch.bool, torch.int64]))
    elif kind == 7:
        changed["decoder.weight"] = torch.zeros(3)
    elif kind == 8:
        changed[name] = old.new_zeros((0, *old.shape[1:]))
    found.update({n: t.numpy() if as_numpy else t for n, t in changed.items()})
    if path.suffix == ".safetensors":
        save_file(found, path, metadata={"format": "pt"})
    else:
        torch.save(whole, path)
    return (
        (kind == 4 and (not old.ndim or "magnitude" in name))  # the same numbers, with an axis more
        or any(part in name for part in UNREAD)
    )


def mixed(folder: Path, rng: Rng) -> bool:
    """Put a file of another run in the place of one."""
    path = rng.choice(files_of(folder))
    others = [
        other for run in sorted(folder.parent.iterdir()) if run != folder and run.is_dir()
        for other in files_of(run) if other.suffix == path.suffix
    ]  # fmt: skip
    if not others:
        return absent(folder, rng)
    shutil.copy(rng.choice(others), path)
    return True


CHANGES: tuple[Change, ...] = (configuration, configuration, bytes_of, absent, tensors, mixed)
