"""Record which names a TensorRT package offers and what its functions take.

The result is tests/golden/tensorrt_api.json. Run it once a version, in an environment that has that
version's bindings:

    python tests/golden/make_tensorrt_api.py tensorrt_rtx
    python tests/golden/make_tensorrt_api.py tensorrt_bindings   # from tensorrt_cu12_bindings
    python tests/golden/make_tensorrt_api.py STUBS/tensorrt/__init__.pyi 10.13.0.35

The bindings of TensorRT import without its libraries when stand-ins of the same names lie on
LD_LIBRARY_PATH: empty shared libraries libnvinfer_plugin and libnvonnxparser, and a
libnvinfer with an empty function for each of TensorRT's that `nm -D --undefined-only
tensorrt.so` lists.
"""

from __future__ import annotations

import ast
import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any

CLASSES = (
    "Builder",
    "BuilderFlag",
    "ComputeCapability",
    "DataType",
    "EngineInspector",
    "EngineValidity",
    "ExecutionContextAllocationStrategy",
    "HardwareCompatibilityLevel",
    "IBuilderConfig",
    "ICudaEngine",
    "IExecutionContext",
    "IHostMemory",
    "ILayer",
    "ILogger",
    "INetworkDefinition",
    "IOptimizationProfile",
    "IProgressMonitor",
    "IRuntimeCache",
    "IRuntimeConfig",
    "ITensor",
    "ITimingCache",
    "LayerInformationFormat",
    "MemoryPoolType",
    "NetworkDefinitionCreationFlag",
    "OnnxParser",
    "OnnxParserRefitter",
    "ParserError",
    "ProfilingVerbosity",
    "Refitter",
    "Runtime",
    "TensorIOMode",
)
GOLDEN = Path(__file__).with_name("tensorrt_api.json")

Api = dict[str, dict[str, list[str]]]
"""Class to member to the forms of a call, as "flags=": names of arguments, "=" where optional.

A member that is not called has no form.
"""


def api_of_module(module: Any) -> Api:
    """Return the public members of every class above that the module has."""
    return {
        name: {
            member: forms_in_words(member, getattr(getattr(module, name), member).__doc__ or "")
            for member in ("__init__", *dir(getattr(module, name)))
            if member == "__init__" or not member.startswith("_")
        }
        for name in CLASSES
        if hasattr(module, name)
    }


def forms_in_words(member: str, text: str) -> list[str]:
    """Read the forms of a call from a docstring of pybind11.

    A form is a line `name(self: X, flags: int = 0) -> Y`, numbered where there are several.
    """
    pattern = rf"^(?:\d+\. )?{re.escape(member)}\((.*)\) -> "
    forms = [_form(_split(found)) for found in re.findall(pattern, text, re.MULTILINE)]
    return [form for form in forms if form != "*args, **kwargs"]


def _split(arguments: str) -> list[str]:
    """Split at commas that are in no bracket."""
    depth, parts = 0, [""]
    for letter in arguments:
        depth += (letter in "[({<") - (letter in "])}>")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]


def _form(arguments: list[str]) -> str:
    named = [
        (argument.partition(":")[0].partition("=")[0].strip(), "=" in argument.partition(":")[2])
        for argument in arguments
    ]
    return ", ".join(
        name + ("=" if optional else "") for name, optional in named if name not in ("self", "/")
    )


def api_of_stubs(path: Path) -> Api:
    """Return the same from a file of type stubs.

    Those of tensorrt-stubs 10.13.0.35.1 are no valid Python: an argument is called `in`, and
    `add_scale_nd` has one without a default after one with it. So each class is read alone.
    """
    text = path.read_text("utf-8").replace("channel_axis: int)", "channel_axis: int = ...)")
    found = {}
    for block in re.finditer(r"^class (\w+).*\n(?:(?: .*)?\n)*", text, re.MULTILINE):
        if block[1] in CLASSES:
            (node,) = ast.parse(block[0]).body
            assert isinstance(node, ast.ClassDef)
            found[block[1]] = _members(node)
    return found


def _members(node: ast.ClassDef) -> dict[str, list[str]]:
    members: dict[str, list[str]] = {}
    for item in node.body:
        if isinstance(item, ast.FunctionDef):
            forms = members.setdefault(item.name, [])
            decorators = {ast.unparse(one).rpartition(".")[2] for one in item.decorator_list}
            if not decorators & {"property", "setter"}:
                forms.append(_stub_form(item.args))
        elif isinstance(item, ast.AnnAssign | ast.Assign):
            targets = [item.target] if isinstance(item, ast.AnnAssign) else item.targets
            members.update({name.id: [] for name in targets if isinstance(name, ast.Name)})
    return {name: forms for name, forms in members.items() if _is_public(name)}


def _is_public(name: str) -> bool:
    return name == "__init__" or not name.startswith("_")


def _stub_form(arguments: ast.arguments) -> str:
    names = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args)]
    first_optional = len(names) - len(arguments.defaults)
    return ", ".join(
        name + ("=" if place >= first_optional else "")
        for place, name in enumerate(names)
        if name != "self"
    )


if __name__ == "__main__":
    name, *rest = sys.argv[1:]
    if rest:
        key, api = f"tensorrt-stubs {rest[0]}", api_of_stubs(Path(name))
    else:
        module = importlib.import_module(name)
        flavour = "tensorrt_rtx" if "rtx" in name else "tensorrt"
        key, api = f"{flavour} {module.__version__}", api_of_module(module)
    recorded = json.loads(GOLDEN.read_text("utf-8")) if GOLDEN.exists() else {}
    recorded[key] = api
    lines = json.dumps(dict(sorted(recorded.items())), separators=(",", ":"), indent=None)
    GOLDEN.write_text(lines.replace("}},", "}},\n").replace("]},", "]},\n ") + "\n", "utf-8")
