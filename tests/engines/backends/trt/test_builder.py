"""Network flags and profiles need no TensorRT; the builds below are real TensorRT-RTX builds."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest

import engines
import engines.engine
from engines.backends._trt.builder import compute_capability_names, network_flags
from engines.backends._trt.request import profile_shapes
from engines.contract import BuildOptions
from engines.errors import EngineError, InputError, MissingDependencyError, TrustError, UsageError
from engines.fusion.report import fusion_of, fusion_path
from engines.manifest import Manifest, TensorSpec, manifest_path, read_manifest, write_manifest

TinyVit = Callable[..., Path]
OneNode = Callable[..., onnx.ModelProto]
IMAGE = TensorSpec(name="image", shape=("batch", 3, 32, 32), dtype="float16")


def module(*, builder_flags: dict[str, int], creation_flags: dict[str, int]) -> Any:
    return SimpleNamespace(
        __version__="9.9",
        BuilderFlag=SimpleNamespace(**builder_flags),
        NetworkDefinitionCreationFlag=SimpleNamespace(**creation_flags),
    )


@pytest.mark.parametrize(
    ("builder_flags", "creation_flags", "mask"),
    [
        ({"FP16": 0}, {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1}, 0b10),  # TensorRT 10
        ({"TF32": 7}, {"STRONGLY_TYPED": 0, "PREFER_JIT_PYTHON_PLUGINS": 1}, 0),  # TensorRT 11
        ({"TF32": 7}, {"STRONGLY_TYPED": 0}, 0),  # TensorRT-RTX
    ],
)
def test_strong_typing_is_asked_for_where_it_is_a_choice(
    builder_flags: dict[str, int], creation_flags: dict[str, int], mask: int
) -> None:
    trt = module(builder_flags=builder_flags, creation_flags=creation_flags)

    assert network_flags(trt) == mask


def test_a_profile_spans_the_batch_range() -> None:
    fixed = TensorSpec(name="fixed", shape=(1,), dtype="float32")

    shapes = profile_shapes((IMAGE, fixed), (1, 4, 8), where="test")

    assert shapes == {"image": ((1, 3, 32, 32), (4, 3, 32, 32), (8, 3, 32, 32))}


@pytest.mark.parametrize(
    ("shape", "batches"),
    [(("batch", 3), None), ((1, "rows"), (1, 8, 8)), (("a", "b"), (1, 8, 8))],
)
def test_a_dynamic_extent_without_a_range_is_refused(
    shape: tuple[int | str, ...], batches: tuple[int, int, int] | None
) -> None:
    spec = TensorSpec(name="x", shape=shape, dtype="float32")

    with pytest.raises(InputError, match="TensorRT needs the range") as caught:
        profile_shapes((spec,), batches, where="test")

    assert "--batch" in caught.value.fix


# From here on: TensorRT-RTX itself, which builds without a GPU.


@pytest.fixture
def trt() -> Any:
    return pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx-cu13")


def refused(tiny_vit: TinyVit, kind: type[Exception], words: str, **options: Any) -> None:
    graph = tiny_vit(dtype=options.pop("dtype", "float16"))
    with pytest.raises(kind, match=words):
        engines.build(graph, target="rtx", options=BuildOptions(**options))
    assert list(graph.parent.iterdir()) == [graph]


@pytest.mark.tensorrt
def test_an_fp16_plan_fuses_every_attention(tiny_vit: TinyVit, trt: Any) -> None:
    plan = engines.build(tiny_vit(dtype="float16"), target="rtx")

    manifest = read_manifest(plan)
    runtime = manifest.runtime
    assert runtime is not None
    assert plan.name == "vit.rtx.plan"
    assert (runtime.flavour, runtime.version) == ("tensorrt_rtx", trt.__version__)
    assert runtime.compute_capabilities == ("8.0", "8.6", "8.9", "12.0", "12.1")
    assert runtime.settings["fused_attentions"] == "2"
    assert 10 <= int(runtime.settings["kernels"]) <= 20
    assert runtime.settings["tf32"] == "off"
    assert "--computeCapabilities=80,86,89,120,121" in runtime.settings["trtexec"]
    assert manifest.precision == "fp16"


@pytest.mark.tensorrt
def test_an_fp32_plan_fuses_none(tiny_vit: TinyVit, trt: Any) -> None:
    """The negative control of the test above."""
    runtime = read_manifest(engines.build(tiny_vit(), target="rtx")).runtime

    assert runtime is not None
    assert runtime.settings["fused_attentions"] == "0"


@pytest.mark.tensorrt
def test_a_portable_plan_names_no_compute_capability(tiny_vit: TinyVit, trt: Any) -> None:
    options = BuildOptions(compute_capabilities=())

    runtime = read_manifest(
        engines.build(tiny_vit(dtype="float16"), target="rtx", options=options)
    ).runtime

    assert runtime is not None
    assert runtime.compute_capabilities == ()


@pytest.mark.tensorrt
def test_builder_options_are_recorded(tiny_vit: TinyVit, trt: Any) -> None:
    options = BuildOptions(optimization_level=2, workspace_bytes=1 << 28)

    runtime = read_manifest(
        engines.build(tiny_vit(dtype="float16"), target="rtx", options=options)
    ).runtime

    assert runtime is not None
    assert runtime.settings["optimization_level"] == "2"
    assert runtime.settings["workspace_bytes"] == str(1 << 28)


@pytest.mark.tensorrt
def test_a_dynamic_batch_is_built_for_its_range(tiny_vit: TinyVit, trt: Any) -> None:
    graph = tiny_vit(dtype="float16", batch="batch")
    write_manifest(
        graph,
        Manifest(
            kind="graph",
            file=graph.name,
            inputs=(IMAGE,),
            outputs=(TensorSpec(name="logits", shape=("batch", 10), dtype="float16"),),
            precision="fp16",
            opset=20,
            target="rtx",
            weights="random",
            batch_range=(1, 8),
        ),
    )

    manifest = read_manifest(engines.build(graph, target="rtx"))

    assert manifest.batch_range == (1, 8)
    assert manifest.runtime is not None
    assert manifest.runtime.settings["profiles"] == "image (1, 3, 32, 32) to (8, 3, 32, 32)"
    assert manifest.runtime.settings["fused_attentions"] == "2"


@pytest.mark.tensorrt
def test_an_unknown_operator_is_named_with_its_node(
    one_node_model: OneNode, tmp_path: Path, trt: Any
) -> None:
    graph = tmp_path / "unique.onnx"
    graph.write_bytes(one_node_model("Unique").SerializeToString())

    with pytest.raises(EngineError, match=r"node 'only' \(Unique\): UNSUPPORTED_NODE") as caught:
        engines.build(graph, target="rtx")

    assert "node 'only'" in caught.value.where
    assert caught.value.exit_code == 6


@pytest.mark.tensorrt
def test_a_truncated_graph_never_reaches_tensorrt(tiny_vit: TinyVit, trt: Any) -> None:
    graph = tiny_vit()
    graph.write_bytes(graph.read_bytes()[:-100])

    with pytest.raises(InputError, match="not a whole ONNX model"):
        engines.build(graph, target="rtx")


@pytest.mark.tensorrt
def test_fp32_on_turing_is_explained(tiny_vit: TinyVit, trt: Any) -> None:
    words = r"no FP32 matrix products for compute capability 7\.5"
    refused(tiny_vit, EngineError, words, dtype="float32", compute_capabilities=("7.5", "8.6"))


@pytest.mark.tensorrt
def test_the_refusal_of_turing_names_the_way_out(tiny_vit: TinyVit, trt: Any) -> None:
    with pytest.raises(EngineError) as caught:
        engines.build(tiny_vit(), target="rtx", options=BuildOptions(compute_capabilities=("7.5",)))

    assert "--target t4@trt" in caught.value.fix
    assert "its match stays in float32" in caught.value.fix


@pytest.mark.tensorrt
@pytest.mark.parametrize("name", ["8.7", "x"])
def test_an_unknown_compute_capability_lists_the_known_ones(
    tiny_vit: TinyVit, trt: Any, name: str
) -> None:
    refused(tiny_vit, UsageError, r"it does for 7\.5, 8\.0, 8\.6", compute_capabilities=(name,))


@pytest.mark.tensorrt
def test_every_compute_capability_of_the_target_is_known(trt: Any) -> None:
    names = compute_capability_names(trt)

    assert set(engines.engine.load_target("rtx").compute_capabilities) <= set(names)


@pytest.mark.tensorrt
def test_progress_is_told_by_phase(tiny_vit: TinyVit, trt: Any) -> None:
    seen: list[tuple[str, int, int]] = []

    def progress(phase: str, done: int, total: int) -> bool:
        seen.append((phase, done, total))
        return True

    engines.build(tiny_vit(dtype="float16"), target="rtx", options=BuildOptions(progress=progress))

    assert len({phase for phase, _, _ in seen}) > 1
    assert all(0 <= done <= total for _, done, total in seen)


@pytest.mark.tensorrt
def test_progress_that_answers_no_cancels(tiny_vit: TinyVit, trt: Any) -> None:
    refused(tiny_vit, EngineError, "the build was cancelled", progress=lambda *_: False)


@pytest.mark.tensorrt
@pytest.mark.parametrize("interruption", [KeyboardInterrupt, ValueError])
def test_what_progress_raises_comes_out(
    tiny_vit: TinyVit,
    trt: Any,
    interruption: type[BaseException],
    capfd: pytest.CaptureFixture[str],
) -> None:
    def progress(phase: str, done: int, total: int) -> bool:
        raise interruption

    graph = tiny_vit(dtype="float16")

    with pytest.raises(interruption):
        engines.build(graph, target="rtx", options=BuildOptions(progress=progress))

    assert list(graph.parent.iterdir()) == [graph]
    assert capfd.readouterr().err == ""


@pytest.mark.tensorrt
def test_a_good_plan_without_a_gpu_says_that_it_is_fine(
    tiny_vit: TinyVit, trt: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_gpu() -> Any:
        raise MissingDependencyError("there is no usable CUDA device", where="cuda:0", fix="driver")

    monkeypatch.setattr("engines.backends._trt.opening.open_cuda", no_gpu)
    plan = engines.build(tiny_vit(dtype="float16"), target="rtx")

    with pytest.raises(MissingDependencyError, match="no usable CUDA device; the plan") as caught:
        engines.open(plan)

    assert caught.value.exit_code == 4
    assert caught.value.where == str(plan)
    assert "its hash matches" in caught.value.what
    assert "2 of them fused attentions" in caught.value.what
    assert "8.0, 8.6, 8.9, 12.0, 12.1" in caught.value.what


@pytest.mark.tensorrt
def test_a_plan_of_another_version_is_refused_before_it_is_read(
    tiny_vit: TinyVit, trt: Any
) -> None:
    plan = engines.build(tiny_vit(dtype="float16"), target="rtx")
    manifest = read_manifest(plan)
    assert manifest.runtime is not None
    other = dataclasses.replace(manifest.runtime, version="1.2.0.54")
    write_manifest(plan, dataclasses.replace(manifest, runtime=other))

    with pytest.raises(TrustError, match=r"for version 1\.2\.0\.54, this is") as caught:
        engines.open(plan)

    graph = plan.with_name("vit.onnx")
    again = f"fpet-export build {graph} --target rtx -o {plan} --force"
    assert caught.value.fix == f"build it again: {again}"


@pytest.mark.tensorrt
def test_a_plan_lies_beside_a_readable_manifest(tiny_vit: TinyVit, trt: Any) -> None:
    plan = engines.build(tiny_vit(dtype="float16"), target="rtx")

    document = json.loads(manifest_path(plan).read_text())
    assert document["runtime"]["settings"]["kernels"].isdigit()
    assert document["parents"][0]["file"] == "vit.onnx"


@pytest.mark.tensorrt
def test_a_plan_lies_beside_the_report_on_its_kernels(tiny_vit: TinyVit, trt: Any) -> None:
    plan = engines.build(tiny_vit(dtype="float16"), target="rtx")

    manifest = read_manifest(plan)
    report = fusion_of(plan, manifest)
    assert manifest.runtime is not None
    assert report.source == "verbose log"
    assert report.as_settings().items() <= manifest.runtime.settings.items()
    assert report.runtime == f"tensorrt_rtx {trt.__version__}"


@pytest.mark.tensorrt
def test_a_report_in_the_way_is_not_replaced_without_force(tiny_vit: TinyVit, trt: Any) -> None:
    graph = tiny_vit(dtype="float16")
    report = graph.with_name("vit.rtx.fusion.json")
    report.write_text("mine")

    with pytest.raises(UsageError, match=r"vit\.rtx\.fusion\.json exists already"):
        engines.build(graph, target="rtx")
    assert sorted(path.name for path in graph.parent.iterdir()) == ["vit.onnx", report.name]

    plan = engines.build(graph, target="rtx", options=BuildOptions(force=True))
    assert fusion_of(plan, read_manifest(plan)).engine == "vit.rtx.plan"


@pytest.mark.tensorrt
@pytest.mark.parametrize("step", ["write_manifest", "write_fusion"])
def test_an_interrupted_build_leaves_what_was_there(
    tiny_vit: TinyVit, trt: Any, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Ctrl-C while the manifest or the report is written, over an earlier build."""
    graph = tiny_vit(dtype="float16")
    plan = engines.build(graph, target="rtx")
    assert fusion_path(plan).exists()

    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    before = {path.name: path.read_bytes() for path in graph.parent.iterdir()}
    monkeypatch.setattr(engines.engine, step, interrupted)
    with pytest.raises(KeyboardInterrupt):
        engines.build(graph, target="rtx", options=BuildOptions(force=True))

    assert {path.name: path.read_bytes() for path in graph.parent.iterdir()} == before


