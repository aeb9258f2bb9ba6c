"""Every TensorRT name our code says exists in every version it is for, or is asked for first.

So do the arguments of every call. `tests/golden/tensorrt_api.json` lists the names and signatures
of TensorRT 10.3, 10.13, 10.16 and 11.4, of TensorRT-RTX 1.7 and of the type stubs for 10.13;
`make_tensorrt_api.py` beside it wrote it from the packages.
"""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

import engines.backends

FOLDER = Path(engines.backends.__file__).parent
SOURCES = [FOLDER / "trt.py", *sorted((FOLDER / "_trt").glob("*.py"))]
CLASS_OF_VARIABLE = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "parser_error": "ParserError",
    "config": "IBuilderConfig",
    "profile": "IOptimizationProfile",
    "deserializer": "Runtime",
    "trt_engine": "ICudaEngine",
    "context": "IExecutionContext",
    "inspector": "EngineInspector",
    "flags": "NetworkDefinitionCreationFlag",
    "timing_cache": "ITimingCache",
}
GOLDEN = json.loads((Path(__file__).parents[3] / "golden" / "tensorrt_api.json").read_text("utf-8"))


def names_said(tree: ast.AST) -> set[tuple[str, str]]:
    """Find what is said of TensorRT: ("", "Builder") of the module, or (class, member)."""
    said = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute):
            continue
        owner = node.value
        if isinstance(owner, ast.Name) and owner.id == "trt":
            said.add(("", node.attr))
        elif isinstance(owner, ast.Name) and owner.id in CLASS_OF_VARIABLE:
            said.add((CLASS_OF_VARIABLE[owner.id], node.attr))
        elif (
            isinstance(owner, ast.Attribute)
            and isinstance(owner.value, ast.Name)
            and owner.value.id == "trt"
        ):
            said.add((owner.attr, node.attr))
    return {(kind, name) for kind, name in said if not name.startswith("__")}


