from __future__ import annotations

import dataclasses
import importlib.util
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

import engines

if importlib.util.find_spec("openvino") is None:  # importorskip would import its telemetry
    pytest.skip("needs openvino", allow_module_level=True)

from engines import storage
from engines.backends import ov
from engines.backends._openvino import openvino
from engines.contract import BuildOptions, Engine, OpenOptions
from engines.engine import backend
from engines.errors import EngineError, InputError, TrustError, UsageError
from engines.machine import processor
from engines.manifest import read_manifest, write_manifest

TinyVit = Callable[..., Path]
OneNode = Callable[..., onnx.ModelProto]


def images(batch: int = 1) -> dict[str, NDArray[Any]]:
    generator = np.random.default_rng(3)
    return {"image": generator.standard_normal((batch, 3, 32, 32)).astype(np.float32)}


def difference(actual: NDArray[Any], expected: NDArray[Any]) -> float:
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


@pytest.fixture
def artefact(tiny_vit: TinyVit) -> Path:
    return engines.build(tiny_vit(), target="openvino")


@pytest.mark.parametrize("batch", [1, "batch"])
def test_it_says_what_onnx_runtime_says(tiny_vit: TinyVit, batch: int | str) -> None:
    graph = tiny_vit(batch=batch)
    artefact = engines.build(graph, target="openvino")
    feeds = images(3 if batch == "batch" else 1)

    with engines.open(graph) as reference, engines.open(artefact) as engine:
        typed: Engine = engine
        expected = reference.run(feeds)["logits"]

        assert typed.describe()["runtime"] == "openvino"
        assert difference(typed.run(feeds)["logits"], expected) < 1e-5
        shifted = typed.run({"image": feeds["image"] + 1})["logits"]
        assert difference(shifted, expected) > 1e-2  # negative control: the input matters


def test_a_float32_graph_is_never_computed_in_bfloat16(artefact: Path) -> None:
    core = openvino.Core()
    if "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("needs a CPU with bfloat16")
    default = core.compile_model(str(artefact), "CPU")
    with engines.open(artefact) as engine:
        actual = engine.run(images())["logits"]
    with backend("ort").open_engine(artefact, None, options=OpenOptions()) as reference:
        expected = reference.run(images())["logits"]

    assert difference(actual, expected) < 1e-5
    assert difference(default(images())[0], expected) > 1e-4  # negative control: the trap is real


def test_the_precision_is_asked_for_on_every_cpu(artefact: Path) -> None:
    compiled = ov._compile(artefact, threads=1)

    assert compiled.get_property("INFERENCE_PRECISION_HINT").to_string() == "f32"
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 1
    assert compiled.get_property("NUM_STREAMS") == 1


def test_the_artefact_is_the_graph_and_says_openvino(tiny_vit: TinyVit) -> None:
    graph = tiny_vit()

    artefact = engines.build(graph, target="openvino")

    manifest = read_manifest(artefact)
    assert artefact.name == "vit.openvino.onnx"
    assert artefact.read_bytes() == graph.read_bytes()
    assert manifest.runtime is not None
    assert (manifest.kind, manifest.target) == ("engine", "openvino")
    assert manifest.runtime.flavour == "openvino"
    assert openvino.get_version().startswith(manifest.runtime.version)
    assert manifest.parents[0].sha256 == storage.sha256_of(graph)


def test_a_bound_run_reads_the_feed_where_it_lies(artefact: Path) -> None:
    with engines.open(artefact) as engine:
        expected = engine.run(images())["logits"]
        requests: list[Any] = []
        real = engine._request  # type: ignore[attr-defined]
        engine._request = lambda feeds: requests.append(real(feeds)) or requests[-1]  # type: ignore
        run_once = engine.bind(images())
        run_once()
        run_once()

        assert np.array_equal(requests[0].get_output_tensor(0).data, expected)


def test_a_read_only_or_strided_feed_is_taken(artefact: Path) -> None:
    feed = images()["image"]
    frozen = feed.copy()
    frozen.flags.writeable = False
    strided = np.repeat(feed, 2, axis=3)[..., ::2]

    with engines.open(artefact) as engine:
        expected = engine.run({"image": feed})["logits"]
        for other in (frozen, strided):
            assert np.array_equal(engine.run({"image": other})["logits"], expected)


def test_outputs_outlive_the_engine_and_the_next_run(artefact: Path) -> None:
    with engines.open(artefact) as engine:
        first = engine.run(images())["logits"]
        kept = first.copy()
        engine.run({"image": images()["image"] * 2})

    assert np.array_equal(first, kept)


