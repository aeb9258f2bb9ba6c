"""What an engine must say: on images where rounding decides the match, either answer is right."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines.engine import open_engine
from engines.imaging.synthetic import synthetic_set
from engines.manifest import read_manifest
from engines.parity.comparison import ReferenceOutputs
from engines.parity.gates import gates_of
from engines.parity.model_outputs import ModelOutputs
from engines.parity.outputs import reference_of
from engines.parity.reference_file import write_reference
from engines.parity.table import remarks
from fpet_export.cli.console import Console
from fpet_export.steps import built_engine as engine_steps
from fpet_export.steps.expectation import reference_with_margin
from tests.fpet_export.command_line import Exported


def test_a_float32_graph_says_how_sure_each_token_s_match_is(exported: Exported) -> None:
    expected = reference_with_margin(exported.graph)
    assert expected.outputs.margin is not None
    assert len(expected.outputs.margin) == len(expected.images)
    assert (expected.outputs.margin >= 0).all()
    np.testing.assert_array_equal(
        expected.outputs.logits, reference_of(exported.graph).outputs.logits
    )


def test_a_float32_graph_runs_once(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def counted(path: Path, **options: Any) -> Any:
        opened.append(path.name)
        return open_engine(path, **options)

    for module in ("calibration.evaluator", "engines.parity.outputs"):
        monkeypatch.setattr(f"{module}.open_engine", counted)
    reference_with_margin(exported.graph)
    assert opened == [f"tapped_{exported.graph.name}"]


def test_an_engine_is_not_refused_for_a_match_that_rounding_decides(exported: Exported) -> None:
    """Four images, the second of which has two best targets for a token."""
    images = synthetic_set(read_manifest(exported.graph).preprocessing.size, 4)  # type: ignore[union-attr]
    found = reference_of(exported.graph, images)
    outputs = ModelOutputs(logits=found.outputs.logits, margin=np.ones((4, 3)))
    expected = dataclasses.replace(found, gates=gates_of("fp32"), outputs=outputs)
    other = expected.outputs.logits.copy()
    other[1] += 0.01 * np.abs(other).max()

    assert not expected.compare("engine", ModelOutputs(logits=other)).passed
    expected.outputs.margin[1, 2] = 1e-7  # type: ignore[index]
    row = expected.compare("engine", ModelOutputs(logits=other))
    assert row.passed
    assert row.unjudged == "3 of 4 judged: the match of the others is not certain"
    assert remarks(expected.table([row])) == [f"engine: {row.unjudged}"]
    other[2] += 0.01 * np.abs(other).max()
    assert not expected.compare("engine", ModelOutputs(logits=other)).passed


def answers(exported: Exported) -> ReferenceOutputs:
    images = synthetic_set(read_manifest(exported.graph).preprocessing.size, 5)  # type: ignore[union-attr]
    return reference_with_margin(exported.graph, images)


@pytest.mark.parametrize("has_onnx", [True, False])
def test_a_board_compares_with_the_answers_that_came_along(
    exported: Exported,
    engine: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    has_onnx: bool,
) -> None:
    """Where the graph cannot be asked how sure its match is, it need not even run."""
    recorded = exported.graph.with_name("model.check.npz")
    write_reference(recorded, answers(exported))
    if not has_onnx:
        real = engine_steps.util.find_spec  # type: ignore[attr-defined]
        monkeypatch.setattr(
            "importlib.util.find_spec", lambda name: None if name == "onnx" else real(name)
        )
    try:
        table = engine_steps.check_against_graph(exported.graph, engine, Console())
    finally:
        recorded.unlink()
    assert table is not None
    assert table.rows[0].passed
    assert table.images.startswith("4 synthetic" if has_onnx else "5 synthetic")


def test_without_answers_and_onnx_the_graph_runs_as_it_is(
    exported: Exported, engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_steps, "_margins_are_known_here", lambda: False)
    table = engine_steps.check_against_graph(exported.graph, engine, Console())
    assert table is not None and table.rows[0].passed
