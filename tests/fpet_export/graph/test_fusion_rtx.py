"""The fusion report on real TensorRT-RTX builds of a tiny merged ViT.

What is asserted are invariants: counts may move between versions of TensorRT-RTX by a few.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import engines
from engines.contract import BuildOptions
from engines.fusion.report import FusionReport, fusion_path, read_fusion
from tests.fpet_export.typed_graphs import DEPTH, MERGE_BLOCK, quantize, write_graph

pytestmark = pytest.mark.tensorrt
Build = Callable[[str], FusionReport]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Build "fp32", "fp16", "cast" (fp16 with float32 logits), "leak", "int8" or "weights"."""
    pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx-cu13")
    folder = tmp_path_factory.mktemp("typed")

    @functools.cache
    def graph(kind: str) -> Path:
        path = folder / f"{kind}.onnx"
        match kind:
            case "fp32":
                return write_graph(path, torch.float32)
            case "fp16":
                return write_graph(path)
            case "cast":
                return cast_logits(graph("fp16"), path)
            case "leak":
                return cast_inside(graph("fp16"), path)
            case "weights":
                return keep_weights_only(graph("int8"), path)
        return quantize(graph("fp16"), path, kind)

    @functools.cache
    def act(kind: str) -> FusionReport:
        options = BuildOptions(compute_capabilities=("8.6",))
        return read_fusion(fusion_path(engines.build(graph(kind), target="rtx", options=options)))

    return act


def cast_logits(graph: Path, path: Path) -> Path:
    """Give the graph float32 logits by a Cast at its end."""
    model = onnx.load(str(graph))
    (output,) = model.graph.output
    for node in model.graph.node:
        node.output[:] = [name if name != output.name else "logits_half" for name in node.output]
    model.graph.node.append(
        helper.make_node(
            "Cast", ["logits_half"], [output.name], f"{output.name}/Cast", to=TensorProto.FLOAT
        )
    )
    output.type.tensor_type.elem_type = TensorProto.FLOAT
    onnx.save(model, str(path))
    return path


MLP = ("fc1/MatMul", "fc1/Add", "Gelu", "fc2/MatMul")


def cast_inside(graph: Path, path: Path) -> Path:
    """Let the MLP of the last block compute in float32, between two casts.

    Less is no test: TensorRT-RTX 1.7 computes a single float32 product between casts in half.
    """
    model = onnx.load(str(graph))
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    ordered = []
    for node in model.graph.node:
        part = node.name.removeprefix("blocks/3/")
        if part not in MLP:
            ordered.append(node)
            continue
        for place, name in enumerate(node.input):
            if name in weights:
                wide = numpy_helper.to_array(weights[name]).astype(np.float32) * np.float32(1.0001)
                node.input[place] = f"{name}_wide"
                model.graph.initializer.append(numpy_helper.from_array(wide, f"{name}_wide"))
            elif part == MLP[0]:
                ordered.append(cast(name, f"{name}_wide", TensorProto.FLOAT))
                node.input[place] = f"{name}_wide"
            else:
                node.input[place] = f"{name}_wide"
        result = node.output[0]
        node.output[0] = f"{result}_wide"
        ordered.append(node)
        if part == MLP[-1]:
            ordered.append(cast(f"{result}_wide", result, TensorProto.FLOAT16))
    del model.graph.node[:]
    model.graph.node.extend(ordered)
    onnx.save(model, str(path))
    return path


def cast(source: str, result: str, kind: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [result], f"blocks/3/fc2/{result}/Cast", to=kind)


