"""Text inside a terminal's width: sentences break, commands and paths do not."""

from __future__ import annotations

import os
import pty

import pytest

from fpet_export.cli.console import Console
from fpet_export.cli.terminal import table, terminal_width, wrapped


def test_columns_decides_the_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "66")

    assert terminal_width() == 66


@pytest.mark.parametrize("columns", ["", "0", "-4", "many"])
def test_an_unknown_width_is_80(monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr("sys.__stderr__", None)

    assert terminal_width() == 80


def test_a_terminal_tells_its_width(monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl
    import struct
    import termios

    monkeypatch.delenv("COLUMNS", raising=False)
    outer, inner = pty.openpty()
    fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 57, 0, 0))
    with os.fdopen(outer), os.fdopen(inner, "w") as stream:
        monkeypatch.setattr("sys.__stderr__", stream)

        assert terminal_width() == 57


def test_sentences_break_between_words_under_their_beginning() -> None:
    text = wrapped("one two three four", first=" ✓ ", rest="   ", width=12)

    # Ten columns are left for words even where the terminal is narrower.
    assert text == " ✓ one two\n   three four"


def test_every_line_keeps_inside_the_width() -> None:
    text = wrapped("word " * 60, first="first ", rest="      ", width=80)

    lines = text.split("\n")
    assert max(map(len, lines)) <= 80
    assert len(lines) > 3
    assert " ".join(text.split()) == "first " + " ".join(["word"] * 60)


@pytest.mark.parametrize(
    "command",
    [
        "fpet-export export runs/a --backbone b.npz -o out --target cpu,rtx",
        "`python3 agent.pyz bench model.onnx --against plain`",
        "pip install 'fpet-export[export,cpu]' and nothing else matters at all",
    ],
)
def test_a_command_is_never_broken(command: str) -> None:
    text = wrapped(f"The answer is longer than a line: {command}; then go on", width=40)

    whole = command.partition(" and ")[0]
    assert any(whole in line for line in text.split("\n"))


def test_a_path_is_never_broken() -> None:
    path = "/a/rather-long/" * 8

    assert path in wrapped(f"it lies in {path} today", width=40).split("\n")


def test_line_breaks_of_the_text_stay() -> None:
    assert wrapped("a\n\nb", first="> ", rest="  ", width=40) == "> a\n\n  b"


def test_a_separator_stays_with_what_follows() -> None:
    text = wrapped("197/197 tokens kept · largest logit difference 1e-5", width=22)

    assert text.split("\n") == ["197/197 tokens kept", "· largest logit", "difference 1e-5"]


ROWS = [("stage", "largest logit difference", "same partner"), ("frozen", "1.4e-05", "100.0%")]


def test_a_table_that_fits_has_its_heading_in_one_line() -> None:
    assert list(table(ROWS, width=80)) == [
        "stage   largest logit difference  same partner",
        "──────  ────────────────────────  ────────────",
        "frozen                   1.4e-05        100.0%",
    ]


def test_the_headings_of_a_wide_table_break() -> None:
    assert list(table(ROWS, width=40)) == [
        "           largest",
        "             logit     same",
        "stage   difference  partner",
        "──────  ──────────  ───────",
        "frozen     1.4e-05   100.0%",
    ]


def test_the_last_column_may_hold_sentences() -> None:
    rows = [("fact", "value"), ("merge block", "6, as params.sh of this run says")]

    assert list(table(rows, words=True, width=32, indent="  ")) == [
        "  fact         value",
        "  ───────────  ─────────────────",
        "  merge block  6, as params.sh",
        "               of this run says",
    ]


def test_an_explanation_is_printed_once(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    console.explain(["relative: divided by the largest logit"])
    console.explain(["relative: divided by the largest logit", "accuracy: right classes"])

    said = capsys.readouterr().err
    assert said.count("relative:") == said.count("accuracy:") == 1


def test_steps_and_errors_break_under_their_text(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    console = Console()
    console.step("fold", "lora of twelve blocks into the backbone")
    console.error("the file is not what it was\n  where: a.onnx\n  fix:   export it again")

    assert capsys.readouterr().err.splitlines() == [
        " ✓ fold       lora of twelve blocks into",
        "              the backbone",
        "✗ error: the file is not what it was",
        "  where: a.onnx",
        "  fix:   export it again",
    ]
