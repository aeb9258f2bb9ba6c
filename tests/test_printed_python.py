"""The Python of README and docs/python.md runs as printed; the table of the page is complete."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import fpet_export
from tests.shared_exports import SharedExports

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "python.md").read_text("utf-8")
README = (ROOT / "README.md").read_text("utf-8")
FENCED = re.compile(r"```python\n(.*?)```", flags=re.DOTALL)
PROGRAMS = FENCED.findall(PAGE)

Run = Callable[[str], list[str]]


@pytest.fixture
def run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    exporter: SharedExports,
) -> Run:
    """Runs a program in a folder that has the examples, and returns the lines that it prints."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)

    def printed(program: str) -> list[str]:
        exec(compile(program, "as printed", "exec"), {"__name__": "__main__"})
        return capsys.readouterr().out.splitlines()

    return printed


def in_a_process_of_its_own(program: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout.splitlines()


def test_the_python_of_the_readme(run: Run) -> None:
    (program,) = FENCED.findall(README)

    assert run(program) == ["4"]
    assert Path("out/python/model.cpu.onnx").is_file()


def test_an_export_is_built_measured_compared_and_used(run: Run) -> None:
    first, *verdict = run(PROGRAMS[0])

    assert first == "None"
    assert verdict
    assert Path("out/python-export/model.cpu.onnx").is_file()
    asked = "import sys\nprint('torch' in sys.modules)"
    assert in_a_process_of_its_own(f"{PROGRAMS[1]}{asked}") == [
        "out/python-export/model.int8.onnx",
        "False",
    ]
    rows, *predictions = run(PROGRAMS[2])
    assert "model.onnx" in rows
    assert len(predictions) == 3
    assert all("%" in line for line in predictions)


def test_a_reporter_hears_of_a_deployment(run: Run) -> None:
    *steps, sentence, engines = run(PROGRAMS[3])

    assert any(line.startswith("ok fold ") for line in steps)
    assert any(line.startswith("ok report ") for line in steps)
    assert sentence.endswith(".")
    assert "model.cpu.onnx" in engines
    assert Path("out/python-deploy/report.html").is_file()


def test_a_refusal_says_what_where_and_how_to_mend_it(run: Run) -> None:
    what, where, fix, code = run(PROGRAMS[4])

    assert "no-such-graph.onnx" in where
    assert what
    assert fix
    assert code == "3"


def test_every_call_of_the_table_exists() -> None:
    calls = re.findall(r"`fpet_export\.(\w+)\(", PAGE.partition("## An export")[0])

    assert calls
    assert set(calls) <= set(fpet_export.__all__)
    assert set(fpet_export.__all__) - {"__version__", "load"} == set(calls)
