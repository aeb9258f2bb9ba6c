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
from pathlib import Path

import pytest

from engines.bundle import SUFFIX, read_bundle
from engines.manifest import manifest_path, read_manifest
from tests.fpet_export.command_line import Exported

KILLS = {"export": 40, "build": 80, "bundle": 80}
_PROGRAM = "import sys; from fpet_export.cli import run; sys.argv[0] = 'fpet-export'; run()"


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
    choice = random.Random(verb)
    killed = attempts = 0
    while killed < KILLS[verb]:
        attempts += 1
        assert attempts <= 3 * KILLS[verb], "too many runs ended before they were killed"
        if attempts % 2 == 0:
            for path in out.iterdir():
                if path.is_file():
                    path.unlink()
        # Most of a run is imports: half of the kills go to its last quarter.
        least = 0.0 if attempts % 4 < 2 else 0.75
        began, process = time.monotonic(), start(words)
        try:
            process.wait(whole_s * choice.uniform(least, 1.05))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            killed += process.wait() == -signal.SIGKILL
        else:  # how long a run takes depends on what else the machine does
            whole_s = (whole_s + time.monotonic() - began) / 2
        require_whole(out)

    assert start(words).wait() == 0
    require_whole(out)