def keep_weights_only(graph: Path, path: Path) -> Path:
    """Quantize the weights alone, and store them as int8: what is often called weight-only."""
    model = onnx.load(str(graph))
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    kept, sources = [], {}
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear" and node.input[0] in weights:
            value, scale = (numpy_helper.to_array(weights[name]) for name in node.input[:2])
            stored = np.rint(value / scale).clip(-127, 127).astype(np.int8)
            model.graph.initializer.append(numpy_helper.from_array(stored, node.output[0]))
        elif node.op_type == "QuantizeLinear":
            sources[node.output[0]] = node.input[0]
        elif node.op_type == "DequantizeLinear" and node.input[0] in sources:
            sources[node.output[0]] = sources[node.input[0]]
        else:
            node.input[:] = [sources.get(name, name) for name in node.input]
            kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(kept)
    onnx.save(model, str(path))
    return path


def test_every_kernel_is_counted_once(build: Build) -> None:
    for kind in ("fp32", "fp16", "int8"):
        report = build(kind)
        assert len(report.per_block) == DEPTH
        assert sum(report.per_block) + sum(report.elsewhere.values()) == len(report.kernels)
        assert report.attentions_in_graph == DEPTH
        assert "other" not in report.elsewhere


def test_fp16_fuses_every_attention_and_leaks_no_float32(build: Build) -> None:
    report = build("fp16")

    assert [attention.block for attention in report.attentions] == list(range(DEPTH))
    assert {attention.dtype for attention in report.attentions} == {"Half"}
    biased = [attention.block for attention in report.attentions if attention.key_bias]
    assert biased == list(range(MERGE_BLOCK + 1, DEPTH))
    assert report.leaks == ()
    assert report.quantized_gemms == 0
    match = [k for k in report.kernels if k.role.startswith("match GEMM")]
    assert match
    assert {kernel.dtype for kernel in match} == {"Float"}


def test_blocks_behind_the_merge_have_eight_kernels(build: Build) -> None:
    """The merge's product has 17 or 197 terms, which a half GEMM wants padded to a multiple of
    8; the padding takes the residual addition out of one GEMM before it.
    """
    report = build("fp16")

    assert report.per_block[MERGE_BLOCK + 1 :] == (8,) * (DEPTH - MERGE_BLOCK - 1)
    assert {uneven.block for uneven in report.uneven} <= {0, MERGE_BLOCK}


def test_fp32_fuses_no_attention_and_needs_more_kernels(build: Build) -> None:
    """The negative control of the two above."""
    report = build("fp32")

    assert report.attentions == ()
    assert {one.reason for one in report.float32} == {"float32 graph"}
    assert min(report.per_block) > 8
    assert report.stray


def test_float32_logits_are_at_the_graph_s_end(build: Build) -> None:
    report = build("cast")

    writers = [k for k in report.kernels if any(t.name == "logits" for t in k.outputs)]
    assert [k.outputs[0].dtype for k in writers] == ["Float"]
    reasons = {one.kernel: one.reason for one in report.float32}
    assert reasons[writers[0].name] in ("graph input or output", "normalisation")
    assert report.leaks == ()


def test_an_mlp_in_float32_is_found(build: Build) -> None:
    report = build("leak")

    known = {kernel.name: kernel for kernel in report.kernels}
    leaks = [known[name] for name in report.leaks]
    assert {kernel.row for kernel in leaks} == {"block 3"}
    products = {kernel.role.partition(" +")[0]: kernel.dtype for kernel in leaks}
    assert products.items() >= {("GEMM fc1", "Float"), ("GEMM fc2", "Float")}


def test_int8_multiplies_every_linear_and_attention_in_int8(build: Build) -> None:
    report = build("int8")

    assert report.quantized_gemms == 4 * DEPTH
    assert [attention.dtype for attention in report.attentions] == ["Int8"] * DEPTH
    assert report.weight_only == ()
    assert report.leaks == ()


def test_quantized_weights_alone_make_no_quantized_gemm(build: Build) -> None:
    report = build("weights")

    known = {kernel.name: kernel for kernel in report.kernels}
    assert report.quantized_gemms == 0
    assert len(report.weight_only) == 4 * DEPTH
    assert {known[name].dtype for name in report.weight_only} == {"Half"}
    assert {attention.dtype for attention in report.attentions} == {"Half"}
