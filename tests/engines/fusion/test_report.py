"""The report on recorded builds, on kernels that go wrong, and its file beside a plan."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from engines.backends._trt.log import Message, kernels_of
from engines.errors import InputError, TrustError
from engines.fusion import report as fusion
from engines.fusion.kernels import Kernel, Tensor
from engines.fusion.report import FusionReport, fusion_of, fusion_path, read_fusion, report_on
from engines.manifest import Manifest, Runtime

GOLDEN = Path(__file__).parents[2] / "golden"


def listed(kind: str) -> tuple[Kernel, ...]:
    return kernels_of([Message("VERBOSE", (GOLDEN / f"fusion_{kind}.log").read_text("utf-8"))])


def recorded(kind: str) -> FusionReport:
    return report_on(listed(kind), "verbose log")


def chain(*steps: tuple[str, str, Sequence[str]]) -> list[Kernel]:
    """Write kernels that read one another: name, type of what it writes, nodes."""
    kernels = []
    tensor = Tensor(name="images", dtype="Half", shape=(1,))
    for index, (name, dtype, nodes) in enumerate(steps):
        written = Tensor(name=f"t{index}", dtype=dtype, shape=(1,))
        kind = "gemm" if name.startswith("gemm") else "kgen"
        kernels.append(
            Kernel(name=name, kind=kind, inputs=(tensor,), outputs=(written,), nodes=tuple(nodes))
        )
        tensor = written
    return kernels


def test_an_fp16_build_in_numbers() -> None:
    report = recorded("fp16")

    assert report.per_block == (8, 9, 8, 8)
    assert sum(report.per_block) + sum(report.elsewhere.values()) == len(report.kernels)
    assert [(a.block, a.dtype, a.key_bias) for a in report.attentions] == [
        (0, "Half", False),
        (1, "Half", False),
        (2, "Half", True),
        (3, "Half", True),
    ]
    assert report.attentions_in_graph == 4
    assert report.quantized_gemms == 0
    assert report.weight_only == report.leaks == ()


def test_an_int8_build_in_numbers() -> None:
    report = recorded("int8")

    assert report.quantized_gemms == 4 * 4
    assert [attention.dtype for attention in report.attentions] == ["Int8"] * 4
    assert report.per_block[2:] == (9, 9)
    assert report.weight_only == ()


def test_float32_has_its_reasons() -> None:
    report = recorded("fp16")
    reasons = {one.kernel: one.reason for one in report.float32}
    known = {kernel.name: kernel for kernel in report.kernels}

    assert set(reasons.values()) == {"match", "normalisation", "graph input or output"}
    for name, reason in reasons.items():
        if reason == "match":
            assert known[name].role.startswith("match ")
        if reason == "normalisation":
            assert known[name].role.startswith("LayerNorm ")
    assert {k.name for k in report.kernels if k.dtype == "Float"} <= set(reasons)


def test_what_reads_the_match_in_float32_is_no_leak() -> None:
    """The sizes are summed in float32, and TensorRT may leave the cast to their logarithm."""
    kernels = chain(
        ("__myl_Topk_myl0_0", "Int32", ["blocks/0/merge/ArgMax"]),
        ("__myl_EqlCastSum_myl0_1", "Float", ["blocks/0/merge/Equal", "blocks/0/merge/ReduceSum"]),
        ("__myl_CastAddLog_myl0_2", "Half", ["blocks/0/merge/Cast", "graph/Log"]),
        ("gemm_3", "Half", ["blocks/1/fc1/MatMul"]),
    )

    report = report_on(kernels, "verbose log")

    assert [(one.kernel[6:9], one.reason) for one in report.float32] == [
        ("Eql", "match"),
        ("Cas", "match"),
    ]
    assert report.leaks == ()


def test_float32_elsewhere_is_a_leak() -> None:
    kernels = chain(
        ("gemm_0", "Half", ["blocks/0/fc1/MatMul"]),
        ("__myl_Cast_myl0_1", "Float", ["blocks/0/fc2/Cast"]),
        ("gemm_2", "Float", ["blocks/0/fc2/MatMul"]),
        ("__myl_Cast_myl0_3", "Half", ["blocks/0/fc2/Cast_2"]),
        ("gemm_4", "Half", ["blocks/1/fc1/MatMul"]),
    )

    report = report_on(kernels, "verbose log")

    assert report.leaks == ("__myl_Cast_myl0_1", "gemm_2", "__myl_Cast_myl0_3")
    assert report.stray == ("__myl_Cast_myl0_1", "__myl_Cast_myl0_3")
    text = "\n".join(report.in_words())
    assert "3 unexpected" in text
    assert "block 0: cast, Half to Float: blocks/0/fc2/Cast" in text


def test_a_float32_graph_is_no_leak() -> None:
    kernels = chain(("gemm_0", "Float", ["blocks/0/fc1/MatMul"]))
    first = Tensor(name="images", dtype="Float", shape=(1,))
    (kernel,) = kernels
    kernel = Kernel(
        name="gemm_0", kind="gemm", inputs=(first,), outputs=kernel.outputs, nodes=kernel.nodes
    )

    report = report_on([kernel], "verbose log")

    assert [one.reason for one in report.float32] == ["float32 graph"]
    assert report.summary()[1].endswith("all in float32, as the graph is")
    assert report.leaks == ()


def test_a_block_with_more_kernels_names_the_nodes() -> None:
    (uneven,) = recorded("fp16").uneven

    assert (uneven.block, uneven.kernels, set(uneven.neighbours)) == (1, 9, {8})
    assert "LayerNorm 1 of 2: blocks/1/norm1/LayerNormalization" in uneven.only_here
    assert any("blocks/1/merge/Slice" in text for text in uneven.only_here)


@pytest.mark.parametrize(
    ("counts", "blocks"),
    [
        ([2, 2, 2, 2], []),
        ([2, 2, 3, 2], [2]),
        ([3, 2, 2, 2], [0]),
        ([2, 2, 2, 3], [3]),
        ([2, 2, 3, 3], []),  # two regimes, as before and behind a merge
        ([2, 2, 4, 3, 3], [2]),
        ([2, 3], [0, 1]),
        ([2], []),
        ([], []),
    ],
)
def test_a_block_is_uneven_when_no_neighbour_is_like_it(
    counts: list[int], blocks: list[int]
) -> None:
    steps = [
        (f"gemm_{block}_{index}", "Half", [f"blocks/{block}/fc{index}/MatMul"])
        for block, count in enumerate(counts)
        for index in range(count)
    ]

    report = report_on(chain(*steps), "verbose log")

    assert report.per_block == tuple(counts)
    assert [uneven.block for uneven in report.uneven] == blocks


def test_an_attention_that_did_not_fuse_is_missed_in_the_share() -> None:
    kernels = chain(
        ("_gemm_mha_v2_myl0_0", "Half", ["blocks/0/attn/MatMul", "blocks/0/attn/Softmax"]),
        ("gemm_1", "Half", ["blocks/1/attn/MatMul"]),
        ("__myl_MaxrSubExpSumDivMul_myl0_2", "Half", ["blocks/1/attn/Softmax"]),
    )

    report = report_on(kernels, "verbose log")

    assert (len(report.attentions), report.attentions_in_graph) == (1, 2)
    assert report.summary()[1].startswith("1/2 attentions fused (Half)")


def test_quantized_weights_multiplied_as_floats_are_told() -> None:
    (kernel,) = chain(("gemm_0", "Half", ["blocks/0/fc1/MatMul"]))
    weight = Tensor(name="w", dtype="Int8", shape=(1,))
    kernel = Kernel(
        name="gemm_0",
        kind="gemm",
        inputs=kernel.inputs,
        outputs=kernel.outputs,
        constants=(weight,),
        nodes=kernel.nodes,
    )

    report = report_on([kernel], "verbose log")

    assert report.weight_only == ("gemm_0",)
    assert report.quantized_gemms == 0
    assert "1 of the GEMMs multiply quantized weights as floats" in report.summary()[1]


def test_the_summary_is_two_lines_and_the_words_hold_every_kernel() -> None:
    report = recorded("int8")

    places, how = report.summary()
    words = report.in_words()

    assert places.startswith(f"{len(report.kernels)} kernels: 2 blocks of 9, block 0 of 10, ")
    assert how.startswith(
        "4/4 attentions fused (Int8, 2 with a key bias); 16 quantized GEMMs (Int8)"
    )
    assert words[:2] == [places, how]
    rows = [line.strip().partition(": ") for line in words[words.index("every kernel:") + 1 :]]
    held = [len(names.split(", ")) * len(roles.split(" · ")) for names, _, roles in rows]
    assert sum(held) == len(report.kernels)


def test_what_is_alike_in_several_blocks_is_one_line() -> None:
    kernels = chain(
        *(
            step
            for block in range(3)
            for step in (
                (f"gemm_{block}", "Half", [f"blocks/{block}/fc1/MatMul"]),
                (f"__myl_Slic_myl0_{block}", "Half", [f"blocks/{block}/fc1/Slice"]),
                (f"gemm_b{block}", "Half", [f"blocks/{block}/fc2/MatMul"]),
            )
        )
    )

    text = report_on(kernels, "verbose log").in_words()

    assert "3 kernels only convert or move data:" in text
    assert "  3 x block *: reformat, Half to Half: blocks/*/fc1/Slice" in text


def test_the_settings_of_a_manifest_are_counts() -> None:
    settings = recorded("fp16").as_settings()

    assert settings["kernels"] == str(len(listed("fp16")))
    assert settings["fused_attentions"] == "4"
    histogram = dict(part.split() for part in settings["kernel_types"].split(", "))
    assert sum(map(int, histogram.values())) == len(listed("fp16"))


# The file.


def manifest(sha256: str = "ab" * 32) -> Manifest:
    return Manifest(
        kind="engine",
        file="model.rtx.plan",
        inputs=(),
        outputs=(),
        precision="fp16",
        opset=20,
        target="rtx",
        weights="random",
        runtime=Runtime(flavour="tensorrt_rtx", version="1.7.1"),
        sha256=sha256,
    )


def test_a_report_survives_its_file(tmp_path: Path) -> None:
    plan = tmp_path / "model.fp16.rtx.plan"

    written = fusion.write_fusion(plan, manifest(), recorded("fp16"))

    path = tmp_path / "model.fp16.rtx.fusion.json"
    assert fusion_path(plan) == path
    assert read_fusion(path) == fusion_of(plan, manifest()) == written
    assert (written.engine, written.sha256) == (plan.name, "ab" * 32)
    assert written.runtime == "tensorrt_rtx 1.7.1"
    lines = path.read_text("utf-8").splitlines()
    assert len(lines) == 1 + len(written.kernels)  # a line a kernel, for people with an editor


def test_a_report_of_another_build_is_refused(tmp_path: Path) -> None:
    plan = tmp_path / "model.rtx.plan"
    fusion.write_fusion(plan, manifest(), recorded("fp16"))

    with pytest.raises(TrustError, match=r"of another build of model\.rtx\.plan") as caught:
        fusion_of(plan, manifest("cd" * 32))

    assert "build it again from its graph" in caught.value.fix


def test_a_missing_report_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no fusion report"):
        read_fusion(tmp_path / "model.fusion.json")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": 2}, "has schema 2, this version reads 1"),
        ({"surprise": 1}, r"damaged: .*surprise"),
        ({"per_block": ["8"]}, r"damaged: .*per_block"),
        ({"source": "a guess"}, r"damaged: .*source"),
        ({"stray": ["gone"]}, "damaged: it does not list gone"),
        ({"kernels": [], "stray": [], "float32": []}, "damaged: it does not list a kernel"),
    ],
)
def test_a_damaged_report_is_refused(tmp_path: Path, change: dict[str, object], words: str) -> None:
    path = tmp_path / "a.fusion.json"
    document = json.loads(json.dumps(recorded("fp16").to_json()))
    path.write_text(json.dumps(document | change))

    with pytest.raises(TrustError, match=words):
        read_fusion(path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_report_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.fusion.json"
    path.write_bytes(content)

    with pytest.raises(TrustError, match="the fusion report"):
        read_fusion(path)
