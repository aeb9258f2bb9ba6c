"""A folder in which a system's tar unpacked a bundle, and the agent in it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.fpet_export.command_line import Done


def unpack(bundle: Path, folder: Path) -> Path:
    """Unpack a bundle into a new folder."""
    folder.mkdir()
    subprocess.run(["tar", "xf", str(bundle)], cwd=folder, check=True)
    return folder


def agent(board: Path, *words: object) -> Done:
    """Run the agent as a board does: its own process, and nothing of this project on the path."""
    done = subprocess.run(
        [sys.executable, "-P", "agent.pyz", *map(str, words)],
        cwd=board, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return Done(done.returncode, done.stdout, done.stderr)
