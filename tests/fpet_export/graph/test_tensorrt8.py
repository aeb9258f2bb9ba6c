"""TensorRT 8.6: the graph of opset 17, the flags of its build, and what stays in float32.

The builds for 8.6 and 10.3 run on a stand-in that has only the names of that version; the parser
and the build of TensorRT-RTX are real. None of this has run on a board.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest

import engines
from engines.backends import trt as backend
from engines.backends._trt.weak_typing import decisive_layers
from engines.engine import BuildOptions, load_target
from engines.errors import EngineError, InputError, MissingDependencyError
from engines.manifest import Manifest, read_manifest, write_manifest
from engines.onnx_header import read_onnx_header
from fpet_export.graph import to_onnx
from fpet_export.graph.freeze import FreezeOptions, FrozenVit
from fpet_export.model.fold import fold
from tests.engines.backends.trt.recorded_tensorrt import Build, tensorrt
from tests.fpet_export.tiny import MEAN, STD, adapted, checkpoint_of, spec_of

MERGE = "blocks/1/merge/"


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A merging graph of opset 17 by the rule for ties."""
    folder = tmp_path_factory.mktemp("tensorrt8")
    spec = spec_of()
    target = load_target("tensorrt8")
    made = {}
    for ties in ("argmax", "reference"):
        folded, _ = fold(adapted(spec, checkpoint_of(spec, "lora")), "lora")
        options: dict[str, Any] = {"ties": ties, "last_block": target.last_block}
        module = FrozenVit(folded, FreezeOptions(**options), MEAN, STD).eval()
        made[ties] = folder / f"{ties}.onnx"
        to_onnx.to_onnx(module, made[ties], opset=target.opset)
    return made


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Build:
    build = Build()
    install(monkeypatch, "8.6.1", build)
    return build


def install(monkeypatch: pytest.MonkeyPatch, version: str, build: Build) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt(version, build))
    monkeypatch.setattr(
        backend, "open_cuda", lambda: SimpleNamespace(compute_capability=lambda: "8.7")
    )
    monkeypatch.setattr("engines.backends._trt.log._RECORDERS", {})


def typed(graph: Path, folder: Path, **facts: Any) -> Path:
    """Copy a graph with a manifest that says what the quantizer would."""
    copy = folder / "model.onnx"
    copy.write_bytes(graph.read_bytes())
    header = read_onnx_header(copy)
    stated: dict[str, Any] = {
        "precision": "fp16",
        "typing": "weak",
        "probes": {"match": "match", "size": "size"},
    }
    manifest = Manifest(
        kind="graph",
        file=copy.name,
        inputs=header.inputs,
        outputs=header.outputs,
        opset=header.opset,
        target="tensorrt8",
        weights="random",
        **(stated | facts),
    )
    write_manifest(copy, manifest)
    return copy


def decisive_nodes(path: Path) -> set[str]:
    """Nodes of the merge from which an ArgMax or a comparison of floats follows: from the file."""
    graph = onnx.load(str(path)).graph
    made_by = {name: node for node in graph.node for name in node.output}
    kinds = {value.name: value.type.tensor_type.elem_type for value in graph.value_info}
    waiting = [node for node in graph.node if node.op_type in ("ArgMax", "Greater")]
    found: set[str] = set()
    while waiting:
        node = waiting.pop()
        found.add(node.name)
        waiting += [
            made_by[name]
            for name in node.input
            if name in made_by
            and made_by[name].name.startswith(MERGE)
            and kinds[name] == onnx.TensorProto.FLOAT
        ]
    return found


@pytest.mark.parametrize("ties", ["argmax", "reference"])
def test_fp16_is_allowed_and_the_match_is_held_in_float32(
    ties: str, graphs: dict[str, Path], told: Build, tmp_path: Path
) -> None:
    graph = typed(graphs[ties], tmp_path)

    manifest = read_manifest(engines.build(graph, target="tensorrt8"))

    assert told.creation_flags == 1  # EXPLICIT_BATCH
    assert told.set_flags == {"FP16", "OBEY_PRECISION_CONSTRAINTS"}
    assert "TF32" in told.cleared_flags
    held = {name for name in told.held if "/" in name}
    assert held == decisive_nodes(graph)
    assert len(held) >= 15
    products = {"MatMul_4", "ReduceSum_2" if ties == "argmax" else "ReduceSum_3", "Concat"}
    assert not {MERGE + name for name in products} & held
    assert {"blocks.1.merge.key.weight", "blocks.1.merge.key.bias"} <= set(told.held)
    assert manifest.runtime is not None
    settings = manifest.runtime.settings
    assert settings["builder_flags"] == "FP16, OBEY_PRECISION_CONSTRAINTS"
    assert settings["float32_layers"].split(", ") == list(told.held)
    assert (manifest.typing, manifest.precision, manifest.target) == ("weak", "fp16", "tensorrt8")


