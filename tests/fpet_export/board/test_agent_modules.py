"""The agent has what its verbs import, however they import it, and nothing that needs torch."""

from __future__ import annotations

from fpet_export.board.agent import _files
from fpet_export.board.agent_modules import modules_needed


def test_names_that_a_package_imports_when_they_are_used_are_followed() -> None:
    found = modules_needed(["fpet_export.steps.measuring"])

    assert "benchmarks.comparison" in found
    assert "engines.backends" in found or "engines.engine" in found


def test_what_needs_torch_and_what_only_python_calls_stays_at_home() -> None:
    found = {name for name, _ in _files()}

    assert "fpet_export/workflow/predict.py" in found
    assert "fpet_export/stages.py" not in found
    assert "fpet_export/workflow/export.py" not in found
    assert "fpet_export/triton/write.py" not in found
    assert "fpet_export/deepstream/write.py" not in found
