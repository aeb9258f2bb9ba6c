"""Power mode and clocks are set for a measurement and restored, on a fake board."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.conditions import setting
from benchmarks.conditions.setting import Setting, held
from engines.errors import FpetError, MachineError, MissingDependencyError, UnknownNameError
from engines.machine.clocks import are_held, read_clocks
from engines.machine.device_lock import holding_device
from engines.machine.snapshot import take_snapshot
from tests.engines.machine.test_sampler import wait_for
from tests.fake_board import FakeBoard

MOMENTS = 50
SHORT = 4
"""Of the moments, in CI."""


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeBoard:
    made = FakeBoard(tmp_path)
    made.use(monkeypatch)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    return made


@pytest.fixture
def as_user(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Be nobody who may set anything; the stand-ins of the tools cannot tell, but sudo is asked."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    yield


def left_over(board: FakeBoard) -> list[str]:
    return [path.name for path in board.root.parent.glob("fpet-export-clocks-*")]


def test_a_mode_is_set_by_its_name_and_restored(board: FakeBoard) -> None:
    before = board.state()

    with held("MAXN_SUPER", "lock") as found:
        assert found == Setting(power_mode="MAXN_SUPER", clocks="lock", power_mode_before="25W")
        now = take_snapshot()
        assert now.power_mode == "MAXN_SUPER"
        assert are_held(now.clocks) is True
        assert {clock.most_hz for clock in now.clocks if clock.name == "GPU"} == {1_020_000_000}

    assert board.state() == before
    assert [line.split("/")[0].strip() for line in board.calls()] == [
        "jetson_clocks --store", "nvpmodel -m 2", "jetson_clocks", "nvpmodel -m 1",
        "jetson_clocks --restore",
    ]  # fmt: skip
    assert left_over(board) == []


def test_clocks_that_were_held_are_held_again(board: FakeBoard) -> None:
    """Another mode loses them, and so would setting the old mode alone."""
    board.clocks(918_000_000, 918_000_000)
    before = board.state()

    with held("15W", "keep"):
        assert take_snapshot().power_mode == "15W"
        assert are_held(read_clocks(board.root)) is False

    assert board.state() == before


def test_clocks_alone_leave_the_mode(board: FakeBoard) -> None:
    before = board.state()

    with held(None, "lock") as found:
        assert found == Setting(power_mode=None, clocks="lock")
        assert are_held(read_clocks(board.root)) is True

    assert board.state() == before
    assert not any("nvpmodel" in call for call in board.calls())


@pytest.mark.usefixtures("as_user")
def test_what_is_so_already_asks_for_nothing(board: FakeBoard) -> None:
    with held(None, "keep") as nothing, held("25W", "keep") as found:
        assert nothing is None
        assert found == Setting(power_mode="25W", clocks="keep", power_mode_before="25W")

    assert board.calls() == []


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), SystemExit(3)])
def test_it_is_restored_after_whatever_is_raised(error: BaseException, board: FakeBoard) -> None:
    before = board.state()

    with pytest.raises(type(error)), held("15W", "lock"):
        raise error

    assert board.state() == before


def test_a_mode_that_asks_for_a_reboot_is_refused_with_the_command(board: FakeBoard) -> None:
    before = board.state()

    with pytest.raises(MachineError, match="needs a reboot") as refused, held("7W", "lock"):
        pytest.fail("it was set")

    assert refused.value.fix.startswith("sudo nvpmodel -m 3 ")
    assert board.state() == before
    assert "rebooted" not in board.calls()


@pytest.mark.parametrize(
    ("mode", "clocks", "error", "what", "fix"),
    [
        ("25w", "keep", UnknownNameError, "none of this board's power modes: 15W", "'25W'"),
        ("2", "keep", UnknownNameError, "'2' is none of", "choose one of the names above"),
    ],
)
def test_a_mode_that_the_board_does_not_have_is_refused(
    mode: str, clocks: setting.Clocks, error: type[FpetError], what: str, fix: str, board: FakeBoard
) -> None:
    with pytest.raises(error, match=what) as refused, held(mode, clocks):
        pytest.fail("it was set")

    assert fix in refused.value.fix
    assert board.calls() == []


def test_another_machine_has_no_such_settings() -> None:
    for mode, clocks in (("MAXN", "keep"), (None, "lock")):
        with pytest.raises(MissingDependencyError) as refused:
            setting.refuse(mode, clocks)  # type: ignore[arg-type]
        assert refused.value.exit_code == 4


def test_a_board_that_names_no_mode_cannot_be_restored(board: FakeBoard) -> None:
    board.silent()

    with pytest.raises(MachineError, match="could not be restored"), held("15W", "keep"):
        pytest.fail("it was set")

    assert board.calls() == []


def test_a_mode_without_a_number_cannot_be_restored(board: FakeBoard) -> None:
    board.write("said", "NV Power Mode: CUSTOM\n")

    with pytest.raises(MachineError, match="could not be restored"), held("15W", "keep"):
        pytest.fail("it was set")

    assert board.calls() == []


def test_a_mode_that_only_nvpmodel_knows_is_restored_by_its_number(board: FakeBoard) -> None:
    """As an owner's own mode, which another file lists."""
    board.write("said", "NV Power Mode: CUSTOM\n1\n")

    with pytest.raises(MachineError, match="nvpmodel -m 0 failed"), held("15W", "keep"):
        pytest.fail("it says CUSTOM still, so this is not what was asked for")

    assert [call for call in board.calls() if "nvpmodel" in call] == ["nvpmodel -m 0",
                                                                      "nvpmodel -m 1"]  # fmt: skip