def test_a_held_layer_computes_and_answers_in_float32(
    graphs: dict[str, Path], told: Build, tmp_path: Path
) -> None:
    engines.build(typed(graphs["argmax"], tmp_path), target="tensorrt8")

    for layer in told.held.values():
        assert layer._precision.name == "FLOAT"
        floats = [i for i, tensor in enumerate(layer._outputs) if tensor.dtype.name == "FLOAT"]
        assert sorted(layer._output_types) == floats
        assert {kind.name for kind in layer._output_types.values()} == {"FLOAT"}
    argmax = told.held[f"{MERGE}ArgMax"]
    assert [tensor.dtype.name for tensor in argmax._outputs] == ["FLOAT", "INT32"]


def test_layers_that_the_parser_adds_belong_to_what_reads_them(
    graphs: dict[str, Path], told: Build, tmp_path: Path
) -> None:
    engines.build(typed(graphs["argmax"], tmp_path), target="tensorrt8")

    added = {name for name in told.layers if name.startswith("(Unnamed")}
    read = {
        tensor.name.removesuffix("_output")
        for layer in told.held.values()
        for tensor in layer._inputs
    }
    assert added & set(told.held) == added & read
    assert len(added & read) == 3  # weights of the key, the refinement's two
    assert len(added) > 10


def test_int8_needs_both_flags(graphs: dict[str, Path], told: Build, tmp_path: Path) -> None:
    engines.build(typed(graphs["argmax"], tmp_path, precision="int8"), target="tensorrt8")

    assert told.set_flags == {"FP16", "INT8", "OBEY_PRECISION_CONSTRAINTS"}
    assert told.held


def test_fp32_allows_nothing_and_holds_nothing(
    graphs: dict[str, Path], told: Build, tmp_path: Path
) -> None:
    graph = typed(graphs["argmax"], tmp_path, precision="fp32", typing="strong")

    manifest = read_manifest(engines.build(graph, target="tensorrt8"))

    assert told.set_flags == set()
    assert told.held == {}
    assert manifest.runtime is not None
    assert manifest.runtime.settings["builder_flags"] == "none"
    assert "float32_layers" not in manifest.runtime.settings


def test_a_constant_that_other_modules_read_stays_free(
    graphs: dict[str, Path], told: Build, tmp_path: Path
) -> None:
    """The 0.5 of the tie rule is also the 0.5 of every GELU."""
    graph = typed(graphs["reference"], tmp_path)
    engines.build(graph, target="tensorrt8")

    readers: dict[str, set[str]] = {}
    for node in onnx.load(str(graph)).graph.node:
        for name in node.input:
            readers.setdefault(name, set()).add(node.name)
    shared = [
        name
        for name in told.layers
        if readers.get(name, set()) & set(told.held) and readers[name] - set(told.held)
    ]
    assert shared
    assert not set(shared) & set(told.held)


def test_without_a_merge_nothing_is_held(
    graphs: dict[str, Path], told: Build, tmp_path: Path
) -> None:
    engines.build(typed(graphs["argmax"], tmp_path, probes={}), target="tensorrt8")

    assert told.set_flags == {"FP16", "OBEY_PRECISION_CONSTRAINTS"}
    assert told.held == {}


def test_a_match_that_is_not_in_the_graph_is_refused(
    graphs: dict[str, Path], told: Build, tmp_path: Path
) -> None:
    graph = typed(graphs["argmax"], tmp_path, probes={"match": "elsewhere"})

    with pytest.raises(EngineError, match="no tensor 'elsewhere'"):
        engines.build(graph, target="tensorrt8")


