from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.experiments import quantization
from benchmarks.experiments.quantization import Goal, format_parts, goals, main, tool
from engines.errors import EngineError


def kernel_row(**changes: Any) -> dict[str, Any]:
    row = {"graph": "merged", "precision": "fp16", "preset": None, "kernels": 109}
    return row | {"plan_bytes": 179_000_000} | changes


def parity_row(**changes: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "run": "lora", "stage": "int8", "preset": "vit-linear", "sqnr_db": 38.1, "drop_pp": 0.0,
        "agreement": 0.997, "same_partner": 0.94, "unexplained_flips": 0, "accuracy": 0.925,
    }  # fmt: skip
    return row | changes


def missed(part: str, row: dict[str, Any]) -> list[str]:
    return [text for goal in goals({part: {"rows": [row]}}) if (text := goal.missed())]


@pytest.mark.parametrize(
    ("goal", "text"),
    [
        (Goal(what="a", value=3, most=3), None),
        (Goal(what="a", value=4, most=3), "a: 4, wanted 3 or less"),
        (Goal(what="a", value=3, least=3), None),
        (Goal(what="a", value=2, least=3), "a: 2, wanted 3 or more"),
    ],
)
def test_a_limit_holds_at_its_value(goal: Goal, text: str | None) -> None:
    assert goal.missed() == text


@pytest.mark.parametrize(
    ("part", "row", "count"),
    [
        ("kernels", kernel_row(), 0),
        ("kernels", kernel_row(kernels=113), 1),
        ("kernels", kernel_row(graph="merged, class token", kernels=117), 1),
        ("kernels", kernel_row(graph="plain", kernels=500), 0),
        ("kernels", kernel_row(precision="fp8", preset="vit-attention", kernels=124), 1),
        ("kernels", kernel_row(precision="int8", preset="vit-linear", kernels=134), 0),
        ("accuracy", parity_row(), 0),
        ("accuracy", parity_row(drop_pp=0.6), 1),
        ("accuracy", parity_row(preset="vit-attention", drop_pp=0.9), 0),
        ("accuracy", parity_row(preset="vit-attention", drop_pp=1.1), 1),
        ("accuracy", parity_row(unexplained_flips=1), 1),
        ("accuracy", parity_row(stage="fp8", drop_pp=9.0), 0),
        ("natural", parity_row(stage="fp16", preset=None, sqnr_db=61.0, agreement=1.0), 0),
        ("natural", parity_row(stage="fp16", preset=None, sqnr_db=49.0, agreement=0.9), 2),
        ("memory", {"images": 32, "peak_bytes": 2_900_000_000}, 0),
        ("memory", {"images": 512, "peak_bytes": 3_100_000_000}, 1),
    ],
)
def test_every_number_with_a_goal_is_held_to_it(part: str, row: dict[str, Any], count: int) -> None:
    assert len(missed(part, row)) == count


def test_the_tables_show_every_row() -> None:
    text = format_parts(
        {
            "kernels": {"rows": [kernel_row()]},
            "natural": {"rows": [parity_row(accuracy=None, drop_pp=None, run="ViT-B/16")]},
            "accuracy": {"rows": [parity_row()]},
            "memory": {"rows": [{"images": 32, "peak_bytes": 1.06e9, "images_per_s": 2.34}]},
        }
    )

    assert "| merged | fp16  | 109 | 179 |" in text
    assert "| ViT-B/16 | int8 vit-linear | 38.1 | 99.7% | 94.0% | – | – |" in text
    assert "| lora | int8 vit-linear | 38.1 | 99.7% | 94.0% | 92.5% | 0.0 |" in text
    assert "| 32 | 1.06 | 2.3 |" in text


def measured(rows: list[dict[str, Any]], folder: Path) -> dict[str, Any]:
    return {"rows": rows}


def test_a_part_replaces_itself_and_keeps_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "q.json"
    for name, kernels in (("kernels", 109), ("natural", 0), ("kernels", 113)):
        rows = [kernel_row(kernels=kernels)] if name == "kernels" else []
        monkeypatch.setitem(quantization.PARTS, name, functools.partial(measured, rows))
        code = main(["-o", str(out), "--parts", name, "--keep"])
        assert code == (8 if kernels == 113 else 0)

    document = json.loads(out.read_text())
    assert set(document["parts"]) == {"kernels", "natural"}
    assert document["parts"]["kernels"]["rows"][0]["kernels"] == 113
    assert "kernels, merged fp16: 113, wanted 112 or less" in capsys.readouterr().err


def test_a_result_is_not_replaced_without_force(tmp_path: Path) -> None:
    out = tmp_path / "q.json"
    out.write_text("{}")

    assert main(["-o", str(out), "--parts", "kernels"]) == 2
    assert out.read_text() == "{}"


def test_a_command_that_fails_is_named() -> None:
    with pytest.raises(EngineError, match="exit code 2") as caught:
        tool("inspect")

    assert caught.value.where == "fpet-export inspect"
