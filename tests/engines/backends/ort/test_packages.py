"""Two packages of ONNX Runtime in one environment are refused where one would be opened."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import onnxruntime
import pytest

from engines.backends import ort
from engines.backends._ort import packages as _ort_packages
from engines.errors import MissingDependencyError


@dataclasses.dataclass
class Distribution:
    """A package as the interpreter finds it."""

    folder: Path
    version: str = "1.31.1"

    def locate_file(self, name: str) -> Path:
        return self.folder / name


HERE = Path(onnxruntime.__file__).parents[1]


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Path]]:
    """The folder of each package that is installed, for a test to change."""
    folders = {"onnxruntime": HERE}

    def distributions(*, name: str) -> list[Distribution]:
        return [Distribution(folders[name])] if name in folders else []

    monkeypatch.setattr("importlib.metadata.distributions", distributions)
    _ort_packages.require_one.cache_clear()
    yield folders
    _ort_packages.require_one.cache_clear()


def test_two_packages_are_refused_with_the_command_that_mends_it(packages: dict[str, Path]) -> None:
    packages["onnxruntime-gpu"] = HERE
    with pytest.raises(MissingDependencyError, match="are both installed") as caught:
        ort.try_provider("cpu")
    assert "onnxruntime 1.31.1 and onnxruntime-gpu 1.31.1" in caught.value.what
    assert "-m pip uninstall -y onnxruntime onnxruntime-gpu && " in caught.value.fix
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("name", _ort_packages.PACKAGES)
def test_one_package_is_fine(name: str, packages: dict[str, Path]) -> None:
    packages.clear()
    packages[name] = HERE
    assert list(_ort_packages.installed()) == [name]
    ort.try_provider("cpu")


def test_one_that_another_folder_holds_is_in_nobodys_way(
    packages: dict[str, Path], tmp_path: Path
) -> None:
    """The one that comes first on the path is whole."""
    packages["onnxruntime-gpu"] = tmp_path
    assert list(_ort_packages.installed()) == ["onnxruntime"]
    ort.try_provider("cpu")