def test_tensorrt_10_takes_weak_typing_too(
    graphs: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    build = Build()
    install(monkeypatch, "10.3.0", build)

    engines.build(typed(graphs["argmax"], tmp_path), target="tensorrt8")

    assert build.creation_flags == 1  # EXPLICIT_BATCH, and not STRONGLY_TYPED
    assert build.set_flags == {"FP16", "OBEY_PRECISION_CONSTRAINTS"}
    assert build.held


def test_tensorrt_11_does_not(
    graphs: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install(monkeypatch, "11.4.0.106", Build())

    with pytest.raises(EngineError, match=r"tensorrt 11\.4\.0\.106 builds strongly typed") as found:
        engines.build(typed(graphs["argmax"], tmp_path), target="tensorrt8")

    assert "target tensorrt" in found.value.fix


def test_the_strongly_typed_target_on_tensorrt_8_names_the_other(
    graphs: dict[str, Path], told: Build, tmp_path: Path
) -> None:
    graph = typed(graphs["argmax"], tmp_path, precision="fp32", typing="strong")

    with pytest.raises(EngineError, match=r"TensorRT 8\.6\.1 cannot build strongly") as caught:
        engines.build(graph, target="tensorrt")

    assert "tensorrt8" in caught.value.fix


def test_the_parser_of_8_6_tells_the_place_of_a_node(
    graphs: dict[str, Path], told: Build, tmp_path: Path
) -> None:
    told.fails_at = 17

    with pytest.raises(EngineError, match="node 17: UNSUPPORTED_NODE: No importer") as caught:
        engines.build(typed(graphs["argmax"], tmp_path), target="tensorrt8")

    assert "node 17" in caught.value.where


def test_a_build_without_progress_ends(
    graphs: dict[str, Path], told: Build, tmp_path: Path
) -> None:
    """TensorRT 8.6 has no IProgressMonitor."""
    options = BuildOptions(progress=lambda *_: False)

    assert engines.build(
        typed(graphs["argmax"], tmp_path), target="tensorrt8", options=options
    ).exists()


# From here on nothing is built: the graph does not suit the target.


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading TensorRT fails, so a refusal must come before."""
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.usefixtures("absent")
@pytest.mark.parametrize("precision", ["bf16", "fp8"])
def test_a_precision_that_8_6_lacks_is_refused(
    precision: str, graphs: dict[str, Path], tmp_path: Path
) -> None:
    graph = typed(graphs["argmax"], tmp_path, precision=precision, typing="strong")

    with pytest.raises(InputError, match=f"is {precision}, which tensorrt8 does not") as caught:
        engines.build(graph, target="tensorrt8")

    assert "--precision fp16 --target tensorrt8" in caught.value.fix


@pytest.mark.usefixtures("absent")
@pytest.mark.parametrize(
    ("typing", "target", "words"),
    [
        ("strong", "tensorrt8", "the types in the graph say fp16"),
        ("weak", "tensorrt", "leaves fp16 to flags of the builder, which tensorrt"),
        ("weak", "rtx", "leaves fp16 to flags of the builder, which rtx"),
        ("weak", "cpu", "leaves fp16 to flags of the builder, which cpu"),
    ],
)
def test_a_graph_typed_for_another_runtime_is_refused(
    typing: str, target: str, words: str, graphs: dict[str, Path], tmp_path: Path
) -> None:
    graph = typed(graphs["argmax"], tmp_path, typing=typing)

    with pytest.raises(InputError, match=words) as caught:
        engines.build(graph, target=target)

    assert f"--precision fp16 --target {target}" in caught.value.fix


@pytest.mark.usefixtures("absent")
@pytest.mark.parametrize("target", ["tensorrt8", "tensorrt", "rtx"])
def test_a_graph_that_suits_gets_as_far_as_tensorrt(
    target: str, graphs: dict[str, Path], tmp_path: Path
) -> None:
    """The negative control of the refusals."""
    graph = typed(graphs["argmax"], tmp_path, precision="fp32", typing="strong")

    with pytest.raises(MissingDependencyError, match="cannot be imported"):
        engines.build(graph, target=target)


@pytest.mark.usefixtures("absent")
@pytest.mark.parametrize(
    ("opset", "target", "ceiling"), [(20, "tensorrt8", 17), (21, "tensorrt", 20), (22, "cpu", 21)]
)
def test_an_opset_above_the_ceiling_is_refused(
    opset: int, target: str, ceiling: int, graphs: dict[str, Path], tmp_path: Path
) -> None:
    graph = tmp_path / "newer.onnx"
    model = onnx.load(str(graphs["argmax"]))
    model.opset_import[0].version = opset
    onnx.save(model, str(graph))

    with pytest.raises(InputError, match=rf"opset {opset}, .* {target} reads up to {ceiling}") as e:
        engines.build(graph, target=target)

    assert e.value.where == str(graph)
    assert f"--target {target}" in e.value.fix


# From here on: TensorRT-RTX itself.


@pytest.mark.tensorrt
@pytest.mark.parametrize("ties", ["argmax", "reference"])
def test_the_real_parser_keeps_the_names_that_hold_the_match(
    ties: str, graphs: dict[str, Path]
) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx-cu13")
    log = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(log)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    assert parser.parse_from_file(str(graphs[ties]))

    layers = decisive_layers(trt, network, "match", where="test")

    assert {held.name for held in layers if "/" in held.name} == decisive_nodes(graphs[ties])
    (argmax,) = [held for held in layers if held.name.endswith("/ArgMax")]
    assert argmax.outputs[0] == "FLOAT"
    assert argmax.outputs[1].startswith("INT")


@pytest.mark.tensorrt
def test_tensorrt_rtx_builds_the_graph_of_opset_17(graphs: dict[str, Path], tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx-cu13")
    graph = typed(graphs["argmax"], tmp_path, precision="fp32", typing="strong")

    manifest = read_manifest(
        engines.build(graph, target="rtx", options=BuildOptions(compute_capabilities=("8.6",)))
    )

    assert manifest.opset == 17
    assert manifest.runtime is not None
    assert int(manifest.runtime.settings["kernels"]) > 20


@pytest.mark.tensorrt
def test_tensorrt_rtx_cannot_be_weakly_typed(graphs: dict[str, Path], tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx-cu13")
    target = dataclasses.replace(load_target("tensorrt8"), module="tensorrt_rtx")

    with pytest.raises(EngineError, match=r"tensorrt_rtx .* builds strongly typed engines only"):
        engines.build(typed(graphs["argmax"], tmp_path), target=target)
