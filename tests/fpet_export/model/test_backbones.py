"""Backbones: our network against timm's own, and what is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from engines.errors import CheckpointError, FpetError, UsageError
from fpet_export.model import backbones
from fpet_export.model.backbones import BackboneOptions, random_weights, timm_name
from fpet_export.model.backbones._timm_module import spec_of as spec_of_timm
from fpet_export.model.facts import Fact
from fpet_export.model.vit import Vit
from fpet_export.model.vit_spec import VitSpec
from tests.fpet_export.tiny import relative, spec_of

SAID = BackboneOptions(heads=2, pool="token")
SMALL = {"depth": 2, "embed_dim": 64, "num_heads": 2, "num_classes": 5}
MODELS: list[tuple[str, dict[str, Any]]] = [
    ("vit_tiny_patch16_224", {"img_size": 64}),
    ("vit_tiny_patch16_224", {"img_size": (32, 64)}),
    ("deit_tiny_distilled_patch16_224", {"img_size": 64}),
    ("deit3_small_patch16_224", {"img_size": 48}),
    ("vit_base_patch14_reg4_dinov2", {"img_size": 42}),
    ("vit_base_patch16_clip_quickgelu_224", {"img_size": 64}),
    ("vit_base_patch16_clip_224", {"img_size": 64}),
    ("vit_base_patch16_reg4_gap_256", {"img_size": 64}),
    ("vit_tiny_patch16_224", {"img_size": 64, "class_token": False, "global_pool": "avg"}),
    ("vit_tiny_patch16_224", {"img_size": 64, "global_pool": "avg"}),
    ("vit_tiny_patch16_224", {"img_size": 64, "qkv_bias": False}),
    ("vit_tiny_patch16_224", {"img_size": 64, "mlp_ratio": 2.5, "num_heads": 8}),
]


def shaken(name: str, **changes: Any) -> torch.nn.Module:
    """A small timm model with random weights, biases and norms."""
    model: torch.nn.Module = timm.create_model(name, **(SMALL | changes)).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data = parameter.data + 0.1 * noise
    return model


def ours(spec: VitSpec, weights: Mapping[str, torch.Tensor]) -> Vit:
    model = Vit(spec).eval()
    model.load_state_dict(dict(weights))
    return model


def refused(text: str, *words: str, options: BackboneOptions | None = None) -> None:
    with pytest.raises(FpetError) as caught:
        backbones.read(text, options)
    assert type(caught.value) is CheckpointError
    assert caught.value.exit_code == 3
    for word in words:
        assert word in str(caught.value), f"{word!r} is not in:\n{caught.value}"


@pytest.mark.parametrize(("name", "changes"), MODELS, ids=str)
def test_our_network_gives_what_timms_gives(name: str, changes: dict[str, Any]) -> None:
    theirs = shaken(name, **changes)
    found = timm_name.of_model(theirs, name, BackboneOptions())
    spec, weights = found.spec, found.weights
    images = torch.randn(2, 3, *spec.image, generator=torch.Generator().manual_seed(1))

    with torch.inference_mode():
        expected = theirs(images).numpy()
        actual = ours(spec, weights)(images).numpy()
        other = ours(spec, weights)(images.flip(3)).numpy()

    assert relative(actual, expected) < 1e-5
    assert relative(other, expected) > 1e-3  # negative control: the pixels matter
    assert found.preprocessing.size == spec.image


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("vit_base_patch16_rpn_224", "ResPostBlock"),
        ("vit_base_patch16_xp_224", "ParallelScalingBlock"),
        ("vit_relpos_base_patch16_224", "not a plain ViT"),
        ("swin_tiny_patch4_window7_224", "not a plain ViT"),
        ("resnet18", "not a plain ViT"),
        ("mixer_s32_224", "not a plain ViT"),
        ("crossvit_9_240", "not a plain ViT"),
        ("eva02_enormous_patch14_clip_224", "use_post_norm"),
        ("vit_base_r50_s16_224", "embed_layer"),
    ],
)
def test_a_timm_model_that_is_no_plain_vit_is_refused(name: str, word: str) -> None:
    refused(f"random:{name}:0", word)


@pytest.mark.parametrize("text", ["timm:vit_base_patch16_224x", "random:vit_bse_patch16_224:0"])
def test_an_unknown_name_is_refused(text: str) -> None:
    refused(text, "no model")


@pytest.mark.parametrize("text", ["", "vit.onnx", "weights", "timm"])
def test_what_is_no_backbone_is_refused(text: str) -> None:
    refused(text, "not a backbone", ".npz", "timm:NAME")


# -- files with timm's names -------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny() -> dict[str, torch.Tensor]:
    return random_weights.draw(spec_of(depth=2, heads=2), 0)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_file_is_read_as_it_was_written(
    suffix: str, tiny: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    path = tmp_path / f"vit{suffix}"
    if suffix == ".pth":
        torch.save({"model": tiny}, path)
    else:
        save_file(tiny, path)

    found = backbones.read(str(path), BackboneOptions(heads=2, pool="token"))

    assert found.spec == spec_of(depth=2)
    assert found.quality == "trained"
    assert found.files == (path,)
    for name, tensor in tiny.items():
        torch.testing.assert_close(found.weights[name], tensor, rtol=0, atol=0)


def written(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> str:
    torch.save(tensors, tmp_path / "vit.pth")
    return str(tmp_path / "vit.pth")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"blocks.0.attn.q_norm.weight": torch.ones(32)}, ("missing", "k_norm.weight")),
        ({"blocks.0.mlp.fc1_g.weight": torch.ones(4, 4)}, ("1 unexpected", "fc1_g")),
        ({"blocks.0.attn.rel_pos.table": torch.ones(4)}, ("relative positions",)),
        ({"something.else": torch.ones(4)}, ("1 unexpected", "something.else")),
        ({"norm.weight": torch.ones(65)}, ("misshapen", "norm.weight")),
        ({"norm.weight": torch.full((64,), math.nan)}, ("norm.weight", "NaN")),
        ({"pos_embed": torch.ones(1, 14, 64)}, ("14 rows", "square", "--image")),
        ({"pos_embed": torch.ones(64)}, ("pos_embed", "dimensions")),
        ({"blocks.0.mlp.fc1.weight": torch.ones(())}, ("fc1.weight", "dimensions")),
        ({"head.weight": torch.ones(())}, ("head.weight", "dimensions")),
        ({"patch_embed.proj.weight": torch.ones(64, 1, 4, 4)}, ("three-channel",)),
        ({"patch_embed.proj.weight": torch.ones(64, 3, 0, 4)}, ("patch_embed",)),
        ({"blocks.999999999.norm1.weight": torch.ones(64)}, ("blocks", "all there")),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_wrong_file_is_refused(
    change: dict[str, torch.Tensor],
    words: tuple[str, ...],
    tiny: dict[str, torch.Tensor],
    tmp_path: Path,
) -> None:
    refused(written(tmp_path, tiny | change), *words, options=SAID)


@pytest.mark.parametrize("name", ["pos_embed", "blocks.0.attn.qkv.weight", "norm.bias"])
def test_a_missing_tensor_is_named(
    name: str, tiny: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    tensors = {key: tensor for key, tensor in tiny.items() if key != name}

    refused(written(tmp_path, tensors), name, "missing", options=SAID)


def test_unknown_heads_are_asked_for(tiny: dict[str, torch.Tensor], tmp_path: Path) -> None:
    refused(written(tmp_path, tiny), "attention heads", "width 64", "--heads")


@pytest.mark.parametrize("heads", [0, 3, -2])
def test_heads_that_do_not_divide_the_width_are_refused(
    heads: int, tiny: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    refused(written(tmp_path, tiny), "divide", options=BackboneOptions(heads=heads))


def test_heads_and_the_run_must_agree(tiny: dict[str, torch.Tensor], tmp_path: Path) -> None:
    options = BackboneOptions(heads=4, head_width=lambda depth, width: (32, "cifar.bin"))

    refused(written(tmp_path, tiny), "--heads", "cifar.bin", options=options)


def test_the_run_reveals_the_heads(tiny: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = written(tmp_path, tiny)

    found = backbones.read(
        path, BackboneOptions(pool="token", head_width=lambda depth, width: (16, "cifar.bin"))
    )

    assert found.spec.heads == 4
    assert found.facts["heads"] == Fact(4, "cifar.bin")


@pytest.mark.parametrize("image", [(8, 32), (4, 64)])
def test_a_grid_that_is_not_square_is_taken_from_the_option(
    image: tuple[int, int], tiny: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    found = backbones.read(
        written(tmp_path, tiny), BackboneOptions(heads=2, pool="token", image=image)
    )

    assert found.spec.image == image


@pytest.mark.parametrize("image", [(15, 16), (16, 2), (0, 0)])
def test_images_of_no_whole_number_of_patches_are_refused(
    image: tuple[int, int], tiny: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="no whole number of patches of 4x4"):
        backbones.read(written(tmp_path, tiny), BackboneOptions(heads=2, pool="token", image=image))


def write_config(folder: Path, **changes: Any) -> None:
    """timm's configuration of the network in `tiny`."""
    arguments = {
        "embed_dim": 64, "depth": 2, "num_heads": 2, "mlp_ratio": 2, "patch_size": 4, "img_size": 16
    }  # fmt: skip
    document = {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": 5,
        "model_args": arguments | changes,
    }
    (folder / "config.json").write_text(json.dumps(document))