def test_a_guard_that_cannot_start_sets_nothing(
    board: FakeBoard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python3")

    with pytest.raises(MachineError, match="cannot be started"), held("15W", "lock"):
        pytest.fail("it was set")

    assert board.calls() == []


@pytest.mark.usefixtures("as_user")
def test_without_rights_it_says_the_one_command(board: FakeBoard) -> None:
    before = board.state()

    with pytest.raises(MachineError, match="asks for a password") as refused, held("15W", "lock"):
        pytest.fail("it was set")

    nvpmodel, clocks = board.bin / "nvpmodel", board.bin / "jetson_clocks"
    rule = f"' ALL=(root) NOPASSWD: {clocks}, {nvpmodel}'"
    assert f'echo "$USER"{rule} | sudo tee /etc/sudoers.d/fpet-export' in refused.value.fix
    assert board.state() == before
    assert board.calls() == []


@pytest.mark.usefixtures("as_user")
def test_rights_for_what_is_needed_are_enough(board: FakeBoard) -> None:
    board.allow("jetson_clocks")
    before = board.state()

    with held(None, "lock"):
        assert are_held(read_clocks(board.root)) is True
    assert board.state() == before

    with pytest.raises(MachineError, match="nvpmodel"), held("15W", "keep"):
        pytest.fail("it was set")
    board.allow("jetson_clocks", "nvpmodel")
    with held("15W", "keep"):
        assert take_snapshot().power_mode == "15W"
    assert board.state() == before


def test_a_tool_that_fails_is_quoted(board: FakeBoard) -> None:
    board.write("refuses", "")

    with pytest.raises(MachineError, match="failed to set power mode!"), held("15W", "lock"):
        pytest.fail("it was set")

    assert take_snapshot().power_mode == "25W"


def test_a_board_that_cannot_be_restored_says_so_with_the_command(board: FakeBoard) -> None:
    def set_and_break() -> None:
        with held("15W", "keep"):
            board.write("refuses", "")

    with pytest.raises(MachineError, match=r"restored to 25W: NVPM ERROR") as refused:
        set_and_break()

    assert "sudo nvpmodel -m 1" in refused.value.fix


def test_a_guard_that_was_killed_is_replaced(board: FakeBoard) -> None:
    before = board.state()

    with held("15W", "lock"):
        (guard,) = guards(board)
        os.kill(guard, signal.SIGKILL)

    assert board.state() == before
    assert left_over(board) == []


def guards(board: FakeBoard) -> list[int]:
    """Return the processes that would restore this board."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if b"guard.main()" in words and str(board.root.parent).encode() in words:
            found.append(int(process.name))
    return found


OWNER = """\
import sys, time
from pathlib import Path
from engines.machine import sources
from benchmarks.conditions.setting import held
from engines.machine.device_lock import holding_device
from fpet_export.cli.start import run_process

def command():
    sources.ROOT = Path(sys.argv[1])
    waits = lambda: print("waits", flush=True)
    with (
        holding_device(waits, path=Path(sys.argv[1]) / "lock") as lock,
        held("MAXN_SUPER", "lock", lock=lock),
    ):
        print("set", flush=True)
        time.sleep(float(sys.argv[2]))
    return 0

run_process(lambda: command)
"""


def start(board: FakeBoard, *, seconds: float) -> subprocess.Popen[bytes]:
    """Let a process of its own set the board, and restore it after these seconds."""
    return subprocess.Popen(
        [sys.executable, "-c", OWNER, str(board.root), str(seconds)],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip


def whole_run_s(board: FakeBoard) -> float:
    began = time.monotonic()
    with start(board, seconds=0.1) as process:
        assert process.wait() == 0
    return time.monotonic() - began


@pytest.mark.parametrize(
    "count", [SHORT, pytest.param(MOMENTS, marks=pytest.mark.slow)], ids=["some", "all"]
)
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_it_is_restored_at_whatever_moment_its_owner_is_ended(
    end: signal.Signals, count: int, board: FakeBoard
) -> None:
    """Each change takes a while, so that moments lie within changes and between them."""
    before, choice = board.state(), random.Random(count)
    board.slow(0.05)
    whole_s = whole_run_s(board)
    was_set = 0
    for moment in range(count):
        with start(board, seconds=0.1) as process:
            try:
                process.wait(whole_s * (moment + choice.random()) / count)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, end)  # whatever belongs to the terminal
            process.wait()
        wait_for(lambda: not guards(board))
        assert board.state() == before, f"moment {moment}"
        assert left_over(board) == []
        was_set += "nvpmodel -m 2" in board.calls()
        (board.root / "calls").unlink(missing_ok=True)
    if count == MOMENTS:
        assert was_set > MOMENTS / 5  # else nothing was shown


def test_it_is_restored_when_its_owner_is_killed_while_it_is_set(board: FakeBoard) -> None:
    before = board.state()
    with start(board, seconds=600) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"set\n"
        assert take_snapshot().power_mode == "MAXN_SUPER"
        process.kill()
    wait_for(lambda: not guards(board))

    assert board.state() == before


def test_the_next_measurement_waits_until_the_board_is_restored(board: FakeBoard) -> None:
    """Else it would take what was set for the mode to go back to."""
    before = board.state()
    board.slow(0.3)
    with start(board, seconds=600) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"set\n"
        process.kill()
        process.wait()
    with holding_device(lambda: None, path=board.root / "lock"):
        assert board.state() == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_guard_that_is_told_to_end_restores_first(
    number: signal.Signals, board: FakeBoard
) -> None:
    """At a log-out or a shutdown everybody is told; Ctrl-C and hanging up are not for it."""
    before = board.state()
    with start(board, seconds=1 if number != signal.SIGTERM else 600) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"set\n"
        (guard,) = guards(board)
        os.kill(guard, number)
        if number == signal.SIGTERM:
            wait_for(lambda: not guards(board))
            assert board.state() == before
            process.kill()
        else:
            assert take_snapshot().power_mode == "MAXN_SUPER"
            assert process.wait() == 0
    wait_for(lambda: not guards(board))

    assert board.state() == before
