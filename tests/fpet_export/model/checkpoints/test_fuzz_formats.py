"""Runs of every format with something wrong in them: a named error, or the very same run.

Changes that make another valid run, such as other heads or another epsilon, are left out: nobody
could tell. `--slow` damages 2,000 runs of each format, in parts; what came of them, `-rP` prints.
Runs of the FPET authors' code, whose `.bin` has no checksum, are in `test_fuzz_checkpoints`.
"""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import save_file
from torchvision.models import VisionTransformer  # type: ignore[import-untyped]  # no stubs

import fpet_export
from engines.errors import FpetError
from tests.fpet_export.model.backbones import test_eva_files
from tests.fpet_export.model.checkpoints import test_broken_tuned_files, test_ts_peft, test_vpt
from tests.fpet_export.model.checkpoints.damage import CHANGES
from tests.fpet_export.model.checkpoints.test_hf_model import MODELS
from tests.fpet_export.model.checkpoints.test_peft_folder import FOLDERS
from tests.fpet_export.model.checkpoints.test_peft_folder import load as load_peft
from tests.fpet_export.model.checkpoints.test_timm_model import CONFIG, model_of
from tests.fpet_export.model.checkpoints.tuned_files import SAID, backbone, head, save
from tests.fpet_export.model.test_torchvision_names import SAID as OF_TORCHVISION

FEW, MANY, PARTS = 12, 2000, 20
"""Damaged runs of a format in every run of the tests, and with `--slow` in so many parts: a test
that takes ten minutes counts as one that hangs."""

Load = Callable[[Path], Any]


@dataclasses.dataclass(frozen=True)
class Sort:
    """One sort of run of a format: what writes it into a folder, and what reads it there."""

    write: Callable[[Path], None]
    load: Load


def copied(source: Path) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        shutil.copytree(source, folder)
        (folder / "expected.npz").unlink(missing_ok=True)

    return write


def load_whole(folder: Path) -> Any:
    said: dict[str, Any] = {}
    if not (folder / "preprocessor_config.json").exists():
        said["normalisation"] = "half"
    head = "features" if folder.name.startswith("dinov3") else "logits"
    return fpet_export.load(folder, head=head, **said)


def of_timm(name: str) -> Sort:
    def write(folder: Path) -> None:
        folder.mkdir()
        save_file(model_of(name=name).state_dict(), folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(CONFIG | {"architecture": name}))

    return Sort(write, load_whole)


def _write_eva(name: str, folder: Path) -> None:
    test_eva_files.folder_of(name, folder)


def of_eva(name: str) -> Sort:
    return Sort(lambda folder: _write_eva(name, folder), load_whole)


def write_torchvision(folder: Path) -> None:
    folder.mkdir()
    model = VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=64,
        num_classes=5,
    )  # fmt: skip
    save(folder / "model.pth", model.state_dict())


def of_peft(name: str) -> Sort:
    base = FOLDERS / name.partition("/")[0] / "base"
    return Sort(copied(FOLDERS / name), lambda folder: load_peft(folder, base))


def write_ts_peft(folder: Path) -> None:
    folder.mkdir()
    test_ts_peft.write(folder, test_ts_peft.tuned())
    shutil.move(folder / "vit.safetensors", folder.parent / f"{folder.name}.safetensors")
    for path in (folder / "adapter").iterdir():
        shutil.move(path, folder)
    (folder / "adapter").rmdir()


def load_ts_peft(folder: Path) -> Any:
    base = folder.parent / f"{folder.name}.safetensors"
    return fpet_export.load(folder, **SAID, backbone=base)


def of_tuned(name: str) -> Sort:
    """A file of a tuned ViT, beside a backbone that stays whole."""
    kind = test_broken_tuned_files.KINDS[name]

    def write(folder: Path) -> None:
        folder.mkdir()
        save(folder / "run.pt", kind.tensors())
        if "config" in kind.said:
            (folder / "run.yaml").write_text(json.dumps(kind.said["config"]))
        save(folder.parent / "vit.pth", backbone())

    def load(folder: Path) -> Any:
        said = dict(kind.said)
        if "config" in said:
            said["config"] = folder / "run.yaml"
        if not kind.brings_backbone:
            said["backbone"] = folder.parent / "vit.pth"
        return fpet_export.load(folder / "run.pt", **SAID, **said)

    return Sort(write, load)


def write_prompts(folder: Path) -> None:
    folder.mkdir()
    prompts = {n: t.numpy() for n, t in test_vpt.drawn("deep").items()}
    save(folder / "prompt_ep100.pth", prompts)
    save(folder / "head.pth", head())
    save(folder.parent / "vit.pth", backbone())


def load_prompts(folder: Path) -> Any:
    said = {"backbone": folder.parent / "vit.pth", "head_weights": folder / "head.pth"}
    return fpet_export.load(folder / "prompt_ep100.pth", **SAID, **said)


