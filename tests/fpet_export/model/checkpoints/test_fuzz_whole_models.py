"""Whole models with something wrong in them: a named error, or the very same model.

Changes that make another valid model, such as other heads or another epsilon, are left out: nobody
could tell.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import fpet_export
from engines.errors import FpetError
from tests.fpet_export.model.checkpoints.test_hf_model import MODELS
from tests.fpet_export.model.checkpoints.test_timm_model import CONFIG, model_of

KINDS = ("vit", "vit-runtime-names", "vit-shards", "deit", "deit-teacher", "dinov2",
         "dinov2-registers-resampled", "clip", "siglip", "timm", "timm-distilled")  # fmt: skip
UNSEEN = {
    "num_attention_heads", "num_heads", "hidden_act", "layer_norm_eps", "image_mean", "image_std",
    "mean", "std", "resample", "crop_pct", "interpolation", "id2label", "label2id", "label_names",
    "size", "crop_size", "do_normalize", "do_center_crop", "default_to_square",
    "image_processor_type", "global_pool", "pretrained_cfg",
}  # fmt: skip
"""Keys whose other values make another valid model, or other pixels of the same one."""

UNREAD = ("mask_token", "post_layernorm", "vision_model.head.")
"""Tensors that a classifier does not read; SigLIP's norm is read all the same."""

VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 3, 7, 1024, 0.5, float("nan"), float("inf"), 1e30, "", "vit",
    "gelu", "none", [], {}, [16], [16, 16], [1, 2, 3], {"height": 16}, "ViTModel", 2**70,
)  # fmt: skip
Rng = random.Random
Change = Callable[[Path, Rng], bool]
"""Breaks something in a folder; says whether the intact model's answers are still allowed."""


@pytest.fixture(scope="session")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder of each kind."""
    root = tmp_path_factory.mktemp("whole")
    for kind in KINDS:
        if not kind.startswith("timm"):
            shutil.copytree(MODELS / kind, root / kind)
            (root / kind / "expected.npz").unlink()
    for kind, name in (("timm", CONFIG["architecture"]), ("timm-distilled", DISTILLED)):
        (root / kind).mkdir()
        tensors = model_of(name=name).state_dict()
        save_file(tensors, root / kind / "model.safetensors")
        (root / kind / "config.json").write_text(json.dumps(CONFIG | {"architecture": name}))
    return root


DISTILLED = "deit_tiny_distilled_patch16_224"


def configuration(folder: Path, rng: Rng) -> bool:
    """Give a key of config.json another value, or take it away."""
    path = folder / rng.choice(
        [name for name in ("config.json", "preprocessor_config.json") if (folder / name).exists()]
    )
    document = json.loads(path.read_text())
    inner = document.get("model_args") or document.get("vision_config")
    section = inner if inner and rng.random() < 0.6 else document
    keys = sorted(set(section) - UNSEEN)
    if rng.random() < 0.2:
        section[rng.choice(["attention_heads", "rope_theta", "extra"])] = rng.choice(VALUES)
    elif rng.random() < 0.3:
        del section[rng.choice(keys)]
    else:
        section[rng.choice(keys)] = rng.choice(VALUES)
    path.write_text(json.dumps(document))
    return True


def bytes_of(folder: Path, rng: Rng) -> bool:
    """Cut a file off, or change a byte of a text or of a header."""
    path = rng.choice(sorted(path for path in folder.iterdir() if path.is_file()))
    data = bytearray(path.read_bytes())
    if rng.random() < 0.5:
        path.write_bytes(data[: rng.randrange(len(data))])
        return True
    text = len(data) if path.suffix == ".json" else 8
    index = rng.randrange(text)
    if path.suffix == ".json" and chr(data[index]).isalnum():
        data[index] = ord("{")
    else:
        data[index] ^= 0xFF
    path.write_bytes(data)
    return True


def absent(folder: Path, rng: Rng) -> bool:
    """Take a file away."""
    rng.choice(sorted(path for path in folder.iterdir() if path.is_file())).unlink()
    return True


def tensors(folder: Path, rng: Rng) -> bool:
    """Break one tensor."""
    path = rng.choice(sorted(folder.glob("*.safetensors")))
    found = load_file(path)
    name = rng.choice(sorted(found))
    old = found[name]
    kind = rng.randrange(8)
    if kind == 0:
        del found[name]
    elif kind == 1:
        found["x." + name] = found.pop(name)
    elif kind == 2:
        found[name + ".copy"] = old.clone()
    elif kind == 3:
        found[name] = torch.cat([old, old[:1]])
    elif kind == 4:
        found[name] = old[None].contiguous()
    elif kind == 5:
        found[name] = torch.full_like(old, rng.choice([torch.nan, torch.inf]))
    elif kind == 6:
        found[name] = old.to(rng.choice([torch.int8, torch.float8_e4m3fn, torch.bool]))
    else:
        found["decoder.weight"] = torch.zeros(3)
    save_file(found, path, metadata={"format": "pt"})
    return any(part in name for part in UNREAD)


def mixed(folder: Path, rng: Rng) -> bool:
    """Put the file of another kind in its place."""
    other = folder.parent / rng.choice([kind for kind in KINDS if kind != folder.name])
    name = rng.choice(["config.json", "model.safetensors"])
    if not (other / name).exists():
        return absent(folder, rng)
    shutil.copy(other / name, folder / name)
    return True


CHANGES: tuple[Change, ...] = (configuration, configuration, bytes_of, absent, tensors, mixed)


def answers(folder: Path) -> np.ndarray:
    said = {} if (folder / "preprocessor_config.json").exists() else {"normalisation": "half"}
    run = fpet_export.load(folder, **said)
    side = run.model.spec.image
    pixels = np.random.default_rng(0).integers(0, 256, (1, *side, 3), dtype=np.uint8)
    return run.outputs(pixels).logits


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", KINDS)
def test_a_broken_folder_gives_a_named_error_or_the_same_model(
    kind: str, seed: int, intact: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    count = 120 if request.config.getoption("--slow") else 20
    expected = answers(intact / kind)
    rng, refused = random.Random(f"{kind} {seed}"), 0
    root = Path(shutil.copytree(intact, tmp_path / "root"))
    folder = root / kind
    for _ in range(count):
        shutil.rmtree(folder)
        shutil.copytree(intact / kind, folder)
        change = rng.choice(CHANGES)
        state = rng.getstate()
        may_answer = change(folder, rng)
        try:
            found = answers(folder)
        except FpetError as error:
            refused += 1
            assert error.exit_code in (2, 3, 10) and error.where and error.fix, (change, error)
            continue
        told = f"{change.__name__} with state {hash(state)}"
        assert may_answer, f"{told} was accepted"
        same = found.shape == expected.shape and np.array_equal(found, expected)
        assert same or _is_another(folder, intact), f"{told} gave another model"
    assert refused > count / 3


def _is_another(folder: Path, intact: Path) -> bool:
    """Whether the folder has become that of another kind as a whole, which is no mistake."""
    return any(
        (folder / "model.safetensors").exists()
        and (intact / kind / "model.safetensors").exists()
        and (folder / "model.safetensors").read_bytes()
        == (intact / kind / "model.safetensors").read_bytes()
        for kind in KINDS
        if kind != folder.name
    )
