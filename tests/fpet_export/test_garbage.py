from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from fpet_export.garbage import collected_later


@pytest.fixture(params=[True, False])
def was_on(request: pytest.FixtureRequest) -> Iterator[bool]:
    before, wanted = gc.isenabled(), bool(request.param)
    (gc.enable if wanted else gc.disable)()
    yield wanted
    (gc.enable if before else gc.disable)()


def test_nothing_is_collected_meanwhile_and_all_is_as_before_afterwards(was_on: bool) -> None:
    with collected_later():
        with collected_later():
            assert not gc.isenabled()
        assert not gc.isenabled()

    assert gc.isenabled() == was_on


def test_an_error_leaves_it_as_it_was(was_on: bool) -> None:
    with pytest.raises(ValueError, match="stop"), collected_later():
        raise ValueError("stop")

    assert gc.isenabled() == was_on
