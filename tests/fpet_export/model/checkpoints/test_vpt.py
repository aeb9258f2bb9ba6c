"""VPT's files, prompts alone and whole models, against a loop over real prompt tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fpet_export
from engines.errors import UsageError
from tests.fpet_export.command_line import call
from tests.fpet_export.model.checkpoints.tuned_files import (
    MUTATIONS,
    NORMALISATION,
    SAID,
    SPEC,
    WIDTH,
    Drawing,
    Mutation,
    Tensors,
    backbone,
    damaged,
    expected,
    formats,
    head,
    is_other,
    proven,
    refused,
    save,
    wide,
)

PROMPTS, INNER = 3, 7
DEPTHS = ("shallow", "deep")
THIRDS = ("query", "key", "value")


def drawn(depth: str, width: int = WIDTH) -> Tensors:
    draw = Drawing()
    found = {"shallow_prompt": draw(1, PROMPTS, width) + 0.3}
    if depth == "deep":
        found["deep_prompt"] = draw(SPEC.depth - 1, PROMPTS, width) - 0.4
    return found


def enters(prompts: dict[str, np.ndarray]) -> Any:
    """Insert prompts behind the class token; deep ones replace what a block made of the last."""

    def change(block: int, x: np.ndarray) -> np.ndarray:
        if block == 0:
            return np.concatenate([x[:1], prompts["shallow_prompt"][0], x[1:]])
        if "deep_prompt" in prompts:
            fresh = prompts["deep_prompt"][block - 1]
            return np.concatenate([x[:1], fresh, x[1 + PROMPTS :]])
        return x

    return change


def wanted(depth: str, prompts: dict[str, np.ndarray] | None = None, **hooks: Any) -> np.ndarray:
    prompts = prompts or {name: wide(tensor) for name, tensor in drawn(depth).items()}
    hooks = {"protected": 1 + PROMPTS} | hooks
    return expected(backbone() | head(), enters=enters(prompts), **hooks)


def write(folder: Path, depth: str) -> dict[str, Any]:
    """Write the arrays as VPT's trainer does; return what loads the run."""
    arrays = {name: tensor.numpy() for name, tensor in drawn(depth).items()}
    base = save(folder / "vit.safetensors", backbone())
    path = save(folder / "prompt_ep100.pth", arrays)
    return SAID | {"run": path, "backbone": base, "head_weights": save(folder / "head.pth", head())}


def of_the_code(tensors: Tensors, *, projected: bool = False, depth: str = "deep") -> Tensors:
    """A network with the names of VPT's own ViT, and its prompts."""
    renamed = {
        "patch_embed.proj.": "embeddings.patch_embeddings.",
        "pos_embed": "embeddings.position_embeddings",
        "cls_token": "embeddings.cls_token",
        "blocks.": "encoder.layer.",
        "norm.": "encoder.encoder_norm.",
    }
    inside = {
        ".norm1.": ".attention_norm.", ".norm2.": ".ffn_norm.", ".attn.proj.": ".attn.out.",
        ".mlp.": ".ffn.",
    }  # fmt: skip
    found: Tensors = {}
    for name, tensor in tensors.items():
        if name.startswith("head."):
            found[name.replace("head.", "head.last_layer.")] = tensor
            continue
        start = next(old for old in renamed if name.startswith(old))
        path = renamed[start] + name.removeprefix(start)
        for old, new in inside.items():
            path = path.replace(old, new)
        parts = dict(zip(THIRDS, tensor.chunk(3), strict=True)) if ".qkv." in path else {"": tensor}
        found |= {
            f"enc.transformer.{path.replace('qkv', part)}": one.clone()
            for part, one in parts.items()
        }
    own = drawn(depth, INNER if projected else WIDTH)
    found["enc.transformer.prompt_embeddings"] = own["shallow_prompt"]
    if depth == "deep":
        found["enc.transformer.deep_prompt_embeddings"] = own["deep_prompt"]
    if projected:
        draw = Drawing(9)
        found["enc.transformer.prompt_proj.weight"] = draw(WIDTH, INNER)
        found["enc.transformer.prompt_proj.bias"] = draw(WIDTH)
    return found


def whole(**changes: Any) -> Tensors:
    return of_the_code(backbone() | head(), **changes)


@pytest.mark.parametrize("merge_block", [None, 0, 1])
@pytest.mark.parametrize("depth", DEPTHS)
def test_prompts_are_tokens(depth: str, merge_block: int | None, tmp_path: Path) -> None:
    said = write(tmp_path, depth)
    assert formats(said["run"]) == ["vpt_prompts"]

    run = fpet_export.load(**said, merge_block=merge_block)

    stay = 1 if depth == "shallow" else SPEC.depth
    proven(run, wanted(depth, merge_block=merge_block), tmp_path, stay=stay)
    is_other(run, expected(backbone() | head(), merge_block=merge_block))


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("projected", [False, True])
def test_a_whole_model_is_its_own_backbone(depth: str, projected: bool, tmp_path: Path) -> None:
    tensors = whole(projected=projected, depth=depth)
    path = save(tmp_path / "model.pth", {"model": tensors})
    assert formats(path) == ["vpt_model"]
    prompts = {name: wide(tensor) for name, tensor in drawn(depth, INNER).items()}
    if projected:
        weight, bias = (
            wide(tensors[f"enc.transformer.prompt_proj.{n}"]) for n in ("weight", "bias")
        )
        prompts = {name: one @ weight.T + bias for name, one in prompts.items()}

    run = fpet_export.load(path, **SAID)

    answers = wanted(depth, prompts if projected else None)
    proven(run, answers, tmp_path, stay=1 if depth == "shallow" else SPEC.depth)


