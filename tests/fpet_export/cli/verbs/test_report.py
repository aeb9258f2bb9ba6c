"""`report`: files and folders of measurements as a page, a table and a CSV."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import fpet_export
from benchmarks.measurement_file import write_measurement
from tests.benchmarks.made_measurements import NOISE, measurement
from tests.fpet_export.command_line import call


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    write_measurement(folder / "orin.latency.json", measurement())
    write_measurement(folder / "spoiled.latency.json", measurement(1.0, 0.5, findings=(NOISE,)))
    (folder / "parity.json").write_text("{}")
    return folder


def test_three_files_are_written_from_one_folder(results: Path, tmp_path: Path) -> None:
    outputs = {
        name: tmp_path / f"a.{ending}"
        for name, ending in (("html", "html"), ("markdown", "md"), ("csv", "csv"))
    }
    words = [word for name, path in outputs.items() for word in (f"--{name}", path)]

    done = call("report", results, *words)

    assert done.code == 0
    assert done.out.split() == list(map(str, outputs.values()))
    assert "parity.json" in done.err
    assert "not valid" in done.err
    assert all("ViT-B/16" in path.read_text() for path in outputs.values())
    assert call("report", results, *words, "--json").error()["class"] == "UsageError"
    assert call("report", results, *words, "--force").code == 0


def test_without_an_output_the_table_is_printed(results: Path) -> None:
    done = call("report", results, "-q")

    assert done.out.startswith("### ViT-B/16, batch 1")
    assert "| **front** |" in done.out


def test_python_gives_what_the_command_line_gives(results: Path) -> None:
    found = fpet_export.report(results)

    document = call("report", results, "--json").document()
    assert json.loads(json.dumps(found.to_json())) == document
    assert document["schema"] == 1
    (group,) = document["groups"]
    assert [row["on_front"] for row in group["rows"]] == [True, False, None, None]
    assert [Path(one["file"]).name for one in document["skipped"]] == ["parity.json"]


@pytest.mark.parametrize(
    ("words", "code", "what"),
    [
        (["results/parity.json"], 3, "schema None"),
        (["absent"], 3, "no such file"),
        (["results", "--html", "results/orin.latency.json", "--force"], 2, "would replace it"),
        (["results", "--html", "x", "--csv", "x"], 2, "written twice"),
        (["results", "--csv", "results"], 2, "is a folder"),
    ],
)
def test_wrong_requests_are_refused_and_nothing_is_written(
    results: Path, words: list[str], code: int, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(results.parent)
    before = {path: path.read_bytes() for path in results.iterdir()}

    done = call("report", *words, "--json")

    assert what in done.error()["what"]
    assert done.code == code
    assert {path: path.read_bytes() for path in results.iterdir()} == before
    assert not (results.parent / "x").exists()
