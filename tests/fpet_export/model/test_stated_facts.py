"""What is said about a run from outside its tensors: pixels, its network, a backbone it brings."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import fpet_export
from engines.errors import CheckpointError, FpetError, UsageError
from engines.imaging import images
from engines.manifest import read_manifest
from fpet_export.model import backbones, normalisation
from fpet_export.model.backbones import BackboneOptions
from fpet_export.model.backbones.random_weights import draw
from fpet_export.stages import Adapted
from tests.fpet_export.authors_run import AuthorsRun, write_run
from tests.fpet_export.command_line import pixels_of
from tests.fpet_export.tiny import spec_of, timm_config

SPEC = spec_of()
NUMBERS: dict[str, Any] = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3]}
HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"height": 16, "width": 16}}
RANDOM = "random:vit_tiny_patch16_224:0"


def backbone(folder: Path, **files: dict[str, Any]) -> str:
    """A trained backbone, and JSON files beside it."""
    save_file(draw(SPEC, 0), folder / "vit.safetensors")
    for name, document in files.items():
        (folder / f"{name}.json").write_text(json.dumps(document))
    return str(folder / "vit.safetensors")


def random_on(path: str, **options: Any) -> Adapted:
    return fpet_export.load(RANDOM, backbone=path, **({"heads": 2, "pool": "token"} | options))


def refused(words: tuple[str, ...], kind: type[FpetError], call: Any) -> None:
    with pytest.raises(kind) as caught:
        call()
    for word in words:
        assert word in str(caught.value), f"{word!r} is not in:\n{caught.value}"


# -- normalisation -----------------------------------------------------------------------------


def test_what_nothing_says_is_asked_for(tmp_path: Path) -> None:
    path = backbone(tmp_path)

    refused(("normalised", "--normalisation none"), CheckpointError, lambda: random_on(path))
    found = random_on(path, normalisation="clip")

    assert found.preprocessing.mean == normalisation.NORMALISATIONS["clip"][0]
    assert str(found.normalisation) == "clip (--normalisation)"


def test_random_weights_need_none() -> None:
    found = fpet_export.load(RANDOM)

    assert found.normalisation.value == "none" and "random" in found.normalisation.source


def test_the_authors_code_is_known_whatever_the_backbone_saw(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    path = backbone(tmp_path, config=timm_config(SPEC) | {"pretrained_cfg": NUMBERS})

    found = fpet_export.load(run.text, backbone=path)

    assert found.preprocessing.mean == (0, 0, 0) and found.preprocessing.crop == 1.0
    assert found.normalisation.value == "none" and "FPET" in found.normalisation.source
    asked = fpet_export.load(run.text, backbone=path, normalisation="0.1,0.2,0.3/1,2,3")
    assert (asked.preprocessing.mean, asked.preprocessing.std) == ((0.1, 0.2, 0.3), (1, 2, 3))


def test_timm_says_it(tmp_path: Path) -> None:
    pixels = NUMBERS | {"crop_pct": 0.875, "interpolation": "bilinear"}
    path = backbone(tmp_path, config=timm_config(SPEC) | {"pretrained_cfg": pixels})

    found = random_on(path)

    assert found.preprocessing.mean == (0.4, 0.5, 0.6)
    assert found.preprocessing.std == (0.2, 0.25, 0.3)
    assert (found.preprocessing.crop, found.preprocessing.interpolation) == (0.875, "bilinear")
    assert str(found.normalisation) == "0.4,0.5,0.6/0.2,0.25,0.3 (config.json)"


def test_hugging_face_says_it(tmp_path: Path) -> None:
    path = backbone(tmp_path, preprocessor_config=HALF | {"resample": 2})

    found = random_on(path)

    assert str(found.normalisation) == "half (preprocessor_config.json)"
    assert found.preprocessing.interpolation == "bilinear"
    assert tmp_path / "preprocessor_config.json" in found.backbone.files


def test_keys_that_change_no_pixel_are_passed_over(tmp_path: Path) -> None:
    notes = {"image_processor_type": "ViTImageProcessor", "do_pad": False, "do_convert_rgb": None}
    path = backbone(tmp_path, preprocessor_config=HALF | notes)

    assert random_on(path).normalisation.value == "half"


@pytest.mark.parametrize("text", ["123.675,116.28,103.53/58.395,57.12,57.375", "0,0,0/255,255,255"])
def test_numbers_for_bytes_are_refused_with_those_for_pixels_in_0_to_1(
    text: str, tmp_path: Path
) -> None:
    """As they are they would make almost every image the same."""
    with pytest.raises(ValueError, match=r"for pixels in 0\.\.255") as caught:
        normalisation.parse(text)

    mean, std = normalisation.parse(str(caught.value).split()[-1])
    assert mean in ((0.485, 0.456, 0.406), (0, 0, 0)) and std in ((0.229, 0.224, 0.225), (1, 1, 1))


def test_hugging_face_says_that_there_is_none(tmp_path: Path) -> None:
    path = backbone(tmp_path, preprocessor_config=HALF | {"do_normalize": False})

    assert random_on(path).normalisation.value == "none"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"do_rescale": False}, ("do_rescale False",)),
        ({"rescale_factor": 1.0}, ("rescale_factor 1.0",)),
        ({"size": {"height": 32, "width": 32}}, ("size", "32", "16x16")),
        ({"size": 24}, ("size is 24", "16x16")),
        ({"crop_size": 8, "do_center_crop": True}, ("crop_size is 8",)),
        ({"do_resize": False}, ("do_resize is False",)),
        ({"size": {"shortest_edge": 16}}, ("shortest_edge", "cropped")),
        ({"resample": 5}, ("resample is 5",)),
        ({"image_mean": [0.5]}, ("image_mean",)),
        ({"image_mean": None}, ("image_mean",)),
        ({"image_std": [0, 0, 0]}, ("image_std",)),
        ({"image_mean": [127.5] * 3, "image_std": [51] * 3}, ("0.5,0.5,0.5/0.2,0.2,0.2",)),
        ({"do_flip_channel_order": True}, ("do_flip_channel_order is True",)),
        ({"do_pad": True}, ("do_pad is True",)),
        ({"crop_pct": 0.9}, ("crop_pct is 0.9",)),
        ({"size": None, "do_center_crop": True}, ("size is None",)),
    ],
    ids=str,
)
def test_what_is_not_done_to_pixels_here_is_refused(
    change: dict[str, Any], words: tuple[str, ...], tmp_path: Path
) -> None:
    path = backbone(tmp_path, preprocessor_config=HALF | change)

    refused(words, CheckpointError, lambda: random_on(path))


@pytest.mark.parametrize(
    ("pixels", "size"),
    [
        ({"crop_pct": 1.0, "crop_mode": "squash"}, (16, 16)),
        ({"crop_pct": 1.0, "crop_mode": "center"}, (16, 32)),
        ({"crop_pct": 1.0}, (16, 32)),
        ({"crop_pct": 0.8}, (20, 40)),
    ],
    ids=str,
)
def test_timms_crop_is_timms(pixels: dict[str, Any], size: tuple[int, int], tmp_path: Path) -> None:
    """timm scales an image of 32 x 64 pixels to `size`, and cuts the centre out of that."""
    config = timm_config(SPEC) | {"pretrained_cfg": NUMBERS | pixels}
    image = Image.fromarray(pixels_of(1, side=64)[0, :32])
    method = Image.Resampling.BICUBIC
    scaled = np.asarray(image.resize((size[1], size[0]), method))
    top, left = (size[0] - 16) // 2, (size[1] - 16) // 2

    found = images.resize(image, random_on(backbone(tmp_path, config=config)).preprocessing)

    assert np.array_equal(found, scaled[top : top + 16, left : left + 16])


@pytest.mark.parametrize(
    "pixels", [{"crop_mode": "border", "crop_pct": 1.0}, {"crop_mode": "squash", "crop_pct": 0.9}]
)
def test_a_crop_that_is_not_done_here_is_refused(pixels: dict[str, Any], tmp_path: Path) -> None:
    """It does not matter to a run whose own code prepares the pixels."""
    config = timm_config(SPEC) | {"pretrained_cfg": NUMBERS | pixels}
    path = backbone(tmp_path, config=config)

    refused(("crop_mode",), CheckpointError, lambda: random_on(path))
    fpet_export.load(write_run(tmp_path / "run").text, backbone=path)


def test_hugging_faces_crop_is_obeyed(tmp_path: Path) -> None:
    cut = {"size": {"shortest_edge": 20}, "do_center_crop": True}
    document = HALF | cut | {"crop_size": {"height": 16, "width": 16}}

    found = random_on(backbone(tmp_path, preprocessor_config=document))

    assert found.preprocessing.crop == 0.8


def test_two_files_that_disagree_are_refused(tmp_path: Path) -> None:
    config = timm_config(SPEC) | {"pretrained_cfg": NUMBERS}
    path = backbone(tmp_path, config=config, preprocessor_config=HALF)

    words = ("0.4", "config.json", "preprocessor_config.json")
    refused(words, CheckpointError, lambda: random_on(path))


@pytest.mark.parametrize("name", normalisation.NORMALISATIONS)
def test_a_name_is_read_back(name: str) -> None:
    assert normalisation.name_of(*normalisation.parse(name)) == name


@pytest.mark.parametrize(
    "text", ["", "cifar", "1,2,3", "1,2/1,2,3", "0,0,0/1,0,1", "0,0,nan/1,1,1"]
)
def test_a_normalisation_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    path = backbone(tmp_path)

    refused(("--normalisation",), UsageError, lambda: random_on(path, normalisation=text))


def test_facts_travel_with_the_graph(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    torch.save({"state_dict": draw(SPEC, 1), "state_dict_ema": draw(SPEC, 0)}, tmp_path / "b.pth")
    loaded = fpet_export.load(run.text, backbone=tmp_path / "b.pth", weights="ema")

    facts = read_manifest(loaded.fold().freeze().to_onnx(tmp_path / "out")).facts

    assert facts["backbone weights"] == "ema (state_dict_ema in b.pth)"
    assert facts["backbone heads"] == "2 (cifar.bin)"
    assert facts["backbone pool"].startswith("class (the authors' FPET code")
    assert facts["normalisation"].startswith("none (the authors' FPET code")


def test_a_choice_of_weights_where_there_is_none_is_refused(tmp_path: Path) -> None:
    path = backbone(tmp_path)

    call = lambda: random_on(path, normalisation="none", weights="ema")  # noqa: E731
    refused(("'ema'", "--weights"), UsageError, call)


def test_a_pool_that_is_none_is_refused(tmp_path: Path) -> None:
    path = backbone(tmp_path)

    words = ("pool is 'max'", "token or avg")
    refused(words, UsageError, lambda: random_on(path, normalisation="none", pool="max"))


# -- random runs -------------------------------------------------------------------------------


def test_a_backbone_without_a_head_takes_a_random_run(tmp_path: Path) -> None:
    path = backbone(tmp_path)
    headless = {n: t for n, t in draw(SPEC, 0).items() if not n.startswith("head")}
    save_file(headless, path)

    found = random_on(path, normalisation="none")

    assert found.model.spec.classes == 1000
    assert "no head" in found.checkpoint.facts["classes"].source


# -- the network that a run names --------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("vit_base_patch16_224_in21k", ("vit_base_patch16_224", "width 768", "width 64")),
        ("vit_large_patch32_384", ("width 1024",)),
        ("swin_tiny_patch4_window7_224", ("not a plain ViT",)),
    ],
)
def test_a_yaml_that_names_another_network_is_refused(
    name: str, words: tuple[str, ...], tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run")
    path = backbone(tmp_path)
    fpet_export.load(run.text, backbone=path)  # negative control: a name that nobody knows
    run.rewrite_config(backbone=name)

    refused(words, CheckpointError, lambda: fpet_export.load(run.text, backbone=path))


@pytest.mark.parametrize(("patch", "fits"), [(16, True), (32, False)])
def test_the_yamls_network_says_the_heads_and_must_fit(
    patch: int, fits: bool, tmp_path: Path
) -> None:
    spec = spec_of(width=192, hidden=768, depth=12, heads=3, patch=(16, 16), image=(224, 224))
    run = write_run(tmp_path / "run", "lora", spec=spec, merge_block=None)
    run.rewrite_config(backbone=f"vit_tiny_patch{patch}_224_in21k")
    save_file(draw(spec, 0), tmp_path / "vit.safetensors")
    path = str(tmp_path / "vit.safetensors")

    if fits:
        found = fpet_export.load(run.text, backbone=path)
        assert str(found.backbone.facts["heads"]) == f"3 ({run.config.name})"
    else:
        words = ("patch 32x32", "patch 16x16")
        refused(words, CheckpointError, lambda: fpet_export.load(run.text, backbone=path))


def test_a_backbone_read_for_another_run_must_fit_its_pool(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    config = timm_config(SPEC)
    config |= {"global_pool": "avg", "model_args": config["model_args"] | {"fc_norm": False}}
    read = backbones.read(backbone(tmp_path, config=config))
    said = backbones.read(str(read.files[0]), BackboneOptions(pool="avg"))

    words = ("mean", "config.json", "FPET", 'pool="avg"')
    refused(words, CheckpointError, lambda: fpet_export.load(run.text, backbone=read))
    assert fpet_export.load(run.text, backbone=said).model.spec.pool == "mean"


# -- a run that brings its backbone ------------------------------------------------------------


def whole(folder: Path, seed: int) -> tuple[AuthorsRun, str]:
    """A run whose .pth holds the whole model, on the backbone of a seed."""
    run = write_run(folder / "run", bit=32)
    tuned = torch.load(run.pth, weights_only=True)
    run.rewrite_pth(draw(SPEC, seed) | tuned)
    return run, backbone(folder)


def test_a_whole_model_on_the_very_backbone_is_the_run(tmp_path: Path) -> None:
    run, path = whole(tmp_path, seed=0)
    alone = write_run(tmp_path / "alone", bit=32)

    found, wanted = (fpet_export.load(one.text, backbone=path) for one in (run, alone))

    for name, tensor in wanted.model.state_dict().items():
        assert torch.equal(found.model.state_dict()[name], tensor)


def test_a_whole_model_of_another_backbone_says_how_to_take_its_own(tmp_path: Path) -> None:
    run, path = whole(tmp_path, seed=1)
    with pytest.raises(CheckpointError) as caught:
        fpet_export.load(run.text, backbone=path)
    message = str(caught.value)
    assert "holds a whole model" in message and "vit.safetensors" in message

    command = shlex.split(message[message.index("python -c") :])
    subprocess.run([sys.executable, *command[1:]], check=True)

    own = run.folder / "cifar-backbone.safetensors"
    assert set(load_file(own)) == {n for n in draw(SPEC, 1) if not n.startswith("head")}
    fpet_export.load(run.text, backbone=own)


def test_a_run_of_data_parallel_is_read_and_said(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", bit=32)
    tensors = torch.load(run.pth, weights_only=True)
    run.rewrite_pth({"module." + name: tensor for name, tensor in tensors.items()})

    found = fpet_export.load(run.text, backbone=backbone(tmp_path))

    assert found.checkpoint.facts["prefix"].value == "module."


# -- what is not a run -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (
            {"adapter_config.json": '{"peft_type": "LORA"}', "adapter_model.safetensors": ""},
            ("r is None", "adapter_config.json"),
        ),
        (
            {"config.json": '{"model_type": "vit"}', "model.safetensors": ""},
            ("architectures", "ViTForImageClassification"),
        ),
        (
            {"config.json": '{"architecture": "vit_x"}', "optimizer.pt": ""},
            ("'vit_x'", "neither model.safetensors nor", "only optimizer.pt"),
        ),
        (
            {"config.json": '{"architecture": "vit_x"}', "model.safetensors": ""},
            ("not a whole safetensors file", "/model.safetensors"),
        ),
        ({"last.ckpt": ""}, ("no run and no whole model", "last.ckpt")),
        ({}, ("no .pth file",)),
    ],
    ids=["PEFT", "transformers", "no weights", "damaged", "other weights", "nothing"],
)
def test_a_folder_that_is_not_a_run_is_called_what_it_is(
    files: dict[str, str], words: tuple[str, ...], tmp_path: Path
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)

    refused(words, CheckpointError, lambda: fpet_export.load(tmp_path))


def test_a_folder_of_runs_names_one(tmp_path: Path) -> None:
    run = write_run(tmp_path / "runs" / "lora")

    words = ("1 folder below", str(run.folder))
    refused(words, CheckpointError, lambda: fpet_export.load(tmp_path / "runs"))
