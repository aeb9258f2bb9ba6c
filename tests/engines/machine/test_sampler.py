"""A process that reads small files: what it reads, and that nothing dead looks alive."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.machine import sampler
from engines.machine.sampler import Sampler, Source
from fpet_export.board.agent import build_agent

MEMINFO = "MemTotal:  7806000 kB\nMemFree: 100 kB\nMemAvailable:  5000000 kB\n"
STAT = "cpu  10 1 20 300 4 5 6 7 0 0\ncpu0 5 0 10 150 2 2 3 3 0 0\n"


def wait_for(what: Callable[[], bool]) -> None:
    for _ in range(2000):
        if what():
            return
        time.sleep(0.005)
    raise AssertionError("it did not happen")


@pytest.mark.parametrize(
    ("source", "text", "value"),
    [
        (Source("x"), "1020000000\n", 1_020_000_000),
        (Source("x", divisor=1000), "52999\n", 52),
        (Source("x"), "-256000\n", -256_000),
        (Source("x", "MemAvailable:"), MEMINFO, 5_000_000),
        (Source("x", "MemTotal:"), MEMINFO, 7_806_000),
        (Source("x", "cpu ", (0, 1, 2, 5, 6)), STAT, 42),
        (Source("x", "pmode:"), "pmode:0002 fmode:quiet\n", 2),
        (Source("x", "Swap:"), MEMINFO, None),
        (Source("x", "cpu ", (0, 99)), STAT, None),
        (Source("x"), "", None),
        (Source("x"), "unavailable\n", None),
        (Source("x"), "0.5\n", None),
    ],
)
def test_a_number_is_found_or_it_is_unknown(source: Source, text: str, value: int | None) -> None:
    assert source.value(text) == value


@given(st.text(), st.text(max_size=3))
def test_any_text_is_read_without_a_crash(text: str, line: str) -> None:
    Source("x", line, (0, 1), 3).value(text)


def test_readings_follow_the_files(tmp_path: Path) -> None:
    clock, gone = tmp_path / "cur_freq", tmp_path / "temp"
    clock.write_text("100\n")
    gone.write_text("51000\n")
    sources = {"clock": Source(str(clock)), "heat": Source(str(gone)), "no": Source("/nowhere")}

    with Sampler(sources, interval_s=0.01) as running:
        clock.write_text("200\n")
        gone.unlink()
        found = running.stop()

    assert found.failure == ""
    assert found.columns["clock"][0] == 100
    assert found.columns["clock"][-1] == 200  # the last reading is taken when it is told to end
    assert found.columns["heat"][0] == 51_000
    assert found.columns["heat"][-1] is None
    assert set(found.columns["no"]) == {None}
    assert list(found.times_s) == sorted(found.times_s)
    assert found.cpu_s >= 0


def test_one_that_was_killed_says_so(tmp_path: Path) -> None:
    with Sampler({}, interval_s=0.01) as running:
        assert running.pid is not None
        os.kill(running.pid, signal.SIGKILL)
        wait_for(lambda: not running._is_running())
        found = running.stop()

    assert found.failure == "ended by itself with -9"
    assert found.times_s


def test_one_that_hangs_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler, "_STOP_S", 0.1)

    with Sampler({}, interval_s=0.01) as running:
        assert running.pid is not None
        os.kill(running.pid, signal.SIGSTOP)
        found = running.stop()

    assert found.failure == "did not answer within 0 s"


def test_one_that_cannot_start_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python3")

    with Sampler({}, interval_s=0.01) as running:
        found = running.stop()

    assert found.failure == "could not be started"
    assert found.times_s == ()


def test_it_ends_with_whoever_started_it(tmp_path: Path) -> None:
    program = (
        "import os, signal; from engines.machine.sampler import Sampler; "
        "running = Sampler({}, interval_s=0.01).__enter__(); "
        "print(running.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)

    assert done.returncode == -signal.SIGKILL
    stat = Path(f"/proc/{int(done.stdout)}/stat")
    wait_for(lambda: not stat.exists() or ") Z " in stat.read_text())


def test_it_starts_from_the_agent_s_file(tmp_path: Path) -> None:
    """The board has one file, and its Python looks into that."""
    (tmp_path / "agent.pyz").write_bytes(build_agent())
    program = (
        "import sys; sys.path.insert(0, 'agent.pyz'); "
        "from engines.machine.sampler import Sampler, Source\n"
        "with Sampler({'up': Source('/proc/meminfo', 'MemTotal:')}, interval_s=0.01) as running:\n"
        "    found = running.stop()\n"
        "import json; print(json.dumps([found.failure, found.columns]))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", program], cwd=tmp_path, capture_output=True, check=True
    )

    failure, columns = json.loads(done.stdout)
    assert failure == ""
    assert columns["up"][0] > 0
