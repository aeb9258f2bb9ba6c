"""Adapters as PEFT saves them against what PEFT itself answers, and folders that are not whole."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import fpet_export
from engines.engine import open_engine
from engines.errors import CheckpointError, FpetError, UsageError
from fpet_export.model import checkpoints
from fpet_export.model.checkpoints._peft_config import NAME
from fpet_export.stages import Adapted
from tests.fpet_export.tiny import relative

FOLDERS = Path(__file__).with_name("peft_folders")
KINDS = [
    f"{base.name}/{kind.name}"
    for base in sorted(FOLDERS.iterdir())
    if base.is_dir()
    for kind in sorted(base.iterdir())
    if kind.name != "base"
]
HF_MODELS = Path(__file__).parents[2] / "hf_models"
TENSORS = "adapter_model.safetensors"
IMAGES = np.load(FOLDERS / "images.npy")


def load(folder: Path, base: Path | None = None, **more: Any) -> Adapted:
    """Load an adapter; what timm's bare file hides is said."""
    base = FOLDERS / folder.parent.name / "base" if base is None else base
    is_timm = (base / "config.json").exists() is False
    if is_timm:
        more = {"heads": 2, "pool": "token", **more}
        base = base / "model.safetensors"
    if base.parent.name == "dinov2":  # which takes images of any size
        more = {"image": IMAGES.shape[2:], **more}
    return fpet_export.load(folder, backbone=base, normalisation="none", **more)


