"""`doctor`: what is there, what is missing, and what mends it."""

from __future__ import annotations

from importlib import metadata

import pytest

from fpet_export.verbs import doctor
from tests.fpet_export.command_line import call


def test_what_is_installed_is_named_with_its_version() -> None:
    done = call("doctor", "--json")

    document = done.document()
    assert done.code == 0
    assert document["packages"]["numpy"] == metadata.version("numpy")
    assert document["lacking"] == []
    assert document["machine"]["cores"] >= 1
    assert document["machine"]["memory_gb"] > 0
    assert call("doctor").out == "ready\n"


def test_a_missing_package_is_named_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    version = doctor._version
    monkeypatch.setattr(
        doctor, "_version", lambda module, name: None if module == "onnx" else version(module, name)
    )

    done = call("doctor")

    assert done.code == 4
    assert done.out == "lacking onnx\n"
    assert "✗ onnx" in done.err
    assert "pip install 'fpet-export[export]'" in done.err


def test_a_missing_extra_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    version = doctor._version
    monkeypatch.setattr(
        doctor,
        "_version",
        lambda module, name: None if module == "jinja2" else version(module, name),
    )

    done = call("doctor")

    assert done.code == 0
    assert "! jinja2" in done.err
    assert "pip install 'fpet-export[report]'" in done.err
