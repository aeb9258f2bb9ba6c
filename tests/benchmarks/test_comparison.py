from __future__ import annotations

import dataclasses
import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import contenders
from benchmarks.comparison import bench, fastest, rebase
from benchmarks.conditions.environment import Environment
from benchmarks.conditions.validity import MachineUse
from benchmarks.latency import Schedule
from benchmarks.measurement_file import read_measurement, to_document, write_measurement
from benchmarks.peers import PeerSource
from benchmarks.report.table import format_table
from benchmarks.scenarios.asked import parse_scenarios
from engines.contract import OpenOptions
from engines.errors import (
    InputError,
    MeasurementError,
    MissingDependencyError,
    UnknownNameError,
    UsageError,
)

Bench = Callable[..., Any]


@pytest.fixture
def fake_bench(clock: Any, quiet_machine: Any, watcher: Any, environment: Environment) -> Bench:
    """`bench` with the fake clock, machine and environment."""

    def call(*arguments: Any, **options: Any) -> Any:
        settings: dict[str, Any] = {
            "schedule": Schedule(min_rounds=30, min_s=0.0, settle_s=0.0),
            "clock": clock,
            "pause": clock.pause,
            "machine": quiet_machine,
            "watcher": watcher,
            "environment": lambda: environment,
            **options,
        }
        return bench(*arguments, **settings)

    return call


def with_peers(monkeypatch: pytest.MonkeyPatch, **peers: Any) -> None:
    def load_peer(folder: Any, name: str) -> Any:
        peer = peers[name]
        if isinstance(peer, Exception):
            raise peer
        return SimpleNamespace(open_peer=lambda source, *, threads: peer)

    monkeypatch.setattr(contenders, "load_peer", load_peer)


def test_a_faster_engine_is_called_faster_by_its_factor(
    fake_bench: Bench, make_engine: Any
) -> None:
    plain, frozen = make_engine("plain", 10_000_000), make_engine("frozen", 7_600_000)

    found = fake_bench([frozen], against=plain)

    assert found.baseline == "plain"
    assert [result.name for result in found.contenders] == ["plain", "frozen"]
    against = found.result("frozen").against
    assert against.verdict == "faster"
    assert against.ratio == pytest.approx(0.76, rel=0.02)
    assert found.valid


def test_the_same_engine_against_itself_shows_no_difference(
    fake_bench: Bench, make_engine: Any
) -> None:
    found = fake_bench([make_engine("one"), make_engine("two")])

    assert found.result("two").against.verdict == "no difference shown"


def test_engines_of_the_caller_stay_open(fake_bench: Bench, make_engine: Any) -> None:
    engine = make_engine("a")

    fake_bench([engine])

    assert not engine.closed