def answers(model: torch.nn.Module) -> np.ndarray:
    with torch.inference_mode():
        found = copy.deepcopy(model).double()(torch.from_numpy(IMAGES))
    logits: np.ndarray = found.numpy()
    return logits


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of one adapter, to be changed."""
    copied = tmp_path / "timm" / "adapter"
    shutil.copytree(FOLDERS / "timm" / "dora", copied)
    return copied


def change(folder: Path, **fields: Any) -> None:
    path = folder / NAME
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def change_tensors(folder: Path, **tensors: torch.Tensor | None) -> None:
    """Replace tensors whose names end like this, or leave them out."""
    found = load_file(folder / TENSORS)
    for end, tensor in tensors.items():
        name = next((name for name in found if name.endswith(end.replace("__", "."))), end)
        found.pop(name, None)
        if tensor is not None:
            found[name] = tensor
    save_file(found, folder / TENSORS)


def refused(folder: Path, **more: Any) -> FpetError:
    with pytest.raises(FpetError) as caught:
        load(folder, FOLDERS / "timm" / "base", **more)
    assert caught.value.fix
    return caught.value


def test_every_kind_is_among_the_folders() -> None:
    assert len(KINDS) == 11


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_gives_what_peft_gives(kind: str) -> None:
    """PEFT folds into float64 weights here, we into float32 ones."""
    wanted = np.load(FOLDERS / kind / "logits.npy")

    adapted = load(FOLDERS / kind)
    folded = adapted.fold()

    assert relative(answers(adapted.model), wanted) < 1e-12
    assert folded.stay == ()
    assert relative(answers(folded.model), wanted) < 1e-6


@pytest.mark.parametrize("kind", ["timm/dora", "vit/dora-all", "dinov2/lora"])
def test_the_exported_graph_gives_what_peft_gives(kind: str, tmp_path: Path) -> None:
    wanted = np.load(FOLDERS / kind / "logits.npy")

    graph = load(FOLDERS / kind).fold().freeze(batch=len(IMAGES)).to_onnx(tmp_path)

    with open_engine(graph) as engine:
        found = engine.run({"images": IMAGES.astype(np.float32)})["logits"]
    assert relative(found, wanted) < 1e-5


def test_an_adapter_matters() -> None:
    wanted = np.load(FOLDERS / "timm/lora/logits.npy")
    other = np.load(FOLDERS / "timm/one-block/logits.npy")

    assert relative(other, wanted) > 1e-2


def test_the_scale_matters(folder: Path) -> None:
    change(folder, lora_alpha=5)

    wanted = np.load(folder / "logits.npy")

    assert relative(answers(load(folder, FOLDERS / "timm" / "base").model), wanted) > 1e-3


def test_rslora_divides_by_the_root_of_the_rank(folder: Path) -> None:
    change(folder, use_rslora=True, lora_alpha=4 / 2**0.5)

    found = answers(load(folder, FOLDERS / "timm" / "base").model)

    assert relative(found, np.load(folder / "logits.npy")) < 1e-12


def test_an_adapter_may_merge_without_having_been_trained_to() -> None:
    adapted = load(FOLDERS / "timm/dora", merge_block=1)

    assert adapted.merge_plan().in_words() == "block 1"
    assert adapted.merge_plan().tokens == (17, 9)
    assert "not trained with merging" in str(adapted.checkpoint.facts["merge block"])


def test_the_base_model_is_taken_where_it_is_a_path(folder: Path) -> None:
    base = folder / "base" / "model.safetensors"
    shutil.copytree(FOLDERS / "timm" / "base", base.parent)
    change(folder, base_model_name_or_path=str(base))

    found = checkpoints.read(str(folder))

    assert found.backbone == str(base)
    change(folder, base_model_name_or_path="base/model.safetensors")
    assert checkpoints.read(str(folder)).backbone == str(base)
    change(folder, base_model_name_or_path="google/vit-base-patch16-224")
    with pytest.raises(CheckpointError, match="'google/vit-base-patch16-224'") as caught:
        fpet_export.load(folder)
    assert "--backbone FOLDER" in caught.value.fix
    change(folder, base_model_name_or_path=None)
    assert checkpoints.read(str(folder)).backbone is None


def test_several_adapters_are_asked_for(folder: Path) -> None:
    shutil.copytree(FOLDERS / "timm" / "bias-of-b", folder / "second")

    error = refused(folder)

    assert error.what == "this folder holds 2 adapters: default, second"
    assert "--weights default or --weights second" in error.fix
    base = FOLDERS / "timm" / "base"
    second = load(folder, base, weights="second")
    assert relative(answers(second.model), np.load(folder / "second" / "logits.npy")) < 1e-12
    first = load(folder, base, weights="default")
    assert relative(answers(first.model), np.load(folder / "logits.npy")) < 1e-12
    assert isinstance(refused(folder, weights="third"), CheckpointError)


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"peft_type": "LOHA"}, "peft_type is 'LOHA'"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"),
        ({"init_lora_weights": "pissa_niter_16"}, "init_lora_weights is 'pissa_niter_16'"),
        ({"init_lora_weights": "olora"}, "init_lora_weights is 'olora'"),
        ({"init_lora_weights": "corda"}, "init_lora_weights is 'corda'"),
        ({"init_lora_weights": "loftq"}, "init_lora_weights is 'loftq'"),
        ({"init_lora_weights": "lora_ga"}, "init_lora_weights is 'lora_ga'"),
        ({"init_lora_weights": "eva"}, "init_lora_weights is 'eva'"),
        ({"init_lora_weights": "of tomorrow"}, "does not know"),
        ({"use_qalora": True}, "use_qalora is True"),
        ({"layer_replication": [[0, 2]]}, "layer_replication is"),
        ({"target_parameters": ["w"]}, "target_parameters is"),
        ({"of_tomorrow": 3}, "of_tomorrow is 3"),
        ({"base_model_name_or_path": ["a"]}, "wanted a name or a path"),
        ({"r": 4}, "has rank 2 and 2, wanted 4"),
        ({"r": 0}, "r is 0, wanted"),
        ({"r": True}, "r is True, wanted"),
        ({"lora_alpha": "4"}, "lora_alpha is '4', wanted a number"),
        ({"lora_alpha": None}, "lora_alpha is None"),
        ({"rank_pattern": {"qkv": 7}}, "wanted 7"),
        ({"rank_pattern": {"(": 7}}, "regular expressions"),
        ({"alpha_pattern": {"qkv": 0}}, "positive numbers"),
        ({"use_dora": False}, "lora_magnitude_vector"),
        ({"use_dora": 1}, "use_dora is 1"),
        ({"lora_bias": True}, "lacks the tensor lora_B.bias"),
        ({"bias": "lora_only"}, "has no bias"),
        ({"bias": "some"}, "bias is 'some'"),
        ({"target_modules": ["qkv", "proj"]}, "has an adapter"),
        ({"target_modules": ["qkv", "proj", "fc1", "fc2"]}, "has no adapter"),
        ({"target_modules": "all-linear"}, "all-linear"),
        ({"exclude_modules": ["blocks.0.mlp.fc2"]}, "has an adapter"),
        ({"layers_to_transform": [0]}, "has an adapter"),
        ({"modules_to_save": []}, "head has a"),
        ({"modules_to_save": ["head", "norm"]}, "has no weight of norm"),
        ({"modules_to_save": ["head", "score"]}, "names score, but"),
    ],
)
def test_a_configuration_is_obeyed_or_refused(
    folder: Path, fields: dict[str, Any], what: str
) -> None:
    change(folder, **fields)

    assert what in refused(folder).what


@pytest.mark.parametrize("text", ["", "[]", "{", '{"peft_type": "LORA"}', "null"])
def test_a_damaged_configuration_is_refused(folder: Path, text: str) -> None:
    (folder / NAME).write_text(text)

    assert isinstance(refused(folder), CheckpointError)


@pytest.mark.parametrize(
    ("tensors", "what"),
    [
        ({"blocks__0__attn__qkv__lora_A__weight": None}, "lacks the tensor lora_A.weight"),
        ({"lora_magnitude_vector": None}, "lacks the tensor lora_magnitude_vector"),
        ({"head__weight": None}, "has no weight of head"),
        ({"head__weight": torch.zeros(5, 16, dtype=torch.int8)}, "torch.int8"),
        ({"head__weight": torch.full((5, 16), torch.nan)}, "NaN"),
        ({"head__weight": torch.zeros(5, 17)}, "head"),
        ({"qkv__lora_B__weight": torch.zeros(0, 2)}, "is empty, its shape is (0, 2)"),
        ({"qkv__lora_B__weight": torch.zeros(47, 2)}, "wanted (48, 2)"),
        ({"qkv__lora_magnitude_vector": torch.zeros(1)}, "wanted (48,)"),
        ({"base_model.model.blocks.7.attn.qkv.lora_A.weight": torch.zeros(2, 16)}, "blocks.7"),
        ({"base_model.model.blocks.0.attn.qkv.scale": torch.zeros(2)}, "scale"),
        ({"base_model.model.cls_token": torch.zeros(1, 1, 16)}, "tensors of"),
        ({"norm.weight": torch.zeros(16)}, "does not begin with"),
    ],
)
def test_tensors_have_all_their_places_or_are_refused(
    folder: Path, tensors: dict[str, torch.Tensor | None], what: str
) -> None:
    change_tensors(folder, **tensors)

    assert what in refused(folder).what


def test_a_whole_module_that_is_cut_off_is_noticed(folder: Path) -> None:
    """Every name of blocks.1.mlp.fc2 is gone: nothing else in the file tells."""
    found = load_file(folder / TENSORS)
    save_file({n: t for n, t in found.items() if "blocks.1.mlp.fc2" not in n}, folder / TENSORS)

    assert "blocks.1.mlp.fc2 has no adapter" in refused(folder).what


@pytest.mark.parametrize("part", ["weight", "bias"])
def test_a_part_of_a_saved_module_that_is_cut_off_is_noticed(part: str, folder: Path) -> None:
    shutil.rmtree(folder)
    shutil.copytree(FOLDERS / "timm" / "bias-of-b", folder)
    change_tensors(folder, **{f"base_model__model__norm__{part}": None})

    assert f"has no {part} of norm" in refused(folder).what


@pytest.mark.parametrize("wrapper", ["_orig_mod.", "module."])
def test_the_model_may_have_been_compiled_or_parallel(wrapper: str, folder: Path) -> None:
    found = load_file(folder / TENSORS)
    start = "base_model.model."
    save_file({n.replace(start, start + wrapper): t for n, t in found.items()}, folder / TENSORS)

    adapted = load(folder, FOLDERS / "timm" / "base")

    assert relative(answers(adapted.model), np.load(folder / "logits.npy")) < 1e-12
    assert adapted.checkpoint.facts["prefix"].value == wrapper
    change(folder, modules_to_save=[f"{wrapper}head"])
    load(folder, FOLDERS / "timm" / "base")
    change_tensors(folder, **{f"{start}cls_classifier.weight": torch.zeros(5, 16)})
    assert "has not" in refused(folder).what


def test_a_part_of_a_module_of_ones_own_is_refused(folder: Path) -> None:
    """That may have a head of its own, in a file that PEFT does not write."""
    found = load_file(folder / TENSORS)
    start = "base_model.model."
    save_file({n.replace(start, start + "net."): t for n, t in found.items()}, folder / TENSORS)

    error = refused(folder)

    assert "net.blocks.0.attn.proj" in error.what
    assert "merge_and_unload" in error.fix


@pytest.mark.parametrize(
    ("names", "base"),
    [("deit", "vit"), ("vit", "deit"), ("dinov2", "dinov2-registers"), ("dinov2", "vit")],
)
def test_an_adapter_of_another_model_of_equal_shapes_is_refused(
    names: str, base: str, tmp_path: Path
) -> None:
    folder = tmp_path / "adapter"
    shutil.copytree(FOLDERS / "vit" / "lora", folder)
    where = "encoder.layer" if names == "dinov2" else "layers"
    target = f"{names}.{where}.0.attention.q_proj"
    change(folder, target_modules=[target], modules_to_save=None)
    lora = {"A": torch.ones(2, 16), "B": torch.ones(16, 2)}
    tensors = {f"base_model.model.{target}.lora_{x}.weight": t for x, t in lora.items()}
    save_file(tensors, folder / TENSORS)

    with pytest.raises(CheckpointError, match=f"{target}.* has not"):
        fpet_export.load(folder, backbone=HF_MODELS / base, normalisation="none", image=(16, 16))


def test_modules_that_peft_names_for_the_task_may_be_none_of_the_model(folder: Path) -> None:
    change(folder, task_type="SEQ_CLS", modules_to_save=["head", "classifier", "score"])

    found = answers(load(folder, FOLDERS / "timm" / "base").model)

    assert relative(found, np.load(folder / "logits.npy")) < 1e-12


@pytest.mark.parametrize("heads", [("cls",), ("distillation",), ("cls", "distillation")])
def test_modules_to_save_name_the_ends_of_names(heads: tuple[str, ...], tmp_path: Path) -> None:
    """As PEFT does: "classifier" is each of the two heads of DeiT with a teacher."""
    base, folder = HF_MODELS / "deit-teacher", tmp_path / "adapter"
    plain = fpet_export.load(base, normalisation="none").model
    shutil.copytree(FOLDERS / "vit" / "lora", folder)
    saved = "classifier" if len(heads) == 2 else f"{heads[0]}_classifier"
    change(folder, target_modules=["layers.0.attention.q_proj"], modules_to_save=[saved])
    size = plain.head.weight.shape
    start, block = "base_model.model.", "deit.layers.0.attention.q_proj.lora"
    tensors = {
        f"{start}{block}_A.weight": torch.ones(2, size[1]),
        f"{start}{block}_B.weight": torch.zeros(size[1], 2),
    }
    for head in heads:
        tensors[f"{start}{head}_classifier.weight"] = torch.full(size, 0.5)
        tensors[f"{start}{head}_classifier.bias"] = torch.full(size[:1], 0.25)
    save_file(tensors, folder / TENSORS)

    model = fpet_export.load(folder, backbone=base, normalisation="none").fold().model

    for head, layer, own in (
        ("cls", model.head, plain.head),
        ("distillation", model.head_dist, plain.head_dist),
    ):
        wanted = torch.full(size, 0.5) if head in heads else own.weight
        assert torch.equal(layer.weight, wanted)


def test_layers_of_siglips_pooling_are_left_out(tmp_path: Path) -> None:
    """PEFT adapts its `out_proj`, too, which is called as those of the blocks."""
    base, folder = HF_MODELS / "siglip", tmp_path / "adapter"
    plain = fpet_export.load(base, normalisation="none").model
    shutil.copytree(FOLDERS / "vit" / "lora", folder)
    change(folder, target_modules=["out_proj"], modules_to_save=None)
    width = plain.spec.width
    blocks = [f"encoder.layers.{index}.self_attn.out_proj" for index in range(plain.spec.depth)]
    tensors = {}
    for module in (*blocks, "head.attention.out_proj"):
        name = f"base_model.model.vision_model.{module}.lora"
        tensors[f"{name}_A.weight"] = torch.zeros(2, width)
        tensors[f"{name}_B.weight"] = torch.ones(width, 2)
    save_file(tensors, folder / TENSORS)

    adapted = fpet_export.load(folder, backbone=base, normalisation="none")

    assert len(adapted.checkpoint.changes) == len(blocks)
    assert "head.attention.out_proj.lora_A" in adapted.checkpoint.facts["left out"].value


def test_adapters_of_a_pooling_that_is_read_are_not_left_out(tmp_path: Path) -> None:
    """The tower of SigLIP gives what its attention pooling makes."""
    base, folder = HF_MODELS / "siglip-vision", tmp_path / "adapter"
    spec = fpet_export.load(base, normalisation="none", head="features").model.spec
    shutil.copytree(FOLDERS / "vit" / "lora", folder)
    change(folder, target_modules=["out_proj"], modules_to_save=None)
    blocks = [f"encoder.layers.{index}.self_attn.out_proj" for index in range(spec.depth)]
    for where in (blocks, [*blocks, "head.attention.out_proj"]):
        tensors = {}
        for module in where:
            name = f"base_model.model.vision_model.{module}.lora"
            tensors[f"{name}_A.weight"] = torch.ones(2, spec.width)
            tensors[f"{name}_B.weight"] = torch.ones(spec.width, 2)
        save_file(tensors, folder / TENSORS)
        if where is blocks:  # negative control
            fpet_export.load(folder, backbone=base, normalisation="none", head="features")

    with pytest.raises(CheckpointError, match=r"head\.attention\.out_proj"):
        fpet_export.load(folder, backbone=base, normalisation="none", head="features")


def test_the_bias_of_clips_last_norm_is_left_out(tmp_path: Path) -> None:
    """With bias="all" PEFT saves it, and no classifier reads it."""
    base, folder = HF_MODELS / "clip", tmp_path / "adapter"
    plain = fpet_export.load(base, normalisation="none").model
    shutil.copytree(FOLDERS / "vit" / "lora", folder)
    change(folder, target_modules=["q_proj"], modules_to_save=None, bias="all")
    start, width = "base_model.model.", plain.spec.width
    tensors = {}
    for name, tensor in load_file(base / "model.safetensors").items():
        if name.endswith(".bias"):
            name = name.replace("q_proj.bias", "q_proj.base_layer.bias")
            tensors[start + name] = tensor + 0.5
    for index in range(plain.spec.depth):
        name = f"{start}vision_model.encoder.layers.{index}.self_attn.q_proj.lora"
        tensors[f"{name}_A.weight"] = torch.zeros(2, width)
        tensors[f"{name}_B.weight"] = torch.ones(width, 2)
    save_file(tensors, folder / TENSORS)

    adapted = fpet_export.load(folder, backbone=base, normalisation="none")

    assert adapted.checkpoint.facts["left out"].value == "vision_model.post_layernorm.bias"
    tuned = adapted.fold().model
    biases = [model.each_block()[0].norm1.bias for model in (tuned, plain)]
    assert torch.equal(biases[0], biases[1] + 0.5)


def gated(folder: Path, module: str, rows: int, columns: int) -> Path:
    """Write an adapter of one layer of a DINOv2 whose MLPs are gated; return its base."""
    shutil.copytree(FOLDERS / "vit" / "lora", folder)
    change(folder, target_modules=[module], modules_to_save=None, layers_to_transform=[1])
    name = f"base_model.model.dinov2.encoder.layer.1.mlp.{module}.lora"
    drawn = torch.Generator().manual_seed(0)
    save_file(
        {
            f"{name}_A.weight": torch.randn(2, columns, generator=drawn),
            f"{name}_B.weight": torch.randn(rows, 2, generator=drawn),
        },
        folder / TENSORS,
    )
    return HF_MODELS / "dinov2-gated-runtime-names"


@pytest.mark.parametrize(
    ("module", "rows", "columns", "layer"),
    [("down_proj", 16, 24, "fc2"), ("weights_out", 16, 24, "fc2"), ("weights_in", 48, 16, "fc1")],
)
def test_layers_of_a_gated_mlp_are_adapted(
    module: str, rows: int, columns: int, layer: str, tmp_path: Path
) -> None:
    """As versions 5 and 4 of transformers call them."""
    folder = tmp_path / "adapter"
    base = gated(folder, module, rows, columns)
    plain = fpet_export.load(base, normalisation="none").model

    tuned = fpet_export.load(folder, backbone=base, normalisation="none").fold().model

    config, (down, up) = (
        json.loads((folder / NAME).read_text()),
        load_file(folder / TENSORS).values(),
    )
    update = up @ down * (config["lora_alpha"] / config["r"])
    before, after = (getattr(model.each_block()[1].mlp, layer).weight for model in (plain, tuned))
    assert torch.allclose(after, before + update, atol=1e-6)
    assert not torch.allclose(after, before, atol=1e-3)


@pytest.mark.parametrize("module", ["gate_proj", "up_proj"])
def test_adapters_of_half_a_layer_are_refused(module: str, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    base = gated(folder, module, 24, 16)
    with pytest.raises(FpetError, match=f"{module} is half of the first layer of a gated MLP"):
        fpet_export.load(folder, backbone=base, normalisation="none")


def test_a_folder_of_timms_hub_is_a_base_model(folder: Path, tmp_path: Path) -> None:
    """So does transformers' wrapper around timm save its models."""
    base = tmp_path / "hub"
    shutil.copytree(FOLDERS / "timm" / "base", base)
    size = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
    config = {"architecture": "vit_tiny_patch16_224", "num_classes": 5, "model_args": size}
    (base / "config.json").write_text(json.dumps(config))

    adapted = fpet_export.load(folder, backbone=base, normalisation="none")

    assert relative(answers(adapted.model), np.load(folder / "logits.npy")) < 1e-12
    change(folder, base_model_name_or_path=str(base))
    assert checkpoints.read(str(folder)).backbone == str(base)


