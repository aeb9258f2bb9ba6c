"""A page's names come from where they live, and others are refused as Python does."""

from __future__ import annotations

import importlib

import pytest

import benchmarks
import calibration
import engines
from engines.engine import open_engine


@pytest.mark.parametrize("package", [engines, benchmarks, calibration])
def test_every_name_of_a_page_can_be_imported(package: object) -> None:
    names: list[str] = getattr(package, "__all__")  # noqa: B009

    assert names == sorted(names)
    for name in names:
        assert getattr(package, name) is not None


def test_a_name_may_differ_from_the_one_at_home() -> None:
    assert engines.open is open_engine


def test_another_name_is_no_attribute() -> None:
    page = importlib.import_module("benchmarks")

    with pytest.raises(AttributeError, match="module 'benchmarks' has no attribute 'measure_all'"):
        page.measure_all  # noqa: B018
