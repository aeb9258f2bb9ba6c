"""Importing the package is cheap; heavy packages come with the modules that need them."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "timm", "onnx", "onnxruntime", "onnx_graphsurgeon", "PIL", "yaml", "rich")


@pytest.mark.parametrize("module", ["fpet_export", "fpet_export.model.facts"])
def test_importing_it_loads_nothing_heavy(module: str) -> None:
    program = (
        f"import sys, {module}; loaded = [n for n in {HEAVY} if n in sys.modules]; "
        "sys.exit(', '.join(loaded) or 0)"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr


def test_reading_a_run_loads_neither_timm_nor_onnx() -> None:
    program = (
        "import sys, fpet_export.model.adapt, fpet_export.model.fold, fpet_export.graph.freeze; "
        "sys.exit(', '.join(n for n in ('timm', 'onnx', 'onnxruntime') if n in sys.modules) or 0)"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
