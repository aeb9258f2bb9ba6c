"""Record which names a TensorRT package offers, in tests/golden/tensorrt_api.json.

Run it once a version, in an environment that has that version's bindings:

    python tests/golden/make_tensorrt_api.py tensorrt_rtx
    python tests/golden/make_tensorrt_api.py tensorrt_bindings   # from tensorrt_cu12_bindings,
                                                                 # for 8.6 tensorrt-bindings

The bindings of TensorRT import without its libraries when stand-ins of the same names lie on
LD_LIBRARY_PATH: empty shared libraries libnvinfer_plugin, libnvonnxparser and (8.6) libnvparsers,
and a libnvinfer with an empty function for each of TensorRT's that `nm -D --undefined-only
tensorrt.so` lists.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

CLASSES = (
    "Builder",
    "BuilderFlag",
    "ComputeCapability",
    "DataType",
    "EngineInspector",
    "EngineValidity",
    "IBuilderConfig",
    "ICudaEngine",
    "IExecutionContext",
    "ILayer",
    "ILogger",
    "INetworkDefinition",
    "IOptimizationProfile",
    "IProgressMonitor",
    "ITensor",
    "LayerInformationFormat",
    "MemoryPoolType",
    "NetworkDefinitionCreationFlag",
    "OnnxParser",
    "ParserError",
    "ProfilingVerbosity",
    "Runtime",
    "TensorIOMode",
)
GOLDEN = Path(__file__).with_name("tensorrt_api.json")


def names_of(module_name: str) -> dict[str, list[str]]:
    """Return the public members of every class above that the module has."""
    module = importlib.import_module(module_name)
    return {
        name: sorted(member for member in dir(getattr(module, name)) if member[0] != "_")
        for name in CLASSES
        if hasattr(module, name)
    }


if __name__ == "__main__":
    (name,) = sys.argv[1:]
    version = importlib.import_module(name).__version__
    flavour = "tensorrt_rtx" if "rtx" in name else "tensorrt"
    recorded = json.loads(GOLDEN.read_text("utf-8")) if GOLDEN.exists() else {}
    recorded[f"{flavour} {version}"] = names_of(name)
    lines = json.dumps(dict(sorted(recorded.items())), separators=(",", ":"), indent=None)
    GOLDEN.write_text(lines.replace('},"', '},\n"').replace('],"', '],\n "') + "\n", "utf-8")
