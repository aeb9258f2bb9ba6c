"""The experiment itself, on a network and a number of rounds that say nothing."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.experiments import repeatability


def test_it_writes_what_it_measured(tmp_path: Path) -> None:
    path = tmp_path / "repeatability.json"
    words = ["--runs", "2", "--loaded", "1", "--rounds", "4", "-o", str(path)]

    assert repeatability.main(["--run", "random:test_vit:0", *words]) == 0

    document = json.loads(path.read_text())
    assert len(document["light"]) == 2
    assert all(one["low"] <= one["ratio"] <= one["high"] for one in document["light"])
    assert document["flagged"] == 1  # four rounds are never enough
    assert document["harness"]["loop_us"] > 0
    assert "of 2 intervals" in repeatability.in_words(document)
