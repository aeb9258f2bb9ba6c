"""Engines and images that the verbs' tests read and none changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fpet_export.command_line import Exported, call, pixels_of, write_images
from tests.fpet_export.tasks.task_files import TaskFiles


@pytest.fixture(scope="session")
def engine(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cpu engine of the exported graph."""
    path = tmp_path_factory.mktemp("engine") / "model.cpu.onnx"
    done = call("build", exported.graph, "--target", "cpu", "-o", path)
    assert done.code == 0, done.err
    return path


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_images(tmp_path_factory.mktemp("images"), pixels_of(4))


@pytest.fixture
def tampered(exported: Exported, tmp_path: Path) -> Path:
    """The graph with one bit of a weight flipped; its manifest is as it was."""
    graph = exported.copy(tmp_path / "tampered")
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)
    return graph


@pytest.fixture(scope="session")
def task_files(tmp_path_factory: pytest.TempPathFactory) -> TaskFiles:
    """Two runs and the folder of tasks made of them."""
    return TaskFiles(tmp_path_factory.mktemp("tasks"))