def names_asked_for(tree: ast.AST) -> set[str]:
    """Find the names that are tested with hasattr or getattr before they are used."""
    return {
        str(node.args[1].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("hasattr", "getattr")
        and isinstance(node.args[1], ast.Constant)
    }


def calls_made(tree: ast.AST) -> set[tuple[str, str, int, tuple[str, ...]]]:
    """Find the calls of TensorRT: class, member, positional arguments, names of the others."""
    calls = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        owner, member = node.func.value, node.func.attr
        if isinstance(owner, ast.Name) and owner.id == "trt":
            key = (member, "__init__")
        elif isinstance(owner, ast.Name) and owner.id in CLASS_OF_VARIABLE:
            key = (CLASS_OF_VARIABLE[owner.id], member)
        else:
            continue
        names = tuple(keyword.arg or "**" for keyword in node.keywords)
        calls.add((*key, len(node.args), names))
    return calls


def callbacks_given(tree: ast.AST) -> set[tuple[str, str, int]]:
    """Find the methods that TensorRT calls: base class, method, arguments after self."""
    return {
        (base.attr, item.name, len(item.args.args) - 1)
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        for base in node.bases
        if isinstance(base, ast.Attribute) and ast.unparse(base).startswith("trt.")
        for item in node.body
        if isinstance(item, ast.FunctionDef) and not item.name.startswith("_")
    }


def takes(form: str, positional: int, names: tuple[str, ...]) -> bool:
    """Whether a recorded form of a call, as "cache, flags=", takes these arguments."""
    parameters = [name for name in form.split(", ") if name]
    given = {*(name.rstrip("=") for name in parameters[:positional]), *names}
    required = {name for name in parameters if not name.endswith("=")}
    known = {name.rstrip("=") for name in parameters}
    return positional <= len(parameters) and required <= given <= known


TREES = [ast.parse(path.read_text("utf-8")) for path in SOURCES]
CALLS = set().union(*map(calls_made, TREES))
CALLBACKS = set().union(*map(callbacks_given, TREES))
SAID = set().union(*map(names_said, TREES))
ASKED = set().union(*map(names_asked_for, TREES))
# What follows from a name that was asked for: these come with it.
FOLLOWS = {
    "set_compute_capability": "num_compute_capabilities",
    "engine_header_size": "get_engine_validity",
    "EngineValidity": "get_engine_validity",
    "INVALID": "get_engine_validity",
}


def test_the_search_finds_what_it_should() -> None:
    assert {("", "Builder"), ("BuilderFlag", "TF32"), ("IExecutionContext", "infer_shapes")} <= SAID
    assert {"FP16", "num_compute_capabilities", "get_engine_validity"} <= ASKED
    assert {
        ("Builder", "__init__", 1, ()),
        ("IBuilderConfig", "set_timing_cache", 2, ()),
        ("IOptimizationProfile", "set_shape", 4, ()),
        ("ITimingCache", "serialize", 0, ()),
    } <= CALLS
    assert ("IProgressMonitor", "phase_start", 3) in CALLBACKS
    assert {"trt.py", "builder.py", "timing_cache.py"} <= {path.name for path in SOURCES}


@pytest.mark.parametrize(
    ("form", "positional", "names", "fits"),
    [
        ("", 0, (), True),
        ("", 1, (), False),
        ("cache, ignore_mismatch", 2, (), True),
        ("cache, ignore_mismatch", 1, (), False),
        ("cache, ignore_mismatch", 1, ("ignore_mismatch",), True),
        ("cache, ignore_mismatch", 1, ("mismatch",), False),
        ("flags=", 0, (), True),
        ("flags=", 0, ("flag",), False),
    ],
)
def test_a_recorded_form_takes_what_it_names(
    form: str, positional: int, names: tuple[str, ...], fits: bool
) -> None:
    assert takes(form, positional, names) == fits


@pytest.mark.parametrize("version", GOLDEN)
def test_every_call_is_taken(version: str) -> None:
    api: dict[str, dict[str, list[str]]] = GOLDEN[version]

    refused = {
        (kind, member, positional, names): api[kind][member]
        for kind, member, positional, names in CALLS
        if api.get(kind, {}).get(member)
        and not any(takes(form, positional, names) for form in api[kind][member])
    }

    assert refused == {}


@pytest.mark.parametrize("version", GOLDEN)
def test_every_callback_takes_what_tensorrt_gives(version: str) -> None:
    api: dict[str, dict[str, list[str]]] = GOLDEN[version]

    for kind, member, count in CALLBACKS:
        for form in api.get(kind, {}).get(member, ()):
            assert takes(form, count, ()), (kind, member)


@pytest.mark.parametrize("version", GOLDEN)
def test_every_name_exists_or_is_asked_for(version: str) -> None:
    api: dict[str, dict[str, list[str]]] = GOLDEN[version]

    absent = {
        f"{kind}.{name}".lstrip(".")
        for kind, name in SAID
        if name not in ASKED
        and FOLLOWS.get(name) not in ASKED
        and (name not in api if kind == "" else name not in api.get(kind, ()))
    }

    assert absent == set()


@pytest.mark.parametrize("version", GOLDEN)
def test_what_follows_comes_with_its_question(version: str) -> None:
    names = {*GOLDEN[version], *(name for members in GOLDEN[version].values() for name in members)}

    for name, question in FOLLOWS.items():
        assert name in names or question not in names


def test_the_stubs_say_what_the_bindings_say() -> None:
    """Of the calls made here, the type stubs for 10.13 know the same forms as 10.13 itself."""
    stubs, bindings = GOLDEN["tensorrt-stubs 10.13.0.35"], GOLDEN["tensorrt 10.13.0.35"]

    compared = [
        (kind, member)
        for kind, member, _, _ in CALLS
        if member in stubs.get(kind, {}) and bindings[kind].get(member)
    ]
    assert len(compared) > 20
    assert all(stubs[kind][member] == bindings[kind][member] for kind, member in compared)


def test_the_recorded_versions_differ_where_the_code_asks() -> None:
    """The negative control: a version with everything would make the tests above pass."""
    old, new = GOLDEN["tensorrt 10.3.0"], GOLDEN["tensorrt 11.4.0.106"]

    assert "FP16" in old["BuilderFlag"]
    assert "FP16" not in new["BuilderFlag"]
    assert "num_compute_capabilities" not in new["IBuilderConfig"]
