"""Whole models of Hugging Face's transformers as runs, against the library's own logits."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import fpet_export
from engines.errors import CheckpointError, FpetError, TrustError, UsageError
from engines.imaging.images import resize
from engines.manifest import read_manifest
from engines.storage import sha256_of
from fpet_export.model.backbones._hf_names import name_of, site_of, unread
from fpet_export.model.module_names import layouts
from tests.fpet_export.command_line import call
from tests.fpet_export.tiny import relative
from tests.references.hf_models.compare import difference
from tests.references.hf_models.write import PICTURE

MODELS = Path(__file__).parents[2] / "hf_models"
UNKNOWN = {"image_processor_type": "OtherImageProcessor"}
KINDS = sorted(path.parent.name for path in MODELS.glob("*/expected.npz"))
Tensors = dict[str, torch.Tensor]


@pytest.fixture
def vit(tmp_path: Path) -> Path:
    return copied("vit", tmp_path)


def copied(kind: str, tmp_path: Path) -> Path:
    """A model that a test may change."""
    return Path(shutil.copytree(MODELS / kind, tmp_path / kind))


def change(folder: Path, **fields: Any) -> None:
    """Change config.json; None removes a key."""
    edit_json(folder / "config.json", fields)


def edit_json(path: Path, fields: dict[str, Any]) -> None:
    document = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({k: v for k, v in document.items() if v is not None}))


def change_tensors(folder: Path, edit: Callable[[Tensors], Tensors]) -> None:
    path = folder / "model.safetensors"
    save_file(edit(load_file(path)), path, metadata={"format": "pt"})


def refused(kind: type[FpetError], call: Callable[[], Any], *words: str) -> None:
    with pytest.raises(FpetError) as caught:
        call()
    assert type(caught.value) is kind, caught.value
    for word in words:
        assert word in str(caught.value), f"{word!r} is not in:\n{caught.value}"


def expected_of(folder: Path) -> Iterator[np.ndarray]:
    with np.load(folder / "expected.npz") as found:
        yield from (found["images"], found["logits"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_gives_the_librarys_logits(kind: str, tmp_path: Path) -> None:
    found = difference(MODELS / kind, tmp_path)

    assert found.read <= 1e-6
    assert found.graph <= 1e-5


@pytest.mark.parametrize("kind", ["vit", "dinov2", "dinov2-registers", "deit-teacher"])
def test_other_answers_are_told_apart(kind: str, tmp_path: Path) -> None:
    """The negative control: what a wrong reading would change is far above the limit."""
    pixels, logits = expected_of(MODELS / kind)
    folder = copied(kind, tmp_path)
    change(folder, layer_norm_eps=1e-2)

    assert relative(fpet_export.load(folder).outputs(pixels).logits, logits) > 1e-4


def test_the_folder_says_everything(vit: Path) -> None:
    run = fpet_export.load(vit)
    facts = run.facts()

    assert run.checkpoint.name == "vit" and run.checkpoint.labels is not None
    assert run.checkpoint.labels.value == ("cat", "dog", "owl")
    assert run.model.spec.norm_eps == 1e-12
    assert run.preprocessing.interpolation == "bilinear" and run.preprocessing.crop == 1.0
    assert str(facts["backbone resize"]) == "bilinear to 16x16 (preprocessor_config.json)"
    assert facts["normalisation"].source == "preprocessor_config.json"
    assert facts["backbone heads"].source == "vit's config.json"


def test_the_command_line_reads_a_folder(vit: Path, tmp_path: Path) -> None:
    inspected = call("inspect", vit)
    exported = call("export", vit, "-o", tmp_path / "out")

    assert inspected.code == 0 and "id2label" in inspected.err, inspected.err
    assert exported.code == 0, exported.err
    assert read_manifest(tmp_path / "out" / "model.onnx").labels == ("cat", "dog", "owl")


def test_a_head_from_before_registers_were_left_out_is_noted(tmp_path: Path) -> None:
    folder = copied("dinov2-registers", tmp_path)
    for version, noted in (("4.48.2", True), ("4.52.0", False), ("5.24.0", False), (None, False)):
        change(folder, transformers_version=version)
        source = fpet_export.load(folder).facts()["backbone pool"].source
        assert ("took the registers in" in source) is noted


@pytest.mark.parametrize(
    "kind", ["dinov2", "dinov2-registers", "deit-teacher", "deit", "clip", "siglip"]
)
def test_a_model_merges_without_training(kind: str) -> None:
    pixels, logits = expected_of(MODELS / kind)
    run = fpet_export.load(MODELS / kind, merge_block=0)

    merged = run.outputs(pixels)
    frozen = run.fold().freeze(batch=len(pixels)).outputs(pixels)

    prefix = len(run.model.spec.prefix)
    assert run.merge_plan().tokens == (prefix + 8, prefix + 8)
    assert relative(frozen.logits, merged.logits) < 1e-5
    assert relative(merged.logits, logits) > 1e-4


def test_images_of_dinov2_may_have_another_size(tmp_path: Path) -> None:
    """What the processor states counts, and --image where nothing does."""
    folder = copied("dinov2-resampled", tmp_path)
    assert fpet_export.load(folder).model.spec.grid == (4, 4)
    refused(
        CheckpointError, lambda: fpet_export.load(folder, image=(28, 28)), "--image", "crop_size"
    )

    (folder / "preprocessor_config.json").unlink()
    refused(
        CheckpointError,
        lambda: fpet_export.load(folder, normalisation="half"),
        "size of the images",
        "--image 28x28",
    )
    pixels, logits = expected_of(folder)
    run = fpet_export.load(folder, normalisation="half", image=(16, 16))
    assert relative(run.outputs(pixels).logits, logits) < 1e-6
    odd = {"normalisation": "half", "image": (18, 18)}
    refused(CheckpointError, lambda: fpet_export.load(folder, **odd), "18x18", "patches of 4x4")


@pytest.mark.parametrize("kind", ["vit", "deit", "dinov2"])
def test_a_picture_becomes_the_pixels_of_the_librarys_processor(kind: str) -> None:
    preprocessing = fpet_export.load(MODELS / kind).preprocessing
    with np.load(MODELS / kind / "expected.npz") as expected:
        wanted = expected["prepared"]

    def far(**changes: Any) -> float:
        how = dataclasses.replace(preprocessing, **changes)
        found = resize(Image.fromarray(PICTURE), how).astype(np.float64)
        return float(np.abs(found - wanted).mean())

    assert far() < 0.6  # the library resizes with torchvision, which rounds in another way
    for other in ("torchvision", "transformers", "squashed"):
        if preprocessing.crop < 1 and other != preprocessing.cropping:
            assert far(cropping=other) > 3


@pytest.mark.parametrize(
    ("fields", "crop", "cropping"),
    [
        ({"feature_extractor_type": "ViTFeatureExtractor", "size": 16}, 1.0, "torchvision"),
        (
            {"feature_extractor_type": "CLIPFeatureExtractor", "size": 20, "crop_size": 16},
            0.8,
            "transformers",
        ),
        (
            {"feature_extractor_type": "DeiTFeatureExtractor", "size": 20, "crop_size": 16},
            0.8,
            "squashed",
        ),
        ({"size": {"height": 16, "width": 16}, "do_center_crop": False}, 1.0, "torchvision"),
        (
            {"size": {"shortest_edge": 16}, "do_center_crop": True, "crop_size": 16},
            math.nextafter(1, 0),
            "transformers",
        ),
    ],
    ids=str,
)
def test_processors_of_every_age_are_understood(
    fields: dict[str, Any], crop: float, cropping: str, vit: Path
) -> None:
    path = vit / "preprocessor_config.json"
    edit_json(path, {"image_processor_type": None} | fields)
    found = fpet_export.load(vit).preprocessing

    assert (found.crop, found.cropping) == (crop, cropping)


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"size": {"shortest_edge": 16}}, "shortest_edge"),
        ({"size": {"height": 20, "width": 20}}, "(20, 20)"),
        ({"size": 20, "crop_size": 16, "do_center_crop": True, **UNKNOWN}, "means either"),
        ({"crop_size": 16, **UNKNOWN}, "do_center_crop"),
        ({"do_center_crop": True, "crop_size": 12}, "(12, 12)"),
        # A class that crops unless it is told not to; the sizes it would take are not there.
        ({"image_processor_type": "CLIPImageProcessor", "size": None}, "do_center_crop"),
        ({"image_processor_type": "BitImageProcessorFast"}, "crop_size"),
        ({"rescale_factor": 1.0}, "divided by 255"),
        ({"do_rescale": False}, "divided by 255"),
        ({"do_resize": False}, "do_resize"),
        ({"resample": 7}, "resample"),
        ({"resample": None, **UNKNOWN}, "resample"),
        ({"image_std": [0.5, 0.5]}, "image_std"),
        ({"image_mean": None, "image_std": None}, "image_mean"),
        ({"do_pad": True}, "do_pad"),
    ],
    ids=str,
)
def test_pixels_that_are_not_made_here_are_refused(
    fields: dict[str, Any], word: str, vit: Path
) -> None:
    edit_json(vit / "preprocessor_config.json", fields)
    refused(CheckpointError, lambda: fpet_export.load(vit), word)


def test_without_a_processor_the_pixels_are_asked_for(vit: Path) -> None:
    (vit / "preprocessor_config.json").unlink()

    refused(CheckpointError, lambda: fpet_export.load(vit), "--normalisation")
    assert fpet_export.load(vit, normalisation="half").model.spec.image == (16, 16)


# -- names -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "site"),
    [
        ("vit.encoder.layer.3.attention.attention.query", "blocks.3.attn.q"),
        ("vit.layers.3.attention.q_proj", "blocks.3.attn.q"),
        ("layers.3.attention.v_proj", "blocks.3.attn.v"),
        ("dinov2.encoder.layer.10.attention.o_proj", "blocks.10.attn.proj"),
        ("encoder.layer.0.attention.output.dense", "blocks.0.attn.proj"),
        ("encoder.layer.0.intermediate.dense", "blocks.0.mlp.fc1"),
        ("encoder.layer.0.output.dense", "blocks.0.mlp.fc2"),
        ("deit.layers.0.mlp.fc2", "blocks.0.mlp.fc2"),
        ("deit.layers.0.layernorm_before", "blocks.0.norm1"),
        ("dinov2_with_registers.encoder.layer.1.norm2", "blocks.1.norm2"),
        ("vit.embeddings.patch_embeddings.projection", "patch_embed"),
        ("vit.layernorm", "norm"),
        ("classifier", "head"),
        ("vit.pooler.dense", None),
        ("vit.encoder.layer.3.attention.attention", None),
        ("", None),
    ],
)
def test_modules_have_sites(path: str, site: str | None) -> None:
    assert site_of(path) == site


@pytest.mark.parametrize("kind", ["vit", "deit-teacher", "dinov2-registers"])
def test_adapters_and_whole_models_call_a_layer_alike(kind: str) -> None:
    spec = fpet_export.load(MODELS / kind).model.spec
    of_transformers = [names for names in layouts(spec) if not any("blocks." in n for n in names)]

    assert len(of_transformers) >= 4
    for names in of_transformers:
        for path, site in names.items():
            assert site_of(path) == site


def test_every_tensor_has_one_name() -> None:
    for kind in ("vit", "vit-runtime-names", "deit-teacher", "dinov2-registers"):
        names = list(load_file(MODELS / kind / "model.safetensors"))
        read = [name_of(name) for name in names if unread(name) is None]
        assert None not in read and len(set(read)) == len(read)
    assert name_of("vit.encoder.layer.0.layer_scale1.weight") is None
    assert name_of("vit.layernorm.lambda1") is None


# -- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"model_type": "swin"}, ("model_type", "'swin'", "dinov2")),
        ({"hidden_act": []}, ("hidden_act", "[]")),
        ({"architectures": [["ViTModel"]]}, ("architectures",)),
        ({"num_labels": 7, "id2label": None}, ("num_labels", "7", "3 rows")),
        ({"hidden_act": "tanh"}, ("hidden_act", "'tanh'", "quick_gelu")),
        ({"num_attention_heads": 3}, ("num_attention_heads", "16")),
        ({"num_channels": 1}, ("num_channels", "1")),
        ({"architectures": ["ViTForMaskedImageModeling"]}, ("ViTForMaskedImageModeling",)),
        ({"architectures": ["DeiTForImageClassification"]}, ("DeiT", "'vit'")),
        ({"architectures": None}, ("architectures", "ViTForImageClassification")),
        ({"image_size": 24}, ("(16, 16)", "(24, 24)")),
        ({"hidden_size": 32}, ("(16, 16)", "(32, 32)")),
        ({"num_hidden_layers": 3}, ("blocks.2.attn.q.weight is missing",)),
        ({"num_hidden_layers": 1}, ("unexpected", "blocks.1")),
        ({"intermediate_size": 48}, ("misshapen", "fc1")),
        ({"qkv_bias": False}, ("unexpected", "attn.k.bias")),
        ({"rotary": True}, ("rotary", "True")),
        ({"quantization_config": {"bits": 8}}, ("quantization_config",)),
        ({"id2label": {"0": "a"}}, ("label2id",)),
        ({"id2label": {"0": "a"}, "label2id": None}, ("id2label", "1 class", "3")),
        ({"label2id": {"cat": 1, "dog": 0, "owl": 2}}, ("label2id", "id2label")),
    ],
    ids=str,
)
def test_a_configuration_of_another_model_is_refused(
    fields: dict[str, Any], words: tuple[str, ...], vit: Path
) -> None:
    change(vit, **fields)
    refused(CheckpointError, lambda: fpet_export.load(vit), *words)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"vision_config": None}, ("vision_config", "image tower")),
        ({"vision_config": {"hidden_size": 32}}, ("(16, 16)", "(32, 32)")),
        ({"vision_config": {"image_size": [16, 32]}}, ("image_size", "square")),
        ({"vision_config": {"rotary": 1}}, ("rotary",)),
        ({"vision_config_dict": {"hidden_act": "gelu"}}, ("vision_config_dict",)),
        ({"model_type": "siglip"}, ("transformers' siglip",)),
        ({"model_type": "clip_vision_model"}, ("clip_vision_model",)),
        ({"architectures": ["CLIPModel"]}, ("CLIPModel", "CLIPForImageClassification")),
    ],
    ids=str,
)
def test_a_configuration_of_another_tower_is_refused(
    fields: dict[str, Any], words: tuple[str, ...], tmp_path: Path
) -> None:
    folder = copied("clip", tmp_path)
    document = json.loads((folder / "config.json").read_text())
    if isinstance(fields.get("vision_config"), dict):
        fields = {"vision_config": document["vision_config"] | fields["vision_config"]}
    change(folder, **fields)
    refused(CheckpointError, lambda: fpet_export.load(folder), *words)


@pytest.mark.parametrize(("kind", "left_out"), [("clip", "post_layernorm"), ("siglip", "probe")])
def test_what_a_classifier_does_not_read_is_said(kind: str, left_out: str) -> None:
    assert left_out in fpet_export.load(MODELS / kind).facts()["backbone left out"].value


def test_a_model_without_a_head_is_a_backbone_alone(vit: Path) -> None:
    """The names of `ViTModel` have no prefix, and its pooler is read by nobody."""
    intact = fpet_export.load(vit)
    change_tensors(
        vit,
        lambda t: (
            {n.removeprefix("vit."): v for n, v in t.items() if "classifier" not in n}
            | {"pooler.dense.weight": torch.zeros(16, 16), "pooler.dense.bias": torch.zeros(16)}
        ),
    )
    change(vit, architectures=["ViTModel"])

    refused(CheckpointError, lambda: fpet_export.load(vit), "no head", "--backbone")
    run = fpet_export.load("random:vit_tiny_patch16_224:0", backbone=vit)
    for name, tensor in run.backbone.weights.items():
        assert torch.equal(tensor, intact.backbone.weights[name])
    assert "pooler.dense.weight" in run.facts()["backbone left out"].value


def test_a_gated_mlp_must_be_in_the_tensors_too(tmp_path: Path) -> None:
    folder = copied("dinov2", tmp_path)
    change(folder, use_swiglu_ffn=True)
    refused(CheckpointError, lambda: fpet_export.load(folder), "misshapen", "mlp.fc1")
    change(folder, use_swiglu_ffn="yes")
    refused(CheckpointError, lambda: fpet_export.load(folder), "use_swiglu_ffn", "true or false")

    gated = copied("dinov2-gated", tmp_path)
    change(gated, use_swiglu_ffn=False)
    refused(CheckpointError, lambda: fpet_export.load(gated), "weights_in", "none of this network")


@pytest.mark.parametrize("kind", ["siglip-vision", "clip-vision"])
def test_an_image_tower_gives_no_logits(kind: str, tmp_path: Path) -> None:
    folder = copied(kind, tmp_path)
    refused(CheckpointError, lambda: fpet_export.load(folder), "no head", "--head features")
    refused(
        CheckpointError, lambda: fpet_export.load(folder, head="features", pool="avg"), "--pool"
    )


def test_the_pooling_of_a_tower_is_read_strictly(tmp_path: Path) -> None:
    folder = copied("siglip-vision", tmp_path)
    tensors = load_file(folder / "model.safetensors")
    path = folder / "model.safetensors"
    for lost in [name for name in tensors if name.startswith("head.")]:
        rest = {name: tensor for name, tensor in tensors.items() if name != lost}
        save_file(rest, path, metadata={"format": "pt"})
        refused(CheckpointError, lambda: fpet_export.load(folder, head="features"), "attn_pool")
    cut = tensors | {"head.attention.in_proj_weight": torch.zeros(40, 16)}
    save_file(cut, path, metadata={"format": "pt"})
    refused(CheckpointError, lambda: fpet_export.load(folder, head="features"), "attn_pool")
    save_file(tensors, path, metadata={"format": "pt"})
    change(folder, vision_use_head=False)
    refused(CheckpointError, lambda: fpet_export.load(folder, head="tokens"), "vision_use_head")


QUERY = "vit.encoder.layer.0.attention.attention.query.weight"


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda t: t | {"decoder.0.weight": torch.zeros(2)}, ("decoder.0.weight", "none of")),
        (lambda t: {n: v for n, v in t.items() if n != QUERY}, ("attn.q.weight is missing",)),
        (lambda t: t | {QUERY: torch.zeros(16, 8)}, ("(16, 8)", "(16, 16)")),
        (lambda t: t | {QUERY: torch.full((16, 16), torch.nan)}, ("NaN", "qkv")),
        (lambda t: t | {QUERY: torch.zeros(16, 16, dtype=torch.int8)}, ("int8", QUERY)),
        (
            lambda t: t | {"vit.layers.0.attention.q_proj.weight": torch.zeros(16, 16)},
            ("two names", "q_proj", "query"),
        ),
        (
            lambda t: {n: v for n, v in t.items() if "classifier" not in n},
            ("no head", "--backbone"),
        ),
    ],
    ids=["unknown", "missing", "misshapen", "NaN", "int8", "twice", "no head"],
)
def test_tensors_of_another_model_are_refused(
    edit: Callable[[Tensors], Tensors], words: tuple[str, ...], vit: Path
) -> None:
    change_tensors(vit, edit)
    refused(CheckpointError, lambda: fpet_export.load(vit), *words)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"heads": 4}, ("--heads", "4", "2")),
        ({"pool": "avg"}, ("--pool", "mean", "class")),
        ({"arch": "vit_base_patch16_224"}, ("--arch", "vit_base_patch16_224")),
        ({"image": (24, 24)}, ("--image", "(24, 24)", "size in preprocessor_config.json")),
    ],
    ids=str,
)
def test_options_that_contradict_the_folder_are_refused(
    said: dict[str, Any], words: tuple[str, ...], vit: Path
) -> None:
    refused(CheckpointError, lambda: fpet_export.load(vit, **said), *words)


def test_options_of_adapters_are_refused(vit: Path) -> None:
    refused(UsageError, lambda: fpet_export.load(vit, rank=4), "--rank", "whole model")


def test_an_index_and_its_files_belong_together(tmp_path: Path) -> None:
    folder = copied("vit-shards", tmp_path)
    index = folder / "model.safetensors.index.json"
    whole = json.loads(index.read_text())
    weight_map = dict(whole["weight_map"])
    first = min(weight_map)

    for wrong, word in (
        ({k: v for k, v in weight_map.items() if k != first}, first),
        (weight_map | {first: "../vit/model.safetensors"}, "no file beside it"),
        (weight_map | {first: "absent.safetensors"}, "absent.safetensors"),
        ({}, "no table"),
    ):
        index.write_text(json.dumps(whole | {"weight_map": wrong}))
        refused(CheckpointError, lambda: fpet_export.load(folder), word)


def test_weights_that_are_absent_are_named(vit: Path) -> None:
    (vit / "model.safetensors").rename(vit / "model.fp16.safetensors")
    refused(CheckpointError, lambda: fpet_export.load(vit), "no weights", "model.fp16.safetensors")


def test_checksums_of_the_parts_of_a_model_are_verified(tmp_path: Path) -> None:
    folder = copied("vit-shards", tmp_path)
    files = sorted(folder.glob("model*"))
    sums = [f"{sha256_of(path)}  {path.name}\n" for path in files]
    (folder / "SHA256SUMS").write_text("".join(sums))
    fpet_export.load(folder)

    shard = files[0]
    save_file({n: t + 1 for n, t in load_file(shard).items()}, shard, metadata={"format": "pt"})

    refused(TrustError, lambda: fpet_export.load(folder), "SHA256SUMS", shard.name)


def test_checksums_beside_the_model_are_verified(vit: Path) -> None:
    path = vit / "model.safetensors"
    (vit / "SHA256SUMS").write_text(f"{sha256_of(path)}  {path.name}\n")
    fpet_export.load(vit)

    change_tensors(vit, lambda t: t | {QUERY: t[QUERY] + 1})

    refused(TrustError, lambda: fpet_export.load(vit), "SHA256SUMS")


@pytest.mark.parametrize(
    ("kind", "fields", "words"),
    [
        ("dinov3", {"key_bias": True}, ("attn.k.bias is missing",)),
        ("dinov3-gated", {"key_bias": False}, ("has a bias, against key_bias",)),
        ("dinov3", {"value_bias": False}, ("value_bias", "wanted true")),
        ("dinov3", {"proj_bias": False}, ("proj_bias", "others are not read")),
        ("dinov3", {"mlp_bias": False}, ("mlp_bias",)),
        ("dinov3", {"rope_theta": 0}, ("rope_theta", "above 0")),
        ("dinov3", {"num_register_tokens": 0}, ("unexpected (reg_token)",)),
        ("dinov3", {"num_register_tokens": 3}, ("misshapen (reg_token",)),
        ("dinov3", {"use_gated_mlp": True}, ("fc1_x",)),
        ("dinov3-gated", {"use_gated_mlp": False}, ("gate_proj",)),
        ("dinov3", {"num_attention_heads": 8}, ("num_attention_heads", "4 divides")),
        ("dinov3", {"rope_scaling": 2}, ("rope_scaling", "no key beyond")),
        ("dinov3", {"architectures": ["DINOv3ViTBackbone"]}, ("DINOv3ViTBackbone",)),
    ],
)
def test_what_dinov3_may_not_say_is_refused(
    kind: str, fields: dict[str, Any], words: tuple[str, ...], tmp_path: Path
) -> None:
    folder = copied(kind, tmp_path)
    change(folder, **fields)
    refused(CheckpointError, lambda: fpet_export.load(folder, head="features"), *words)


def test_dinov3_takes_images_of_any_size_and_shape(tmp_path: Path) -> None:
    folder = copied("dinov3", tmp_path)
    edit_json(folder / "preprocessor_config.json", {"size": {"height": 16, "width": 24}})
    run = fpet_export.load(folder, head="features")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 16, 24, 3), dtype=np.uint8)

    wanted = run.outputs(pixels).logits

    assert run.model.spec.grid == (4, 6)
    assert relative(run.fold().freeze(batch=2).outputs(pixels).logits, wanted) < 1e-5
    (folder / "preprocessor_config.json").unlink()
    refused(CheckpointError, lambda: fpet_export.load(folder, head="features"), "dinov3_vit takes")


def test_the_temperature_of_dinov3_matters(tmp_path: Path) -> None:
    with np.load(MODELS / "dinov3" / "expected.npz") as expected:
        pixels, wanted = expected["images"], expected["features"]
    folder = copied("dinov3", tmp_path)
    change(folder, rope_theta=50.0)

    found = fpet_export.load(folder, head="features").outputs(pixels).logits

    assert relative(found, wanted) > 1e-4