def test_config_json_names_the_heads(tiny: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = written(tmp_path, tiny)
    write_config(tmp_path, num_heads=4)

    found = backbones.read(path)

    assert found.spec.heads == 4
    assert found.facts["heads"] == Fact(4, "config.json")


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"model_args": 3}', '{"model_args": {"num_heads": "4"}}']
)
def test_a_config_json_that_is_none_is_refused(
    text: str, tiny: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    path = written(tmp_path, tiny)
    (tmp_path / "config.json").write_text(text)

    refused(path, "config.json", "file")


def test_a_clip_vit_needs_its_architecture(tmp_path: Path) -> None:
    """The tensors do not say whether the MLP has QuickGELU, nor the epsilon of the norms."""
    model = shaken("vit_base_patch16_clip_quickgelu_224", img_size=64)
    path = written(tmp_path, dict(model.state_dict()))
    refused(path, "QuickGELU", "config.json", options=SAID)
    document = {
        "architecture": "vit_base_patch16_clip_quickgelu_224",
        "num_classes": 5,
        "model_args": {"depth": 2, "embed_dim": 64, "num_heads": 2, "img_size": 64},
    }
    (tmp_path / "config.json").write_text(json.dumps(document))

    found = backbones.read(path)

    assert found.spec == spec_of_timm(model, where="")
    assert (found.spec.activation, found.spec.norm_eps) == ("quick_gelu", 1e-5)


def test_config_json_betrays_an_architecture_with_the_same_names(
    tiny: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    path = written(tmp_path, tiny)
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "vit_base_patch16_rpn_224"}))

    refused(path, "ResPostBlock")


