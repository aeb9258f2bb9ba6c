"""The runs tuned on real weights: their files are whole, and say what the README says."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from examples.training.run_files import RunFiles

RUNS = Path(__file__).parents[1] / "examples" / "stamps" / "runs"


@pytest.mark.parametrize(("name", "bits", "width"), [("lora", 32, 8), ("adaptformer", 1, 64)])
def test_the_files_of_a_run_are_whole(name: str, bits: int, width: int) -> None:
    folder = RUNS / name
    for line in (folder / "SHA256SUMS").read_text().splitlines():
        digest, file = line.split("  ")
        assert hashlib.sha256((folder / file).read_bytes()).hexdigest() == digest, file

    files = RunFiles(folder=folder, dataset="stamps")
    settings = files.read_settings()
    assert (settings.method, settings.bits, settings.width) == (name, bits, width)
    assert settings.merge_block == 6
    assert files.read_log()[-1]["best_acc"] >= 0.75
