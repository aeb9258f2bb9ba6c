"""Start the compiler of a package, wait for it, and say in our words what it lacked."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from engines import contract, errors
from engines.contract import BuildOptions
from engines.errors import EngineError, MissingDependencyError
from engines.manifest import TensorSpec

_POLL_S = 0.5
_SAID = 6
_COMPILERS = ("g++", "clang++", "c++")
FIX_COMPILER = "sudo apt-get install g++"
"""How to get one; another one is named in the environment variable CXX."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compiled:
    """What the compiler tells about a package.

    Attributes:
        attentions: Attentions that are one operator.
        linears: Products that are linear layers.
        settings: Settings of Inductor.
        compute_capability: Compute capability of the GPU, as "9.0"; "" on a CPU.
        gpu: Its name; "" on a CPU.
    """

    attentions: int
    linears: int
    settings: dict[str, str]
    compute_capability: str = ""
    gpu: str = ""


def compile_graph(
    graph: Path,
    out: Path,
    *,
    device: str,
    inputs: tuple[TensorSpec, ...],
    batches: tuple[int, int] | None,
    level: int,
    options: BuildOptions,
) -> Compiled:
    """Compile `graph` into the package `out`.

    Args:
        graph: Typed as it is to run.
        out: Written at the end.
        device: "cpu" or "cuda".
        inputs: In the graph's order.
        batches: Smallest and largest batch where it is dynamic.
        level: Optimization level, 0 to 5.
        options: For progress.

    Raises:
        InputError: The graph has an operator that is not known for PyTorch.
        EngineError: The compiler failed, or the build was cancelled.
        MissingDependencyError: There is no C++ compiler.
    """
    require_compiler()
    with tempfile.TemporaryDirectory(prefix="fpet-export-") as folder:
        package, request = Path(folder) / "engine.pt2", Path(folder) / "request.json"
        content = {
            "graph": str(graph.resolve()),
            "package": str(package),
            "device": device,
            "inputs": [(spec.shape, spec.dtype) for spec in inputs],
            "batches": batches,
            "level": level,
        }
        request.write_text(json.dumps(content), "utf-8")
        answer = _run(request, Path(folder), options, where=str(graph))
        if not package.is_file():
            raise EngineError(
                "PyTorch wrote no package", where=str(graph), fix="report this with torch's version"
            )
        shutil.copyfile(package, out)
    return Compiled(**answer)


def compiler() -> str | None:
    """Return the C++ compiler that PyTorch would start, None without any."""
    named = os.environ.get("CXX")
    wanted = (named.split()[0],) if named else _COMPILERS
    return next((name for name in wanted if shutil.which(name) is not None), None)


def require_compiler() -> None:
    """Refuse to start without a C++ compiler.

    Raises:
        MissingDependencyError: There is none.
    """
    if compiler() is None:
        named = os.environ.get("CXX")
        raise MissingDependencyError(
            "PyTorch compiles the host's part of a package with a C++ compiler, and there is "
            + (f"no {named!r}" if named else f"none of {', '.join(_COMPILERS)}"),
            where="CXX" if named else "PATH",
            fix=FIX_COMPILER,
        )


def _run(request: Path, folder: Path, options: BuildOptions, *, where: str) -> dict[str, Any]:
    """Run the compiler and return its answer; nothing that it writes outlives `folder`."""
    home = str(Path(contract.__file__).resolve().parents[1])
    environment = {
        **os.environ,
        "TMPDIR": str(folder),
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "cache"),
        "TRITON_CACHE_DIR": str(folder / "triton"),
        "PYTHONPATH": os.pathsep.join([home, *sys.path[1:], os.environ.get("PYTHONPATH", "")]),
    }
    log = folder / "log.txt"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "engines.backends._aoti.compile", str(request)],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            env=environment,
        )
        try:
            while True:
                try:
                    process.wait(_POLL_S)
                    break
                except subprocess.TimeoutExpired:
                    if options.progress is not None and not options.progress("compile", 0, 0):
                        raise EngineError(
                            "the build was cancelled",
                            where="compile",
                            fix="start it again when you are ready",
                        ) from None
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    said = log.read_text("utf-8", "replace")
    if process.returncode:
        raise EngineError(
            f"PyTorch could not compile the graph: {_reason(said, process.returncode)}",
            where=where,
            fix=_fix(said),
        )
    answer: dict[str, Any] = json.loads(request.read_text("utf-8"))
    if "refused" in answer:
        name, what, at, fix = answer["refused"]
        raise getattr(errors, name)(what, where=at, fix=fix)
    return answer


def _reason(said: str, code: int) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    wrong = [line for line in lines if "rror" in line] or lines[-1:]
    return " | ".join(wrong[-_SAID:])[:1200] or f"it ended with {code}"


def _fix(said: str) -> str:
    if "cuda.h" in said or "cuda_runtime" in said or "CUDA_HOME" in said:
        return "install CUDA's headers (the CUDA toolkit) and name its folder in CUDA_HOME"
    if "out of memory" in said:
        return "free memory of the GPU, or build with a smaller batch"
    return "build the graph for the target cpu or cuda, and report this with torch's version"
