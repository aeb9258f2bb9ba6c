"""An export to read, write and tap."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.calibration.exports import Exports
from tests.shared_exports import SharedExports


@pytest.fixture(scope="session")
def merged(tmp_path_factory: pytest.TempPathFactory, exporter: SharedExports) -> Path:
    """For TensorRT: all tokens in the last block, the scale split."""
    return Exports.of_session(tmp_path_factory)()
