from __future__ import annotations

import dataclasses
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

if not all(
    importlib.util.find_spec(name)
    for name in ("torch", "onnx", "onnxruntime", "onnx_graphsurgeon", "skimage", "sklearn")
):
    pytest.skip("needs the extras export, cpu and dev", allow_module_level=True)

import fpet_export
from benchmarks.experiments import fidelity
from benchmarks.experiments.fidelity import Cell, Outcome, Row, cells, format_rows, missed, outcome
from engines.errors import ParityError
from engines.parity.model_outputs import ModelOutputs
from fpet_export.model.backbones import random_weights

ARCHITECTURE = "vit_tiny_patch16_64"
EXACT = Outcome(largest_logit_difference=1e-6, relative=1e-6, agreement=1.0, tokens_expected=17)


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the tiny ViT tinier: width 64, two heads, three blocks; 16 patches."""
    monkeypatch.setitem(random_weights._SHAPES, "tiny", (64, 2, 3))
    monkeypatch.setattr(fidelity, "MERGE_BLOCKS", (1, None))


def row_of(frozen: Outcome) -> Row:
    cell = Cell(method="lora", bit=1, merge_block=1)
    return Row(cell=cell, frozen=frozen, naive=EXACT, smallest_margin=1e-3, seconds=1.0)


def test_the_grid_is_the_promised_one() -> None:
    found = cells()

    assert len(found) == len(set(found)) == 20
    assert [cell.merge_block for cell in found] == [1] * 10 + [None] * 10


@pytest.mark.parametrize("bit", [1, 8, 32])
@pytest.mark.parametrize("method", ["lora", "adaptformer"])
@pytest.mark.parametrize("merge_block", [1, None])
def test_a_written_run_is_read_as_what_it_is(
    tmp_path: Path, method: str, bit: int, merge_block: int | None
) -> None:
    cell = Cell(method=method, bit=bit, merge_block=merge_block)

    run = fidelity.write_run(tmp_path / "run", cell, ARCHITECTURE)
    adapted = fpet_export.load(str(run), backbone=f"random:{ARCHITECTURE}:0")

    fidelity._check_reading(adapted, cell)
    assert adapted.checkpoint.dim == cell.dim
    assert adapted.quality == "random"
    other = dataclasses.replace(cell, bit=4)
    with pytest.raises(ParityError, match="was written as"):
        fidelity._check_reading(adapted, other)


def test_a_run_is_measured_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "fidelity.json"

    code = fidelity.main(
        ["-o", str(path), "--images", "2", "--arch", ARCHITECTURE, "--methods", "lora",
         "--bits", "1", "--merge-blocks", "1"]
    )  # fmt: skip

    document = json.loads(path.read_text())
    (row,) = document["rows"]
    assert code == 0, capsys.readouterr()
    assert document["weights"] == "random"
    assert row["frozen"]["tokens_kept"] == [17, 17]
    assert row["frozen"]["unexplained_flips"] == 0
    assert row["frozen"]["relative"] < 1e-5
    assert len(row["naive"]["tokens_kept"]) == 2
    assert row["missed"] == []
    assert "--merge-blocks=1" in document["command"]
    assert "lora" in capsys.readouterr().out


def test_outcomes_count_every_image() -> None:
    reference = ModelOutputs(logits=np.array([[1.0, 4.0], [2.0, 0.0]]))
    size = np.ones((2, 9))
    size[1, 0] = 0
    actual = ModelOutputs(logits=np.array([[1.0, 4.0], [2.0, 2.5]]), size=size)

    found = outcome(actual, reference, tokens=9)

    assert (found.largest_logit_difference, found.relative) == (2.5, 2.5 / 4)
    assert found.agreement == 0.5
    assert found.tokens_kept == (9, 8)
    assert found.tokens_lost == 1
    assert outcome(ModelOutputs(logits=actual.logits), reference, tokens=9).tokens_lost is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, []),
        ({"relative": 1e-3}, ["relative difference 1.0e-03, goal 1e-04"]),
        ({"relative": 1e-3, "relative_without_ties": 1e-6}, []),
        ({"unexplained_flips": 2}, ["2 unexplained flips, goal 0"]),
        ({"tokens_kept": (17, 16)}, ["1 tokens lost, goal 0"]),
    ],
)
def test_missed_goals_are_named(changes: dict[str, object], words: list[str]) -> None:
    frozen = dataclasses.replace(EXACT, **changes)  # type: ignore[arg-type]

    assert missed(row_of(frozen)) == words


def test_a_table_shows_what_is_unknown_as_a_dash() -> None:
    head, line = format_rows([row_of(EXACT)]).splitlines()

    assert head.split()[:3] == ["method", "bit", "merge"]
    assert "–" in line
    assert line.endswith("met")