# -- the original archives ---------------------------------------------------------------------


def archive_of(spec: VitSpec, seed: int = 0) -> dict[str, np.ndarray]:
    """Arrays in the layout of the original release."""
    generator = np.random.default_rng(seed)

    def draw(*shape: int) -> np.ndarray:
        return (0.2 * generator.standard_normal(shape)).astype(np.float32)

    width, heads, d = spec.width, spec.heads, spec.head_width
    arrays = {
        "cls": draw(1, 1, width),
        "embedding/kernel": draw(*spec.patch, 3, width),
        "embedding/bias": draw(width),
        "Transformer/posembed_input/pos_embedding": draw(1, spec.tokens, width),
        "Transformer/encoder_norm/scale": 1 + draw(width),
        "Transformer/encoder_norm/bias": draw(width),
        "head/kernel": draw(width, 7),
        "head/bias": draw(7),
        "pre_logits/kernel": draw(width, width),
        "pre_logits/bias": draw(width),
    }
    for index in range(spec.depth):
        block = f"Transformer/encoderblock_{index}/"
        for number in (0, 2):
            arrays[f"{block}LayerNorm_{number}/scale"] = 1 + draw(width)
            arrays[f"{block}LayerNorm_{number}/bias"] = draw(width)
        attention = f"{block}MultiHeadDotProductAttention_1/"
        for part in ("query", "key", "value"):
            arrays[f"{attention}{part}/kernel"] = draw(width, heads, d)
            arrays[f"{attention}{part}/bias"] = draw(heads, d)
        arrays[f"{attention}out/kernel"] = draw(heads, d, width)
        arrays[f"{attention}out/bias"] = draw(width)
        for number, shape in ((0, (width, spec.hidden)), (1, (spec.hidden, width))):
            arrays[f"{block}MlpBlock_3/Dense_{number}/kernel"] = draw(*shape)
            arrays[f"{block}MlpBlock_3/Dense_{number}/bias"] = draw(shape[1])
    return arrays