def test_deep_prompts_leave_as_many_tokens_as_there_were(tmp_path: Path) -> None:
    deep = fpet_export.load(**write(tmp_path, "deep"))
    shallow = fpet_export.load(**write(tmp_path, "shallow"))

    tokens = SPEC.tokens
    assert deep.merge_plan().tokens == (tokens,) * SPEC.depth
    assert shallow.merge_plan().tokens == (tokens + PROMPTS,) * SPEC.depth
    plain = deep.macs_without_merging()
    assert sum(deep.macs()) - plain == SPEC.depth * 2 * PROMPTS * tokens * WIDTH
    assert sum(shallow.macs()) == shallow.macs_without_merging() > sum(deep.macs())


def test_the_head_is_asked_for(tmp_path: Path) -> None:
    said = write(tmp_path, "deep")
    own = said.pop("head_weights")
    refused(said.pop("run"), "no head", "--head-weights", **said)

    run = save(tmp_path / "prompt_ep100.pth", {n: t.numpy() for n, t in drawn("deep").items()})
    layers = {"projection.0.weight": torch.ones(2, 2), "last_layer.weight": torch.ones(2, 2)}
    for wrong in ({"head.weight": head()["head.weight"]}, head() | {"b": torch.ones(2)}, layers):
        said["head_weights"] = save(tmp_path / "wrong.pth", wrong)
        refused(run, "one linear layer", **said)
    for prefix in ("head.", "last_layer.", "", "module.head.", "head.last_layer."):
        renamed = {f"{prefix}{n.removeprefix('head.')}": t for n, t in head().items()}
        said["head_weights"] = save(tmp_path / "head.safetensors", renamed)
        found = fpet_export.load(run, **said)
        assert torch.equal(found.model.head.weight, head()["head.weight"])
        assert said["head_weights"] in found.checkpoint.files
    assert own.is_file()


def test_a_head_beside_another_kind_of_run_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "model.pth", whole())
    refused(path, "--head-weights", kind=UsageError, **SAID, head_weights=path)


def test_a_head_with_more_layers_is_refused(tmp_path: Path) -> None:
    more = {"head.projection.0.weight": torch.ones(WIDTH, WIDTH)}
    refused(save(tmp_path / "model.pth", whole() | more), "more than one layer", **SAID)


def test_prompts_in_another_order_of_blocks_are_another_model(tmp_path: Path) -> None:
    tensors = whole()
    one, other = (f"enc.transformer.{n}" for n in ("prompt_embeddings", "deep_prompt_embeddings"))
    path = save(tmp_path / "model.pth", tensors | {one: tensors[other], other: tensors[one]})
    is_other(fpet_export.load(path, **SAID), wanted("deep"))


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.name)
@pytest.mark.parametrize("name", ["shallow_prompt", "deep_prompt"])
def test_damaged_prompts_are_refused(name: str, mutation: Mutation, tmp_path: Path) -> None:
    base = save(tmp_path / "vit.safetensors", backbone())
    said = SAID | {"backbone": base, "head_weights": save(tmp_path / "head.pth", head())}
    if mutation.name == "missing" and name == "deep_prompt":
        return  # what is left are shallow prompts
    damaged(tmp_path, drawn("deep"), mutation, name, **said)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.name)
@pytest.mark.parametrize(
    "name",
    [
        "enc.transformer.prompt_embeddings",
        "enc.transformer.prompt_proj.bias",
        "enc.transformer.encoder.layer.1.attn.key.weight",
        "head.last_layer.weight",
    ],
)
def test_a_damaged_model_is_refused(name: str, mutation: Mutation, tmp_path: Path) -> None:
    shown = dict(mutation.__dict__) | {"words": ()}
    damaged(tmp_path, whole(projected=True), Mutation(**shown), name, **SAID)


def test_inspect_and_export_from_the_command_line(tmp_path: Path) -> None:
    said = write(tmp_path, "deep")
    words = [said["run"], "--backbone", said["backbone"], "--head-weights", said["head_weights"]]
    words += ["--heads", SPEC.heads, "--pool", "token", "--normalisation", NORMALISATION]

    inspected = call("inspect", *words)
    exported = call("export", *words, "--merge-block", 0, "-o", tmp_path / "out")

    assert (inspected.code, exported.code) == (0, 0), inspected.err + exported.err
    text = " ".join(inspected.err.split())
    assert f"vpt: {PROMPTS} prompts in front of each block" in text
    assert f"{SPEC.depth} parts stay in the graph" in text
