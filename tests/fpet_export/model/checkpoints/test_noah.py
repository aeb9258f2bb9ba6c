"""NOAH's files against a loop written from its modules: adapters behind the MLP, LoRA at qkv."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

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

UNITS, USED = 6, {"ADAPTER_DIM": [6, 2], "LORA_DIM": [3, 0]}


def tuned() -> Tensors:
    draw = Drawing()
    found: Tensors = {}
    for index in range(SPEC.depth):
        path = f"blocks.{index}."
        found |= {
            path + "adapter.ln1.weight": draw(UNITS, WIDTH),
            path + "adapter.ln1.bias": draw(UNITS),
            path + "adapter.ln2.weight": draw(WIDTH, UNITS),
            path + "adapter.ln2.bias": draw(WIDTH),
            path + "attn.LoRA_a.weight": draw(UNITS, WIDTH),
            path + "attn.LoRA_b.weight": draw(3 * WIDTH, UNITS),
        }
    return found


def after(name: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    if not name.endswith("qkv"):
        return y
    path, used = name.removesuffix("qkv"), USED["LORA_DIM"][int(name.split(".")[1])]
    a, b = (wide(tuned()[f"{path}LoRA_{one}.weight"]) for one in "ab")
    return np.asarray(y + x @ a[:used].T @ b[:, :used].T)


def beside(block: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The adapter reads what the MLP adds, and its output is added to it."""
    used = USED["ADAPTER_DIM"][block]
    t = {n.rpartition("adapter.")[2]: wide(v) for n, v in tuned().items() if f"s.{block}." in n}
    hidden = y @ t["ln1.weight"][:used].T + t["ln1.bias"][:used]
    hidden = hidden / (1 + np.exp(-1.702 * hidden))
    return np.asarray(hidden @ t["ln2.weight"][:, :used].T + t["ln2.bias"])


def whole() -> Tensors:
    return backbone() | head() | tuned()


def write(folder: Path, tensors: Tensors | None = None, **changes: Any) -> dict[str, Any]:
    """Return what loads the run, its file first."""
    config = folder / "retrain.yaml"
    none = {"VISUAL_PROMPT_DIM": [0, 0], "PREFIX_DIM": [0, 0]}
    config.write_text(yaml.safe_dump({"RETRAIN": none | USED | changes}))
    path = save(folder / "checkpoint.pth", {"model": tensors or whole(), "epoch": 99})
    return SAID | {"run": path, "config": config}


def test_it_is_what_the_modules_compute(tmp_path: Path) -> None:
    said = write(tmp_path)
    assert formats(said["run"]) == ["noah"]
    wanted = expected(backbone() | head(), after=after, beside=beside)

    run = fpet_export.load(**said)

    assert run.facts()["adapter widths"].value == "6 2"
    proven(run, wanted, tmp_path, stay=2)
    is_other(fpet_export.load(**write(tmp_path, ADAPTER_DIM=[2, 6])), wanted)


def test_an_adapter_reads_what_the_mlp_adds(tmp_path: Path) -> None:
    run = fpet_export.load(**write(tmp_path))
    other = expected(
        backbone() | head(), after=after, beside=lambda block, x, y: beside(block, x, x)
    )
    is_other(run, other)


def test_prompts_that_are_not_used_do_not_matter(tmp_path: Path) -> None:
    prompts = {"visual_prompt_token": torch.ones(1, 5, WIDTH)}
    said = write(tmp_path, whole() | prompts)
    wanted = expected(backbone() | head(), after=after, beside=beside)
    proven(fpet_export.load(**said), wanted, tmp_path, stay=2)

    used = write(tmp_path, whole() | prompts, VISUAL_PROMPT_DIM=[5, 5])
    refused(used.pop("run"), "prompts", **used)


def test_what_the_yaml_says_must_fit(tmp_path: Path) -> None:
    for wrong in ([6], [6, 7], [6, -1], [6, "2"], None, 6):
        said = write(tmp_path, ADAPTER_DIM=wrong)
        refused(said.pop("run"), "ADAPTER_DIM", "2 numbers from 0 to 6", **said)
    refused(write(tmp_path)["run"], "--config", **SAID)


def test_it_merges_and_goes_through_the_command_line(tmp_path: Path) -> None:
    said = write(tmp_path)
    words = [said["run"], "--heads", SPEC.heads, "--pool", "token", "--config", said["config"]]
    words += ["--normalisation", NORMALISATION, "--merge-block", 0]

    done = call("export", *words, "-o", tmp_path / "out")

    assert done.code == 0, done.err
    assert "noah: low-rank update of qkv (rank 3), bottleneck of adapter" in " ".join(
        done.err.split()
    )


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.name)
@pytest.mark.parametrize("name", ["blocks.0.adapter.ln1.weight", "blocks.1.attn.LoRA_b.weight"])
def test_a_damaged_file_is_refused(name: str, mutation: Mutation, tmp_path: Path) -> None:
    said = write(tmp_path)
    del said["run"]
    damaged(tmp_path, whole(), mutation, name, **said)
