"""Parts of a network over a backbone: BitFit, LayerNorms, linear probes, partial fine-tuning."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fpet_export
from engines.errors import UsageError
from tests.fpet_export.authors_run import write_run
from tests.fpet_export.command_line import call
from tests.fpet_export.model.checkpoints.tuned_files import (
    CLASSES,
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


def changed(keep: Callable[[str], bool]) -> Tensors:
    """Other values of some of the network's tensors."""
    draw = Drawing(11)
    return {name: t + draw(*t.shape) for name, t in backbone().items() if keep(name)}


KINDS: dict[str, Tensors] = {
    "bitfit": changed(lambda name: name.endswith("bias")),
    "layernorm": changed(lambda name: "norm" in name),
    "linear-probe": {},
    "partial-fine-tuning": changed(
        lambda name: name.startswith(("blocks.1.", "norm.")) or name in ("cls_token", "pos_embed")
    ),
}


def write(folder: Path, tensors: Tensors, name: str = "cifar.pt") -> tuple[Path, dict[str, Any]]:
    """Return the file, and the arguments that load it."""
    base = save(folder / "vit.safetensors", backbone())
    return save(folder / name, tensors), SAID | {"backbone": base}


@pytest.mark.parametrize("kind", KINDS)
def test_the_network_has_the_tensors_of_the_file(kind: str, tmp_path: Path) -> None:
    tensors = KINDS[kind]
    path, said = write(tmp_path, tensors | head())
    assert formats(path) == ["overlay"]

    run = fpet_export.load(path, **said)

    assert run.facts()["method"].value == kind
    wanted = expected(backbone() | tensors | head())
    proven(run, wanted, tmp_path)
    other = {name: tensor.flip(0) for name, tensor in (tensors or head()).items()}
    is_other(fpet_export.load(save(path, tensors | head() | other), **said), wanted)


def test_the_backbone_has_no_say_in_its_own_head(tmp_path: Path) -> None:
    path, said = write(tmp_path, KINDS["bitfit"] | head())
    base = save(tmp_path / "with-head.safetensors", backbone() | head(8))
    other = fpet_export.load(path, **(said | {"backbone": base})).fold()
    assert torch.equal(other.model.head.weight, head()["head.weight"])


@pytest.mark.parametrize("prefix", ["module.", "backbone."])
def test_prefixes_and_containers_are_stripped(prefix: str, tmp_path: Path) -> None:
    tensors = {prefix + name: t for name, t in (KINDS["bitfit"] | head()).items()}
    path, said = write(tmp_path, tensors)
    save(path, {"state_dict": tensors, "epoch": 3})

    run = fpet_export.load(path, **said)

    assert run.checkpoint.method == "bitfit"
    assert run.facts()["prefix"].value == prefix


# -- the head of MAE and AdaptFormer -------------------------------------------------------------


def batch_norm_head() -> Tensors:
    draw = Drawing(5)
    return {
        "head.0.running_mean": draw(WIDTH),
        "head.0.running_var": draw(WIDTH).abs() + 0.01,
        "head.0.num_batches_tracked": torch.tensor(77),
        "head.1.weight": draw(CLASSES, WIDTH),
        "head.1.bias": draw(CLASSES),
    }


def test_a_batch_norm_before_the_linear_folds(tmp_path: Path) -> None:
    path, said = write(tmp_path, batch_norm_head())
    assert formats(path) == ["overlay"]
    parts = {name: wide(t) for name, t in batch_norm_head().items()}

    def before(name: str, x: np.ndarray) -> np.ndarray:
        if name != "head":
            return x
        mean, variance = parts["head.0.running_mean"], parts["head.0.running_var"]
        return np.asarray((x - mean) / np.sqrt(variance + 1e-6))

    plain = {f"head.{kind}": batch_norm_head()[f"head.1.{kind}"] for kind in ("weight", "bias")}
    run = fpet_export.load(path, **said)

    proven(run, expected(backbone() | plain, before=before), tmp_path)
    is_other(run, expected(backbone() | plain))
    assert "epsilon 1e-06" in run.facts()["head"].value


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"head.0.weight": torch.ones(WIDTH)}, ("head.0.weight",)),
        ({"head.weight": torch.ones(CLASSES, WIDTH)}, ("head.weight",)),
        ({"head.0.running_var": -torch.ones(WIDTH)}, ("negative variance",)),
        ({"head.0.running_mean": torch.ones(WIDTH + 1)}, ("do not fit", "(65,)")),
    ],
)
def test_other_batch_norm_heads_are_refused(
    change: Tensors, words: tuple[str, ...], tmp_path: Path
) -> None:
    path, said = write(tmp_path, batch_norm_head() | change)
    refused(path, *words, **said)


