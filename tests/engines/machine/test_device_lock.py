"""The lock of a machine: a second measurement waits, and a killed one keeps nobody waiting."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from engines.machine.device_lock import holding_device

HOLD = """
import sys, time
from pathlib import Path
from engines.machine.device_lock import holding_device
with holding_device(lambda: print("waits", flush=True), path=Path(sys.argv[1])):
    print("holds", flush=True)
    time.sleep(60)
"""


def never() -> None:
    pytest.fail("nobody else measures")


def test_a_second_one_waits_until_the_first_has_ended(tmp_path: Path) -> None:
    path, events = tmp_path / "lock", []

    def second() -> None:
        with holding_device(lambda: events.append("waits"), path=path):
            events.append("second")

    with holding_device(never, path=path):
        thread = threading.Thread(target=second)
        thread.start()
        while events != ["waits"]:
            time.sleep(0.01)
        events.append("first")
    thread.join()

    assert events == ["waits", "first", "second"]


def test_a_killed_one_keeps_nobody_waiting(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "holds\n"
        process.send_signal(signal.SIGKILL)
    with holding_device(never, path=path):
        pass


def test_one_after_the_other_needs_no_waiting(tmp_path: Path) -> None:
    for _ in range(2):
        with holding_device(never, path=tmp_path / "lock"):
            pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_without_a_folder_for_it_nobody_waits(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with (
        holding_device(never, path=tmp_path / "lock"),
        holding_device(never, path=tmp_path / "lock"),
    ):
        pass


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    (tmp_path / "lock").symlink_to(target)
    with holding_device(never, path=tmp_path / "lock"):
        assert not target.exists()
