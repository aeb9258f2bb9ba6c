from __future__ import annotations

import contextlib
import dataclasses
import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper

import engines
from engines.backends import ort
from engines.contract import BuildOptions, OpenOptions
from engines.errors import (
    EngineError,
    FpetError,
    InputError,
    MissingDependencyError,
    TrustError,
    UsageError,
)
from engines.machine import processor
from engines.manifest import read_manifest, write_manifest

TinyVit = Callable[..., Path]
OneNode = Callable[..., onnx.ModelProto]


def images(batch: int = 1, dtype: str = "float32") -> dict[str, NDArray[Any]]:
    generator = np.random.default_rng(3)
    return {"image": generator.standard_normal((batch, 3, 32, 32)).astype(dtype)}


def rewrite_runtime(artefact: Path, **changes: Any) -> None:
    """Give `artefact` a side-car that says it was built elsewhere."""
    manifest = read_manifest(artefact)
    assert manifest.runtime is not None
    settings = {**manifest.runtime.settings, **changes.pop("settings", {})}
    runtime = dataclasses.replace(manifest.runtime, settings=settings, **changes)
    write_manifest(artefact, dataclasses.replace(manifest, runtime=runtime))


@pytest.mark.parametrize("batch", [1, "batch"])
def test_graph_cache_and_graph_as_written_agree(tiny_vit: TinyVit, batch: int | str) -> None:
    graph = tiny_vit(batch=batch)
    cache = engines.build(graph, target="cpu")
    feeds = images(3 if batch == "batch" else 1)

    with (
        engines.open(graph) as optimised,
        engines.open(cache) as cached,
        engines.open(graph, options=OpenOptions(rewrites="none")) as as_written,
    ):
        expected = as_written.run(feeds)["logits"]
        bound = np.abs(expected).max() * 1e-5
        other = optimised.run({"image": feeds["image"][::-1].copy() + 1})["logits"]
        assert np.abs(optimised.run(feeds)["logits"] - expected).max() < bound
        assert np.abs(cached.run(feeds)["logits"] - expected).max() < bound
        assert np.abs(other - expected).max() > bound  # negative control: the input matters


def test_a_bound_run_writes_the_outputs(tiny_vit: TinyVit, monkeypatch: pytest.MonkeyPatch) -> None:
    places = []
    real = onnxruntime.OrtValue.ortvalue_from_shape_and_type

    def remember(*arguments: Any) -> Any:
        places.append(real(*arguments))
        return places[-1]

    monkeypatch.setattr(onnxruntime.OrtValue, "ortvalue_from_shape_and_type", remember)
    with engines.open(tiny_vit()) as engine:
        run_once = engine.bind(images())
        run_once()
        run_once()

        assert np.array_equal(places[0].numpy(), engine.run(images())["logits"])


def test_an_output_of_unknown_shape_can_be_bound(one_node_model: OneNode) -> None:
    model = one_node_model("NonZero")
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64

    with ort.open_bytes(model.SerializeToString(), name="nonzero") as engine:
        engine.bind({"x": np.eye(1, 4, dtype=np.float32)})()


def test_an_engine_describes_itself(tiny_vit: TinyVit) -> None:
    with engines.open(tiny_vit(), options=OpenOptions(threads=1, name="mine")) as engine:
        facts = engine.describe()

    assert engine.name == "mine"
    assert facts["runtime"] == "onnxruntime"
    assert facts["version"] == onnxruntime.__version__
    assert (facts["provider"], facts["threads"], facts["opset"]) == ("cpu", "1", "20")


def test_by_default_every_usable_core_works(tiny_vit: TinyVit) -> None:
    with engines.open(tiny_vit()) as engine:
        assert engine.describe()["threads"] == str(processor.usable_cores())


def test_a_closed_engine_does_not_run(tiny_vit: TinyVit) -> None:
    engine = engines.open(tiny_vit())
    run_once = engine.bind(images())
    engine.close()
    engine.close()

    with pytest.raises(EngineError, match="engine is closed"):
        engine.run(images())
    with pytest.raises(EngineError, match="engine is closed"):
        run_once()


def test_a_wrong_feed_is_refused_by_run_and_bind(tiny_vit: TinyVit) -> None:
    with engines.open(tiny_vit()) as engine:
        for use in (engine.run, engine.bind):
            with pytest.raises(InputError, match=r"shape \(2, 3, 32, 32\), wanted \(1, 3, 32"):
                use(images(2))


