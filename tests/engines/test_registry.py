from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from engines import registry, targets
from engines.errors import MissingDependencyError, UnknownNameError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A registry folder with a good entry, shared code, and entries whose imports fail."""
    package = tmp_path / "entries_of_test"
    package.mkdir()
    for name, text in {
        "__init__": "",
        "good": "VALUE = 7",
        "_shared": "",
        "needs_runtime": "import onnxruntime.no_such_module_of_it",
        "needs_stranger": "import package_that_nobody_has",
        "our_bug": "import engines.no_such_module",
    }.items():
        (package / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("entries_of_test")
    for name in [name for name in sys.modules if name.startswith("entries_of_test")]:
        del sys.modules[name]


def test_available_lists_entries_without_shared_code(folder: ModuleType) -> None:
    assert registry.available(folder) == ["good", "needs_runtime", "needs_stranger", "our_bug"]


def test_load_imports_the_entry(folder: ModuleType) -> None:
    assert registry.load(folder, "good").VALUE == 7


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match=r"'abacus' is not one of .*cpu"):
        registry.load(targets, "abacus")


def test_a_near_name_is_proposed_and_not_taken() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'cpu'"):
        registry.load(targets, "cpuu")


def test_shared_code_cannot_be_loaded_as_an_entry(folder: ModuleType) -> None:
    with pytest.raises(UnknownNameError):
        registry.load(folder, "_shared")


def test_a_missing_package_names_the_extra_that_brings_it(folder: ModuleType) -> None:
    with pytest.raises(MissingDependencyError, match=r"pip install 'fpet-export\[cpu\]'") as caught:
        registry.load(folder, "needs_runtime")

    assert caught.value.exit_code == 4


def test_a_missing_package_of_no_extra_is_named(folder: ModuleType) -> None:
    with pytest.raises(MissingDependencyError, match="pip install package_that_nobody_has"):
        registry.load(folder, "needs_stranger")


def test_a_missing_module_of_ours_stays_a_bug(folder: ModuleType) -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        registry.load(folder, "our_bug")
