"""A sweep with workers of its own, which are killed at random moments, or stopped with Ctrl-C.

Nothing that was recorded is computed again, and every point gets its result. The ledger says which
process has begun a step; such a process is killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from fpet_export.sweep.store import Store
from tests.fpet_export.command_line import Exported
from tests.fpet_export.sweep.test_sweep import smooth_shard

pytest.importorskip("distributed", reason="needs dask: the extra sweep")
_PROGRAM = "import sys; from fpet_export.cli.start import run; sys.argv[0] = 'fpet-export'; run()"
_LONGEST_S = 3600
_UNHEARD_S = 4.0  # what was begun by then is not the end of a step that ran already


@contextlib.contextmanager
def sweeping(out: Path, *words: object) -> Iterator[subprocess.Popen[str]]:
    """Run a sweep with two workers in a process group of its own; it is ended at the end."""
    argv = ["sweep", *map(str, words), "-o", str(out), "--workers", "2", "--json"]
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, *argv],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def at_work(store: Store) -> list[int]:
    """The processes that have begun a step last and not recorded it."""
    last = {line["pid"]: line["event"] for line in store.ledger()}
    return [pid for pid, event in last.items() if event == "began" and is_alive(pid)]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(store: Store, process: subprocess.Popen[str], recorded: int) -> None:
    """Wait until so many steps were recorded."""
    end = time.monotonic() + _LONGEST_S
    while sum(line["event"] == "recorded" for line in store.ledger()) < recorded:
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)


def kill_workers(
    process: subprocess.Popen[str], store: Store, after: Sequence[int], choice: random.Random
) -> int:
    """Kill a worker some time after so many steps were recorded, for each of these numbers.

    Returns:
        How many were killed.
    """
    killed = 0
    for recorded in sorted(after):
        wait_for(store, process, recorded)
        time.sleep(choice.uniform(0.0, 2.0))
        end = time.monotonic() + _LONGEST_S
        while not (pids := at_work(store)) and process.poll() is None and time.monotonic() < end:
            time.sleep(0.02)
        if pids:
            os.kill(choice.choice(pids), signal.SIGKILL)
            killed += 1
    return killed


def press_ctrl_c(process: subprocess.Popen[str], store: Store) -> None:
    """Interrupt as a terminal does, so that all processes hear it.

    A library may swallow the exception, in a callback for example. Whoever sees that the work goes
    on presses again.
    """
    os.killpg(process.pid, signal.SIGINT)
    pressed, known = time.monotonic(), len(store.ledger())
    while process.poll() is None and time.monotonic() < pressed + _LONGEST_S:
        if len(store.ledger()) > known and time.monotonic() > pressed + _UNHEARD_S:
            os.killpg(process.pid, signal.SIGINT)
            return
        known = known if time.monotonic() > pressed + _UNHEARD_S else len(store.ledger())
        time.sleep(0.05)


def require_once(store: Store) -> None:
    """Check that no step was begun again after it was recorded, and that nothing is half there."""
    recorded = set()
    for line in store.ledger():
        if line["event"] == "recorded":
            assert line["step"] not in recorded, f"{line['step']} was recorded twice"
            recorded.add(line["step"])
        else:
            assert line["step"] not in recorded, f"{line['step']} was computed again"
    assert not list((store.root / "work").glob("*/.*.part"))


def test_a_killed_worker_and_ctrl_c_lose_nothing_that_was_recorded(
    exported: Exported, tmp_path: Path
) -> None:
    images, out = smooth_shard(tmp_path / "images.npz", 24), tmp_path / "sweep"
    merges = "none,fpet@0,fpet@1,fpet@2"  # so many exports are never done when it is interrupted
    words = (*exported.words, "--data", images, "--merges", merges, "--no-bench")
    store = Store(out)

    with sweeping(out, *words) as process:
        assert kill_workers(process, store, [1], random.Random(1)) == 1
        wait_for(store, process, 2)
        press_ctrl_c(process, store)
        stdout, stderr = process.communicate(timeout=_LONGEST_S)

    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert json.loads(stdout)["error"]["class"] == "KeyboardInterrupt"
    require_once(store)
    with sweeping(out, *words) as process:
        stdout, stderr = process.communicate(timeout=_LONGEST_S)
    assert process.returncode == 0, stderr
    assert [point["state"] for point in json.loads(stdout)["points"]] == ["done"] * 4
    require_once(store)


@pytest.mark.slow
def test_sixty_points_survive_twenty_kills(exported: Exported, tmp_path: Path) -> None:
    images, out = smooth_shard(tmp_path / "images.npz", 32), tmp_path / "sweep"
    run, *backbone = exported.words
    runs = [f"run{number}={run}" for number in range(5)]
    grid = (
        "--targets", "cpu,openvino", "--precisions", "fp32,int8", "--merges", "none,fpet@0,fpet@1",
        "--limit", "8", "--rounds", "20", "--seconds", "0", "--allow-noise",
    )  # fmt: skip

    with sweeping(out, *runs, *backbone, *grid, "--data", images) as process:
        choice = random.Random(2)
        moments = choice.sample(range(150), 20)  # of some 170 steps
        killed = kill_workers(process, Store(out), moments, choice)
        stdout, stderr = process.communicate(timeout=_LONGEST_S)

    assert process.returncode == 0, stderr
    assert killed == 20
    assert [point["state"] for point in json.loads(stdout)["points"]] == ["done"] * 60
    require_once(Store(out))
