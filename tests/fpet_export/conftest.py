"""The export that many tests read and none changes."""

from __future__ import annotations

import pytest

from tests.fpet_export.command_line import Exported, export


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    made = export(tmp_path_factory.mktemp("exported"))
    assert made.done.code == 0, made.done.err
    return made
