"""TS-PEFT in PEFT's folders against the paper's formula, one token after the other."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fpet_export
from engines.errors import UsageError
from tests.fpet_export.command_line import call
from tests.fpet_export.model.checkpoints.tuned_files import (
    NORMALISATION,
    SAID,
    SPEC,
    WIDTH,
    Drawing,
    Tensors,
    backbone,
    expected,
    head,
    is_other,
    pixels,
    proven,
    refused,
    save,
    wide,
)

RANK, ALPHA = 3, 6.0
LAYERS = {"attn.qkv": (3 * WIDTH, WIDTH), "attn.proj": (WIDTH, WIDTH)} | {
    "mlp.fc1": (SPEC.hidden, WIDTH), "mlp.fc2": (WIDTH, SPEC.hidden)
}  # fmt: skip
TAU = 0.8
"""Far from every ratio below that it decides about; see `ratios`."""

Rows = list[slice]
THIRDS = [slice(i * WIDTH, (i + 1) * WIDTH) for i in range(3)]


def tuned(tau: float | list[float] = TAU, layers: tuple[str, ...] = tuple(LAYERS)) -> Tensors:
    draw = Drawing()
    found: Tensors = {}
    for index in range(SPEC.depth):
        for layer in layers:
            path = f"blocks.{index}.{layer}"
            out, inp = LAYERS[layer]
            taus = tau if layer == "attn.qkv" or isinstance(tau, float) else tau[:1]
            found |= {
                f"{path}.lora_A.weight": 1.5 * draw(RANK, inp),
                f"{path}.lora_B.weight": draw(out, RANK),
                f"{path}.ts_threshold": torch.tensor(taus),
            }
    return found


def after(
    tensors: Tensors,
    parts: Callable[[str], Rows],
    ratio: Callable[[np.ndarray, np.ndarray, np.ndarray], float],
    seen: list[float] | None = None,
) -> Callable[[str, np.ndarray, np.ndarray], np.ndarray]:
    """Gate the update of every part of a layer's output, token by token."""
    biases = {n.removesuffix(".bias"): wide(t) for n, t in backbone().items() if "bias" in n}

    def change(name: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        if f"{name}.lora_A.weight" not in tensors:
            return y
        a, b = (wide(tensors[f"{name}.lora_{one}.weight"]) for one in "AB")
        taus = np.atleast_1d(wide(tensors[f"{name}.ts_threshold"]))
        found = y.copy()
        for token in range(len(x)):
            update = ALPHA / RANK * b @ (a @ x[token])
            for index, rows in enumerate(parts(name)):
                tau = taus[index % len(taus)]
                value = ratio(update[rows], y[token, rows], biases[name][rows])
                if value >= tau:
                    found[token, rows] += update[rows]
                if seen is not None:
                    seen.append(value - tau)
        return found

    return change


def relative_to_output(update: np.ndarray, y: np.ndarray, bias: np.ndarray) -> float:
    return math.sqrt(float(update @ update)) / math.sqrt(float(y @ y))


def without_bias(update: np.ndarray, y: np.ndarray, bias: np.ndarray) -> float:
    return relative_to_output(update, y - bias, bias)


def absolute(update: np.ndarray, y: np.ndarray, bias: np.ndarray) -> float:
    return math.sqrt(float(update @ update))


def with_epsilon(update: np.ndarray, y: np.ndarray, bias: np.ndarray) -> float:
    return math.sqrt(float(update @ update)) / (math.sqrt(float(y @ y)) + 0.5)


def in_thirds(name: str) -> Rows:
    return THIRDS if name.endswith("qkv") else [slice(None)]


def whole(name: str) -> Rows:
    return [slice(None)]


def write(folder: Path, tensors: Tensors, **fields: Any) -> dict[str, Any]:
    """Write the folder; return what loads it."""
    run = folder / "adapter"
    run.mkdir(exist_ok=True)
    config = {
        "peft_type": "LORA",
        "r": RANK,
        "lora_alpha": ALPHA,
        "target_modules": sorted({".".join(n.split(".")[2:4]) for n in tensors if ".lora_A" in n}),
        "modules_to_save": ["head"],
    }
    (run / "adapter_config.json").write_text(json.dumps(config | fields))
    named = {f"base_model.model.{name}": tensor for name, tensor in (tensors | head()).items()}
    save(run / "adapter_model.safetensors", named)
    base = save(folder / "vit.safetensors", backbone())
    return SAID | {"run": run, "backbone": base}


def wanted(
    tensors: Tensors,
    parts: Callable[[str], Rows] = in_thirds,
    ratio: Any = relative_to_output,
    **hooks: Any,
) -> np.ndarray:
    """The reference's logits; no decision may be close, and some of both kinds must be there."""
    seen: list[float] = []
    logits = expected(backbone() | head(), after=after(tensors, parts, ratio, seen), **hooks)
    assert min(map(abs, seen)) > 1e-5
    assert 0.05 < np.mean(np.array(seen) < 0) < 0.95
    return logits


READINGS = {
    "": (in_thirds, relative_to_output, TAU),
    "bias=without": (in_thirds, without_bias, TAU),
    "fused=whole": (whole, relative_to_output, TAU),
    "norm=absolute": (in_thirds, absolute, 8.0),
    "epsilon=0.5,norm=relative": (in_thirds, with_epsilon, TAU),
}


@pytest.mark.parametrize("reading", READINGS)
def test_a_gate_is_what_the_paper_says(reading: str, tmp_path: Path) -> None:
    parts, ratio, tau = READINGS[reading]
    tensors = tuned(tau)
    said = write(tmp_path, tensors)

    run = fpet_export.load(**said, gate=reading or None)

    stay = SPEC.depth * (len(LAYERS) + (0 if parts is whole else 2))
    answers = wanted(tensors, parts, ratio)
    proven(run, answers, tmp_path, stay=stay)
    if reading:
        is_other(fpet_export.load(**said), answers)


@pytest.mark.parametrize("layer", LAYERS)
def test_one_layer_may_be_gated_alone(layer: str, tmp_path: Path) -> None:
    tensors = tuned(0.6, (layer,))
    run = fpet_export.load(**write(tmp_path, tensors))
    proven(run, wanted(tensors), tmp_path, stay=SPEC.depth * len(in_thirds(layer)))


def test_a_fused_qkv_may_have_three_thresholds(tmp_path: Path) -> None:
    tensors = tuned([0.5, 0.9, 0.7])
    run = fpet_export.load(**write(tmp_path, tensors))
    proven(run, wanted(tensors), tmp_path, stay=SPEC.depth * (len(LAYERS) + 2))
    is_other(fpet_export.load(**write(tmp_path, tuned([0.9, 0.5, 0.7]))), wanted(tensors))


@pytest.mark.parametrize("merge_block", [0, 1])
@pytest.mark.parametrize("reading", ["fused=thirds", "fused=whole"])
def test_tokens_merge_by_their_gated_keys(reading: str, merge_block: int, tmp_path: Path) -> None:
    tensors = tuned(0.7, ("attn.qkv",))
    parts = in_thirds if reading == "fused=thirds" else whole
    run = fpet_export.load(**write(tmp_path, tensors), merge_block=merge_block, gate=reading)

    answers = wanted(tensors, parts, merge_block=merge_block)
    proven(run, answers, tmp_path, stay=SPEC.depth * len(parts("qkv")))


def test_a_threshold_that_decides_nothing_folds(tmp_path: Path) -> None:
    always = {n: t for n, t in tuned(0.0).items() if "threshold" not in n}
    dense = fpet_export.load(**write(tmp_path, always)).fold().outputs(pixels()).logits
    for tau in (0.0, -0.5):
        run = fpet_export.load(**write(tmp_path, tuned(tau)))
        proven(run, dense, tmp_path / str(tau))
    never = fpet_export.load(**write(tmp_path, tuned(math.inf)))
    proven(never, expected(backbone() | head()), tmp_path / "never")
    assert never.extra_macs() == 0


def test_what_is_left_open_is_named(tmp_path: Path) -> None:
    said = write(tmp_path, tuned())
    facts = fpet_export.load(**said, gate="bias=without").facts()

    assert facts["method"].value == "ts-lora"
    assert (facts["gate bias"].value, facts["gate bias"].source) == ("without", "--gate")
    assert (facts["gate norm"].value, facts["gate norm"].source[:9]) == ("relative", "the paper")


@pytest.mark.parametrize(
    "gate", ["", "bias", "bias=no", "bias=with,bias=with", "epsilon=-1", "epsilon=x", "tau=1"]
)
def test_what_is_no_reading_is_refused(gate: str, tmp_path: Path) -> None:
    said = write(tmp_path, tuned())
    refused(said.pop("run"), "--gate", kind=UsageError, **said, gate=gate)


def test_thresholds_must_be_those_of_the_adapted_layers(tmp_path: Path) -> None:
    tensors = tuned()
    name = "blocks.1.mlp.fc1.ts_threshold"
    less = {n: t for n, t in tensors.items() if n != name}
    wrong = {
        "no threshold": less,
        "one number": tensors | {name: torch.ones(2)},
        "three": tensors | {name: torch.ones(3)},
        "NaN": tensors | {name: torch.tensor(math.nan)},
        "a threshold and no adapter": tensors | {"head.ts_threshold": torch.tensor(1.0)},
        "fc1 has no threshold": less | {"blocks.1.mlp.fc1.ts_tau": torch.tensor(1.0)},
    }
    fused = next(n for n in tensors if n.endswith("attn.qkv.lora_B.weight"))
    wrong["not three times as many"] = tensors | {
        fused: torch.cat([tensors[fused], tensors[fused][:1]])
    }
    for words, one in wrong.items():
        said = write(tmp_path, one)
        refused(said.pop("run"), words, **said)


def test_names_of_thresholds_may_end_otherwise(tmp_path: Path) -> None:
    tensors = tuned()
    renamed = {n.replace(".ts_threshold", ".tau"): t for n, t in tensors.items()}
    run = fpet_export.load(**write(tmp_path, renamed), gate="suffix=.tau")
    assert len(run.fold().stay) == SPEC.depth * (len(LAYERS) + 2)
    said = write(tmp_path, tensors)
    refused(said.pop("run"), "suffix", kind=UsageError, **said, gate="suffix=.tau")


def test_dora_and_gates_of_others_are_refused(tmp_path: Path) -> None:
    tensors = tuned()
    norms = {
        n.replace("lora_B.weight", "lora_magnitude_vector"): t.norm(dim=1)
        for n, t in tensors.items()
        if "lora_B" in n
    }
    said = write(tmp_path, tensors | norms, use_dora=True)
    refused(said.pop("run"), "DoRA", **said)
    path = save(tmp_path / "model.safetensors", backbone() | head())
    refused(path, "--gate", kind=UsageError, **SAID, gate="bias=with")


def test_export_says_how_much_is_skipped(tmp_path: Path) -> None:
    said = write(tmp_path, tuned())
    words = [said["run"], "--backbone", said["backbone"], "--heads", SPEC.heads, "--pool", "token"]
    words += ["--normalisation", NORMALISATION]

    inspected = call("inspect", *words)
    exported = call("export", *words, "-o", tmp_path / "out")

    assert (inspected.code, exported.code) == (0, 0), inspected.err + exported.err
    assert "ts-lora: gated low-rank update of proj, q, k, v, fc1, fc2 (rank 3)" in " ".join(
        inspected.err.split()
    )
    manifest = json.loads((tmp_path / "out" / "model.manifest.json").read_text())
    share = float(manifest["facts"]["skipped by gates"].partition("%")[0])
    assert 5 < share < 95
    assert "gates" in exported.err and f"skip {share}" in " ".join(exported.err.split())
