"""Places and roles: of recorded builds, and of kernels written by hand for what they lack."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from engines.backends._trt.log import Message, kernels_of
from engines.fusion.kernels import Kernel, Tensor, classify, node_of

GOLDEN = Path(__file__).parents[2] / "golden"


def recorded(kind: str) -> tuple[Kernel, ...]:
    text = (GOLDEN / f"fusion_{kind}.log").read_text("utf-8")
    return classify(kernels_of([Message("VERBOSE", text)]))


def kernel(
    name: str,
    nodes: Sequence[str] = (),
    reads: str = "x:Half",
    writes: str = "y:Half",
    *,
    kind: str = "kgen",
    constants: str = "",
) -> Kernel:
    """Write a kernel in a line: its tensors are "name:type name:type"."""
    inputs, outputs, others = (
        tuple(
            Tensor(name=word.partition(":")[0], dtype=word.partition(":")[2], shape=(1,))
            for word in text.split()
        )
        for text in (reads, writes, constants)
    )
    return Kernel(
        name=name, kind=kind, inputs=inputs, outputs=outputs, constants=others, nodes=tuple(nodes)
    )


def between(one: Kernel) -> Kernel:
    """Classify a kernel that lies between two others, so that it touches no end of the graph."""
    before = kernel("first", writes=" ".join(f"{t.name}:{t.dtype}" for t in one.inputs))
    after = kernel("last", reads=" ".join(f"{t.name}:{t.dtype}" for t in one.outputs), writes="end")
    return classify([before, one, after])[1]


def roles(kernels: Sequence[Kernel], row: str) -> list[str]:
    return [kernel.role for kernel in kernels if kernel.row == row]


BLOCK = [
    "LayerNorm",
    "GEMM qkv + bias",
    "split heads",
    "attention + key bias",
    "GEMM proj + bias + residual",
    "LayerNorm",
    "GEMM fc1 + bias + GELU",
    "GEMM fc2 + bias + residual",
]


def test_an_fp16_block_behind_the_merge_has_its_eight_kernels() -> None:
    kernels = recorded("fp16")

    assert roles(kernels, "block 2") == roles(kernels, "block 3") == BLOCK


def test_the_ends_and_the_merge_have_kernels_of_their_own() -> None:
    kernels = recorded("fp16")

    assert roles(kernels, "embedding") == ["cast of the graph's input", "patch embedding"]
    assert roles(kernels, "block 0")[0] == "LayerNorm + embedding"
    assert roles(kernels, "head")[0].startswith("LayerNorm")
    merge = roles(kernels, "merge")
    assert merge[0] == "match GEMM key"
    assert "match argmax" in merge
    assert "match one-hot" in merge
    assert merge[-2:] == ["merge GEMM", "merge log size"]
    assert {kernel.block for kernel in kernels if kernel.section == "merge"} == {1}


def test_a_norm_that_two_kernels_share_says_so() -> None:
    """The match reads the norm of its block, and TensorRT then writes it in two kernels."""
    assert roles(recorded("fp16"), "block 1")[:2] == [
        "LayerNorm 1 of 2",
        "LayerNorm 2 of 2 + match's input",
    ]


def test_an_int8_block_quantizes_in_its_norms_and_epilogues() -> None:
    assert roles(recorded("int8"), "block 2") == [
        "GEMM qkv",
        "split heads + dequantize + bias + quantize",
        "attention + key bias",
        "GEMM proj",
        "LayerNorm + dequantize + bias + residual + quantize",
        "GEMM fc1",
        "dequantize + bias + GELU + quantize",
        "GEMM fc2",
        "LayerNorm + dequantize + bias + residual + quantize",
    ]


@pytest.mark.parametrize(("kind", "dtype"), [("fp16", "Half"), ("int8", "Int8")])
def test_products_and_attentions_compute_in_the_type_of_what_they_read(
    kind: str, dtype: str
) -> None:
    work = [k for k in recorded(kind) if k.section == "block" and k.work != "other"]

    assert {kernel.dtype for kernel in work} == {dtype}
    assert len(work) == 4 * 5


def test_the_match_is_in_float32_and_the_merge_is_not() -> None:
    merge = [kernel for kernel in recorded("fp16") if kernel.section == "merge"]

    assert {k.dtype for k in merge if k.role.startswith("match GEMM")} == {"Float"}
    assert {k.dtype for k in merge if k.role.startswith("merge")} == {"Half"}


def test_every_kernel_of_a_recorded_build_has_a_place_and_a_role() -> None:
    for kind in ("fp16", "int8"):
        for one in recorded(kind):
            assert one.section != "other", one
            assert one.role not in ("", "elementwise"), one
            assert one.dtype in ("Float", "Half", "Int8"), one


@pytest.mark.parametrize(
    ("one", "role"),
    [
        (kernel("__myl_Slic_myl0_1", ["blocks/3/merge/Slice_2"]), "merge reformat"),
        (kernel("__myl_CastTran_myl0_1", ["blocks/3/fc1/Cast"], writes="y:Float"), "cast"),
        (kernel("copy", ["blocks/3/fc1/Reshape"], kind="Reformat"), "reformat"),
        (kernel("__myl_Cast_myl0_1", ["blocks/3/fc1/Cast"], "x:Float"), "cast"),
    ],
)
def test_what_computes_nothing_is_stray(one: Kernel, role: str) -> None:
    found = between(one)

    assert found.role == role
    assert found.stray


@pytest.mark.parametrize(
    "one",
    [
        kernel(
            "__myl_ReshTranSlicSlicSlic_myl0_1", ["blocks/3/attn/Reshape", "blocks/3/attn/Slice"]
        ),
        kernel("__myl_SlicMul_myl0_1", ["blocks/3/attn/Slice", "blocks/3/attn/Mul"]),
        kernel("__myl_MulMinMaxRounCast_myl0_1", ["blocks/3/fc1/QuantizeLinear"], writes="y:Int8"),
        kernel("__myl_ReshTranSlicEtc_myl0_1", ["blocks/3/attn/Reshape"]),  # cut off: who knows
    ],
)
def test_what_computes_or_splits_the_heads_is_not_stray(one: Kernel) -> None:
    assert not between(one).stray


def test_conversions_at_the_ends_of_the_graph_are_not_stray() -> None:
    block = ["blocks/0/fc1/MatMul"]
    kernels = classify(
        [
            kernel("__myl_Cast_myl0_0", ["images/Cast"], "images:Float", "a:Half"),
            kernel("gemm_1", block, "a:Half", "b:Half", kind="gemm"),
            kernel("__myl_Cast_myl0_2", ["logits/Cast"], "b:Half", "logits:Float"),
        ]
    )

    assert [k.role for k in kernels] == [
        "cast of the graph's input",
        "GEMM fc1",
        "cast of the graph's output",
    ]
    assert [k.section for k in kernels] == ["embedding", "block", "head"]
    assert [k.at_border for k in kernels] == [True, False, True]
    assert not any(k.stray for k in kernels)


def test_a_kernel_of_two_blocks_belongs_to_the_one_it_holds_more_of() -> None:
    nodes = ["blocks/3/fc2/Add", "blocks/3/Add_2", "blocks/4/norm1/LayerNormalization"]

    assert between(kernel("a", nodes)).row == "block 3"
    assert between(kernel("a", nodes[1:])).row == "block 3"  # a tie: the earlier
    assert between(kernel("a", [*nodes[1:], "blocks/4/attn/qkv/QuantizeLinear"])).row == "block 4"


def test_a_kernel_without_nodes_belongs_where_it_is_read() -> None:
    kernels = classify(
        [
            kernel("a", ["blocks/0/Add"], "x:Half", "y:Half"),
            kernel("__myl_Move_myl0_1", [], "y:Half", "z:Half"),
            kernel("b", ["blocks/1/Add"], "z:Half", "w:Half"),
        ]
    )

    assert kernels[1].row == "block 1"


def test_quantized_weights_alone_do_not_make_a_quantized_product() -> None:
    nodes = ["blocks/0/fc1/MatMul"]
    half = between(kernel("a_1", nodes, "x:Half", kind="gemm", constants="w:Int8"))
    int8 = between(kernel("a_1", nodes, "r:Half x:Int8", kind="gemm", constants="w:Int8"))

    assert (half.dtype, int8.dtype) == ("Half", "Int8")


def test_names_of_someone_else_are_placed_nowhere() -> None:
    one = between(kernel("__myl_AddMul_myl0_1", ["/layer.3/Add", "block0.softmax"]))

    assert (one.row, one.role) == ("other", "elementwise")


def test_a_node_is_a_path_and_an_operator() -> None:
    node = node_of("blocks/11/merge/key/MatMul_2")

    assert (node.path, node.operator, node.block) == (
        ("blocks", "11", "merge", "key"),
        "MatMul",
        11,
    )
    assert node.in_merge
    assert node_of("Softmax_3").operator == "Softmax"
    assert node_of("blocks/x/Add").block is None
