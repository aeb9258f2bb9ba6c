"""Files and commands that tell about a machine, or do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines.machine import sources


def test_a_command_that_is_not_there_prints_nothing() -> None:
    assert sources.run_command(["nvidia-smi-which-is-nowhere"]) == ""


def test_what_a_failing_command_prints_is_heard_too() -> None:
    assert sources.run_command(["sh", "-c", "echo out; echo err >&2; exit 3"]) == "out\nerr\n"


def test_a_command_waits_for_no_answer() -> None:
    assert sources.run_command(["sh", "-c", "read answer; echo got $answer"]) == "got\n"


def test_programs_of_administrators_are_found_without_their_folder_in_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sources, "_SBIN", (str(tmp_path),))
    (tmp_path / "nvpmodel").write_text("#!/bin/sh\n")
    (tmp_path / "nvpmodel").chmod(0o755)

    assert sources.program("nvpmodel") == str(tmp_path / "nvpmodel")
    assert sources.program("jetson_clocks") is None


@pytest.mark.parametrize(
    ("text", "number"), [("42\n", 42), ("-1", -1), ("", None), ("[N/A]", None), ("4.5", None)]
)
def test_a_file_holds_a_number_or_none(text: str, number: int | None, tmp_path: Path) -> None:
    (tmp_path / "file").write_text(text)

    assert sources.number_of(tmp_path / "file") == number
    assert sources.number_of(tmp_path) is sources.number_of(tmp_path / "none") is None
    assert sources.text_of(tmp_path / "none") == ""
