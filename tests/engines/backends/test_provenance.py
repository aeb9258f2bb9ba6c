from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

import engines
from engines.backends import _provenance
from engines.engine import load_target
from engines.errors import TrustError
from engines.manifest import (
    WHITE,
    Manifest,
    ModelFacts,
    Parent,
    Preprocessing,
    TensorSpec,
    read_manifest,
    write_manifest,
)
from engines.onnx_header import read_onnx_header

TinyVit = Callable[..., Path]

PREPROCESSING = Preprocessing(
    size=(32, 32),
    interpolation="bicubic",
    crop=1.0,
    decode="full",
    background=WHITE,
    mean=(0.5,) * 3,
    std=(0.5,) * 3,
)
FACTS = ModelFacts(
    architecture="tiny",
    width=64,
    depth=2,
    heads=2,
    hidden=256,
    patch=(8, 8),
    grid=(4, 4),
    prefix_tokens=0,
    classes=10,
    method="lora",
    bit=1,
    dim=8,
    scale=1.0,
    merge="none",
    merges=(),
    ties="argmax",
    tokens=(16, 16),
    macs=1,
)


def test_an_engine_takes_over_what_its_graph_says(tiny_vit: TinyVit) -> None:
    graph = tiny_vit(batch="batch")
    header = read_onnx_header(graph)
    parent = write_manifest(
        graph,
        Manifest(
            kind="graph",
            file="vit.onnx",
            inputs=header.inputs,
            outputs=header.outputs,
            precision="fp32",
            opset=20,
            target="cpu",
            weights="trained",
            preprocessing=PREPROCESSING,
            labels=("zero", "one"),
            model=FACTS,
            batch_range=(1, 8),
            parents=(Parent(role="adapter", file="run.bin", sha256="00"),),
            tools={"torch": "2.9"},
            probes={"match": "inner"},
        ),
    )

    built = read_manifest(engines.build(graph, target="cpu"))

    for fact in ("inputs", "outputs", "precision", "weights", "preprocessing", "labels", "model"):
        assert getattr(built, fact) == getattr(parent, fact)
    assert built.batch_range == (1, 8)
    assert [(p.role, p.sha256) for p in built.parents] == [
        ("graph", parent.sha256),
        ("adapter", "00"),
    ]
    assert built.tools["torch"] == "2.9"
    assert built.tools["onnxruntime"]
    assert built.probes == {}  # the rewritten graph need not have the tensor any more


def test_nothing_is_guessed_of_a_graph_without_a_manifest(tiny_vit: TinyVit) -> None:
    built = read_manifest(engines.build(tiny_vit(dtype="float16"), target="cpu"))

    assert (built.weights, built.precision) == ("unknown", "fp16")
    assert (built.preprocessing, built.model, built.labels) == (None, None, ())


def test_a_manifest_that_names_other_outputs_is_refused(tiny_vit: TinyVit) -> None:
    graph = tiny_vit()
    built = read_manifest(engines.build(graph, target="cpu"))
    graph.with_name("vit.cpu.onnx").unlink()
    outputs = (TensorSpec(name="scores", shape=(1, 10), dtype="float32"),)
    write_manifest(graph, dataclasses.replace(built, kind="graph", outputs=outputs))

    with pytest.raises(TrustError, match="has the outputs logits; its manifest says scores"):
        engines.build(graph, target="cpu")


def half_inside(graph: Path) -> onnx.ModelProto:
    """A graph in half precision whose output is float32."""
    model = onnx.load(graph)
    model.graph.node[-1].output[0] = "half"
    model.graph.node.append(
        helper.make_node("Cast", ["half"], ["logits"], "to_float", to=TensorProto.FLOAT)
    )
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT
    return model


def test_the_weights_say_the_precision_and_not_the_outputs(
    tiny_vit: TinyVit, tmp_path: Path
) -> None:
    onnx.save(half_inside(tiny_vit(dtype="float16")), tmp_path / "half.onnx")

    built = read_manifest(engines.build(tmp_path / "half.onnx", target="cpu"))

    assert (built.precision, built.outputs[0].dtype) == ("fp16", "float32")


@pytest.mark.parametrize(
    ("kind", "precision"), [(TensorProto.UINT8, "int8"), (TensorProto.FLOAT8E4M3FN, "fp8")]
)
def test_what_a_graph_rounds_to_says_its_precision(
    tiny_vit: TinyVit, tmp_path: Path, kind: int, precision: str
) -> None:
    model = onnx.load(tiny_vit())
    model.graph.initializer.append(helper.make_tensor("s", TensorProto.FLOAT, [], [0.1]))
    model.graph.initializer.append(helper.make_tensor("z", kind, [], b"\0", raw=True))
    model.graph.node.append(helper.make_node("QuantizeLinear", ["logits", "s", "z"], ["q"], "q"))
    onnx.save(model, tmp_path / "q.onnx")

    source = _provenance.read_source(tmp_path / "q.onnx", load_target("rtx"))

    assert _provenance.precision_of(source) == precision
