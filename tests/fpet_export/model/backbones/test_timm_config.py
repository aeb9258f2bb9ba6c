"""timm's config.json beside a backbone: each key is obeyed or refused by its name.

The reference is timm's own model, in float64, with the same weights.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from engines.errors import CheckpointError
from fpet_export.model import backbones
from fpet_export.model.backbones import Backbone, BackboneOptions
from fpet_export.model.facts import Fact
from fpet_export.model.vit import Vit
from tests.fpet_export.tiny import relative

ARCHITECTURE = "vit_tiny_patch16_224"
SMALL: dict[str, Any] = {"depth": 2, "embed_dim": 64, "num_heads": 2, "img_size": 64}


def model_of(**arguments: Any) -> Any:
    """A small timm model with random weights, biases and norms."""
    model = timm.create_model(ARCHITECTURE, num_classes=5, **(SMALL | arguments)).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data = parameter.data + 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


def document_of(**arguments: Any) -> dict[str, Any]:
    given = {key: value for key, value in (SMALL | arguments).items() if value is not None}
    return {"architecture": ARCHITECTURE, "num_classes": 5, "model_args": given}


def written(folder: Path, model: Any, document: object) -> str:
    path = folder / "model.safetensors"
    save_file({name: t.contiguous() for name, t in model.state_dict().items()}, path)
    if document is not None:
        (folder / "config.json").write_text(json.dumps(document))
    return str(path)


def difference(found: Backbone, theirs: Any) -> float:
    """Largest difference of the logits of random images, relative to the largest logit."""
    ours = Vit(found.spec).eval()
    ours.load_state_dict(found.weights)
    images = torch.randn(2, 3, *found.spec.image, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = theirs.double()(images.double()).numpy()
        return relative(ours.double()(images.double()).numpy(), expected)


def refused(text: str, *words: str, options: BackboneOptions | None = None) -> None:
    with pytest.raises(CheckpointError) as caught:
        backbones.read(text, options)
    for word in words:
        assert word in str(caught.value), f"{word!r} is not in:\n{caught.value}"


OBEYED: list[dict[str, Any]] = [
    {"global_pool": "token"},
    {"global_pool": "avg"},
    {"global_pool": "avg", "fc_norm": False},
    {"global_pool": "token", "fc_norm": True},
    {"class_token": False, "global_pool": "avg"},
    {"act_layer": "relu"},
    {"act_layer": "gelu_tanh"},
    {"act_layer": "quick_gelu"},
    {"act_layer": "gelu"},
    {"img_size": [32, 128]},
    {"patch_size": 8},
    {"patch_size": [16, 8]},
    {"num_heads": 8},
    {"mlp_ratio": 2.5},
    {"qkv_bias": False},
    {"init_values": 0.1},
    {"reg_tokens": 4},
    {"reg_tokens": 4, "no_embed_class": True, "global_pool": "avg"},
    {"no_embed_class": True},
    {"pre_norm": True},
    {"dynamic_img_size": True},
    {"drop_rate": 0.5, "drop_path_rate": 0.5, "attn_drop_rate": 0.5, "proj_drop_rate": 0.5},
    {"norm_layer": "layernorm"},
    {"weight_init": "jax"},
    {"pool_include_prefix": True, "global_pool": "token"},
]


@pytest.mark.parametrize("arguments", OBEYED, ids=str)
def test_what_timm_builds_of_it_is_what_is_read(arguments: dict[str, Any], tmp_path: Path) -> None:
    theirs = model_of(**arguments)

    found = backbones.read(written(tmp_path, theirs, document_of(**arguments)))

    assert difference(found, theirs) < 1e-12
    assert tmp_path / "config.json" in found.files


@pytest.mark.parametrize(
    ("said", "made"),
    [
        ({"act_layer": "relu"}, {"act_layer": "gelu_tanh"}),
        ({"num_heads": 2}, {"num_heads": 4}),
        ({"img_size": [32, 128]}, {"img_size": [128, 32]}),
    ],
    ids=str,
)
def test_what_tensors_hide_changes_the_answers(
    said: dict[str, Any], made: dict[str, Any], tmp_path: Path
) -> None:
    """Negative control: these keys cannot be seen in the tensors, so they must be obeyed."""
    theirs = model_of(**made)

    found = backbones.read(written(tmp_path, theirs, document_of(**said)))

    if "img_size" not in said:
        assert difference(found, theirs) > 1e-5
    assert found.spec.image == tuple(said.get("img_size", (64, 64)))


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"global_pool": "max"}, "global_pool is 'max'"),
    ({"global_pool": "avgmax"}, "global_pool is 'avgmax'"),
    ({"global_pool": ""}, "global_pool is ''"),
    ({"global_pool": "map"}, "no attn_pool"),
    ({"global_pool": "avg", "pool_include_prefix": True}, "pool_include_prefix"),
    ({"pos_embed": "none"}, "pos_embed"),
    ({"final_norm": False}, "final_norm"),
    ({"act_layer": "mish"}, "act_layer is 'Mish"),
    ({"norm_layer": "rmsnorm"}, "norm_layer"),
    ({"qk_norm": True}, "qk_norm"),
    ({"scale_attn_norm": True}, "scale_attn_norm"),
    ({"scale_mlp_norm": True}, "scale_mlp_norm"),
    ({"proj_bias": False}, "proj_bias"),
    ({"attn_layer": "diff"}, "attn_layer"),
    ({"in_chans": 1}, "in_chans is 1"),
]


@pytest.mark.parametrize(("arguments", "words"), REFUSED, ids=str)
def test_what_this_toolkit_does_not_run_is_named(
    arguments: dict[str, Any], words: str, tmp_path: Path
) -> None:
    refused(written(tmp_path, model_of(), document_of(**arguments)), words, "config.json")


CONTRADICTED: list[tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]] = [
    ({"init_values": 1e-5}, {}, ("init_values", "layer scale is on", "off in the tensors")),
    ({}, {"init_values": 1e-5}, ("init_values", "off according to config.json")),
    ({"global_pool": "avg"}, {}, ("fc_norm",)),
    ({"class_token": False, "global_pool": "avg"}, {"global_pool": "avg"}, ("class_token",)),
    ({"reg_tokens": 4}, {}, ("reg_tokens",)),
    ({"qkv_bias": False}, {}, ("qkv_bias",)),
    ({"patch_size": 32}, {}, ("patch_size", "32 32", "16 16")),
    ({"embed_dim": 128}, {}, ("embed_dim", "128", "64")),
    ({"depth": 3}, {}, ("depth", "3", "2")),
    ({"mlp_ratio": 3}, {}, ("mlp_ratio", "192", "256")),
    ({"img_size": 96}, {}, ("img_size", "96x96", "17 rows")),
    ({"no_embed_class": True}, {}, ("no_embed_class", "17 rows")),
    ({"pre_norm": True}, {}, ("pre_norm",)),
]


@pytest.mark.parametrize(("said", "made", "words"), CONTRADICTED, ids=str)
def test_a_configuration_of_other_tensors_is_refused(
    said: dict[str, Any], made: dict[str, Any], words: tuple[str, ...], tmp_path: Path
) -> None:
    refused(written(tmp_path, model_of(**made), document_of(**said)), *words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"global_pool": "avg"}, ("global_pool", "'token'", "'avg'", "model_args")),
        ({"pretrained_cfg": {"global_pool": "avgmax"}}, ("global_pool", "pretrained_cfg")),
        ({"pretrained_cfg": {"class_token": False}}, ("class_token", "model_args")),
        ({"act_layer": "relu"}, ("act_layer", "move act_layer into model_args")),
        ({"class_token": False}, ("class_token",)),
        ({"num_heads": 4}, ("num_heads",)),
        ({"wings": 2}, ("wings is 2", "remove wings")),
        ({"num_features": 65}, ("num_features is 65", "64")),
        ({"num_classes": 7}, ("num_classes 7", "head.weight", "5")),
        ({"num_classes": 0}, ("num_classes 0", "5")),
        ({"num_classes": "5"}, ("num_classes is '5'",)),
        ({"pretrained_cfg": 3}, ("pretrained_cfg is 3",)),
        ({"pretrained_cfg": {"input_size": [3, 96, 96]}}, ("input_size is 96x96", "64x64")),
        ({"pretrained_cfg": {"input_size": 64}}, ("input_size is 64",)),
        ({"mean": [0, 0, 0], "pretrained_cfg": {"mean": [1, 1, 1]}}, ("mean is", "[1, 1, 1]")),
        ({"architecture": None}, ("architecture is None",)),
        ({"architecture": "vit_tinny_patch16_224"}, ("no model 'vit_tinny_patch16_224'",)),
        ({"architecture": "vit_base_patch16_rpn_224"}, ("global_pool='token'", "Token pooling")),
        ({"model_type": "vit"}, ("model_type is 'vit'",)),
        ({"architecture": None, "model_type": "vit"}, ("architecture",)),
    ],
    ids=str,
)
def test_an_entry_that_is_wrong_or_elsewhere_is_named(
    change: dict[str, Any], words: tuple[str, ...], tmp_path: Path
) -> None:
    document = document_of(global_pool="token") | change

    refused(written(tmp_path, model_of(), document), *words)


def test_transformers_configuration_is_not_timms(tmp_path: Path) -> None:
    document = {"model_type": "vit", "hidden_act": "relu", "hidden_size": 64}

    refused(written(tmp_path, model_of(), document), "transformers", "hidden_act 'relu'")


@pytest.mark.parametrize(
    "key",
    ["device", "dtype", "pretrained", "checkpoint_path", "use_naflex", "features_only", "heads"],
)
def test_an_argument_that_is_not_the_networks_is_refused(key: str, tmp_path: Path) -> None:
    """timm would obey some of these: `checkpoint_path` unpickles a file."""
    refused(written(tmp_path, model_of(), document_of(**{key: "x"})), f"model_args has {key}")


def test_a_value_that_timm_does_not_take_is_refused(tmp_path: Path) -> None:
    refused(written(tmp_path, model_of(), document_of(depth="two")), "timm", "depth='two'")


@pytest.mark.parametrize("null", [None, {}], ids=["null", "empty"])
def test_no_arguments_are_the_models_own(null: object, tmp_path: Path) -> None:
    document = {"architecture": ARCHITECTURE, "num_features": 64, "model_args": null}

    refused(written(tmp_path, model_of(), document), "num_features is 64", "192", "embed_dim")


@pytest.mark.parametrize("layout", ["flat", "hub", "wrapper"])
def test_all_layouts_say_the_same(layout: str, tmp_path: Path) -> None:
    pixels = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "input_size": [3, 64, 64]}
    document = document_of(act_layer="relu")
    document |= pixels if layout == "flat" else {"pretrained_cfg": pixels}
    if layout == "wrapper":
        document |= {"model_type": "timm_wrapper", "architectures": ["TimmWrapperModel"]}
    theirs = model_of(act_layer="relu")

    found = backbones.read(written(tmp_path, theirs, document))

    assert difference(found, theirs) < 1e-12
    assert found.normalisation == "config.json"
    assert found.preprocessing.std == (0.25, 0.25, 0.25)


def test_a_file_without_a_head_may_come_from_any(tmp_path: Path) -> None:
    model = model_of()
    model.reset_classifier(0)

    assert backbones.read(written(tmp_path, model, document_of())).spec.classes == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (BackboneOptions(heads=4), ("heads", "--heads", "config.json")),
        (BackboneOptions(pool="avg"), ("--pool", "config.json")),
    ],
)
def test_options_and_configuration_must_agree(
    options: BackboneOptions, words: tuple[str, ...], tmp_path: Path
) -> None:
    refused(written(tmp_path, model_of(), document_of()), *words, options=options)


# -- what nothing says -------------------------------------------------------------------------


@pytest.mark.parametrize("pool", ["token", "avg"])
@pytest.mark.parametrize("fc_norm", [False, True])
def test_heads_and_pool_are_asked_for_at_once(pool: Any, fc_norm: bool, tmp_path: Path) -> None:
    theirs = model_of(global_pool=pool, fc_norm=fc_norm, num_heads=4)
    path = written(tmp_path, theirs, None)
    refused(path, "--heads N", "--pool token|avg", "config.json")
    refused(path, "--heads N", options=BackboneOptions(pool=pool))
    refused(path, "--pool token|avg", options=BackboneOptions(heads=4))

    found = backbones.read(path, BackboneOptions(heads=4, pool=pool))

    assert difference(found, theirs) < 1e-12
    assert found.facts["pool"].source == "--pool"


def test_a_class_token_that_is_not_there_cannot_be_read(tmp_path: Path) -> None:
    path = written(tmp_path, model_of(class_token=False, global_pool="avg"), None)

    refused(path, "class token", "cls_token", "--pool avg", options=SAID)
    assert backbones.read(path, BackboneOptions(heads=2, pool="avg")).spec.prefix == ()


SAID = BackboneOptions(heads=2, pool="token")
CODE = Fact("class", "the run's code")


def test_the_runs_code_says_the_pool(tmp_path: Path) -> None:
    path = written(tmp_path, model_of(), None)

    found = backbones.read(path, BackboneOptions(heads=2, run_pool=CODE))

    assert found.facts["pool"] == CODE


@pytest.mark.parametrize(
    ("arguments", "configured", "words"),
    [
        ({"global_pool": "avg"}, False, ("fc_norm", "--pool token or --pool avg")),
        ({"global_pool": "avg"}, True, ("the run's code", "config.json", "global_pool")),
        ({"class_token": False, "global_pool": "avg"}, False, ("cls_token",)),
    ],
)
def test_a_backbone_that_the_runs_code_cannot_have_had_is_refused(
    arguments: dict[str, Any], configured: bool, words: tuple[str, ...], tmp_path: Path
) -> None:
    document = document_of(**arguments) if configured else None
    path = written(tmp_path, model_of(**(arguments | {"fc_norm": "cls" not in words[0]})), document)

    refused(path, *words, options=BackboneOptions(heads=2, run_pool=CODE))