def test_peers_join_and_are_closed(
    fake_bench: Bench, make_engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = make_engine("any", 9_000_000)
    with_peers(monkeypatch, openvino_plain=peer)

    found = fake_bench(
        [make_engine("frozen", 7_000_000)],
        against="openvino_plain",
        peers=["openvino_plain"],
        peer_source=PeerSource(macs=100),
        gemm_peak_macs_per_s=1e5,
    )

    assert found.baseline == "openvino_plain"
    assert found.result("openvino_plain").peak_share == pytest.approx(100 / 9e-3 / 1e5, rel=0.02)
    assert peer.closed


def test_a_peer_that_is_not_installed_is_listed_with_its_remedy(
    fake_bench: Bench, make_engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = MissingDependencyError("no openvino", where="peer", fix="pip install openvino")
    with_peers(monkeypatch, openvino_plain=missing)

    found = fake_bench([make_engine("frozen")], peers=["openvino_plain"], peer_source=PeerSource())

    (absent,) = found.absent
    assert (absent.name, absent.reason) == ("openvino_plain", "not installed")
    assert absent.fix == "pip install openvino"


def test_a_peer_that_fails_in_its_first_run_is_listed_and_the_others_go_on(
    fake_bench: Bench, make_engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_peers(monkeypatch, torch_compile=make_engine("torch_compile", fails=True))

    found = fake_bench([make_engine("frozen")], peers=["torch_compile"], peer_source=PeerSource())

    assert [entry.reason for entry in found.absent] == ["the compiler is missing"]
    assert [result.name for result in found.contenders] == ["frozen"]


def test_a_baseline_that_is_absent_is_refused(
    fake_bench: Bench, make_engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_peers(monkeypatch, p=MissingDependencyError("no", where="p", fix="pip install p"))

    with pytest.raises(MeasurementError, match="baseline p cannot take part: not installed"):
        fake_bench([make_engine("a")], against="p", peers=["p"], peer_source=PeerSource())


def test_an_unknown_peer_is_refused(fake_bench: Bench, make_engine: Any) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'torch_eager'"):
        fake_bench([make_engine("a")], peers=["torch_eagre"], peer_source=PeerSource())


def test_peers_without_a_model_are_refused(fake_bench: Bench, make_engine: Any) -> None:
    with pytest.raises(UsageError, match="without the plain model that they run"):
        fake_bench([make_engine("a")], peers=["torch_eager"])


def test_outputs_that_must_agree_and_do_not_are_refused_before_timing(
    fake_bench: Bench, make_engine: Any
) -> None:
    right, wrong = make_engine("right"), make_engine("wrong", error=0.1)

    with pytest.raises(MeasurementError, match="wrong differs from right by"):
        fake_bench([right, wrong], agree=[["right", "wrong"]])
    assert wrong.runs == 0


def test_outputs_in_no_group_are_compared_and_only_recorded(
    fake_bench: Bench, make_engine: Any
) -> None:
    found = fake_bench([make_engine("a"), make_engine("b", error=0.1)])

    recorded = found.result("b").agreement
    assert recorded.relative > 0.05
    assert not recorded.required


def test_an_invalid_measurement_raises_or_is_marked(
    fake_bench: Bench, make_engine: Any, clock: Any
) -> None:
    def busy() -> MachineUse:
        now = clock.now_ns / 1e9
        return MachineUse(wall_s=now, own_s=now, busy_s=2 * now, steal_s=0.0, processors=2)

    with pytest.raises(MeasurementError, match="other programs used 50%"):
        fake_bench([make_engine("a")], machine=busy)

    marked = fake_bench([make_engine("a")], machine=busy, strict=False)
    assert not marked.valid


class BusyMachine:
    """Others use half of it while the first `attempts` measurements are taken."""

    def __init__(self, clock: Any, attempts: int) -> None:
        self._clock, self._busy_reads = clock, 2 * attempts
        self._foreign_s, self._last_s = 0.0, 0.0

    def __call__(self) -> MachineUse:
        now = self._clock.now_ns / 1e9
        if self._busy_reads > 0:
            self._busy_reads -= 1
            self._foreign_s += now - self._last_s
        self._last_s = now
        return MachineUse(
            wall_s=now, own_s=now, busy_s=now + self._foreign_s, steal_s=0.0, processors=2
        )


@pytest.mark.parametrize(("busy", "taken", "valid"), [(0, 1, True), (2, 3, True), (3, 3, False)])
def test_what_noise_spoils_is_measured_again_until_the_tries_are_used_up(
    busy: int, taken: int, valid: bool, fake_bench: Bench, make_engine: Any, clock: Any
) -> None:
    said: list[tuple[int, str]] = []

    found = fake_bench(
        [make_engine("a"), make_engine("b", 5_000_000)],
        machine=BusyMachine(clock, busy),
        strict=False,
        attempts=3,
        again=lambda findings, attempt: said.append((attempt, findings[0].what[:19])),
    )

    assert (found.attempts, found.valid) == (taken, valid)
    assert said == [(attempt, "other programs used") for attempt in range(2, taken + 1)]
    assert found.rounds == 30  # of the last try alone


def test_too_few_rounds_are_not_measured_again(fake_bench: Bench, make_engine: Any) -> None:
    schedule = Schedule(min_rounds=4, max_rounds=4, min_s=0.0, settle_s=0.0)

    found = fake_bench([make_engine("a")], schedule=schedule, strict=False, attempts=3)

    assert (found.attempts, found.valid) == (1, False)


def test_no_verdict_stands_in_a_measurement_that_is_not_valid(
    fake_bench: Bench, make_engine: Any, clock: Any, tmp_path: Path
) -> None:
    """Not in its table, its JSON, what is read of it, or a comparison with another baseline."""
    engines = [make_engine("a", 10_000_000), make_engine("b", 5_000_000)]
    spoiled = fake_bench(engines, machine=BusyMachine(clock, 1), strict=False)
    honest = fake_bench(engines)
    write_measurement(tmp_path / "a.latency.json", spoiled)
    document = json.loads((tmp_path / "a.latency.json").read_text())

    for found in (spoiled, rebase(spoiled, "b"), read_measurement(tmp_path / "a.latency.json")):
        (against,) = (one.against for one in found.contenders if one.against is not None)
        assert against.verdict == against.words() == "not valid"
        assert "not known" in against.sentence()
        table = format_table(found)
        assert "NOT VALID: other programs used 50%" in table
        assert not re.search(r"faster|slower|0\.50|2\.00|images/s|ratio", table)
    assert document["valid"] is False
    kept = next(one["against"] for one in document["contenders"] if one["against"])
    assert kept["ratio"] == pytest.approx(0.5, rel=0.05)  # the numbers are not thrown away
    assert kept["verdict"] == "not valid"
    assert "x faster" in format_table(honest)  # negative control
    assert to_document(honest)["valid"] is True


def test_a_fixed_batch_decides_and_another_is_refused(fake_bench: Bench, make_engine: Any) -> None:
    found = fake_bench([make_engine("a", batch=8), make_engine("b")])

    assert found.batch == 8
    with pytest.raises(InputError, match="fixed batch of 8"):
        fake_bench([make_engine("a", batch=8)], batch=1)
    with pytest.raises(UsageError, match="different batch sizes"):
        fake_bench([make_engine("a", batch=8), make_engine("b", batch=1)])


def test_rebasing_compares_the_same_samples_with_another(
    fake_bench: Bench, make_engine: Any
) -> None:
    found = fake_bench([make_engine("a", 10_000_000), make_engine("b", 5_000_000)])

    turned = rebase(found, "b")

    assert turned.contenders[0].name == "b"
    against = turned.result("a").against
    assert against is not None
    assert against.ratio == pytest.approx(1 / found.result("b").against.ratio)
    assert dataclasses.replace(rebase(turned, "a"), baseline="a") == found
    with pytest.raises(UsageError, match="no contender is called 'c'"):
        rebase(found, "c")


def test_fastest_looks_only_among_the_named(fake_bench: Bench, make_engine: Any) -> None:
    found = fake_bench([make_engine(name, ns) for name, ns in (("a", 300), ("b", 900), ("c", 500))])

    assert fastest(found, ["b", "c"]) == "c"
    assert fastest(found, ["absent"]) is None


def test_a_graph_is_opened_from_its_file(fake_bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        fake_bench([tmp_path / "model.onnx"])


def test_an_engine_with_a_clock_of_its_own_is_timed_by_it_too(
    fake_bench: Bench, make_engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed = make_engine("timed")
    asked: list[int] = []

    def device_times_ns(feeds: Any, *, runs: int) -> list[int]:
        asked.append(runs)
        assert feeds["images"].shape == (1, 3, 8, 8)
        return [900_000, 700_000, *[800_000] * (runs - 2)]

    timed.device_times_ns = device_times_ns
    found = fake_bench([timed, make_engine("other")])

    assert found.result("timed").device_p50_ns == 800_000
    assert found.result("other").device_p50_ns is None
    assert asked == [100]


def test_artefacts_are_opened_with_the_callers_options(
    fake_bench: Bench, monkeypatch: pytest.MonkeyPatch, make_engine: Any
) -> None:
    opened: list[Any] = []

    def open_engine(path: Path, *, options: Any) -> Any:
        opened.append(options)
        return make_engine(path.stem)

    monkeypatch.setattr(contenders, "open_engine", open_engine)
    fake_bench(["a.plan", "b.plan"], options=OpenOptions(zero_copy=True, threads=7), threads=3)

    assert opened == [OpenOptions(zero_copy=True, threads=3)] * 2


def test_files_of_one_name_are_told_apart_by_their_folders() -> None:
    paths = [Path("/runs/a/model.onnx"), Path("/runs/b/model.onnx"), Path("/runs/b/other.onnx")]

    assert contenders._distinct_names(paths) == {
        paths[0]: "a/model",
        paths[1]: "b/model",
    }
    assert contenders._distinct_names(paths[1:]) == {}
    assert contenders._distinct_names([Path("/x/a/m.onnx"), Path("/y/a/m.onnx")]) == {
        Path("/x/a/m.onnx"): "x/a/m",
        Path("/y/a/m.onnx"): "y/a/m",
    }
    both = [Path("/a/model.onnx"), Path("/a/model.plan")]
    assert set(contenders._distinct_names(both).values()) == {"model.onnx", "model.plan"}


def test_scenarios_run_alone_after_the_rounds(
    fake_bench: Bench, make_engine: Any, tmp_path: Path
) -> None:
    phases = []

    def progress(phase: str, done: int, total: int) -> bool:
        phases.append(phase)
        return True

    found = fake_bench(
        [make_engine("fast", 5_000_000), make_engine("slow", 10_000_000)],
        batch=2,
        scenarios=parse_scenarios(["soak:0.1", "offline"]),
        progress=progress,
    )

    fast, slow = (found.result(name).scenarios for name in ("fast", "slow"))
    assert fast.soak.images_per_s == pytest.approx(400, rel=0.05)
    assert slow.soak.images_per_s == pytest.approx(200, rel=0.05)
    assert [one.batch for one in slow.offline.batches] == [2]
    assert fast.stream == ()
    assert phases.index("soak") > phases.index("measure")
    path = tmp_path / "a.latency.json"
    write_measurement(path, found)
    assert read_measurement(path) == found


def test_an_engine_that_slows_down_makes_the_measurement_doubtful(
    fake_bench: Bench, make_engine: Any
) -> None:
    tired = make_engine("tired")
    tired._latencies = itertools.chain(
        itertools.repeat(10_000_000, 2000), itertools.repeat(15_000_000)
    )

    found = fake_bench([tired], scenarios=parse_scenarios(["soak:1"]))

    assert any("of its first latency" in finding.what for finding in found.findings)
