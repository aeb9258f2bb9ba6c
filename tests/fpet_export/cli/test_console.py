"""What people see: aligned tables, steps that are remembered, nothing on stdout but the result."""

from __future__ import annotations

import io
import json
import math
import sys
import threading

import pytest

from engines.errors import ParityError
from fpet_export.cli import heartbeat
from fpet_export.cli.console import Console


class Terminal(io.StringIO):
    """A stderr that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_table_aligns_its_first_column_left_and_the_others_right(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Console().table([("stage", "max", "top-1"), ("folded", "1e-8", "100%"), ("x", "∞", "–")])

    assert capsys.readouterr().err.splitlines() == [
        "   stage    max  top-1",
        "   ──────  ────  ─────",
        "   folded  1e-8   100%",
        "   x          ∞      –",
    ]


def test_steps_are_marked_and_remembered(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    console.step("fold", "fine")
    console.step("onnx", "wrong", passed=False)
    console.step("gpu", "none", passed=None)

    printed = capsys.readouterr()
    assert printed.err.splitlines() == [
        " ✓ fold       fine",
        " ✗ onnx       wrong",
        " ! gpu        none",
    ]
    assert printed.out == ""
    assert [(s.name, s.text, s.passed) for s in console.steps] == [
        ("fold", "fine", True),
        ("onnx", "wrong", False),
        ("gpu", "none", None),
    ]
    assert all(step.seconds >= 0 for step in console.steps)


def test_a_warning_is_a_step_and_is_kept_for_the_document(
    capsys: pytest.CaptureFixture[str],
) -> None:
    console = Console()
    console.warn("images", "3 turned", images=3)
    console.step("gpu", "none", passed=None)

    assert capsys.readouterr().err.splitlines()[0] == " ! images     3 turned"
    assert console.steps[0].passed is None
    assert console.warnings == [{"name": "images", "text": "3 turned", "images": 3}]


def test_quiet_prints_errors_and_the_result_only(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(quiet=True, verbose=True)
    console.step("fold", "fine")
    console.detail("more")
    console.table([("a", "b"), ("c", "d")])
    console.next_commands(["fpet-export targets"])
    console.error("it broke")
    console.result("out/model.onnx")

    printed = capsys.readouterr()
    assert printed.err == "✗ error: it broke\n"
    assert printed.out == "out/model.onnx\n"
    assert len(console.steps) == 1  # a report still has every step


@pytest.mark.parametrize(("verbose", "shown"), [(True, "   · more\n"), (False, "")])
def test_details_need_verbose(
    verbose: bool, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Console(verbose=verbose).detail("more")

    assert capsys.readouterr().err == shown


def test_next_commands_stand_under_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    Console().next_commands(["one", "two"])

    first, second = capsys.readouterr().err.splitlines()
    assert first.index("one") == second.index("two")
    assert first.split() == ["next", "one"]


def test_no_escape_codes_where_stderr_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(verbose=True)
    console.step("fold", "fine")
    console.detail("more")
    console.error("it broke")
    with console.progress("long work", 3) as advance:
        advance(3)

    assert "\x1b" not in capsys.readouterr().err


def test_a_terminal_gets_colours_and_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm-256color")
    console = Console()
    console.step("fold", "fine")
    with console.progress("long work", 3) as advance:
        advance(2)
        advance(1)

    assert "\x1b[32m✓\x1b[0m fold" in terminal.getvalue()
    assert "long work" in terminal.getvalue()


def test_a_terminal_gets_a_bar_for_every_phase_until_it_is_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm-256color")
    with Console().phases("building") as tell:
        tell("Building Engine", 0, 2)
        tell("Tactics", 0, 0)
        tell("Building Engine", 2, 2)
        tell("Building Engine", 0, 1)  # it may begin again

    assert "Building Engine" in terminal.getvalue()
    assert "Tactics" in terminal.getvalue()


def test_phases_are_silent_where_nothing_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with Console().phases("building") as tell:
        tell("Building Engine", 0, 2)

    assert capsys.readouterr().err == ""


def test_a_quiet_terminal_gets_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Console(quiet=True).progress("long work", 3) as advance:
        advance(3)

    assert terminal.getvalue() == ""


def test_a_command_says_what_it_is_at_without_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "INTERVAL_S", 0.01)
    console = Console()

    with console.alive(), console.progress("float64 reference", 3) as advance:
        advance(2)
        said = ""
        while "2 of 3" not in said:  # the thread needs its turn; it never comes if this is broken
            said += capsys.readouterr().err

    assert "   … float64 reference: 2 of 3, 0 s, about 0 s left\n" in said
    assert "heartbeat" not in [thread.name for thread in threading.enumerate()]


def test_a_quiet_command_stays_quiet_for_however_long(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "INTERVAL_S", 0.0)
    console = Console(quiet=True)

    before = threading.active_count()
    with console.alive(), console.working("long work"):
        assert threading.active_count() == before

    assert capsys.readouterr().err == ""


def test_progress_works_without_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("rich", "rich.console", "rich.progress"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(sys, "stderr", Terminal())

    with Console().progress("long work", 3) as advance:
        advance(3)


def test_json_is_one_document_without_nan(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    console.json({"name": "é", "none": None})

    assert json.loads(capsys.readouterr().out) == {"name": "é", "none": None}
    with pytest.raises(ParityError, match=r"rows\[0\]\.ratio is not a number"):
        console.json({"rows": [{"ratio": float("nan")}]})
    assert capsys.readouterr().out == ""


def test_an_infinite_figure_is_null(capsys: pytest.CaptureFixture[str]) -> None:
    Console().json({"sqnr_db": math.inf, "rows": (-math.inf, 1.5)})

    assert json.loads(capsys.readouterr().out) == {"sqnr_db": None, "rows": [None, 1.5]}
