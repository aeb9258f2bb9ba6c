"""What is said of memory before a build, and that a hopeless build never begins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engines.engine import load_target
from engines.errors import MachineError
from fpet_export.reporter import Recorder
from fpet_export.steps.memory import require_memory


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(bytes(1000))
    return path


def said(graph: Path, target: str, meminfo: str, **options: Any) -> list[tuple[str, str, Any]]:
    file = graph.with_name("meminfo")
    file.write_text(meminfo)
    heard = Recorder()
    require_memory(graph, None, load_target(target), heard, meminfo=file, **options)
    return [(step.name, step.text, step.passed) for step in heard.steps]


def test_a_board_shares_its_memory_with_scratch_memory(graph: Path) -> None:
    (step,) = said(graph, "jetson-orin-nano-8gb", "MemAvailable: 6000000 kB")
    assert step[1].startswith("building takes about 0.4 GB and up to 2.1 GB of scratch memory")
    assert step[2] is True


def test_a_limit_of_the_caller_counts(graph: Path) -> None:
    (step,) = said(graph, "jetson-orin-nano-8gb", "MemAvailable: 6000000 kB", workspace_mb=100)
    assert "up to 0.1 GB" in step[1]


def test_too_little_room_is_said_with_what_to_do(graph: Path) -> None:
    plan, advice = said(graph, "jetson-orin-nano-8gb", "MemAvailable: 2000000 kB")
    assert (plan[2], advice[2]) == (None, None)
    assert "--workspace-mb" in advice[1]


def test_a_card_has_scratch_memory_of_its_own(graph: Path) -> None:
    (step,) = said(graph, "rtx", "MemAvailable: 2000000 kB")
    assert "scratch" not in step[1]


def test_other_runtimes_are_not_judged(graph: Path) -> None:
    assert said(graph, "cpu", "MemAvailable: 1 kB") == []


def test_a_hopeless_build_never_begins(graph: Path) -> None:
    with pytest.raises(MachineError, match=r"model\.onnx"):
        said(graph, "rtx", "MemAvailable: 100000 kB")
