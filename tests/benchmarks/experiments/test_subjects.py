"""The networks that experiments measure are this toolkit's own, called as anyone calls it."""

from __future__ import annotations

import pytest

from benchmarks.experiments import gpu_torch, subjects

SMALL = "random:vit_tiny_patch16_224:0"


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subjects, "RUN", SMALL)


@pytest.mark.parametrize(("merge_block", "tokens"), [(None, 197), (6, 99)])
def test_a_network_merges_where_it_is_asked_to(merge_block: int | None, tokens: int) -> None:
    frozen = subjects.freeze(merge_block=merge_block, batch=1, target="cpu")

    assert frozen.module.tokens[-2] == tokens


def test_a_trial_keeps_the_last_block() -> None:
    frozen = gpu_torch.frozen(6, 1, 8)

    assert len(frozen.module.blocks) == 8
