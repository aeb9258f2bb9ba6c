"""The picture of the architecture is what the imports say."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs import draw_architecture

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = (ROOT / "pyproject.toml").read_text("utf-8")


def test_the_committed_picture_is_what_the_imports_say() -> None:
    drawn = draw_architecture.draw()

    assert draw_architecture.PICTURE.read_text("utf-8") == drawn, "run `make architecture`"


@pytest.mark.parametrize("package", ["fpet_export", "engines", "benchmarks"])
def test_every_folder_has_its_row(package: str) -> None:
    rows = draw_architecture.layers(SETTINGS, package)
    folders = {path.parent.name for path in (ROOT / package).glob("*/__init__.py")}

    assert folders <= {name for row in rows for name in row}


def test_an_arrow_that_others_imply_is_left_out() -> None:
    arrows = {"a": ["b", "c"], "b": ["c"], "c": [], "d": ["c"]}

    assert draw_architecture.without_implied(arrows) == {
        "a": ["b"],
        "b": ["c"],
        "c": [],
        "d": ["c"],
    }


def test_a_package_without_a_contract_has_no_rows() -> None:
    assert draw_architecture.layers(SETTINGS, "no_such_package") == []
