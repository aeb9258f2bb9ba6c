"""The device side runs where nothing but numpy is installed."""

from __future__ import annotations

import pkgutil
import subprocess
import sys

import engines

ABSENT = (
    "torch",
    "timm",
    "onnx",
    "onnxruntime",
    "openvino",
    "onnx_graphsurgeon",
    "tensorrt",
    "tensorrt_rtx",
    "PIL",
    "rich",
    "fpet_export",
    "calibration",
    "benchmarks",
)
NEEDS_ONNX = ("engines.onnx_graph.files", "engines.onnx_graph.taps")
NEEDS_ITS_RUNTIME = {
    f"engines.backends.{name}"
    for name in (
        "ort",
        "_ort.cuda_engine",
        "_ort.cuda_provider",
        "_ort.engine",
        "_ort.session",
        "ov",
        "_openvino",
        "aoti",
        "_aoti.compile",
        "_aoti.engine",
        "_aoti.module",
        "_aoti.operators",
    )
}
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(engines.__path__, "engines.")
    if module.name not in NEEDS_ITS_RUNTIME and module.name not in NEEDS_ONNX
)


def test_every_module_imports_with_numpy_alone() -> None:
    program = (
        "import importlib, sys\n"
        f"sys.modules.update(dict.fromkeys({ABSENT!r}))\n"
        f"for name in {MODULES!r}:\n"
        "    importlib.import_module(name)\n"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
