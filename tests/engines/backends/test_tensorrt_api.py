"""Every TensorRT name our code says exists in every version it is for, or is asked for first.

`tests/golden/tensorrt_api.json` lists the names of TensorRT 8.6, 10.3, 10.13 and 11.4 and of
TensorRT-RTX 1.7; `make_tensorrt_api.py` beside it wrote it from the packages.
"""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

import engines.backends
from engines.backends._trt_weak import FLAGS, OBEY

FOLDER = Path(engines.backends.__file__).parent
SOURCES = (
    "trt.py",
    "_trt_build.py",
    "_trt_engine.py",
    "_trt_inspector.py",
    "_trt_log.py",
    "_trt_weak.py",
)
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
    "layer": "ILayer",
    "tensor": "ITensor",
    "flags": "NetworkDefinitionCreationFlag",
}
GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "tensorrt_api.json").read_text("utf-8"))


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


TREES = [ast.parse((FOLDER / name).read_text("utf-8")) for name in SOURCES]
SAID = set().union(*map(names_said, TREES))
ASKED = set().union(*map(names_asked_for, TREES))
# What follows from a name that was asked for: these come with it.
FOLLOWS = {
    "set_compute_capability": "num_compute_capabilities",
    "engine_header_size": "get_engine_validity",
    "EngineValidity": "get_engine_validity",
    "INVALID": "get_engine_validity",
    "node_operator": "node_name",
    "progress_monitor": "IProgressMonitor",
    "precision": "FP16",  # weak typing
    "set_output_type": "FP16",
}


def test_the_search_finds_what_it_should() -> None:
    assert {("", "Builder"), ("BuilderFlag", "TF32"), ("IExecutionContext", "infer_shapes")} <= SAID
    assert {("ILayer", "set_output_type"), ("ITensor", "is_shape_tensor")} <= SAID
    assert {"STRONGLY_TYPED", "num_compute_capabilities", "get_engine_validity"} <= ASKED


@pytest.mark.parametrize("version", GOLDEN)
def test_every_name_exists_or_is_asked_for(version: str) -> None:
    api: dict[str, list[str]] = GOLDEN[version]

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


@pytest.mark.parametrize("version", GOLDEN)
def test_the_flags_of_weak_typing_come_together(version: str) -> None:
    flags = set(GOLDEN[version]["BuilderFlag"])
    wanted = {OBEY, *(flag for flags in FLAGS.values() for flag in flags)}

    assert wanted <= flags or "FP16" not in flags


def test_the_recorded_versions_differ_where_the_code_asks() -> None:
    """The negative control: a version with everything would make the tests above pass."""
    old, new = GOLDEN["tensorrt 8.6.1"], GOLDEN["tensorrt 11.4.0.106"]

    assert "STRONGLY_TYPED" not in old["NetworkDefinitionCreationFlag"]
    assert "IProgressMonitor" not in old
    assert "node_name" not in old["ParserError"]
    assert "FP16" not in new["BuilderFlag"]
    assert "precision" not in new["ILayer"]