def test_the_manifests_batch_range_is_kept(tiny_vit: TinyVit) -> None:
    graph = tiny_vit(batch="batch")
    built = read_manifest(engines.build(graph, target="cpu"))
    write_manifest(graph, dataclasses.replace(built, kind="graph", batch_range=(1, 2)))
    cache = engines.build(graph, target="cpu", options=BuildOptions(force=True))

    for artefact in (graph, cache):
        with (
            engines.open(artefact) as engine,
            pytest.raises(InputError, match="batch = 3, wanted 1 to 2"),
        ):
            engine.run(images(3))


def test_a_graph_in_memory_opens(tiny_vit: TinyVit) -> None:
    path = tiny_vit()

    with ort.open_bytes(path.read_bytes(), name="probed") as memory, engines.open(path) as file:
        assert memory.name == "probed"
        assert np.array_equal(memory.run(images())["logits"], file.run(images())["logits"])


def test_a_graph_in_memory_needs_its_weights_inside(one_node_model: OneNode) -> None:
    model = one_node_model("Relu")
    weight = helper.make_tensor("w", TensorProto.FLOAT, [1], bytes(4), raw=True)
    onnx.external_data_helper.set_external_data(weight, "w.bin")
    model.graph.initializer.append(weight)

    with pytest.raises(InputError, match=r"cannot have external weights: w\.bin"):
        ort.open_bytes(model.SerializeToString(), name="memory")


def test_external_weights_are_part_of_the_parents(tiny_vit: TinyVit, tmp_path: Path) -> None:
    model = onnx.load(tiny_vit())
    graph = tmp_path / "vit.onnx"
    onnx.save(model, graph, save_as_external_data=True, location="w.bin", size_threshold=100)

    parents = read_manifest(engines.build(graph, target="cpu")).parents

    assert [(parent.role, parent.file) for parent in parents] == [
        ("graph", "vit.onnx"),
        ("external weights", "w.bin"),
    ]
    (tmp_path / "w.bin").unlink()
    with pytest.raises(InputError, match=r"external weights are missing: 'w\.bin'"):
        engines.open(graph)


def test_a_shortened_file_of_weights_is_refused_in_a_sentence(
    tiny_vit: TinyVit, tmp_path: Path
) -> None:
    graph = tmp_path / "vit.onnx"
    onnx.save(
        onnx.load(tiny_vit()),
        graph,
        save_as_external_data=True,
        location="w.bin",
        size_threshold=100,
    )
    (tmp_path / "w.bin").write_bytes(b"short")

    with pytest.raises(FpetError) as caught:
        engines.open(graph)

    assert caught.value.exit_code in (3, 6)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": "1.2.3"}, r"built by ONNX Runtime 1\.2\.3"),
        ({"settings": {"instruction_sets": "avx9000"}}, "another CPU: this one lacks avx9000"),
        ({"machine": "sparc"}, "another CPU: this one lacks sparc"),
        ({"flavour": "tensorrt"}, "says that tensorrt built it, not onnxruntime"),
    ],
)
def test_a_cache_of_elsewhere_is_refused_with_the_command_that_rebuilds_it(
    tiny_vit: TinyVit, changes: dict[str, Any], words: str
) -> None:
    cache = engines.build(tiny_vit(), target="cpu")
    rewrite_runtime(cache, **changes)

    with pytest.raises(TrustError, match=words) as caught:
        engines.open(cache)

    assert "build" in caught.value.fix


def test_the_rebuild_command_names_graph_and_target(tiny_vit: TinyVit) -> None:
    cache = engines.build(tiny_vit(), target="cpu")
    rewrite_runtime(cache, version="0")

    with pytest.raises(TrustError) as caught:
        engines.open(cache)

    graph = cache.with_name("vit.onnx")
    again = f"fpet-export build {graph} --target cpu -o {cache} --force"
    assert caught.value.fix == f"build it again: {again}"


def test_a_cache_is_not_optimised_twice(tiny_vit: TinyVit) -> None:
    cache = engines.build(tiny_vit(), target="cpu")

    with engines.open(cache) as engine:
        assert engine.describe()["graph_rewrites"] == "done at build"


def test_a_cache_cannot_be_opened_as_written(tiny_vit: TinyVit) -> None:
    cache = engines.build(tiny_vit(), target="cpu")

    with pytest.raises(UsageError, match="rewritten already"):
        engines.open(cache, options=OpenOptions(rewrites="none"))


def test_an_engine_is_not_built_from_an_engine(tiny_vit: TinyVit) -> None:
    cache = engines.build(tiny_vit(), target="cpu")

    with pytest.raises(InputError, match="an engine already, built for cpu"):
        engines.build(cache, target="cpu")