def test_a_folder_without_tensors_is_refused(folder: Path) -> None:
    (folder / TENSORS).unlink()

    assert TENSORS in refused(folder).what


def test_an_older_file_of_pytorch_is_read(folder: Path) -> None:
    torch.save(load_file(folder / TENSORS), folder / "adapter_model.bin")
    (folder / TENSORS).unlink()

    found = answers(load(folder, FOLDERS / "timm" / "base").model)

    assert relative(found, np.load(folder / "logits.npy")) < 1e-12


@pytest.mark.parametrize("option", ["method", "rank", "scale", "bit"])
def test_what_the_configuration_says_cannot_be_said_again(folder: Path, option: str) -> None:
    error = refused(folder, **{option: "lora" if option == "method" else 2})

    assert isinstance(error, UsageError)
    assert error.fix == f"leave --{option} out"


def test_the_backbone_of_another_width_is_refused(folder: Path, tmp_path: Path) -> None:
    base = tmp_path / "other.safetensors"
    tensors = load_file(FOLDERS / "timm" / "base" / "model.safetensors")
    wide = {
        name: torch.cat([tensor, tensor], dim=-1) if name.endswith("fc2.weight") else tensor
        for name, tensor in tensors.items()
    }
    save_file(wide, base)

    with pytest.raises(CheckpointError):
        fpet_export.load(folder, backbone=base, heads=2, pool="token", normalisation="none")


@pytest.mark.parametrize("seed", range(40))
def test_a_damaged_folder_is_never_another_model(seed: int, folder: Path) -> None:
    """One tensor is left out, renamed, cut, or of another kind."""
    generator = np.random.default_rng(seed)
    kind = KINDS[seed % 7 + KINDS.index("timm/all-linear-and-biases")]
    shutil.rmtree(folder)
    shutil.copytree(FOLDERS / kind, folder)
    found = load_file(folder / TENSORS)
    name = sorted(found)[generator.integers(len(found))]
    tensor = found.pop(name)
    damage = generator.integers(4)
    if damage == 1:
        found[name.replace("blocks.0", "blocks.1x").replace("head", "tail") + "x"] = tensor
    elif damage == 2:
        found[name] = torch.cat([tensor, tensor])
    elif damage == 3:
        found[name] = tensor.to(torch.int32)
    save_file(found, folder / TENSORS)

    assert isinstance(refused(folder), CheckpointError)
