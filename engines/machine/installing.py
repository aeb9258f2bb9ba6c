"""How a package that is absent is installed: on a workstation, on a Jetson, beside the agent."""

from __future__ import annotations

from pathlib import Path

from engines.machine.jetson import read_board

FROM_JETPACK = {
    "numpy": "sudo apt-get install python3-numpy",
    "tensorrt": "sudo apt-get install python3-libnvinfer",
    "onnxruntime": "python3 -m pip install onnxruntime",
    "PIL": "sudo apt-get install python3-pil",
}
"""On a Jetson, whose TensorRT fits its driver; by import name."""

FROM_PIP = {
    "numpy": "python3 -m pip install numpy",
    "tensorrt": "python3 -m pip install tensorrt",
    "tensorrt_rtx": "python3 -m pip install tensorrt-rtx-cu13",
    "onnxruntime": "python3 -m pip install onnxruntime",
    "PIL": "python3 -m pip install pillow",
}
"""What running an engine needs, elsewhere; by import name."""


def how_to_install(module: str, extra: str | None) -> str:
    """Return a command that brings a package.

    Args:
        module: Its import name.
        extra: Ours that brings it, where this toolkit is installed; the agent, which is one file,
            has none.
    """
    if module in FROM_JETPACK and read_board({}) is not None:
        return FROM_JETPACK[module]
    if extra is not None and Path(__file__).is_file():
        return f"pip install 'fpet-export[{extra}]'"
    return FROM_PIP.get(module, f"python3 -m pip install {module}")
