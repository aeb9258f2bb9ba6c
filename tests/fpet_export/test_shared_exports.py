"""A remembered export is that of the very same module, run by the very same code."""

from __future__ import annotations

import copy

import pytest
import torch

from fpet_export.graph import frozen_attention
from fpet_export.graph.freeze import FrozenVit
from fpet_export.graph.options import FreezeOptions
from fpet_export.model.fold import fold
from tests.fpet_export.tiny import MEAN, STD, adapted, checkpoint_of, spec_of
from tests.shared_exports import SharedExports


def count(shared: SharedExports, module: torch.nn.Module, **named: int) -> tuple[int, int]:
    shared(module, **named)
    return shared.hits, shared.misses


@pytest.fixture
def module() -> FrozenVit:
    spec = spec_of()
    folded, _ = fold(adapted(spec, checkpoint_of(spec, "lora")))
    return FrozenVit(folded, FreezeOptions(batch=2), MEAN, STD).eval()


@pytest.fixture
def shared() -> SharedExports:
    return SharedExports(lambda module, **named: object())


def test_an_equal_module_is_not_exported_again(shared: SharedExports, module: FrozenVit) -> None:
    first = shared(module, opset_version=20)

    assert shared(copy.deepcopy(module), opset_version=20) is first
    assert (shared.hits, shared.misses) == (1, 1)


def test_another_weight_setting_or_option_is(shared: SharedExports, module: FrozenVit) -> None:
    assert count(shared, module, opset_version=20) == (0, 1)
    assert count(shared, module, opset_version=18) == (0, 2)
    with torch.no_grad():
        next(module.parameters()).view(-1)[0] += 1e-6
    assert count(shared, module, opset_version=18) == (0, 3)
    module.train()
    assert count(shared, module, opset_version=18) == (0, 4)


def test_code_that_a_test_replaced_is_run(
    shared: SharedExports, module: FrozenVit, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert count(shared, module) == (0, 1)
    monkeypatch.setattr(FrozenVit, "forward", lambda self, images: images)
    assert count(shared, module) == (0, 2)
    name = next(n for n, v in vars(frozen_attention).items() if callable(v) and n[0].islower())
    monkeypatch.setattr(frozen_attention, name, lambda *_: None)
    assert count(shared, module) == (0, 3)


def test_a_class_of_a_test_s_own_is_never_remembered(shared: SharedExports) -> None:
    class Own(torch.nn.Linear):
        pass

    assert count(shared, Own(2, 2)) == (0, 0)
    assert count(shared, Own(2, 2)) == (0, 0)
