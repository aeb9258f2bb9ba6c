"""kill -9 at any moment leaves no half-written file under a final name, and the next run works.

What lies under a final name must be whole: an artefact has a manifest that fits it, a bundle passes
its own check. A manifest may be there before its artefact, hidden `.part` folders may stay behind.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from engines.manifest import manifest_path, read_manifest
from engines.tasks.folder import check_folder
from engines.transport.bundle import SUFFIX, read_bundle
from tests.fpet_export.command_line import Exported

KILLS = {"export": 40, "build": 80, "bundle": 80}
TASK_KILLS = 40
_PROGRAM = "import sys; from fpet_export.cli.start import run; sys.argv[0] = 'fpet-export'; run()"


def words_of(verb: str, exported: Exported, out: Path) -> list[str]:
    graph = exported.graph
    return {
        "export": ["export", *map(str, exported.words), "-o", str(out)],
        "build": ["build", str(graph), "--target", "cpu", "-o", str(out / "model.cpu.onnx")],
        "bundle": ["bundle", str(graph), "-o", str(out / f"model{SUFFIX}")],
    }[verb]


def start(words: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, *words, "--force", "-q"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip


def require_whole(folder: Path) -> None:
    """Check everything that lies under a final name."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.name.endswith(SUFFIX):
            read_bundle(path)
        elif path.suffix == ".onnx":
            assert manifest_path(path).exists(), f"{path.name} has no manifest"
            read_manifest(path)
        else:
            json.loads(path.read_text("utf-8"))


def kill(
    count: int,
    whole_s: float,
    begin: Callable[[int], subprocess.Popen[bytes]],
    check: Callable[[], None],
) -> None:
    """Kill processes at random moments until so many were; check what each run leaves.

    Args:
        count: Kills.
        whole_s: Seconds that a run takes.
        begin: Starts the run of this number, from 1.
        check: Called after every run.
    """
    choice = random.Random(count)
    killed = attempts = 0
    while killed < count:
        attempts += 1
        assert attempts <= 3 * count, "too many runs ended before they were killed"
        # Most of a run is imports: half of the kills go to its last quarter.
        least = 0.0 if attempts % 4 < 2 else 0.75
        began, process = time.monotonic(), begin(attempts)
        try:
            process.wait(whole_s * choice.uniform(least, 1.05))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            killed += process.wait() == -signal.SIGKILL
        else:  # how long a run takes depends on what else the machine does
            whole_s = (whole_s + time.monotonic() - began) / 2
        check()


@pytest.mark.slow
@pytest.mark.parametrize("verb", KILLS)
def test_a_kill_at_any_moment_leaves_nothing_half_written(
    verb: str, exported: Exported, tmp_path: Path
) -> None:
    """Every second run replaces what is there; the others begin with an empty folder."""
    out = tmp_path / "out"
    words = words_of(verb, exported, out)
    out.mkdir()
    began = time.monotonic()
    assert start(words).wait() == 0
    whole_s = time.monotonic() - began

    def begin(attempt: int) -> subprocess.Popen[bytes]:
        if attempt % 2 == 0:
            for path in out.iterdir():
                if path.is_file():
                    path.unlink()
        return start(words)

    kill(KILLS[verb], whole_s, begin, lambda: require_whole(out))
    assert start(words).wait() == 0
    require_whole(out)


@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_a_folder_of_tasks_whole(
    exported: Exported, tmp_path: Path
) -> None:
    """Tasks are added, replaced and dropped in turn; the folder is checked after each kill."""
    out = tmp_path / "out"
    run, *backbone = exported.words
    one = ["tasks", f"one={run}", *backbone, "--limit", "1", "-o", str(out)]
    add = ["tasks", f"two={run}", *backbone, "--limit", "1", "-o", str(out), "--add"]
    drop = ["tasks", "-o", str(out), "--drop", "two"]
    assert start(one).wait() == 0
    began = time.monotonic()
    assert start(add).wait() == 0
    whole_s = time.monotonic() - began

    def begin(attempt: int) -> subprocess.Popen[bytes]:
        return start((add, add, drop)[attempt % 3])

    def require_one_or_the_other() -> None:
        assert check_folder(out).index.names in (("one",), ("one", "two"))

    kill(TASK_KILLS, whole_s, begin, require_one_or_the_other)
    assert start(add).wait() == 0
    assert check_folder(out).index.names == ("one", "two")
