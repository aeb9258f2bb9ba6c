"""The exports of the contract tests are shared as everywhere."""

from __future__ import annotations

import pytest

from tests.shared_exports import SharedExports


@pytest.fixture(autouse=True)
def _exports(exporter: SharedExports) -> None:
    """Use the session's."""