def test_a_build_records_what_it_is_bound_to(tiny_vit: TinyVit) -> None:
    runtime = read_manifest(engines.build(tiny_vit(), target="cpu")).runtime

    assert runtime is not None
    assert (runtime.flavour, runtime.version) == ("onnxruntime", onnxruntime.__version__)
    assert runtime.settings["instruction_sets"].split() == list(processor.instruction_sets())


def test_an_opset_of_the_future_is_refused(one_node_model: OneNode, tmp_path: Path) -> None:
    path = tmp_path / "future.onnx"
    path.write_bytes(one_node_model("Relu", opset=99).SerializeToString())

    with pytest.raises(
        EngineError, match=r"the graph has opset 99; ONNX Runtime .* reads opsets up to"
    ):
        engines.open(path)


@pytest.mark.parametrize("operator", ["NoSuchOperator", "MatMul"])
def test_a_graph_that_the_runtime_refuses_names_the_node(
    one_node_model: OneNode, operator: str
) -> None:
    with pytest.raises(EngineError, match=r"only|NoSuchOperator") as caught:
        ort.open_bytes(one_node_model(operator).SerializeToString(), name="bad")

    assert "onnxruntime_src" not in caught.value.what


def test_a_failure_while_running_is_an_engine_error(one_node_model: OneNode) -> None:
    model = one_node_model("Reshape", shape=("rows", 4))
    model.graph.node[0].input.append("shape")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([3, 3]), "shape"))

    with ort.open_bytes(model.SerializeToString(), name="reshape") as engine:
        for use in (engine.run, lambda feeds: engine.bind(feeds)()):
            with pytest.raises(EngineError, match="failed while running"):
                use({"x": np.zeros((2, 4), np.float32)})


def test_a_missing_provider_is_never_replaced_by_the_cpu(tiny_vit: TinyVit) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("needs an ONNX Runtime without CUDA")

    with pytest.raises(MissingDependencyError, match="no CUDAExecutionProvider") as caught:
        engines.open(tiny_vit(), options=OpenOptions(provider="cuda"))
    with pytest.raises(MissingDependencyError):
        engines.build(tiny_vit(), target="cuda")

    assert "fpet-export[gpu]" in caught.value.fix


def test_another_provider_than_the_caches_is_refused(tiny_vit: TinyVit) -> None:
    cache = engines.build(tiny_vit(), target="cpu")

    with pytest.raises(UsageError, match="built for the provider cpu, not cuda"):
        engines.open(cache, options=OpenOptions(provider="cuda"))


@pytest.mark.parametrize("threads", [0, -1])
def test_threads_must_be_positive(tiny_vit: TinyVit, threads: int) -> None:
    with pytest.raises(UsageError, match="wanted 1 or more"):
        engines.open(tiny_vit(), options=OpenOptions(threads=threads))


@pytest.mark.parametrize(
    "options",
    [
        BuildOptions(compute_capabilities=("8.6",)),
        BuildOptions(optimization_level=3),
        BuildOptions(workspace_bytes=1),
    ],
)
def test_options_of_tensorrt_are_refused(tiny_vit: TinyVit, options: BuildOptions) -> None:
    with pytest.raises(UsageError, match="the target cpu takes no"):
        engines.build(tiny_vit(), target="cpu", options=options)


def test_a_build_can_be_cancelled(tiny_vit: TinyVit) -> None:
    graph = tiny_vit()

    with pytest.raises(EngineError, match="cancelled"):
        engines.build(graph, target="cpu", options=BuildOptions(progress=lambda *_: False))

    assert list(graph.parent.iterdir()) == [graph]


def test_the_runtime_says_nothing_on_stderr(tiny_vit: TinyVit, tmp_path: Path) -> None:
    bad = tmp_path / "bad.onnx"
    model = onnx.load(tiny_vit())
    model.graph.node[0].op_type = "NoSuchOperator"
    onnx.save(model, bad)
    program = (
        "import sys, engines\n"
        "from engines.errors import EngineError\n"
        "engines.build(sys.argv[1], target='cpu')\n"
        "try:\n"
        "    engines.open(sys.argv[2])\n"
        "except EngineError:\n"
        "    print('refused')\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", program, tiny_vit(), bad], capture_output=True, text=True
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "refused\n", "")


@settings(max_examples=60)
@given(data=st.data())
def test_flipped_bits_are_opened_or_refused(vit_bytes: bytes, data: st.DataObject) -> None:
    content = bytearray(vit_bytes)
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, 5999))] ^= 1 << data.draw(st.integers(0, 7))

    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        try:
            ort.open_bytes(bytes(content), name="flipped").close()
        except FpetError as error:
            assert error.where == "flipped"

    assert said.getvalue() == ""
