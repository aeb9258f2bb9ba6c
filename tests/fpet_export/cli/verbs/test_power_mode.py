"""`--power-mode` and `--clocks`: a fake board is set, watched and restored, also through ssh."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fpet_export.cli.console import Console
from tests.engines.machine.test_sampler import wait_for
from tests.fake_board import FakeBoard
from tests.fpet_export.board.ssh_server import Relay, Server, needs_sshd, start_quick
from tests.fpet_export.command_line import Exported, call

SHORT = ("--rounds", 3, "--seconds", 0.1, "--allow-noise")
SET = ("--power-mode", "MAXN_SUPER", "--clocks", "lock")


@pytest.fixture
def board(tmp_path: Path) -> FakeBoard:
    return FakeBoard(tmp_path / "board")


def require_restored(board: FakeBoard, before: dict[str, str]) -> None:
    """Wait until the board that was set is as it was."""
    assert "nvpmodel -m 2" in board.calls()
    wait_for(lambda: board.state() == before)
    wait_for(lambda: "jetson_clocks --restore" in board.calls())


def test_a_measurement_records_what_the_board_was_set_to_and_restores_it(
    engine: Path, board: FakeBoard, monkeypatch: pytest.MonkeyPatch
) -> None:
    board.use(monkeypatch)
    before = board.state()

    done = call("bench", engine, *SHORT, *SET, "--json")

    assert done.code == 0, done.err
    conditions = done.document()["conditions"]
    assert conditions["setting"] == {
        "power_mode": "MAXN_SUPER", "clocks": "lock", "power_mode_before": "25W",
    }  # fmt: skip
    assert conditions["before"]["power_mode"] == conditions["after"]["power_mode"] == "MAXN_SUPER"
    assert "✓ setting    power mode MAXN_SUPER, instead of 25W; clocks held" in done.err
    assert "✓ restored   25W" in done.err
    assert "power mode MAXN_SUPER; clocks held: GPU 1020 MHz" in " ".join(done.err.split())
    require_restored(board, before)


def test_the_page_says_how_the_machine_was_set(
    engine: Path, board: FakeBoard, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    board.use(monkeypatch)

    done = call("bench", engine, *SHORT, "--html", tmp_path / "x.html")

    assert done.code == 0, done.err
    page = (tmp_path / "x.html").read_text()
    assert "<dt>power mode</dt><dd>25W</dd>" in page
    assert "<dt>watched</dt>" in page
    assert board.calls() == []


@pytest.mark.parametrize(
    ("words", "code", "what"),
    [
        (("--power-mode", "maxn_super"), 2, "none of this board's power modes"),
        (("--power-mode", "7W"), 4, "needs a reboot"),
        (("--clocks", "hold"), 2, "hold"),
    ],
)
def test_what_the_board_cannot_be_set_to_exits_with_its_reason(
    words: tuple[str, ...], code: int, what: str, engine: Path, board: FakeBoard,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    board.use(monkeypatch)
    before = board.state()

    done = call("bench", engine, *SHORT, *words)

    assert done.code == code
    assert what in done.err
    assert board.state() == before


def test_this_machine_is_no_board(engine: Path, exported: Exported, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for words in (("--power-mode", "MAXN"), ("--clocks", "lock")):
        for verb in (("bench", engine), ("deploy", *exported.words, "-o", out)):
            done = call(*verb, *words, "--json")

            assert done.code == 4
            assert done.error()["class"] == "MissingDependencyError"
            assert done.error()["where"].startswith(words[0])
    assert not out.exists()


def test_a_setting_that_nothing_is_measured_under_is_refused(
    exported: Exported, tmp_path: Path
) -> None:
    done = call("deploy", *exported.words, "-o", tmp_path / "out", "--no-bench", *SET, "--json")

    assert done.code == 2
    assert "nothing is measured that --power-mode MAXN_SUPER" in done.error()["what"]


def test_kill_9_of_a_measurement_restores_the_board(engine: Path, board: FakeBoard) -> None:
    before = board.state()
    program = (
        "import sys; from pathlib import Path; from engines.machine import sources; "
        f"sources.ROOT = Path({str(board.root)!r}); from fpet_export.cli.start import run; "
        "sys.argv[0] = 'fpet-export'; run()"
    )
    words = ["bench", str(engine), "--seconds", "600", *map(str, SET)]
    with subprocess.Popen(
        [sys.executable, "-c", program, *words], stderr=subprocess.PIPE, start_new_session=True,
        env={**os.environ, "PATH": f"{board.bin}{os.pathsep}{os.environ['PATH']}"},
    ) as process:  # fmt: skip
        assert process.stderr is not None
        for line in process.stderr:
            if b"setting" in line:
                break
        time.sleep(0.5)  # somewhere in opening, warming up or measuring
        os.killpg(process.pid, signal.SIGKILL)

    require_restored(board, before)


# Through ssh: the board's python3 sees the fake board


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    yield from start_quick(tmp_path_factory.mktemp("sshd"))


@pytest.fixture
def there(server: Server, board: FakeBoard) -> Iterator[FakeBoard]:
    """The machine behind ssh is the fake board."""
    python = server.folder / "bin" / "python3"
    usual = python.read_text()
    python.write_text(board.python())
    yield board
    python.write_text(usual)


def remote(server: Server, *, port: int | None = None) -> tuple[object, ...]:
    return "--remote", "board", "--ssh-config", server.config(port=port, shared=port is None)


def when_said(monkeypatch: pytest.MonkeyPatch, text: str, act: Callable[[], None]) -> None:
    """Act once, when a line with this text is heard from there."""
    print_line, has_acted = Console.line, threading.Event()

    def line(self: Console, said: str = "") -> None:
        print_line(self, said)
        if text in said and not has_acted.is_set():
            has_acted.set()
            act()

    monkeypatch.setattr(Console, "line", line)


@needs_sshd
def test_a_board_behind_ssh_is_set_watched_and_restored(
    exported: Exported, server: Server, there: FakeBoard
) -> None:
    before = there.state()

    done = call("bench", exported.graph, *remote(server), *SHORT, *SET, "--json")

    assert done.code == 0, done.err
    conditions = done.document()["conditions"]
    assert conditions["before"]["power_mode"] == "MAXN_SUPER"
    assert conditions["watch"]["failure"] == ""
    assert conditions["watch"]["series"]["clock_mhz.GPU"]
    require_restored(there, before)


@needs_sshd
def test_a_mode_that_a_board_behind_ssh_does_not_have_is_refused(
    exported: Exported, server: Server, there: FakeBoard
) -> None:
    done = call("bench", exported.graph, *remote(server), *SHORT, "--power-mode", "30W", "--json")

    assert done.code == 2
    assert "on board: '30W' is none of this board's power modes" in done.error()["what"]


@needs_sshd
def test_a_dropped_line_restores_the_board(
    exported: Exported, server: Server, there: FakeBoard, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, relay = there.state(), Relay(server.port, [])
    when_said(monkeypatch, "✓ setting", relay.cut)

    done = call("bench", exported.graph, *remote(server, port=relay.port), *SHORT, *SET, "--json")

    relay.close()
    assert done.code == 0, done.err  # it was taken up again
    require_restored(there, before)


@needs_sshd
def test_ctrl_c_here_restores_the_board_there(
    exported: Exported, server: Server, there: FakeBoard, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    before = there.state()
    when_said(monkeypatch, "✓ setting", interrupt)

    done = call("bench", exported.graph, *remote(server), "--seconds", 600, *SET, "--json")

    assert done.code == 130
    require_restored(there, before)
