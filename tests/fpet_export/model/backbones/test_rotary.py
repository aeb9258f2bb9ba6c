"""Networks with rotary positions and inner norms (EVA-02, DINOv3): timm's own answers, frozen."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime
import pytest
import timm.layers
import torch
from safetensors.torch import save_file

import fpet_export
from engines.errors import CheckpointError, UsageError
from engines.manifest import Head
from engines.parity.model_outputs import ModelOutputs
from fpet_export.graph.freeze import FrozenVit, typed
from fpet_export.graph.options import FreezeOptions
from fpet_export.graph.to_onnx import to_onnx
from fpet_export.model import reference
from fpet_export.model.adapt import adapt
from fpet_export.model.backbones import Backbone, BackboneOptions, timm_name
from fpet_export.model.edits import GatedLowRank, LowRank, PositionShift, Tokens
from fpet_export.model.fold import fold
from fpet_export.model.gates import NormRule
from fpet_export.model.mergers import MergingModule
from fpet_export.model.rotary import Rotary, turned, turns
from fpet_export.model.vit import Vit
from tests.fpet_export.model.backbones.eva_models import (
    DEPTH,
    HALF,
    NAMES,
    answers_of,
    images_of,
    model_of,
)
from tests.fpet_export.tiny import checkpoint_of, relative

HEADS: tuple[Head, ...] = ("logits", "features", "tokens")
MERGES = ("none", "fpet@1", "tome:r=3", "tome:r=2@1-2", "diffrate:{15}-{11},{11}-{9},{9}-{9}")
FROZEN = (
    "eva02_base_patch14_224",
    "eva02_base_patch16_clip_224",
    "vit_small_patch16_rope_mixed_ape_224",
    "vit_small_plus_patch16_dinov3_qkvb",
)
"""Neighbours turned together, with norms inside; learned frequencies; halves turned together."""

LAYERS: Any = timm.layers
LEARNED = "vit_small_patch16_rope_mixed_ape_224"


def backbone_of(model: Any, **options: Any) -> Backbone:
    return timm_name.of_model(model, "timm:tiny", BackboneOptions(**options))


def vit_of(
    backbone: Backbone, *, merge: str = "none", head: Head = "logits", lora: bool = False
) -> Vit:
    spec = backbone.spec
    # A schedule counts the tokens in front of the patches, of which these networks have 1 to 5.
    merge = merge.replace("{", "").replace("}", "") if len(spec.prefix) == 1 else merge
    for number in (15, 11, 9):
        merge = merge.replace(f"{{{number}}}", str(number + len(spec.prefix) - 1))
    run = checkpoint_of(spec, "none", merge_block=1 if merge.startswith("fpet") else None)
    changes = tuple(low_rank(spec.width, site) for site in sites()) if lora else ()
    run = dataclasses.replace(run, head={}, merge=merge, changes=changes).with_head_of(backbone)
    return adapt(backbone, run, head)


def sites() -> list[str]:
    leaves = ("attn.q", "attn.k", "attn.v", "attn.proj", "mlp.fc1", "mlp.fc2")
    return [f"blocks.{block}.{leaf}" for block in range(DEPTH) for leaf in leaves]


def low_rank(width: int, site: str) -> LowRank:
    generator = torch.Generator().manual_seed(len(site))
    inner, outer = WIDE.get(site.rpartition(".")[2], (width, width))
    down = torch.randn(4, inner, generator=generator)
    return LowRank(site, down=down, up=torch.randn(outer, 4, generator=generator), scale=0.02)


WIDE: dict[str, tuple[int, int]] = {}
"""(in, out) of the layers of the MLP; filled by the test that has them."""


def expected_of(model: Vit, images: np.ndarray) -> ModelOutputs:
    return reference.run(model, images, HALF, HALF)


def frozen_of(model: Vit, **options: Any) -> FrozenVit:
    return FrozenVit(fold(model)[0], FreezeOptions(**options), HALF, HALF).eval()


def traced(module: FrozenVit, images: np.ndarray) -> dict[str, np.ndarray]:
    with torch.inference_mode():
        found = module.trace(torch.from_numpy(images))
    return {name: tensor.numpy() for name, tensor in found.items()}


# -- against timm ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_logits_features_and_tokens_are_timms(name: str) -> None:
    model, images = model_of(name), images_of()
    backbone = backbone_of(model)

    wanted = answers_of(model, images)

    # timm computes DINOv3's angles in float64 here, as its weights have never seen them.
    limit = (
        1e-6 if ("dynamic" not in NAMES[name] and "dinov3" in name) or "lingbot" in name else 1e-12
    )
    for head in HEADS:
        found = expected_of(vit_of(backbone, head=head), images).logits
        assert relative(found, wanted[head]) < limit
    if backbone.spec.rotary is not None:  # negative control: the positions matter
        plain = dataclasses.replace(backbone, spec=dataclasses.replace(backbone.spec, rotary=None))
        plain.weights.pop("rope.freqs", None)
        assert relative(expected_of(vit_of(plain), images).logits, wanted["logits"]) > 1e-3


@pytest.mark.parametrize("size", [(48, 32), (24, 56)], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_another_image_size_is_what_timm_makes_of_it(name: str, size: tuple[int, int]) -> None:
    model = model_of(name)
    backbone = backbone_of(model, image=size)

    model.set_input_size(size)
    wanted = answers_of(model, images_of(size))["logits"]

    found = expected_of(vit_of(backbone), images_of(size)).logits
    assert backbone.preprocessing.size == size
    assert relative(found, wanted) < 1e-6


@pytest.mark.parametrize("grid", [(4, 4), (3, 7)], ids=str)
@pytest.mark.parametrize(
    ("rotary", "theirs"),
    [
        (Rotary(), {"in_pixels": False}),
        (Rotary(reference=(5, 6)), {"in_pixels": False, "ref_feat_shape": (5, 6)}),
        (
            Rotary(offset=1.0, columns_first=True, temperature=100.0, pairs="halves"),
            {"in_pixels": False, "grid_offset": 1.0, "grid_indexing": "xy", "temperature": 100.0,
             "rotate_half": True},
        ),
        (
            Rotary(coordinates="centred", temperature=100.0, pairs="halves"),
            {"temperature": 100.0},
        ),
        (
            Rotary(coordinates="centred", offset=0.25, columns_first=True),
            {"temperature": 10000.0, "grid_offset": 0.25, "grid_indexing": "xy",
             "rotate_half": False},
        ),
    ],
    ids=["counted", "reference", "columns first", "centred", "centred, columns first"],
)  # fmt: skip
def test_angles_are_timms_to_the_last_bit(
    rotary: Rotary, theirs: dict[str, Any], grid: tuple[int, int]
) -> None:
    layers = LAYERS
    kind = layers.RotaryEmbeddingDinoV3 if rotary.coordinates == "centred" else None
    module = (kind or layers.RotaryEmbeddingCat)(32, feat_shape=grid, **theirs)
    x = torch.randn(2, 3, grid[0] * grid[1], 32, generator=torch.Generator().manual_seed(0))

    wanted = layers.apply_rot_embed_cat(x, module.get_embed(), half=rotary.pairs == "halves")

    found = turns(rotary, grid, prefix=2, head_width=32)
    both = torch.cat([torch.ones(2, 3, 2, 32), x], dim=2)
    ours = turned(both, found.of(0), rotary.pairs)
    assert torch.equal(ours[:, :, 2:], wanted)
    assert torch.equal(ours[:, :, :2], both[:, :, :2])  # what stands in front is not turned


# -- merged and frozen -------------------------------------------------------------------------


@pytest.mark.parametrize("name", FROZEN)
@pytest.mark.parametrize("merge", MERGES)
def test_the_frozen_network_gives_the_same(name: str, merge: str) -> None:
    backbone, images = backbone_of(model_of(name)), images_of()
    if name == LEARNED and merge.startswith(("tome", "diffrate")):
        with pytest.raises(UsageError, match="keeps other positions in each image"):
            vit_of(backbone, merge=merge)
        return
    for head in HEADS[:2] if merge.startswith("diffrate") else HEADS:
        model = vit_of(backbone, merge=merge, head=head)
        expected = expected_of(model, images)
        for scale, last, attention in itertools.product(
            ("split", "folded"), ("class-token", "all-tokens"), ("primitive", "fused")
        ):
            module = frozen_of(model, attention_scale=scale, last_block=last, attention=attention)
            found = traced(module, images)
            assert relative(found["logits"], expected.logits) < 1e-5
            if merge != "none":
                assert (found["match"] == expected.match).all()


@pytest.mark.parametrize(
    ("name", "merge", "batch", "opset"),
    [
        *((name, "fpet@0", 3, 20) for name in FROZEN),
        ("vit_small_plus_patch16_dinov3_qkvb", "tome:r=3", (1, 4), 17),
        ("vit_small_plus_patch16_dinov3_qkvb", MERGES[-1], 3, 20),
        ("eva02_tiny_patch14_224", "tome:r=3", 3, 20),
        ("vit_small_patch16_lingbot", "none", (1, 4), 20),
    ],
)
def test_the_graph_of_a_tuned_network_gives_the_same(
    name: str, merge: str, batch: int | tuple[int, int], opset: int, tmp_path: Path
) -> None:
    """LoRA on every linear layer lies on top."""
    backbone, images = backbone_of(model_of(name)), images_of()
    spec = backbone.spec
    WIDE["fc1"] = (spec.width, (2 if spec.gated else 1) * spec.hidden)
    WIDE["fc2"] = (spec.hidden, spec.width)
    model = vit_of(backbone, merge=merge, lora=True)
    expected = expected_of(model, images).logits
    to_onnx(frozen_of(model, batch=batch), tmp_path / "model.onnx", opset=opset)

    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (found,) = session.run(None, {"images": images})

    assert relative(found, expected) < 1e-5
    untuned = expected_of(vit_of(backbone, merge=merge), images).logits
    assert relative(untuned, expected) > 1e-3  # negative control


def merges_of(model: Vit) -> list[MergingModule]:
    return [one for one in model.merges.values() if isinstance(one, MergingModule)]


@pytest.mark.parametrize("merge", MERGES[1:])
def test_a_merged_token_takes_the_position_of_the_one_that_others_join(merge: str) -> None:
    """Said twice: by the picture of the merge, and where the same in all images by a constant."""
    backbone, images = backbone_of(model_of("eva02_base_patch14_224")), images_of(count=8)
    model = vit_of(backbone, merge=merge)
    match, at = expected_of(model, images).match, 0
    assert match is not None
    for one in merges_of(model):
        own = torch.from_numpy(match[:, at : at + one.step.sources])
        at += one.step.sources
        takes = one.takes(own)
        assert takes.shape == (8, one.step.after)
        assert (takes[:, 0] == 0).all()
        if one.keeps is None:
            assert (takes[0] != takes[1:]).any()
        else:
            assert (takes[:, 1:] == one.keeps + 1).all()


def test_positions_of_merged_tokens_matter() -> None:
    backbone, images = backbone_of(model_of("eva02_base_patch14_224")), images_of()
    model = vit_of(backbone, merge="fpet@0")
    expected = expected_of(model, images).logits
    (merge,) = merges_of(model)
    right = merge.takes

    merge.takes = lambda match: right(match).flip(1)  # type: ignore[method-assign]

    assert relative(expected_of(model, images).logits, expected) > 1e-3


def test_a_merge_matches_by_keys_that_were_turned() -> None:
    backbone, images = backbone_of(model_of("eva02_base_patch14_224")), images_of(count=8)
    model = vit_of(backbone, merge="fpet@0")
    expected = expected_of(model, images).match

    module = frozen_of(model)
    module.get_submodule("blocks.0.merge.key").pairs = None  # type: ignore[assignment]
    other = traced(module, images)["match"]

    assert expected is not None and (other != expected).any()


@pytest.mark.parametrize("merge", ["fpet@1", "tome:r=3"])
def test_half_precision_keeps_positions_of_a_match_in_float32(merge: str) -> None:
    model = vit_of(backbone_of(model_of("vit_small_plus_patch16_dinov3_qkvb")), merge=merge)
    module = typed(frozen_of(model, attention="fused"), torch.bfloat16)
    assert module.turns is not None
    assert {table.dtype for table in module.turns.tables} == {torch.float32}
    found = traced_logits(module, images_of())
    assert relative(found, expected_of(model, images_of()).logits) < 0.2


def traced_logits(module: FrozenVit, images: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        found: np.ndarray = module(torch.from_numpy(images)).float().numpy()
    return found


def test_an_importance_that_underflows_still_ranks() -> None:
    """Behind a softmax in float32 it would be zero for most patches, and no rank."""
    backbone, images = backbone_of(model_of("vit_small_plus_patch16_dinov3_qkvb")), images_of()
    backbone = dataclasses.replace(backbone, weights=copy.copy(backbone.weights))
    for block in range(DEPTH):
        name = f"blocks.{block}.attn.qkv.weight"
        backbone.weights[name] = (
            backbone.weights[name] * torch.tensor([30.0] * 128 + [1.0] * 64)[:, None]
        )
    model = vit_of(backbone, merge=MERGES[-1])
    assert (traced(frozen_of(model), images)["match"] == expected_of(model, images).match).all()


# -- refused -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("eva02_enormous_patch14_clip_224", {"mlp_ratio": 2}, "use_post_norm"),
        ("vit_base_patch16_sapiens2", {"num_kv_heads": 2}, "num_kv_heads"),
        ("eva02_tiny_patch14_224", {"init_values": 0.1, "attn_only_layer_scale": True},
         "attn_only_layer_scale"),
        ("vit_pe_core_tiny_patch16_384", {"attn_pool_num_heads": 4}, "in front of the patches"),
        ("vit_pe_core_gigantic_patch14_448", {}, "of another form"),
        ("eva02_tiny_patch14_224", {"norm_layer": LAYERS.RmsNorm}, "norm_layer"),
        ("eva02_tiny_patch14_224", {"rope_type": "mrope", "rope_mrope_section": (2, 3, 3)},
         "rope_type"),
        ("vit_small_patch16_dinov3", {"num_heads": 32}, "multiple of 4"),
        ("eva02_tiny_patch14_224", {"use_fc_norm": True, "use_post_transformer_norm": True},
         "two norms"),
        ("eva02_tiny_patch14_224", {"global_pool": "max"}, "global_pool"),
    ],
)  # fmt: skip
def test_what_comes_near_is_refused_by_its_argument(
    name: str, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(CheckpointError, match=words):
        backbone_of(model_of(name, **changes))


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (Tokens(block=None, vectors=torch.ones(2, 64)), "prompts on a network with rotary"),
        (Tokens(block=1, vectors=torch.ones(2, 64)), "prompts on a network with rotary"),
        (PositionShift(tensor=torch.ones(16, 64)), "this network has none"),
    ],
    ids=["prompts", "prompts of a block", "positions"],
)
def test_a_tuning_that_does_not_say_by_what_it_is_turned_is_refused(edit: Any, words: str) -> None:
    backbone = backbone_of(model_of("vit_small_patch16_dinov3"))
    run = checkpoint_of(backbone.spec, "none", merge_block=None)
    run = dataclasses.replace(run, head={}, changes=(edit,)).with_head_of(backbone)
    with pytest.raises(CheckpointError, match=words):
        adapt(backbone, run)


@pytest.mark.parametrize("pool", ["avg", "token"])
def test_the_pool_of_a_file_is_said_beside_its_architecture(
    pool: Literal["avg", "token"], tmp_path: Path
) -> None:
    """timm's EVA family calls the norm behind the pooling otherwise than its plain ViTs do."""
    name, path = "eva02_tiny_patch14_224", tmp_path / "eva.safetensors"
    model: Any = timm.create_model(name, num_classes=2, global_pool=pool, use_fc_norm=False)
    save_file(model.state_dict(), path)
    images = images_of((224, 224), 1)

    found = fpet_export.load(path, arch=name, pool=pool, normalisation="half").model

    assert (
        relative(expected_of(found, images).logits, answers_of(model.eval(), images)["logits"])
        < 1e-6
    )


