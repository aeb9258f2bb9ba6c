from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.comparison import bench
from benchmarks.conditions.environment import Environment
from benchmarks.experiments import gpu_batch, gpu_check, gpu_peers
from benchmarks.experiments.gpu_batch import check_batch, format_check
from benchmarks.experiments.subjects import Subject
from benchmarks.latency import Schedule
from benchmarks.measurement_file import to_text
from engines import registry
from engines.errors import MissingDependencyError


@pytest.fixture
def check(
    monkeypatch: pytest.MonkeyPatch,
    make_engine: Any,
    clock: Any,
    quiet_machine: Any,
    watcher: Any,
    environment: Environment,
    tmp_path: Path,
) -> Callable[..., Any]:
    """`check_batch` on fake ways; `ways` maps a way to its latency, or to what it raises."""

    def run(ways: dict[str, Any], subjects: dict[str, float]) -> Any:
        def open_peer(way: str, source: Any) -> Any:
            if isinstance(ways[way], Exception):
                raise ways[way]
            factor = source.module()
            return make_engine(f"{way}{factor}", int(ways[way] * factor), spread=0.001)

        monkeypatch.setattr(
            gpu_batch,
            "load_peer",
            lambda folder, way: SimpleNamespace(
                open_peer=lambda source, *, threads: open_peer(way, source)
            ),
        )

        def measure(*arguments: Any, **options: Any) -> Any:
            return bench(
                *arguments,
                **options,
                clock=clock,
                pause=clock.pause,
                machine=quiet_machine,
                watcher=watcher,
                environment=lambda: environment,
            )

        return check_batch(
            2,
            ways=list(ways),
            subjects=[
                Subject(name=name, module=lambda b, d, f=factor: f, onnx=None, note="")  # type: ignore[misc]
                for name, factor in subjects.items()
            ],
            folder=tmp_path,
            schedule=Schedule(min_rounds=30, min_s=0.0, settle_s=0.0),
            measure=measure,
        )

    return run


def test_frozen_is_paired_with_plain_way_by_way(check: Any) -> None:
    found = check({"eager": 1e7, "graph": 5e6}, {"library": 0.9, "plain": 1.0, "frozen": 0.8})

    assert {pair.way: pair.against.words() for pair in found.pairs} == {
        "eager": "1.25x faster",
        "graph": "1.25x faster",
    }
    assert found.failed == ()
    assert set(found.parity) == {
        f"{subject} {way}"
        for subject in ("library", "plain", "frozen")
        for way in ("eager", "graph")
    }


def test_baseline_is_the_fastest_that_does_not_merge(check: Any) -> None:
    found = check({"eager": 1e7, "graph": 5e6}, {"library": 0.9, "plain": 1.0, "frozen": 0.8})

    assert found.measurement.baseline == "library graph"
    assert found.measurement.result("frozen graph").against.verdict == "faster"


def test_a_way_that_fails_is_recorded_and_the_others_go_on(check: Any) -> None:
    missing = MissingDependencyError("no tensorrt", where="trt", fix="pip install tensorrt")

    found = check({"eager": 1e7, "compiled": missing}, {"plain": 1.0, "frozen": 0.8})

    assert [(entry.name, entry.reason) for entry in found.failed] == [
        ("plain compiled", "no tensorrt"),
        ("frozen compiled", "no tensorrt"),
    ]
    assert [pair.way for pair in found.pairs] == ["eager"]
    text = format_check(found)
    assert "failed: plain compiled: no tensorrt (pip install tensorrt)" in text
    assert "eager: frozen is 1.25x faster against plain eager" in text


def test_when_everything_fails_the_reasons_remain(check: Any) -> None:
    broken = MissingDependencyError("no torch", where="t", fix="pip install torch")

    found = check({"eager": broken}, {"plain": 1.0, "frozen": 0.8})

    assert found.measurement is None
    assert len(found.failed) == 4  # two float32 references, two contenders


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch, check: Any) -> dict[str, Any]:
    """Children that measure on a device of a test; `kills` names the way that ends them."""
    state: dict[str, Any] = {"kills": None, "asked": []}

    def run(line: list[str]) -> SimpleNamespace:
        words = dict(itertools.pairwise(line))
        folder, batch = Path(words["--folder"]), words["--batches"]
        ways = words["--ways"].split(",")
        state["asked"].append(ways)
        if state["kills"] in ways:
            (folder / "opening.txt").write_text(f"batch {batch}: plain {state['kills']}")
            return SimpleNamespace(returncode=-11)
        found = check(dict.fromkeys(ways, 1e7), {"plain": 1.0, "frozen": 0.8})
        (folder / f"check.b{batch}.json").write_text(to_text(dataclasses.asdict(found)))
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(gpu_check, "_device", lambda: {"name": "A GPU of a test"})
    monkeypatch.setattr("subprocess.run", run)
    return state


def test_json_names_the_device(on_a_gpu: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "gpu.json"
    assert gpu_check.main(["--ways", "eager", "--batches", "2", "-o", str(path)]) == 0
    document = json.loads(path.read_text())
    assert document["device"]["name"] == "A GPU of a test"
    assert document["batches"][0]["measurement"]["contenders"][0]["samples_ns"]
    assert document["batches"][0]["failed"] == []


def test_what_kills_the_process_is_left_out_and_named(
    on_a_gpu: dict[str, Any], tmp_path: Path
) -> None:
    on_a_gpu["kills"] = "aoti"
    path = tmp_path / "gpu.json"
    assert gpu_check.main(["--ways", "aoti,eager", "--batches", "2", "-o", str(path)]) == 0
    assert on_a_gpu["asked"] == [["aoti", "eager"], ["eager"]]
    (batch,) = json.loads(path.read_text())["batches"]
    assert batch["failed"] == [
        {"name": "aoti", "reason": "the process ended with -11", "fix": "see what it said"}
    ]
    assert batch["measurement"] is not None


def test_without_a_gpu_it_exits_with_4_and_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch = SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: False))
    monkeypatch.setattr(registry, "import_or_explain", lambda name: torch)

    assert gpu_check.main(["--quick"]) == 4
    assert "there is no CUDA device" in capsys.readouterr().err


def test_the_ways_of_the_design_are_there() -> None:
    assert registry.available(gpu_peers) == [
        "aoti", "compiled", "compiled_autotune", "eager", "graph",
        "ort_as_written", "ort_cuda", "trt", "trt_rtx",
    ]  # fmt: skip


@pytest.mark.gpu
@pytest.mark.parametrize("way", ["eager", "graph"])
def test_torch_ways_give_the_modules_answers_on_a_gpu(way: str) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    import numpy as np

    from benchmarks.peers import PeerSource, load_peer

    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 5)).eval()
    images = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
    expected = module(torch.from_numpy(images)).detach().numpy()

    source = PeerSource(module=lambda: module, image=(3, 8, 8))
    with load_peer(gpu_peers, way).open_peer(source, threads=1) as engine:
        engine.bind({"images": images})()
        np.testing.assert_allclose(engine.run({"images": images})["logits"], expected, atol=1e-4)
