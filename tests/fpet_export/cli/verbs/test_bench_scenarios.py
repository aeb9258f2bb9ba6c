"""`bench --scenario` with an engine that runs here; clocks of ours test the arithmetic."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.measurement_file import read_measurement
from benchmarks.scenarios import running
from benchmarks.scenarios.cold import run_cold
from engines.contract import OpenOptions
from engines.errors import EngineError
from tests.fpet_export.command_line import call

SHORT = ("--rounds", "4", "--seconds", "0", "--threads", "1", "--allow-noise")


def test_all_of_them_in_one_run(
    engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "SHORTEST_S", 0.5)
    out = tmp_path / "a.latency.json"

    done = call(
        "bench", engine, *SHORT, "--scenario", "soak:0.02,stream:20,cold,offline", "-o", out
    )

    assert done.code == 0, done.err
    measurement = read_measurement(out)
    found = measurement.contenders[0].scenarios
    assert found is not None
    (stream,) = found.stream
    assert (stream.arrived, stream.fps) == (10, 20)
    assert found.offline is not None
    assert found.offline.best.images_per_s > 0
    assert found.soak is not None
    assert found.soak.images >= 1
    assert found.cold is not None
    assert found.cold.first_answer_s > found.cold.open_s + found.cold.first_run_s > 0
    assert found.cold.peak_bytes is not None
    assert found.cold.peak_bytes > 20e6  # Python and a runtime
    assert measurement.scenario_conditions is not None
    for words in ("stream of 20 a second", "offline:", "cold start:", "soak of 0.02 min"):
        assert words in done.err


def test_what_cannot_be_opened_says_why(tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"no graph")
    with pytest.raises(EngineError, match="cannot be opened in a process of its own"):
        run_cold(path, batch=1, options=OpenOptions())


@pytest.mark.parametrize("text", ["stream", "stream:0", "cold,cold", "soak:1,soak:2", "latency"])
def test_what_is_no_scenario_is_refused(engine: Path, text: str) -> None:
    done = call("bench", engine, "--scenario", text)
    assert done.code == 2, done.err
    assert "scenario" in done.err
