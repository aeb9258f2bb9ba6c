"""Query/key norms, gated MLPs, attention pooling, no last norm: against timm, merged and frozen."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import timm
import timm.layers
import torch

from engines.errors import CheckpointError
from engines.manifest import Head
from engines.parity.model_outputs import ModelOutputs
from fpet_export.graph.freeze import FrozenVit
from fpet_export.graph.options import FreezeOptions
from fpet_export.graph.to_onnx import to_onnx
from fpet_export.model import cost, reference
from fpet_export.model.adapt import adapt
from fpet_export.model.backbones import Backbone, BackboneOptions, timm_name
from fpet_export.model.backbones._names import check_weights, plainly_named, spec_from_names
from fpet_export.model.backbones.random_weights import spec_of_name
from fpet_export.model.facts import Fact
from fpet_export.model.fold import fold
from fpet_export.model.merge_plan import merge_plan
from fpet_export.model.vit import AttentionPool, Vit, key_bias_of
from fpet_export.model.vit_spec import VitSpec
from tests.fpet_export.tiny import checkpoint_of, relative

SIDE, CLASSES = 32, 5
HALF = (0.5, 0.5, 0.5)
ARGUMENTS: dict[str, Any] = {
    "embed_dim": 64, "depth": 2, "num_heads": 4, "img_size": SIDE, "patch_size": 8,
}  # fmt: skip
layers: Any = timm.layers
PACKED = {"mlp_layer": layers.SwiGLUPacked, "act_layer": torch.nn.SiLU}
NETWORKS: dict[str, dict[str, Any]] = {
    "qk-norm": {"qk_norm": True},
    "gated, packed": PACKED,
    "gated, apart": {"mlp_layer": layers.SwiGLU, "act_layer": torch.nn.SiLU},
    "no last norm": {"final_norm": False},
    "no last norm, mean": {"final_norm": False, "global_pool": "avg"},
    "inner norms": {"scale_attn_norm": True, "scale_mlp_norm": True},
    "attention pooling": {"global_pool": "map", "class_token": False},
    "attention pooling behind prefix": {"global_pool": "map", "reg_tokens": 2},
    "attention pooling, norm behind it": {"global_pool": "map", "fc_norm": True},
    "all": PACKED | {"qk_norm": True, "final_norm": False, "init_values": 0.3},
}

MERGES = ("none", "fpet@0", "fpet@1", "tome:r=3", "diffrate:15-11,10-8")


def timm_model(name: str = "vit_tiny_patch16_224", **changes: Any) -> Any:
    """A small model, no weight of which has a neutral value."""
    arguments = ARGUMENTS | {"num_classes": CLASSES} | changes
    model: Any = timm.create_model(name, **arguments).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    model.pretrained_cfg = {"mean": HALF, "std": HALF}
    return model


def backbone_of(model: Any) -> Backbone:
    return timm_name.of_model(model, "timm:tiny", BackboneOptions())


def vit_of(backbone: Backbone, *, merge: str = "none", head: Head = "logits") -> Vit:
    run = checkpoint_of(backbone.spec, "none", merge_block=0 if merge.startswith("fpet") else None)
    run = dataclasses.replace(run, head={}, merge=merge).with_head_of(backbone)
    return adapt(backbone, run, head)


def images_of(count: int = 3) -> np.ndarray:
    return np.random.default_rng(0).random((count, 3, SIDE, SIDE), dtype=np.float32)


def expected_of(model: Vit, images: np.ndarray) -> ModelOutputs:
    return reference.run(model, images, HALF, HALF)


def frozen_of(model: Vit, **options: Any) -> FrozenVit:
    return FrozenVit(fold(model)[0], FreezeOptions(**options), HALF, HALF).eval()


def answers(module: FrozenVit, images: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        found: np.ndarray = module(torch.from_numpy(images)).numpy()
    return found


@pytest.mark.parametrize("network", NETWORKS)
def test_logits_and_features_are_timms(network: str) -> None:
    model, images = timm_model(**NETWORKS[network]), images_of()
    backbone = backbone_of(model)

    logits = expected_of(vit_of(backbone), images).logits
    features = expected_of(vit_of(backbone, head="features"), images).logits
    tokens = expected_of(vit_of(backbone, head="tokens"), images).logits

    with torch.inference_mode():
        normalised = (torch.from_numpy(images).double() - 0.5) / 0.5
        found = model.double().forward_features(normalised)
        assert relative(tokens, found[:, model.num_prefix_tokens :].numpy()) < 1e-12
        assert relative(features, model.forward_head(found, pre_logits=True).numpy()) < 1e-12
        assert relative(logits, model(normalised).numpy()) < 1e-12


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("merge", MERGES)
def test_the_frozen_network_gives_the_same(network: str, merge: str) -> None:
    backbone, images = backbone_of(timm_model(**NETWORKS[network])), images_of()
    if merge.startswith("diffrate") and backbone.spec.prefix != ("cls",):
        pytest.skip("the schedule is one of a class token and 16 patches")
    heads: list[Head] = ["logits", "features", "tokens"]
    for head in heads[:2] if merge.startswith("diffrate") else heads:
        model = vit_of(backbone, merge=merge, head=head)
        expected = expected_of(model, images)
        for scale, last, attention in itertools.product(
            ("split", "folded"), ("class-token", "all-tokens"), ("primitive", "fused")
        ):
            module = frozen_of(model, attention_scale=scale, last_block=last, attention=attention)
            assert relative(answers(module, images), expected.logits) < 1e-5
            if merge != "none":
                with torch.inference_mode():
                    match = module.trace(torch.from_numpy(images))["match"].numpy()
                assert (match == expected.match).all()


@pytest.mark.parametrize(
    ("network", "batch"),
    [*((network, 3) for network in NETWORKS), ("attention pooling", (1, 4)), ("qk-norm", (1, 4))],
)
def test_the_graph_gives_the_same(
    network: str, batch: int | tuple[int, int], tmp_path: Path
) -> None:
    backbone, images = backbone_of(timm_model(**NETWORKS[network])), images_of()
    model = vit_of(backbone, merge="fpet@0")
    module = frozen_of(model, batch=batch)

    to_onnx(module, tmp_path / "model.onnx", opset=20)

    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (found,) = session.run(None, {"images": images})
    assert relative(found, expected_of(model, images).logits) < 1e-5


def test_a_merge_matches_by_the_keys_behind_their_norm() -> None:
    """The average of the keys before their norm, which is the shortcut elsewhere, differs."""
    backbone, images = backbone_of(timm_model(qk_norm=True)), images_of(8)
    model = vit_of(backbone, merge="fpet@0")
    expected = expected_of(model, images).match
    assert expected is not None

    for block in model.each_block():
        block.attn.k_norm = torch.nn.Identity()  # type: ignore[assignment]
    other = expected_of(model, images).match

    assert other is not None and (other != expected).any()


def test_the_attention_pooling_counts_every_patch_of_a_merged_token() -> None:
    spec = VitSpec(
        image=(8, 8), patch=(4, 4), width=16, depth=1, heads=2, hidden=32, classes=0,
        pool="attention",
    )  # fmt: skip
    torch.manual_seed(0)
    pool = AttentionPool(spec).double()
    torch.nn.init.normal_(pool.latent)
    tokens, sizes = torch.randn(1, 3, 16).double(), torch.tensor([[[1.0], [4.0], [2.0]]]).double()
    copies = tokens[:, [0, 1, 1, 1, 1, 2, 2]]
    with torch.inference_mode():
        merged = pool(tokens, key_bias_of(sizes))
        assert torch.allclose(merged, pool(copies, None), atol=1e-12)
        assert not torch.allclose(merged, pool(tokens, None), atol=1e-3)


def test_multiply_adds_count_what_is_computed() -> None:
    def total(**changes: Any) -> int:
        spec = backbone_of(timm_model(**changes)).spec
        return sum(cost.macs(spec, merge_plan(spec, "none")))

    plain, tokens, width, hidden = total(), 17, 64, 256
    assert total(**PACKED) == plain - 2 * tokens * width * hidden // 2
    apart = NETWORKS["gated, apart"]
    assert total(**apart) == plain + 2 * tokens * width * hidden
    pooled = 2 * 16 * width**2 + 2 * 16 * width + width**2 + 2 * width * hidden
    assert total(global_pool="map") == plain + pooled


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("vit_base_patch16_siglip_224", {"pool": "attention", "prefix": (), "hidden": 3072}),
        ("vit_so400m_patch14_siglip_384", {"pool": "attention", "hidden": 4304}),
        ("vit_giant_patch14_dinov2", {"gated": True, "activation": "silu", "hidden": 4096}),
        ("vit_giant_patch14_reg4_dinov2", {"gated": True, "layer_scale": True}),
    ],
)
def test_networks_of_timm_are_known_by_name(name: str, wanted: dict[str, Any]) -> None:
    spec = spec_of_name(name, where="--backbone")
    assert {field: getattr(spec, field) for field in wanted} == wanted


RENAMED = {"mlp.fc1.": "mlp.w12.", "mlp.fc2.": "mlp.w3."}


def test_the_names_of_dinov2s_release_are_read() -> None:
    model = timm_model("vit_giant_patch14_dinov2", mlp_ratio=4)
    own = model.state_dict()
    other = {}
    for name, tensor in own.items():
        for old, new in RENAMED.items():
            name = name.replace(old, new)
        other[name] = tensor
    assert set(other) != set(own) and set(plainly_named(other)) == set(own)


def spec_without_words(weights: dict[str, torch.Tensor]) -> VitSpec:
    options = BackboneOptions(heads=4, pool=None if "attn_pool.latent" in weights else "token")
    spec, _ = spec_from_names(weights, options, where="model.pth")
    check_weights(weights, spec, where="model.pth")
    return spec


def test_what_tensors_show_is_read_from_them_and_the_rest_is_asked_for() -> None:
    shown = {
        name: spec_without_words(plainly_named(timm_model(**NETWORKS[name]).state_dict()))
        for name in ("qk-norm", "attention pooling")
    }
    assert shown["qk-norm"].qk_norm and shown["attention pooling"].pool == "attention"

    for name, words in (
        ("gated, packed", "by which activation"),
        ("gated, apart", "by which activation"),
        ("no last norm", "norm.bias, norm.weight"),
    ):
        with pytest.raises(CheckpointError, match=words):
            spec_without_words(plainly_named(timm_model(**NETWORKS[name]).state_dict()))


@pytest.mark.parametrize(
    ("network", "lost", "words"),
    [
        ("qk-norm", "blocks.1.attn.k_norm.weight", "1 missing"),
        ("qk-norm", "blocks.0.attn.q_norm.weight", "qk norm is on"),
        ("gated, packed", "blocks.1.mlp.fc2.bias", "1 missing"),
        ("gated, apart", "blocks.1.mlp.fc1_g.weight", "unexpected"),
        ("attention pooling", "attn_pool.latent", "tensors have no attn_pool"),
        ("attention pooling", "attn_pool.kv.bias", "1 missing"),
    ],
)
def test_a_file_that_lost_a_tensor_is_refused(network: str, lost: str, words: str) -> None:
    model = timm_model(**NETWORKS[network])
    named = Fact(backbone_of(model).spec, "config.json")
    weights = model.state_dict()
    del weights[lost]
    weights = plainly_named(weights)
    with pytest.raises(CheckpointError, match=words):
        spec, _ = spec_from_names(weights, BackboneOptions(), where="model.pth", named=named)
        check_weights(weights, spec, where="model.pth")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mlp_layer": layers.GluMlp}, "mlp_layer is 'GluMlp'"),
        ({"mlp_layer": layers.GatedMlp}, "mlp_layer is 'GatedMlp'"),
        ({"global_pool": "prr"}, "global_pool is 'prr'"),
        ({"global_pool": "map", "pool_include_prefix": True}, "pool_include_prefix"),
        ({"qk_norm": True, "norm_layer": layers.RmsNorm}, "norm_layer is 'RmsNorm'"),
    ],
)
def test_what_comes_near_is_refused_by_its_argument(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        backbone_of(timm_model(**changes))
