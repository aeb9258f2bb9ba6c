"""Every peer that is installed runs the same small network and gives the same answers."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import peers
from benchmarks.feeds import synthetic_feeds
from benchmarks.peers import PeerSource, load_peer
from engines import registry
from engines.errors import EngineError, InputError, MissingDependencyError, UsageError

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

NAMES = registry.available(peers)
# torch.compile needs a C++ compiler and half a minute.
FAST = [pytest.param(n, marks=pytest.mark.slow) if n == "torch_compile" else n for n in NAMES]


@pytest.fixture(scope="module")
def module() -> Any:
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(3, 8, 4, stride=4), torch.nn.GELU(), torch.nn.Flatten()]
    return torch.nn.Sequential(*layers, torch.nn.Linear(32, 5)).eval()


@pytest.fixture(scope="module")
def source(module: Any, tmp_path_factory: pytest.TempPathFactory) -> PeerSource:
    """The same network as a module and as a graph, written node by node."""
    from onnx import TensorProto, helper, numpy_helper

    def weight(name: str, tensor: Any) -> Any:
        return numpy_helper.from_array(tensor.detach().numpy(), name)

    conv, linear = module[0], module[3]
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["images", "w0", "b0"], ["c"], strides=[4, 4]),
            helper.make_node("Gelu", ["c"], ["g"]),
            helper.make_node("Flatten", ["g"], ["f"]),
            helper.make_node("Gemm", ["f", "w1", "b1"], ["logits"], transB=1),
        ],
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 5])],
        [
            weight("w0", conv.weight),
            weight("b0", conv.bias),
            weight("w1", linear.weight),
            weight("b1", linear.bias),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    path = tmp_path_factory.mktemp("peer") / "plain.onnx"
    onnx.save(model, path)
    return PeerSource(onnx=path, module=lambda: module, image=(3, 8, 8))


@pytest.fixture
def peer_engine(request: pytest.FixtureRequest, source: PeerSource) -> Iterator[Any]:
    threads = torch.get_num_threads()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of OpenVINO and inductor, while they load
        try:
            peer = load_peer(peers, request.param)
        except MissingDependencyError as error:
            pytest.skip(error.what)
        with peer.open_peer(source, threads=1) as engine:
            yield engine
    torch.set_num_threads(threads)


def test_the_four_peers_are_there() -> None:
    assert NAMES == ["openvino_plain", "ort_plain", "torch_compile", "torch_eager"]


@pytest.mark.parametrize("peer_engine", FAST, indirect=True)
def test_every_peer_gives_the_modules_answers(peer_engine: Any, module: Any) -> None:
    feeds = synthetic_feeds(peer_engine.inputs, batch=3, seed=0, name="peer")
    (images,) = feeds.values()

    logits = peer_engine.run(feeds)[peer_engine.outputs[0].name]
    peer_engine.bind(feeds)()

    expected = module(torch.from_numpy(images)).detach().numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-5 * np.abs(expected).max())
    assert np.abs(expected[0] - expected[1]).max() > 1e-3  # negative control: images matter
    facts = peer_engine.describe()
    assert facts["threads"] == "1"
    assert facts["version"]


@pytest.mark.parametrize("peer_engine", FAST, indirect=True)
def test_every_peer_refuses_wrong_feeds_and_closes_twice(peer_engine: Any) -> None:
    with pytest.raises(InputError):
        peer_engine.run({"surprise": np.zeros((1, 3, 8, 8), np.float32)})
    peer_engine.close()
    peer_engine.close()


@pytest.mark.parametrize("name", NAMES)
def test_a_peer_without_its_form_of_the_model_is_refused(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            peer = load_peer(peers, name)
        except MissingDependencyError as error:
            pytest.skip(error.what)

    with pytest.raises(UsageError, match="was given"):
        peer.open_peer(PeerSource(), threads=1)


def test_a_module_that_raises_becomes_an_engine_error() -> None:
    def broken(images: Any) -> Any:
        raise RuntimeError("no such kernel\nand much more")

    engine = load_peer(peers, "torch_eager").open_peer(
        PeerSource(module=lambda: broken, image=(3, 8, 8)), threads=1
    )

    with pytest.raises(EngineError, match="RuntimeError: no such kernel"):
        engine.run({"images": np.zeros((1, 3, 8, 8), np.float32)})


@pytest.mark.parametrize("name", ["ort_plain", "openvino_plain"])
def test_a_damaged_graph_is_refused_in_a_sentence(name: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(b"not a graph")
    try:
        peer = load_peer(peers, name)
    except MissingDependencyError as error:
        pytest.skip(error.what)

    with pytest.raises(InputError, match="not a whole ONNX model"):
        peer.open_peer(PeerSource(onnx=path), threads=1)
