"""A graph from a shared trace is, byte for byte, the one that a trace of its own gives."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.onnx._internal.exporter import _core

from fpet_export.graph.structure import structure_of
from tests.fpet_export.tasks.task_folders import run_of
from tests.fpet_export.tiny import spec_of
from tests.shared_captures import SharedCaptures

pytestmark = pytest.mark.fresh_exports  # the session's own sharing is off


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> Iterator[SharedCaptures]:
    made = SharedCaptures(torch.onnx.export, _core._prepare_exported_program_for_export)
    with monkeypatch.context() as patch:
        patch.setattr(torch.onnx, "export", made.export)
        patch.setattr(_core, "_prepare_exported_program_for_export", made.prepare)
        yield made


def graph(folder: Path, seed: int, **request: Any) -> bytes:
    spec = spec_of(**request.pop("spec", {}))
    model = run_of(spec, seed=seed, **request.pop("run", {})).fold().freeze(**request)
    return model.to_onnx(folder / f"{seed}.onnx", force=True).read_bytes()


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param({"target": "rtx", "batch": (1, 4)}, id="dynamic"),
        pytest.param(
            {"run": {"method": "adaptformer", "bit": 1}, "input": "uint8-nhwc"},
            id="low-bit",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"spec": {"prefix": ("cls", "dist"), "pool": "class+dist"}},
            id="distilled",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_other_weights_get_the_graph_of_their_own_trace(
    request_: dict[str, Any], captures: SharedCaptures, tmp_path: Path
) -> None:
    first = graph(tmp_path, 1, **request_)
    assert captures.hits == 0
    shared = graph(tmp_path, 2, **request_)
    assert captures.hits == 1
    captures.forget()

    assert graph(tmp_path, 2, **request_) == shared
    assert captures.hits == 1
    assert shared != first


def test_an_error_of_the_exporter_is_not_remembered(captures: SharedCaptures) -> None:
    with pytest.raises(RuntimeError):
        captures.export(torch.nn.Linear(2, 2).eval(), (torch.zeros(1, 3),), dynamo=True)

    captures.export(torch.nn.Linear(2, 2).eval(), (torch.zeros(1, 2),), dynamo=True, verbose=False)

    assert captures.hits == 0


def test_weights_do_not_count_and_all_else_does() -> None:
    first = torch.nn.Linear(4, 4)
    alike = structure_of(torch.nn.Linear(4, 4))
    assert structure_of(first) == alike
    assert structure_of(first.eval()) != alike
    assert structure_of(torch.nn.Linear(4, 4), {"opset_version": 18}) != alike
    assert structure_of(torch.nn.Linear(4, 4, bias=False)) != alike
    assert structure_of(torch.nn.Linear(4, 4).double()) != alike
    noted = torch.nn.Linear(4, 4)
    noted.factor = torch.ones(1)  # neither a parameter nor a buffer: the trace holds its value
    assert structure_of(noted) != alike


def test_weights_that_are_one_tensor_are_told_from_equal_ones() -> None:
    def pair(tied: bool) -> torch.nn.Module:
        layers = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
        if tied:
            layers[1].weight = layers[0].weight
        return layers

    assert structure_of(pair(tied=True)) == structure_of(pair(tied=True))
    assert structure_of(pair(tied=True)) != structure_of(pair(tied=False))
