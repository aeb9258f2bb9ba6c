from __future__ import annotations

import dataclasses
import importlib.util
import json
from pathlib import Path

import pytest

if not all(
    importlib.util.find_spec(name)
    for name in ("torch", "onnx", "onnxruntime", "onnx_graphsurgeon", "skimage", "sklearn")
):
    pytest.skip("needs the extras export, cpu and dev", allow_module_level=True)

from benchmarks.experiments import many_tasks, task_probe
from benchmarks.experiments.many_tasks import Files, Served, Sized, format_served, format_sized
from benchmarks.experiments.task_probe import read_memory, serve
from engines.errors import BudgetError, EngineError, MissingDependencyError
from fpet_export.model.backbones import random_weights

VTAB = many_tasks.CLASSES
ARCHITECTURE = "vit_tiny_patch16_64"
SERVED = Served(
    name="mixed", tasks=19, one_bytes=100, all_bytes=105, one_proportional_bytes=90,
    all_proportional_bytes=95, imported_bytes=30, resident_tasks=6, cold_switch_ms=4.0,
    warm_switch_ms=0.001, switches=50,
)  # fmt: skip
SIZED = Sized(
    name="lora fp32", delta_bytes=1_500_000, export_bytes=344_000_000, goal_bytes=1.6e6,
    factor_error=0.0, logit_error=6e-7,
)  # fmt: skip


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the tiny ViT tinier, with three tasks that merge after its second block."""
    monkeypatch.setitem(random_weights._SHAPES, "tiny", (64, 2, 3))
    monkeypatch.setattr(many_tasks, "_REPEATS", 1)
    monkeypatch.setattr(many_tasks, "CLASSES", {"cifar": 6, "dtd": 4, "svhn": 3})
    for name in ("LORA", "ADAPTFORMER"):
        cell = dataclasses.replace(getattr(many_tasks, name), merge_block=1)
        monkeypatch.setattr(many_tasks, name, cell)
    lora, adaptformer = many_tasks.LORA, many_tasks.ADAPTFORMER
    monkeypatch.setattr(many_tasks, "SETS", {"mixed": (lora, adaptformer)})


def test_vtab_1k_has_nineteen_tasks() -> None:
    assert len(VTAB) == 19
    assert sum(VTAB.values()) == 940


def test_goals_that_are_missed_are_named() -> None:
    assert SERVED.missed() == []
    worse = dataclasses.replace(SERVED, all_bytes=111, cold_switch_ms=50.1)
    assert worse.missed() == [
        "mixed: 1.110 of one task's memory, goal 1.10",
        "mixed: switch 50.1 ms, goal 50",
    ]
    assert "1.110" in format_served([worse])
    assert SIZED.missed() == []
    larger = dataclasses.replace(SIZED, delta_bytes=1_600_001)
    assert larger.missed() == ["lora fp32: 1.600 MB, goal 1.6"]
    assert "344.0" in format_sized([larger])


def test_a_folder_is_served_and_switched(tmp_path: Path) -> None:
    files = Files(tmp_path, ARCHITECTURE)
    cells = {"cifar": many_tasks.LORA, "dtd": many_tasks.ADAPTFORMER}
    runs = {name: files.run(name, cell, 5, 0) for name, cell in cells.items()}
    folder = files.tasks("tasks", runs)

    found = serve(folder, list(cells), rounds=5, threads=1)

    assert found["tasks"] == 2
    assert found["at_end"]["resident_bytes"] > found["imported"]["resident_bytes"] > 10_000_000
    assert len(found["cold_ns"]) == len(found["warm_ns"]) >= 1


def test_a_probe_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"exit code 10: .*export the tasks again"):
        many_tasks.probe(tmp_path, ["cifar"], threads=1)


def test_memory_is_that_of_this_process() -> None:
    before = read_memory().resident_bytes
    held = bytes([1]) * 50_000_000
    assert 40_000_000 < read_memory().resident_bytes - before < 80_000_000
    del held


def test_a_system_that_does_not_tell_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingDependencyError, match="memory of a process cannot be read"):
        read_memory(tmp_path / "absent")
    (tmp_path / "other").write_text("Rss: nothing\n")
    with pytest.raises(MissingDependencyError):
        read_memory(tmp_path / "other")


@pytest.mark.slow
def test_the_document_holds_all_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "many.json"
    words = ["-o", str(path), "--arch", ARCHITECTURE, "--rounds", "2", "--max-s", "0.5"]
    words += ["--threads", "1"]

    code = many_tasks.main(words)

    document = json.loads(path.read_text())
    # Without weights to share there is nothing to gain: the goal is for a real network.
    assert code in (0, BudgetError.exit_code)
    assert document["missed"] == [] or code == BudgetError.exit_code
    assert [entry["name"] for entry in document["served"]] == ["mixed"]
    assert document["served"][0]["tasks"] == 3
    assert [entry["name"] for entry in document["sizes"]] == list(many_tasks.SIZE_GOALS)
    assert document["sizes"][1]["factor_error"] > 0 == document["sizes"][0]["factor_error"]
    assert all(entry["logit_error"] < 1e-2 for entry in document["sizes"])
    assert [len(m["contenders"]) for m in document["latency"]] == [2, 2]
    assert [one["method"] for one in document["processor_time"]] == ["lora", "adaptformer"]
    assert all(one["ratio"] > 0 and one["own_ms"] > 0 for one in document["processor_time"])
    assert str(tmp_path) not in path.read_text()
    assert "lora, shared graph" in capsys.readouterr().out


def test_the_probe_prints_one_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = Files(tmp_path, ARCHITECTURE)
    folder = files.tasks("tasks", {"cifar": files.run("cifar", many_tasks.LORA, 5, 0)})

    assert task_probe.main([str(folder), "--tasks", "cifar", "--threads", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["tasks"] == 1
    assert task_probe.main([str(folder), "--tasks", "absent"]) == 2