ARCHIVE_SPEC = spec_of(depth=2, hidden=256, patch=(16, 16), image=(64, 64), heads=4)


def saved(path: Path, arrays: dict[str, Any]) -> str:
    np.savez(path, **arrays)
    return str(path)


@pytest.mark.parametrize("prefix", ["", "opt/target/"])
def test_an_original_archive_reads_as_timm_reads_it(prefix: str, tmp_path: Path) -> None:
    arrays = archive_of(ARCHIVE_SPEC)
    path = saved(tmp_path / "ViT.npz", {prefix + name: array for name, array in arrays.items()})
    theirs: Any = timm.create_model(
        "vit_tiny_patch16_224", img_size=64, depth=2, embed_dim=64, num_heads=4, num_classes=0
    )
    theirs.load_pretrained(path)

    found = backbones.read(path)

    assert found.spec.heads == 4
    state = theirs.state_dict()
    assert set(found.weights) == set(state)
    for name, tensor in state.items():
        torch.testing.assert_close(found.weights[name], tensor, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cls": None}, ("not an original", "cls")),
        ({"Transformer/encoderblock_1/LayerNorm_0/bias": None}, ("LayerNorm_0/bias",)),
        ({"extra/array": np.ones(3, np.float32)}, ("unknown", "extra/array")),
        ({"cls": np.ones((1, 1, 64), np.int32)}, ("cls", "int32", "floating")),
        ({"cls": np.full((1, 1, 64), np.nan, np.float32)}, ("cls_token", "NaN")),
        ({"embedding/kernel": np.ones((3, 64), np.float32)}, ("not an original",)),
        ({"cls": np.array([{}], dtype=object)}, ("whole",)),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_wrong_archive_is_refused(
    change: dict[str, Any], words: tuple[str, ...], tmp_path: Path
) -> None:
    arrays = {n: a for n, a in (archive_of(ARCHIVE_SPEC) | change).items() if a is not None}

    refused(saved(tmp_path / "ViT.npz", arrays), *words)


def test_a_flat_query_kernel_is_refused(tmp_path: Path) -> None:
    arrays = archive_of(ARCHIVE_SPEC)
    for index in range(2):
        name = f"Transformer/encoderblock_{index}/MultiHeadDotProductAttention_1/query/kernel"
        arrays[name] = arrays[name].reshape(64, 64)

    refused(saved(tmp_path / "ViT.npz", arrays), "query kernel")


def test_heads_must_be_those_of_the_query_kernel(tmp_path: Path) -> None:
    path = saved(tmp_path / "ViT.npz", archive_of(ARCHIVE_SPEC))

    refused(path, "--heads", "query kernel", options=BackboneOptions(heads=2))
    refused(
        path,
        "heads",
        "cifar.bin",
        options=BackboneOptions(head_width=lambda depth, width: (32, "cifar.bin")),
    )
    assert backbones.read(path, BackboneOptions(heads=4)).spec.heads == 4


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ViT.npz"
    with path.open("wb") as file:
        np.save(file, np.ones(3))
    refused(str(path), "whole .npz")
    path.write_bytes(b"")
    refused(str(path), "whole .npz")
    path.unlink()
    refused(str(path), "no such file")


# -- random weights ----------------------------------------------------------------------------


def test_a_random_backbone_repeats_and_is_marked() -> None:
    one, two, other = (backbones.read(f"random:vit_tiny_patch16_224:{seed}") for seed in (1, 1, 2))

    assert one.quality == "random"
    assert torch.equal(one.weights["pos_embed"], two.weights["pos_embed"])
    assert not torch.equal(one.weights["pos_embed"], other.weights["pos_embed"])
    assert one.spec == VitSpec(
        image=(224, 224), patch=(16, 16), width=192, depth=12, heads=3, hidden=768, classes=1000
    )
    assert all(tensor.ne(0).any() for tensor in one.weights.values())


def test_the_plain_names_need_no_timm_and_say_the_same() -> None:
    plain = random_weights.spec_of_name("vit_small_patch32_224", where="")
    with torch.device("meta"):
        model = timm.create_model("vit_small_patch32_224")

    assert plain == spec_of_timm(model, where="")