FORMATS: dict[str, dict[str, Sort]] = {
    "hf_model": {
        kind: Sort(copied(MODELS / kind), load_whole)
        for kind in ("vit", "vit-runtime-names", "vit-shards", "deit", "deit-teacher", "dinov2",
                     "dinov2-registers-resampled", "clip", "siglip", "dinov3", "dinov3-gated")
    },
    "timm_model": {
        "timm": of_timm(CONFIG["architecture"]),
        "timm-distilled": of_timm("deit_tiny_distilled_patch16_224"),
        "eva02": of_eva("eva02_base_patch14_224"),
        "dinov3-timm": of_eva("vit_small_plus_patch16_dinov3_qkvb"),
        "rope-mixed": of_eva("vit_small_patch16_rope_mixed_ape_224"),
        "torchvision": Sort(
            write_torchvision,
            lambda folder: fpet_export.load(folder / "model.pth", **OF_TORCHVISION),
        ),
    },
    "peft_folder": {
        **{name.replace("/", "-"): of_peft(name) for name in ("vit/lora", "timm/dora",
           "timm/bias-of-b", "dinov2/lora")},
        "ts-peft": Sort(write_ts_peft, load_ts_peft),
    },
    "vpt_prompts": {"vpt-prompts": Sort(write_prompts, load_prompts)},
    **{name: {name: of_tuned(name)} for name in test_broken_tuned_files.KINDS},
}  # fmt: skip


@pytest.fixture(scope="session")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run of each sort, those of a format side by side."""
    root = tmp_path_factory.mktemp("intact")
    for name, sorts in FORMATS.items():
        (root / name).mkdir()
        for sort, made in sorts.items():
            made.write(root / name / sort)
    return root


def answers(run: Any) -> np.ndarray:
    side = run.model.spec.image
    pixels = np.random.default_rng(0).integers(0, 256, (1, *side, 3), dtype=np.uint8)
    found: np.ndarray = run.outputs(pixels).logits
    return found


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Take one part, or with `--slow` all of them."""
    if "part" in metafunc.fixturenames:
        parts = range(PARTS) if metafunc.config.getoption("--slow") else range(1)
        metafunc.parametrize("part", parts)


@pytest.mark.parametrize("name", FORMATS)
def test_a_damaged_run_gives_a_named_error_or_the_same_run(
    name: str, part: int, intact: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    slow = request.config.getoption("--slow")
    count, sorts = MANY // PARTS if slow else FEW, FORMATS[name]
    rng, seen = random.Random(f"{name} {part}"), Counter[str]()
    root = Path(shutil.copytree(intact / name, tmp_path / "root"))
    whole = {sort: made.load(root / sort) for sort, made in sorts.items()}
    expected = {sort: answers(run) for sort, run in whole.items()}
    sizes = {sort: run.model.spec.image for sort, run in whole.items()}
    wrong = []
    for index in range(count):
        sort = rng.choice(list(sorts))
        folder = root / sort
        shutil.rmtree(folder)
        shutil.copytree(intact / name / sort, folder)
        change = rng.choice(CHANGES)
        may_answer = change(folder, rng)
        try:
            run = sorts[sort].load(folder)
        except FpetError as error:
            seen[type(error).__name__] += 1
            if error.exit_code not in (2, 3, 10) or not (error.where and error.fix):
                wrong.append(f"{index} {sort} {change.__name__}: {error}")
            continue
        except Exception as error:  # noqa: BLE001  # what must not come out is what is looked for
            wrong.append(f"{index} {sort} {change.__name__}: {type(error).__name__} {error}")
            continue
        if run.model.spec.image != sizes[sort]:  # a configuration may state another size
            seen["of another size"] += 1
            continue
        seen["accepted"] += 1
        found = answers(run)
        same = found.shape == expected[sort].shape and np.array_equal(found, expected[sort])
        if not may_answer or not (same or _is_another(folder, intact / name, sorts)):
            kind = "accepted" if same else "another model"
            wrong.append(f"{index} {sort} {change.__name__}: {kind}")
    sys.stdout.write(f"{name}, part {part}: {count} damaged, {dict(seen)}\n")
    assert not wrong, "\n".join(wrong)
    others = seen["accepted"] + seen["of another size"]
    assert sum(seen.values()) - others > count / 3


def _is_another(folder: Path, intact: Path, sorts: Mapping[str, Sort]) -> bool:
    """Whether the weights have become those of another sort as a whole, which is no mistake."""
    own = [path for path in folder.iterdir() if path.is_file()]
    others = [
        path for sort in sorts if sort != folder.name for path in (intact / sort).iterdir()
        if path.is_file() and path.suffix not in (".json", ".yaml")
    ]  # fmt: skip
    contents = {path.read_bytes() for path in others}
    return any(path.read_bytes() in contents for path in own)
