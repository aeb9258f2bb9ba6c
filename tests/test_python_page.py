"""docs/python.md: its programs run as printed, and its table names what there is."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import fpet_export

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "python.md").read_text("utf-8")
PROGRAMS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    return tmp_path


def output_of(program: str, folder: Path) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout.splitlines()


def test_an_export_is_built_measured_compared_and_used(folder: Path) -> None:
    first, *verdict = output_of(PROGRAMS[0], folder)

    assert first == "None"
    assert verdict
    assert (folder / "out/python-export/model.cpu.onnx").is_file()
    asked = "import sys\nprint('torch' in sys.modules)"
    assert output_of(f"{PROGRAMS[1]}{asked}", folder) == [
        "out/python-export/model.int8.onnx",
        "False",
    ]
    rows, *predictions = output_of(PROGRAMS[2], folder)
    assert "model.onnx" in rows
    assert len(predictions) == 3
    assert all("%" in line for line in predictions)


def test_a_reporter_hears_of_a_deployment(folder: Path) -> None:
    *steps, sentence, engines = output_of(PROGRAMS[3], folder)

    assert any(line.startswith("ok fold ") for line in steps)
    assert any(line.startswith("ok report ") for line in steps)
    assert sentence.endswith(".")
    assert "model.cpu.onnx" in engines
    assert (folder / "out/python-deploy/report.html").is_file()


def test_a_refusal_says_what_where_and_how_to_mend_it(folder: Path) -> None:
    what, where, fix, code = output_of(PROGRAMS[4], folder)

    assert "no-such-graph.onnx" in where
    assert what
    assert fix
    assert code == "3"


def test_every_call_of_the_table_exists() -> None:
    calls = re.findall(r"`fpet_export\.(\w+)\(", PAGE.partition("## An export")[0])

    assert calls
    assert set(calls) <= set(fpet_export.__all__)
    assert set(fpet_export.__all__) - {"__version__", "load"} == set(calls)
