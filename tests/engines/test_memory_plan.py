"""The estimate of a build's memory against peaks that were measured, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from engines.errors import MachineError
from engines.manifest import ModelFacts
from engines.memory_plan import MemoryPlan, memory_plan

RESULTS = Path(__file__).parents[2] / "benchmarks/results/export_cost.json"
MEMINFO = """\
MemTotal:        7803904 kB
MemFree:          201000 kB
MemAvailable:    5000000 kB
SwapTotal:       4194304 kB
SwapFree:        1000000 kB
"""
VIT_B = ModelFacts(
    architecture="vit",
    width=768,
    depth=12,
    heads=12,
    hidden=3072,
    patch=(16, 16),
    grid=(14, 14),
    prefix_tokens=1,
    classes=1000,
    method="none",
    bit=None,
    dim=None,
    scale=None,
    merge="none",
    merges=(),
    ties="argmax",
    tokens=(197,) * 12,
    macs=17_560_000_000,
)
ORIN = 2 << 30
"""Limit of scratch memory on a board with 8 GB."""


def plan(weights: int, *, meminfo: str = MEMINFO, workspace: int | None = ORIN) -> MemoryPlan:
    return memory_plan(
        weights=weights,
        model=None,
        batch=1,
        bytes_each=4,
        workspace=workspace,
        is_shared=True,
        meminfo=meminfo,
    )


@pytest.mark.parametrize(
    ("name", "weights"), [("build rtx, FP32", 343e6), ("build rtx, FP16", 172e6)]
)
def test_it_is_near_the_peaks_that_were_measured(name: str, weights: float) -> None:
    costs = {one["name"]: one for one in json.loads(RESULTS.read_text())["costs"]}
    measured = costs[name]["peak_bytes"]
    assert plan(int(weights)).building == pytest.approx(measured, rel=0.05)


def test_memory_and_swap_are_read() -> None:
    found = plan(343_000_000)
    assert (found.has.available, found.has.free_swap) == (5_000_000 << 10, 1_000_000 << 10)
    assert found.room == 6_000_000 << 10
    assert found.advice() == ""
    assert found.in_words() == (
        "building takes about 1.4 GB and up to 2.1 GB of scratch memory of 5.1 GB and 1.0 GB of "
        "swap that are free · running 0.3 GB beside the driver"
    )


def test_scratch_memory_that_may_not_fit_is_limited() -> None:
    small = MEMINFO.replace("5000000", "1800000")
    found = plan(343_000_000, meminfo=small)
    found.require_room("model.onnx")
    left = found.room - found.building  # type: ignore[operator]
    assert (
        found.advice() == f"scratch memory may not fit: --workspace-mb {left // 2 >> 20} limits it"
    )
    assert plan(343_000_000, meminfo=small, workspace=None).advice() == ""


def test_a_build_that_would_be_killed_is_refused() -> None:
    full = plan(343_000_000, meminfo="MemAvailable: 900000 kB\nSwapFree: 100000 kB\n")
    with pytest.raises(MachineError, match=r"takes about 1\.4 GB .* and 1\.0 GB are free") as error:
        full.require_room("a")
    assert "FP16" in error.value.fix


def test_near_its_estimate_a_build_is_tried() -> None:
    plan(343_000_000, meminfo="MemAvailable: 1200000 kB\n").require_room("a")


@pytest.mark.parametrize("text", ["", "MemFree: 1 kB", "MemAvailable: lots kB"])
def test_a_machine_that_states_nothing_is_not_judged(text: str) -> None:
    found = plan(343_000_000, meminfo=text)
    found.require_room("a")
    assert found.advice() == ""
    assert "free" not in found.in_words()


def test_activations_grow_with_the_batch_and_the_tokens() -> None:
    def activations(batch: int, *, gated: bool = False) -> int:
        facts = dataclasses.replace(VIT_B, gated=gated)
        found = memory_plan(
            weights=1, model=facts, batch=batch, bytes_each=2, workspace=None, is_shared=False,
            meminfo="",
        ).activations  # fmt: skip
        assert found is not None
        return found

    # The residual stream and queries, keys, values and probabilities of 197 tokens.
    assert activations(1) == 2 * (197 * 768 + 3 * 197 * 768 + 12 * 197**2)
    assert activations(8) == 8 * activations(1)
    assert activations(1, gated=True) == 2 * (197 * 768 + 2 * 197 * 3072)
