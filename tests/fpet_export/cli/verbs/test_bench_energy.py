"""`bench --energy` from the command line, on a fake sysfs that a thread keeps counting."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.conditions.validity import OtherLoad
from benchmarks.energy.course import Plan
from engines.machine import sources
from fpet_export.requests import BenchRequest
from fpet_export.steps import measuring
from fpet_export.workflow.bench import bench
from tests.benchmarks.energy import trees
from tests.fpet_export.command_line import Exported, call

SHORT = ("--rounds", "20", "--seconds", "0", "--threads", "1", "--allow-noise")
WATTS = 20.0
BRIEF = Plan(
    seconds=0.0, segments=4, steady_s=0.4, settle_s=0.1, tail_s=0.1, idle_s=0.5, cool_s=0.1,
    warm_s=0.2, slice_s=0.1,
)  # fmt: skip


class FakeCounter:
    """A package whose counter of energy rises by 20 W, or stands still."""

    def __init__(self, root: Path) -> None:
        self.root, self.stands = root, False
        self._file = root / trees.POWERCAP / "intel-rapl:0/energy_uj"
        trees.write(root, trees.zone("intel-rapl:0", "package-0", 0))
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._count)
        self._thread.start()

    def _count(self) -> None:
        start = time.monotonic()
        beside = self._file.with_name("next")
        while not self._over.wait(0.005):
            beside.write_text(
                f"{0 if self.stands else (time.monotonic() - start) * WATTS * 1e6:.0f}\n"
            )
            beside.replace(self._file)

    def end(self) -> None:
        self._over.set()
        self._thread.join()


@pytest.fixture
def counter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCounter]:
    fake = FakeCounter(tmp_path / "root")
    monkeypatch.setattr(sources, "ROOT", fake.root)
    monkeypatch.setattr(measuring, "Plan", lambda: BRIEF)
    monkeypatch.setattr(measuring, "ATTEMPTS", 1)
    # What else runs on the test machine is not the question here.
    quiet = OtherLoad(foreign=0.0, steal=0.0)
    monkeypatch.setattr("benchmarks.energy.meter.other_load", lambda before, after: quiet)
    yield fake
    fake.end()


@pytest.fixture
def no_sensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "ROOT", tmp_path)
    monkeypatch.setattr(sources, "_SBIN", ())
    monkeypatch.setenv("PATH", "/nonexistent")


def test_energy_stands_in_table_page_json_and_verdict(
    exported: Exported, engine: Path, counter: FakeCounter, tmp_path: Path
) -> None:
    out, page = tmp_path / "a.json", tmp_path / "a.html"

    done = call("bench", engine, exported.graph, *SHORT, "--energy", "-o", out, "--html", page)

    assert done.code == 0, done.err
    document = json.loads(out.read_text())
    assert document["energy"]["source"] == "RAPL"
    assert document["energy"]["total"] == ["package-0"]
    for contender in document["contenders"]:
        energy = contender["energy"]
        assert energy["why_not"] == ""
        seconds = sum(energy["slices_us"]) / 1e6
        # The fake counts time: what comes out is the time of an image, times 20 W.
        expected = WATTS * 1e3 * seconds / sum(energy["slices_images"])
        assert energy["gross"]["value"] == pytest.approx(expected, rel=0.15)
        assert energy["gross"]["low"] <= energy["gross"]["value"] <= energy["gross"]["high"]
        assert energy["net"] is None  # work and rest take the same
    assert "mJ an image" in done.err
    assert "energy: RAPL, the processor, without the rest" in done.err
    assert "total = package-0" in done.err
    assert "cannot be told apart" in done.err
    html = page.read_text()
    assert "mJ an image" in html
    assert "total = package-0" in html


def test_python_measures_energy_as_the_command_line_does(
    engine: Path, counter: FakeCounter
) -> None:
    request = BenchRequest(
        artefacts=(engine,), rounds=20, seconds=0, threads=1, allow_noise=True, energy=True
    )

    found = bench(request)

    (measurement,) = found.measurements
    done = call("bench", engine, *SHORT, "--energy", "--json")
    told = done.document()["energy"]
    assert measurement.energy is not None
    same = ("source", "covers", "rule", "total", "rails")
    kept = dataclasses.asdict(measurement.energy)
    assert {name: told[name] for name in same} == {
        name: list(kept[name]) if isinstance(kept[name], tuple) else kept[name] for name in same
    }
    assert measurement.contenders[0].energy is not None
    assert measurement.contenders[0].energy.gross is not None
    assert done.document()["contenders"][0]["energy"]["gross"] is not None


def test_a_sensor_that_stands_still_exits_9_and_keeps_the_latencies(
    exported: Exported, engine: Path, counter: FakeCounter, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    counter.stands = True
    time.sleep(0.05)
    out = tmp_path / "a.json"
    monkeypatch.setattr("fpet_export.workflow.bench._refuse_noise", only_energy)

    done = call("bench", engine, *SHORT[:-1], "--energy", "-o", out)

    assert done.code == 9
    assert "the energy is not known: its counter stood still" in done.err
    (contender,) = json.loads(out.read_text())["contenders"]
    assert contender["energy"]["why_not"] == "its counter stood still"
    assert contender["latency"]["p50_ns"] > 0


def only_energy(measurements: object, request: BenchRequest) -> None:
    """The latencies of a busy test machine may be noisy; this is about energy alone."""
    from fpet_export.workflow import bench as workflow

    assert not request.allow_noise
    workflow._refuse_unknown_energy(measurements, "again")  # type: ignore[arg-type]


@pytest.mark.usefixtures("no_sensor")
def test_a_machine_without_a_sensor_is_refused_before_anything_is_opened(
    engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "measure", None)

    done = call("bench", engine, *SHORT, "--energy", "--json")

    error = done.error()
    assert error["exit_code"] == 4
    for name in ("NVML", "nvidia-smi", "RAPL"):
        assert f"{name}: " in error["what"]
    assert "leave --energy out" in error["fix"]


@pytest.mark.usefixtures("no_sensor")
def test_deploy_is_refused_before_it_exports(exported: Exported, tmp_path: Path) -> None:
    run, *backbone = exported.words
    words = ("deploy", run, *backbone, "--target", "cpu", "-o", tmp_path / "out", "--energy")

    assert call(*words, "--json").error()["exit_code"] == 4
    none = call(*words, "--no-bench", "--json").error()
    assert (none["exit_code"], none["where"]) == (2, "--energy")
    assert not (tmp_path / "out").exists()


def test_a_board_is_asked_for_energy_too() -> None:
    from fpet_export.board import session

    request = BenchRequest(artefacts=(Path("a.onnx"),), energy=True)

    assert "--energy" in session.measuring_argv(request)
    assert "--energy" not in session.measuring_argv(dataclasses.replace(request, energy=False))