@pytest.mark.tensorrt
@pytest.mark.parametrize(
    ("target", "capability"),
    [
        ("t4@rtx", "7.5"),
        ("a100@rtx", "8.0"),
        ("rtx-3090", "8.6"),
        ("rtx-4090", "8.9"),
        ("rtx-5090", "12.0"),
        ("gb10", "12.1"),
    ],
)
def test_a_card_gets_a_plan_of_its_own(
    tiny_vit: TinyVit, trt: Any, target: str, capability: str
) -> None:
    plan = engines.build(tiny_vit(dtype="float16"), target=target)

    manifest = read_manifest(plan)
    runtime = manifest.runtime
    assert runtime is not None
    assert manifest.target == f"{target.partition('@')[0]}@rtx"
    assert plan.name == f"vit.{target.partition('@')[0]}-rtx.plan"
    assert runtime.compute_capabilities == (capability,)
    assert runtime.settings["fused_attentions"] == "2"
    assert f"--computeCapabilities={capability.replace('.', '')}" in runtime.settings["trtexec"]


@pytest.mark.tensorrt
def test_a_narrower_range_of_batches_is_built(tiny_vit: TinyVit, trt: Any) -> None:
    options = BuildOptions(batches=(1, 4, 8), compute_capabilities=("8.6",))

    manifest = read_manifest(
        engines.build(tiny_vit(dtype="float16", batch="batch"), target="rtx", options=options)
    )

    assert manifest.batch_range == (1, 8)
    assert manifest.runtime is not None
    assert manifest.runtime.settings["profiles"].endswith("tuned for (4, 3, 32, 32)")