# -- with updates that do not fold ---------------------------------------------------------------


@pytest.mark.parametrize("merge", ["none", "fpet@1"])
@pytest.mark.parametrize("name", [FROZEN[0], FROZEN[3]])
def test_updates_that_stay_see_the_channels_as_they_were_trained(name: str, merge: str) -> None:
    """A gate measures queries and keys, and the updates of tasks are inputs of the graph."""
    backbone, images = backbone_of(model_of(name)), images_of()
    run = checkpoint_of(backbone.spec, "none", merge_block=1 if merge != "none" else None)
    run = dataclasses.replace(run, head={}, merge=merge).with_head_of(backbone)
    updates = [
        low_rank(64, f"blocks.{block}.attn.{part}") for block in range(DEPTH) for part in "qkv"
    ]
    rule = NormRule(threshold=0.02)
    gated = [
        GatedLowRank(one.site, down=one.down.data, up=one.up.data, scale=0.02, rule=rule)
        for one in updates
    ]
    of_tasks = [one for one in updates if not one.site.endswith("k")]  # which never update keys
    for edits, options in ((gated, {}), (of_tasks, {"updates": "low-rank"})):
        model = adapt(backbone, dataclasses.replace(run, changes=tuple(edits)))
        kept = fold(model)[0] if edits is gated else model
        module = FrozenVit(kept, FreezeOptions(**options), HALF, HALF).eval()  # type: ignore[arg-type]
        expected = expected_of(model, images).logits
        assert relative(traced(module, images)["logits"], expected) < 1e-5
        assert relative(expected_of(adapt(backbone, run), images).logits, expected) > 1e-4
