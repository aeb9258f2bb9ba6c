"""Two packages of ONNX Runtime in one environment are refused where one would be opened."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import metadata

import pytest

from engines.backends import _ort_packages, ort
from engines.errors import MissingDependencyError


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The packages that are installed, for a test to change."""
    found: list[str] = ["onnxruntime"]

    def version(name: str) -> str:
        if name not in found:
            raise metadata.PackageNotFoundError(name)
        return "1.31.1"

    monkeypatch.setattr("importlib.metadata.version", version)
    _ort_packages.require_one.cache_clear()
    yield found
    _ort_packages.require_one.cache_clear()


def test_two_packages_are_refused_with_the_command_that_mends_it(packages: list[str]) -> None:
    packages.append("onnxruntime-gpu")
    with pytest.raises(MissingDependencyError, match="are both installed") as caught:
        ort.try_provider("cpu")
    assert "onnxruntime 1.31.1 and onnxruntime-gpu 1.31.1" in caught.value.what
    assert "-m pip uninstall -y onnxruntime onnxruntime-gpu && " in caught.value.fix
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("name", _ort_packages.PACKAGES)
def test_one_package_is_fine(name: str, packages: list[str]) -> None:
    packages[:] = [name]
    assert list(_ort_packages.installed()) == [name]
    ort.try_provider("cpu")