def test_threads_may_run_at_once(artefact: Path) -> None:
    results: list[NDArray[Any]] = []
    with engines.open(artefact) as engine:
        expected = engine.run(images())["logits"]

        def work() -> None:
            results.extend(engine.run(images())["logits"] for _ in range(10))

        workers = [threading.Thread(target=work) for _ in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    assert len(results) == 40
    assert all(np.array_equal(result, expected) for result in results)


def test_an_engine_describes_itself(artefact: Path) -> None:
    with engines.open(artefact, options=OpenOptions(threads=1, name="mine")) as engine:
        facts = engine.describe()
    with engines.open(artefact) as default:
        threads = default.describe()["threads"]

    assert engine.name == "mine"
    assert (facts["provider"], facts["threads"], facts["precision"]) == ("cpu", "1", "f32")
    assert facts["opset"] == "20"
    assert threads == str(processor.usable_cores())


def test_a_closed_engine_does_not_run(artefact: Path) -> None:
    engine = engines.open(artefact)
    run_once = engine.bind(images())
    engine.close()
    engine.close()

    for use in (lambda: engine.run(images()), run_once):
        with pytest.raises(EngineError, match="engine is closed"):
            use()


def test_a_wrong_feed_is_refused_by_run_and_bind(artefact: Path) -> None:
    with engines.open(artefact) as engine:
        for use in (engine.run, engine.bind):
            with pytest.raises(InputError, match=r"shape \(2, 3, 32, 32\), wanted \(1, 3, 32"):
                use(images(2))


def test_the_manifests_batch_range_is_kept(tiny_vit: TinyVit) -> None:
    graph = tiny_vit(batch="batch")
    built = read_manifest(engines.build(graph, target="openvino"))
    write_manifest(graph, dataclasses.replace(built, kind="graph", batch_range=(1, 2)))
    artefact = engines.build(graph, target="openvino", options=BuildOptions(force=True))

    with (
        engines.open(artefact) as engine,
        pytest.raises(InputError, match="batch = 3, wanted 1 to 2"),
    ):
        engine.run(images(3))


def test_an_engine_of_another_runtime_is_refused(tiny_vit: TinyVit) -> None:
    cache = engines.build(tiny_vit(), target="cpu")

    with pytest.raises(TrustError, match="says that onnxruntime built it, not openvino"):
        ov.open_engine(cache, read_manifest(cache), options=OpenOptions())


def test_a_changed_artefact_is_refused(artefact: Path) -> None:
    content = bytearray(artefact.read_bytes())
    content[len(content) // 2] ^= 1
    artefact.write_bytes(content)

    with pytest.raises(TrustError, match="SHA-256"):
        engines.open(artefact)


def test_an_engine_is_not_built_from_an_engine(artefact: Path) -> None:
    with pytest.raises(InputError, match="an engine already, built for openvino"):
        engines.build(artefact, target="cpu")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (OpenOptions(rewrites="none"), "always rewrites"),
        (OpenOptions(provider="cuda"), "on the CPU, not on cuda"),
        (OpenOptions(threads=0), "wanted 1 or more"),
    ],
)
def test_what_it_cannot_do_is_refused(artefact: Path, options: OpenOptions, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        engines.open(artefact, options=options)


def test_options_of_tensorrt_are_refused(tiny_vit: TinyVit) -> None:
    with pytest.raises(UsageError, match="takes no optimization level"):
        engines.build(tiny_vit(), target="openvino", options=BuildOptions(optimization_level=3))


def test_a_cancelled_build_leaves_nothing(tiny_vit: TinyVit) -> None:
    graph = tiny_vit()

    with pytest.raises(EngineError, match="cancelled"):
        engines.build(graph, target="openvino", options=BuildOptions(progress=lambda *_: False))

    assert list(graph.parent.iterdir()) == [graph]


def test_a_graph_that_openvino_refuses_names_the_operator(
    one_node_model: OneNode, tmp_path: Path
) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(one_node_model("NoSuchOperator").SerializeToString())

    with pytest.raises(EngineError, match="NoSuchOperator") as caught:
        engines.build(path, target="openvino")

    assert "\n" not in caught.value.what
    assert ".cpp" not in caught.value.what
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_while_running_is_an_engine_error(
    one_node_model: OneNode, tmp_path: Path
) -> None:
    model = one_node_model("Reshape", shape=("rows", 4))
    model.graph.node[0].input.append("shape")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([3, 3]), "shape"))
    path = tmp_path / "reshape.onnx"
    path.write_bytes(model.SerializeToString())

    with ov.open_engine(path, None, options=OpenOptions()) as engine:
        for use in (engine.run, lambda feeds: engine.bind(feeds)()):
            with pytest.raises(EngineError, match="failed while running"):
                use({"x": np.zeros((2, 4), np.float32)})


def test_external_weights_stay_beside_the_graph(tiny_vit: TinyVit, tmp_path: Path) -> None:
    graph = tmp_path / "vit.onnx"
    onnx.save(
        onnx.load(tiny_vit()),
        graph,
        save_as_external_data=True,
        location="w.bin",
        size_threshold=100,
    )

    artefact = engines.build(graph, target="openvino")
    with engines.open(artefact) as engine, engines.open(graph) as reference:
        expected = reference.run(images())["logits"]
        assert difference(engine.run(images())["logits"], expected) < 1e-5

    with pytest.raises(InputError, match=r"weights lie in other files: w\.bin"):
        engines.build(graph, target="openvino", out=tmp_path / "other" / "vit.openvino.onnx")


def test_a_name_that_is_not_text_is_refused_in_a_sentence(
    one_node_model: OneNode, tmp_path: Path
) -> None:
    path = tmp_path / "bad.onnx"
    content = one_node_model("NoSuchOperator").SerializeToString()
    path.write_bytes(content.replace(b"NoSuchOperator", b"NoSuch\xf0perator"))

    with pytest.raises(EngineError, match=r"OpenVINO .* refuses the graph: .*NoSuch.perator"):
        ov.open_engine(path, None, options=OpenOptions())


def test_openvino_neither_talks_nor_reports(artefact: Path, tmp_path: Path) -> None:
    """A consent file is where its telemetry would begin, so its home stays empty."""
    program = (
        "import sys, engines\n"
        "engines.open(sys.argv[1]).close()\n"
        "loaded = [name for name in sys.modules if name.startswith('openvino_telemetry')]\n"
        "print(loaded, 'openvino.tools.ovc.telemetry_stub' in sys.modules)\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", program, artefact],
        capture_output=True,
        text=True,
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "[] True\n", "")
    assert list(tmp_path.iterdir()) == []
