"""The board half: every module but the peers imports with numpy alone."""

from __future__ import annotations

import pkgutil
import subprocess
import sys

import pytest

import benchmarks

ABSENT = [
    "torch", "timm", "onnx", "onnxruntime", "tensorrt", "tensorrt_rtx", "openvino", "fpet_export",
    "jinja2", "matplotlib", "PIL",
]  # fmt: skip
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(benchmarks.__path__, "benchmarks.")
    if not module.name.startswith(
        ("benchmarks.peers.", "benchmarks.experiments.gpu_peers.", "benchmarks.experiments.")
    )
)


@pytest.mark.parametrize("name", MODULES)
def test_imports_with_numpy_alone(name: str) -> None:
    program = f"import sys; sys.modules.update(dict.fromkeys({ABSENT})); import {name}"

    subprocess.run([sys.executable, "-c", program], check=True)