# -- what could be something else --------------------------------------------------------------


def test_a_head_alone_in_a_pth_may_be_half_of_another_run(tmp_path: Path) -> None:
    path, said = write(tmp_path, head(), "cifar.pth")
    refused(path, "--method linear-probe", "cifar.bin", "params.sh", **said)
    refused(path, "--method linear-probe", **said, config=tmp_path / "a.yaml")

    run = fpet_export.load(path, method="linear-probe", **said)

    proven(run, expected(backbone() | head()), tmp_path)


@pytest.mark.parametrize("bit", [1, 32])
def test_a_run_of_the_authors_code_is_none(bit: int, tmp_path: Path) -> None:
    run = write_run(tmp_path, bit=bit)
    assert formats(run.pth) == ["fpet_run"]
    if bit == 1:
        run.bin.unlink()  # its other files still say what it is
        assert formats(run.pth) == ["fpet_run"]


@pytest.mark.parametrize(
    "said", [{"alpha": 1.0}, {"channel_shuffle": "off"}, {"qkv_slots": "q"}], ids=str
)
def test_a_run_of_the_authors_code_has_no_use_for_options_of_others(
    said: dict[str, Any], tmp_path: Path
) -> None:
    run = write_run(tmp_path)
    option = f"--{min(said).replace('_', '-')}"
    refused(Path(run.text), option, "means nothing", kind=UsageError, **said)


@pytest.mark.parametrize("kind", ["bitfit", "layernorm", "partial-fine-tuning"])
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.name)
def test_a_damaged_file_is_refused(kind: str, mutation: Mutation, tmp_path: Path) -> None:
    name = "blocks.1.norm2.bias"
    tensors = KINDS[kind] | head()
    if kind == "partial-fine-tuning":  # another block shows what is missing
        tensors |= changed(lambda name: name.startswith("blocks.0."))
    base = save(tmp_path / "vit.safetensors", backbone())
    damaged(tmp_path, tensors, mutation, name, backbone=base, **SAID)


@pytest.mark.parametrize("kind", ["bitfit", "layernorm"])
@pytest.mark.parametrize("lacking", ["blocks.1.", "norm."])
def test_what_the_method_tunes_must_be_there(kind: str, lacking: str, tmp_path: Path) -> None:
    tensors = {n: t for n, t in KINDS[kind].items() if not n.startswith(lacking)}
    path, said = write(tmp_path, tensors | head())
    refused(path, lacking, "missing", "--method partial-fine-tuning", **said)

    run = fpet_export.load(path, method="partial-fine-tuning", **said)

    assert run.checkpoint.method == "partial-fine-tuning"
    proven(run, expected(backbone() | tensors | head()), tmp_path)


def test_the_folder_one_stands_in_is_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, KINDS["bitfit"] | head())
    monkeypatch.chdir(tmp_path)
    refused(Path(), "holds no run", **SAID)


def test_options_of_other_methods_are_refused(tmp_path: Path) -> None:
    path, said = write(tmp_path, KINDS["bitfit"] | head())
    others: list[dict[str, Any]] = [
        {"rank": 4}, {"scale": 2.0}, {"alpha": 8.0}, {"qkv_slots": "q"}, {"method": "linear-probe"},
    ]  # fmt: skip
    for other in others:
        option = min(other).replace("_", "-")
        refused(path, f"--{option}", kind=UsageError, **said, **other)


def test_inspect_says_what_was_tuned(tmp_path: Path) -> None:
    path, said = write(tmp_path, KINDS["layernorm"] | head())
    words = [path, "--backbone", said["backbone"], "--heads", SPEC.heads, "--pool", "token"]

    done = call("inspect", *words, "--normalisation", NORMALISATION)

    assert done.code == 0, done.err
    text = " ".join(done.err.split())
    assert "layernorm: own weights of norm1, norm2, norm" in text
    assert "everything folds" in text
