"""The export that many tests read and none changes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fpet_export.command_line import Exported, export
from tests.shared_exports import SharedExports


@pytest.fixture(autouse=True)
def _fresh_exports(exporter: SharedExports, request: pytest.FixtureRequest) -> Iterator[None]:
    exporter.is_on = request.node.get_closest_marker("fresh_exports") is None
    yield
    exporter.is_on = True


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory, exporter: SharedExports) -> Exported:
    made = export(tmp_path_factory.mktemp("exported"))
    assert made.done.code == 0, made.done.err
    return made
