"""Compile a graph into a package, in a process of its own: `python -m ... REQUEST.json`.

Inductor keeps caches in folders that the environment names, prints, sets flags of the whole process
and leaves workers behind. A process of its own has none of that in common with the caller, and can
be ended when a build is cancelled. It reads a request and writes an answer, both JSON.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import torch

from engines.backends._aoti.module import OnnxModule
from engines.errors import FpetError

SEARCH_LEVEL = 4
"""From this optimization level on, kernels of products are searched by timing them."""


def settings_for(device: str, level: int) -> dict[str, Any]:
    """Return Inductor's settings.

    Args:
        device: "cpu" or "cuda".
        level: Optimization level, 0 to 5.
    """
    found: dict[str, Any] = {
        # Threads are those of the process that runs the package, not of the one that made it.
        "cpp.dynamic_threads": True,
        # A header that is compiled ahead pays from the second package on; this folder has one.
        "aot_inductor.precompile_headers": False,
    }
    if level == 0 or (device == "cuda" and level < SEARCH_LEVEL):
        # The host's part only launches kernels, and on a GPU a recorded run does not call it.
        found["aot_inductor.compile_wrapper_opt_level"] = "O0"
    if level >= SEARCH_LEVEL and device == "cuda":
        found |= {"max_autotune": True, "coordinate_descent_tuning": True}
    return {name: value for name, value in found.items() if _is_known(name)}


def compile_package(request: dict[str, Any]) -> dict[str, Any]:
    """Compile what a request names and return what is to be recorded."""
    device, shapes = request["device"], request["inputs"]
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.set_grad_enabled(False)
    module = OnnxModule(Path(request["graph"])).eval().to(device)
    low, high = request["batches"] or (1, 1)
    batch = torch.export.Dim("batch", min=low, max=high) if low < high else None
    size = high if batch is None else max(2, low)  # torch.export takes 0 and 1 for constants
    example, dynamic = [], []
    for shape, dtype in shapes:
        dynamic.append(
            {axis: batch for axis, extent in enumerate(shape) if isinstance(extent, str)}
        )
        static = [extent if isinstance(extent, int) else size for extent in shape]
        example.append(torch.zeros(static, dtype=getattr(torch, dtype), device=device))
    program = torch.export.export(
        module,
        tuple(example),
        dynamic_shapes=None if batch is None else (tuple(dynamic),),
        strict=False,
    )
    attentions, linears = module.attentions, module.linears
    del module
    settings = settings_for(device, request["level"])
    torch._inductor.aoti_compile_and_package(
        program, package_path=request["package"], inductor_configs=dict(settings)
    )
    found = {
        "attentions": attentions,
        "linears": linears,
        "settings": {name: str(value) for name, value in settings.items()},
    }
    if device == "cuda":
        major, minor = torch.cuda.get_device_capability()
        found["compute_capability"] = f"{major}.{minor}"
        found["gpu"] = torch.cuda.get_device_name()
    return found


def main(request: Path) -> None:
    """Compile, and write the answer into the request's place."""
    warnings.simplefilter("ignore")
    try:
        answer: dict[str, Any] = compile_package(json.loads(request.read_text("utf-8")))
    except FpetError as error:
        answer = {"refused": [type(error).__name__, error.what, error.where, error.fix]}
    request.write_text(json.dumps(answer), "utf-8")


def _is_known(name: str) -> bool:
    """Say whether this version of Inductor has a setting."""
    found: Any = torch._inductor.config
    for part in name.split("."):
        if not hasattr(found, part):
            return False
        found = getattr(found, part)
    return True


if __name__ == "__main__":
    main(Path(sys.argv[1]))
