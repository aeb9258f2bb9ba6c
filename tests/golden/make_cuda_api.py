"""Record the C types of the CUDA functions that we call, in tests/golden/cuda_api.json.

    python tests/golden/make_cuda_api.py 11.8=FOLDER 12.9=FOLDER 13.2=FOLDER

FOLDER holds `cuda.h` and `cuda_runtime_api.h` of that version, as the packages
nvidia-cuda-runtime-cu11, nvidia-cuda-runtime-cu12 and nvidia-cuda-runtime have them. It needs a C
preprocessor: the driver's header renames most of its functions with macros.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from engines.cuda import library
from engines.cuda.library import Call, Operation

GOLDEN = Path(__file__).with_name("cuda_api.json")
_POINTERS = ("cudaStream_t", "cudaEvent_t", "cudaGraph_t", "cudaGraphExec_t", "CUdeviceptr")
_HANDLES = ("CUstream", "CUevent", "CUgraph", "CUgraphExec", "CUcontext")
_PLAIN = {
    "size_t": "size",
    "int": "int",
    "unsigned int": "uint",
    "unsigned long long": "uint64",
    "CUdevice": "int",
}


def our_calls() -> dict[str, Call]:
    """Return every call of `engines.cuda.library`, by name."""
    found = [value for value in vars(library).values() if isinstance(value, Call)]
    for value in vars(library).values():
        if isinstance(value, Operation):
            found += [value.runtime, value.driver]
    return {call.name: call for call in found}


def declarations(folder: Path) -> dict[str, str]:
    """Return the parameter lists of every exported function, by name."""
    runtime = (folder / "cuda_runtime_api.h").read_text("utf-8")
    driver = ""
    for flags in ((), ("-D__CUDA_API_VERSION_INTERNAL",)):
        command = ("cpp", "-P", *flags, str(folder / "cuda.h"))
        driver += subprocess.run(command, capture_output=True, text=True, check=True).stdout
    pattern = r"\b(?:cudaError_t CUDARTAPI|CUresult) (cu\w+)\(([^;]*?)\);"
    return {name: " ".join(text.split()) for name, text in re.findall(pattern, runtime + driver)}


def kinds(parameters: str) -> list[str]:
    """Return what each parameter is: pointer, size, int, uint or uint64."""
    return [_kind(part) for part in parameters.split(",")]


def _kind(parameter: str) -> str:
    text = re.sub(r"__dv\(.*?\)", "", parameter).replace("const", "").strip()
    if "*" in text:
        return "pointer"
    if text.startswith("enum ") or "CaptureMode" in text or "device_attribute" in text:
        return "int"
    spelled = text.rsplit(" ", 1)[0].strip()
    if spelled in (*_POINTERS, *_HANDLES):
        return "pointer"
    return _PLAIN[spelled]


if __name__ == "__main__":
    recorded = {}
    for word in sys.argv[1:]:
        version, _, place = word.partition("=")
        known = declarations(Path(place))
        recorded[version] = {name: kinds(known[name]) for name in sorted(our_calls())}
    text = json.dumps(recorded, separators=(",", ":")).replace('],"', '],\n"')
    GOLDEN.write_text(text.replace('},"', '},\n"') + "\n", "utf-8")
