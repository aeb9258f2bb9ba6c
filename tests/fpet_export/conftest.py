"""The export that many tests read and none changes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import shared_exports
from tests.fpet_export.command_line import Exported, export


@pytest.fixture(scope="session", autouse=True)
def _exporter() -> Iterator[shared_exports.SharedExports]:
    yield from shared_exports.installed()


@pytest.fixture(autouse=True)
def _fresh_exports(
    _exporter: shared_exports.SharedExports, request: pytest.FixtureRequest
) -> Iterator[None]:
    _exporter.is_on = request.node.get_closest_marker("fresh_exports") is None
    yield
    _exporter.is_on = True


@pytest.fixture(scope="session")
def exported(
    tmp_path_factory: pytest.TempPathFactory, _exporter: shared_exports.SharedExports
) -> Exported:
    made = export(tmp_path_factory.mktemp("exported"))
    assert made.done.code == 0, made.done.err
    return made
