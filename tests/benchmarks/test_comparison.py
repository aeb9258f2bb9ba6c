from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import comparison
from benchmarks.comparison import bench, fastest, rebase
from benchmarks.environment import Environment
from benchmarks.latency import Schedule
from benchmarks.peers import PeerSource
from benchmarks.validity import MachineUse
from engines.engine import OpenOptions
from engines.errors import (
    InputError,
    MeasurementError,
    MissingDependencyError,
    UnknownNameError,
    UsageError,
)

Bench = Callable[..., Any]


@pytest.fixture
def fake_bench(clock: Any, quiet_machine: Any, environment: Environment) -> Bench:
    """`bench` with the fake clock, machine and environment."""

    def call(*arguments: Any, **options: Any) -> Any:
        settings: dict[str, Any] = {
            "schedule": Schedule(min_rounds=30, min_s=0.0, settle_s=0.0),
            "clock": clock,
            "pause": clock.pause,
            "machine": quiet_machine,
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

    monkeypatch.setattr(comparison, "load_peer", load_peer)


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
    with pytest.raises(UsageError, match="not what they should run"):
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


def test_a_fixed_batch_decides_and_another_is_refused(fake_bench: Bench, make_engine: Any) -> None:
    found = fake_bench([make_engine("a", batch=8), make_engine("b")])

    assert found.batch == 8
    with pytest.raises(InputError, match="fixed to 8"):
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

    monkeypatch.setattr(comparison, "open_engine", open_engine)
    fake_bench(["a.plan", "b.plan"], options=OpenOptions(zero_copy=True, threads=7), threads=3)

    assert opened == [OpenOptions(zero_copy=True, threads=3)] * 2
