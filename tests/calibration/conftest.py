"""The exports that many tests read and none changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from calibration.collect import calibrate
from calibration.table import CalibrationTable
from tests.calibration.exports import Exports, images_of, source_of
from tests.shared_exports import SharedExports


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory, exporter: SharedExports) -> Exports:
    return Exports.of_session(tmp_path_factory)


@pytest.fixture(scope="session")
def merged(exports: Exports) -> Path:
    """For TensorRT: all tokens in the last block, the scale split."""
    return exports()


@pytest.fixture(scope="session")
def on_cpu(exports: Exports) -> Path:
    """For a CPU: the last block computes the class token alone."""
    return exports(target="cpu")


@pytest.fixture(scope="session")
def table(merged: Path, tmp_path_factory: pytest.TempPathFactory) -> CalibrationTable:
    """The calibration of `merged` on 16 images, with rewrites."""
    shard = tmp_path_factory.mktemp("calibration") / "images.npz"
    return calibrate(merged, source_of(shard, images_of(16), merged))


@pytest.fixture(scope="session")
def cpu_table(on_cpu: Path, tmp_path_factory: pytest.TempPathFactory) -> CalibrationTable:
    """Likewise of `on_cpu`."""
    shard = tmp_path_factory.mktemp("cpu_calibration") / "images.npz"
    return calibrate(on_cpu, source_of(shard, images_of(16), on_cpu))
