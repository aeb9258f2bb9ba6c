"""ADePT and DePT carried over to a ViT, against loops over patches and prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fpet_export
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

PROMPTS, RANK, SCALE = 3, 5, 0.7


def tuned(method: str) -> Tensors:
    draw = Drawing()
    prompt = {f"{method}.prompt": draw(PROMPTS, WIDTH) + 0.3}
    if method == "dept":
        return prompt | {"dept.A": 2 * draw(SPEC.patches, RANK), "dept.B": draw(RANK, WIDTH)}
    return prompt | {
        "adept.A": 4 * draw(WIDTH, RANK),
        "adept.a": draw(RANK),
        "adept.B": draw(RANK, WIDTH),
        "adept.b": draw(WIDTH),
    }


def after(method: str) -> Any:
    """What becomes of every patch before its position is added."""
    t = {name.partition(".")[2]: wide(tensor) for name, tensor in tuned(method).items()}

    def change(name: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        if name != "patch_embed":
            return y
        found = np.empty_like(y)
        for index, patch in enumerate(y):
            if method == "dept":
                found[index] = patch + SCALE * t["A"][index] @ t["B"]
            else:
                hidden = np.maximum(patch @ t["A"] + t["a"], 0)
                found[index] = patch + hidden @ t["B"] + t["b"]
        return found

    return change


def enters(method: str) -> Any:
    prompt = wide(tuned(method)[f"{method}.prompt"])

    def change(block: int, x: np.ndarray) -> np.ndarray:
        return np.concatenate([x[:1], prompt, x[1:]]) if block == 0 else x

    return change


def wanted(method: str, **hooks: Any) -> np.ndarray:
    given = {"after": after(method), "enters": enters(method), "protected": 1 + PROMPTS}
    return expected(backbone() | head(), **(given | hooks))


def write(folder: Path, method: str, **changes: Any) -> dict[str, Any]:
    base = save(folder / "vit.safetensors", backbone())
    path = save(folder / "run.pth", tuned(method) | head() | changes)
    return SAID | {"run": path, "backbone": base} | ({"scale": SCALE} if method == "dept" else {})


@pytest.mark.parametrize("merge_block", [None, 0, 1])
@pytest.mark.parametrize("method", ["adept", "dept"])
def test_patches_have_an_offset(method: str, merge_block: int | None, tmp_path: Path) -> None:
    said = write(tmp_path, method)
    assert formats(said["run"]) == ["adept"]

    run = fpet_export.load(**said, merge_block=merge_block)

    stay = 2 if method == "adept" else 1
    proven(run, wanted(method, merge_block=merge_block), tmp_path, stay=stay)
    is_other(run, wanted(method, after=lambda name, x, y: y))
    extra = 2 * SPEC.patches * WIDTH * RANK if method == "adept" else 0
    assert run.extra_macs() == extra


def test_the_offset_of_a_position_is_scaled(tmp_path: Path) -> None:
    said = write(tmp_path, "dept")
    is_other(fpet_export.load(**said | {"scale": 1.0}), wanted("dept"))
    del said["scale"]
    refused(said.pop("run"), "scale", "--scale", **said)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.name)
@pytest.mark.parametrize("name", ["adept.prompt", "adept.a", "adept.B", "dept.A"])
def test_a_damaged_file_is_refused(name: str, mutation: Mutation, tmp_path: Path) -> None:
    method = name.partition(".")[0]
    said = write(tmp_path, method)
    del said["run"]
    if mutation.name == "longer" and name == "adept.prompt":
        return  # which are more prompts
    mutation = Mutation(mutation.name, mutation.change)
    damaged(tmp_path, tuned(method) | head(), mutation, name, **said)


def test_inspect_and_export_from_the_command_line(tmp_path: Path) -> None:
    said = write(tmp_path, "adept")
    words = [said["run"], "--backbone", said["backbone"], "--heads", SPEC.heads, "--pool", "token"]
    words += ["--normalisation", NORMALISATION]

    inspected = call("inspect", *words)
    exported = call("export", *words, "--input", "uint8", "-o", tmp_path / "out")

    assert (inspected.code, exported.code) == (0, 0), inspected.err + exported.err
    text = " ".join(inspected.err.split())
    assert f"adept: bottleneck of adept, {PROMPTS} prompts in front of the first block" in text
