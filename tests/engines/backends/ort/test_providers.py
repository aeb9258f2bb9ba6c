"""ONNX Runtime's GPU providers, on a machine without a GPU: how they start, and why they do not."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime
import pytest

import engines
from benchmarks.feeds import synthetic_feeds
from engines.backends._ort import session as _ort_session
from engines.contract import OpenOptions
from engines.errors import MissingDependencyError, UsageError
from engines.manifest import read_manifest, write_manifest
from tests.engines.cuda.fake_cuda import FakeCuda

Gpu = Literal["cuda", "tensorrt"]
NAMES = {"cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
LOGGED = (
    "[E:onnxruntime:Default] Failed to load library libonnxruntime_providers_cuda.so with error: "
    "libcublasLt.so.13: cannot open shared object file: No such file or directory\n"
)


class Package:
    """onnxruntime-gpu: it lists three providers; `starts` is what of them works."""

    def __init__(self) -> None:
        self.starts = True
        self.logs = self.raises = ""
        self.asked: list[list[Any]] = []
        self.preloaded = 0
        self.severity = 4
        self.__version__ = "1.31.1"
        self.real = onnxruntime.InferenceSession
        self.library = FakeCuda()
        self.refuses_graphs = ""
        self.run_options: list[dict[str, str]] = []

    def get_available_providers(self) -> list[str]:
        return ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]

    def set_default_logger_severity(self, severity: int) -> None:
        self.severity = severity

    def preload_dlls(self) -> None:
        sys.stdout.write("Failed to load libcurand.so.10")
        self.preloaded += 1

    def InferenceSession(  # noqa: N802  # ONNX Runtime's spelling
        self, model: Any, settings: Any, *, providers: list[Any], enable_fallback: int
    ) -> Any:
        assert enable_fallback == 0
        self.asked.append(providers)
        if self.logs and self.severity <= 3:
            os.write(2, self.logs.encode())  # native code writes past sys.stderr
        if self.raises:
            raise RuntimeError(self.raises)
        options: dict[str, str] = {} if isinstance(providers[0], str) else providers[0][1]
        if self.refuses_graphs and "enable_cuda_graph" in options:
            raise RuntimeError(self.refuses_graphs)
        session = self.real(model, settings, providers=["CPUExecutionProvider"])
        names = [entry if isinstance(entry, str) else entry[0] for entry in providers]
        stream = int(options.get("user_compute_stream", "0"))
        return Session(self, session, names if self.starts else names[-1:], stream)


class Binding:
    """Bound addresses of the stand-in's device, whose memory is the host's."""

    def __init__(self, session: Any) -> None:
        self.real = session.io_binding()
        self.bind_input = functools.partial(self._bind, self.real.bind_input)
        self.bind_output = functools.partial(self._bind, self.real.bind_output)

    def _bind(self, bind: Callable[..., None], name: str, device: str, *place: Any) -> None:
        assert device == "cuda"
        bind(name, "cpu", *place)


class Session:
    """A session on the CPU that says it is on other providers, and works when its stream does."""

    def __init__(self, package: Package, session: Any, providers: list[str], stream: int) -> None:
        self._package, self._session = package, session
        self._providers, self._stream = providers, stream

    def get_providers(self) -> list[str]:
        return self._providers

    def io_binding(self) -> Any:
        return Binding(self._session) if self._stream else self._session.io_binding()

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        graph = options.get_run_config_entry("gpu_graph_id")
        self._package.run_options.append({"gpu_graph_id": graph})
        self._package.library.enqueue(
            self._stream, lambda: self._session.run_with_iobinding(binding.real)
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> Package:
    importlib.import_module("engines.backends.ort")  # it takes what is replaced now
    package = Package()
    monkeypatch.setattr(_ort_session, "onnxruntime", package)
    monkeypatch.setattr("engines.backends._ort.cuda_provider.open_cuda", package.library.opened)
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    return package


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_graph_runs_on_the_provider_that_was_asked_for(
    package: Package, tiny_vit: Callable[..., Path], provider: Gpu, capsys: Any
) -> None:
    graph = tiny_vit()
    with engines.open(graph, options=OpenOptions(provider=provider)) as engine:
        facts = engine.describe()
        engine.run(synthetic_feeds(engine.inputs, batch=1, seed=0, name="graph"))
    (asked,) = package.asked
    names = [entry if isinstance(entry, str) else entry[0] for entry in asked]
    assert names[0] == NAMES[provider]
    assert names[-2:] == ["CUDAExecutionProvider", "CPUExecutionProvider"]
    assert asked[-2][1]["use_tf32"] == "0"
    assert asked[-2][1]["enable_skip_layer_norm_strict_mode"] == "1"
    assert (facts["provider"], facts["device"], facts["tf32"]) == (provider, "cuda:0", "off")
    assert package.preloaded == 1
    assert capsys.readouterr().out == ""


def images(engine: Any, seed: int, batch: int = 1) -> dict[str, Any]:
    return synthetic_feeds(engine.inputs, batch=batch, seed=seed, name="graph")


def test_runs_on_cuda_are_recorded_at_addresses_that_stay(
    package: Package, tiny_vit: Callable[..., Path]
) -> None:
    graph = tiny_vit()
    with (
        engines.open(graph, options=OpenOptions(provider="cuda")) as engine,
        engines.open(graph) as plain,
    ):
        for seed in (1, 2, 3):
            found = engine.run(images(engine, seed))["logits"]
            wanted = plain.run(images(plain, seed))["logits"]
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
        assert package.run_options == [{"gpu_graph_id": "1"}] * 3
        engine.bind(images(engine, 4))()
        assert package.run_options[-1] == {"gpu_graph_id": "2"}  # other addresses, another graph
        assert engine.describe()["cuda_graph"] == "yes"
        assert engine.describe()["host_memory"] == "page-locked"
    assert package.asked[0][0][1]["enable_cuda_graph"] == "1"
    assert package.library.left == 0


def test_each_size_of_a_dynamic_batch_has_a_graph_of_its_own(
    package: Package, tiny_vit: Callable[..., Path]
) -> None:
    with engines.open(tiny_vit(batch="batch"), options=OpenOptions(provider="cuda")) as engine:
        for batch in (1, 2, 2):
            assert len(engine.run(images(engine, 1, batch))["logits"]) == batch
    assert [entry["gpu_graph_id"] for entry in package.run_options] == ["1", "2", "2"]
    assert package.library.left == 0


def test_what_follows_the_last_graph_runs_call_by_call_and_says_so(
    package: Package, tiny_vit: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engines.backends._ort.cuda_engine._GRAPHS", 2)
    options = OpenOptions(provider="cuda")
    with engines.open(tiny_vit(batch="batch"), options=options) as engine:
        for batch in (1, 2):
            engine.run(images(engine, 1, batch))
        assert engine.describe()["cuda_graph"] == "yes"
        assert len(engine.run(images(engine, 1, 3))["logits"]) == 3
        assert engine.describe()["cuda_graph"] == "for the first 2 of 3 sets of addresses"
    assert [entry["gpu_graph_id"] for entry in package.run_options] == ["1", "2", "-1"]


def test_cuda_graphs_can_be_switched_off(package: Package, tiny_vit: Callable[..., Path]) -> None:
    options = OpenOptions(provider="cuda", cuda_graph=False)
    with engines.open(tiny_vit(), options=options) as engine:
        engine.run(images(engine, 1))
        assert engine.describe()["cuda_graph"] == "no: switched off"
    assert package.run_options == [{"gpu_graph_id": "-1"}]
    assert "enable_cuda_graph" not in package.asked[0][0][1]


def test_a_graph_that_cannot_be_recorded_runs_call_by_call_and_says_so(
    package: Package, tiny_vit: Callable[..., Path]
) -> None:
    package.refuses_graphs = "This session cannot use the graph capture feature as requested"
    with engines.open(tiny_vit(), options=OpenOptions(provider="cuda")) as engine:
        engine.run(images(engine, 1))
        assert engine.describe()["cuda_graph"] == "no: an operator of the graph runs on the CPU"
    assert package.library.left == 0


def test_a_session_that_does_not_start_leaves_nothing(
    package: Package, tiny_vit: Callable[..., Path]
) -> None:
    package.starts = False
    with pytest.raises(MissingDependencyError):
        engines.open(tiny_vit(), options=OpenOptions(provider="cuda"))
    assert package.library.left == 0


def test_a_build_for_cuda_records_its_operators(
    package: Package, tiny_vit: Callable[..., Path], tmp_path: Path
) -> None:
    built = engines.build(tiny_vit(), target="cuda", out=tmp_path / "model.cuda.onnx")
    runtime = read_manifest(built).runtime
    assert runtime is not None
    nodes = onnx.load(built).graph.node
    assert runtime.settings["provider"] == "cuda"
    assert runtime.settings["operators"] == str(len(nodes))
    assert runtime.settings["fused_attentions"].endswith(" of 2")
    assert "user_compute_stream" not in package.asked[0][0][1]  # nothing runs: it is written
    runtime = dataclasses.replace(runtime, machine="another", settings={"provider": "cuda"})
    manifest = dataclasses.replace(read_manifest(built), runtime=runtime)
    write_manifest(built, manifest)
    engines.open(built).close()  # the CPU that built it does not matter


def test_tensorrt_keeps_the_graphs_types_and_nothing_on_the_disk(
    package: Package,
    tiny_vit: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "tensorrt.py").write_text("LIBRARIES = 'loaded'\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt")
    engines.open(tiny_vit(), options=OpenOptions(provider="tensorrt")).close()
    settings = package.asked[0][0][1]
    for off in ("fp16_enable", "int8_enable", "engine_cache_enable", "timing_cache_enable"):
        assert settings[f"trt_{off}"] == "0"
    assert os.environ["NVIDIA_TF32_OVERRIDE"] == "0"
    assert sys.modules["tensorrt"].LIBRARIES == "loaded"


def test_tf32_that_is_forced_on_is_refused(
    package: Package, tiny_vit: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    with pytest.raises(UsageError, match="float32 scores") as caught:
        engines.open(tiny_vit(), options=OpenOptions(provider="tensorrt"))
    assert caught.value.fix == "unset NVIDIA_TF32_OVERRIDE"


def test_a_silent_fall_back_is_refused_with_the_loaders_words(
    package: Package, tiny_vit: Callable[..., Path], capfd: Any
) -> None:
    """onnxruntime-gpu without its libraries lists the provider and then runs on the CPU."""
    package.starts, package.logs = False, LOGGED
    with pytest.raises(MissingDependencyError) as caught:
        engines.open(tiny_vit(), options=OpenOptions(provider="cuda"))
    assert "libcublasLt.so.13: cannot open shared object file" in caught.value.what
    assert "CUDAExecutionProvider" in caught.value.what
    assert caught.value.fix == "pip install 'onnxruntime-gpu[cuda,cudnn]'"
    assert package.severity == 4
    assert capfd.readouterr().err == ""


def test_without_tensorrts_libraries_it_is_not_the_graph_that_is_blamed(
    package: Package, tiny_vit: Callable[..., Path]
) -> None:
    package.raises = "RegisterTensorRTPluginsAsCustomOps Please install TensorRT libraries as ..."
    package.logs = LOGGED.replace("libcublasLt.so.13", "libnvinfer.so.10")
    with pytest.raises(MissingDependencyError, match=r"libnvinfer\.so\.10: cannot open") as caught:
        engines.open(tiny_vit(), options=OpenOptions(provider="tensorrt"))
    assert caught.value.fix == "pip install 'tensorrt==10.*'"


def test_a_driver_that_fails_is_quoted(package: Package, tiny_vit: Callable[..., Path]) -> None:
    package.starts = False
    package.logs = "CUDA failure 35: CUDA driver version is insufficient; GPU=-1 ; hostname=x"
    with pytest.raises(MissingDependencyError, match="35: CUDA driver version is ins") as caught:
        engines.open(tiny_vit(), options=OpenOptions(provider="cuda"))
    assert "nvidia-smi" in caught.value.fix


def test_the_options_are_those_of_the_real_library() -> None:
    """The provider refuses names that it does not know; its library lists those that it does."""
    folder = Path(onnxruntime.__file__).parent / "capi"
    library = folder / "libonnxruntime_providers_tensorrt.so"
    if not library.exists():
        pytest.skip("needs onnxruntime-gpu")
    content = library.read_bytes()
    assert all(name.encode() + b"\0" in content for name in _ort_session._TENSORRT[1])


@pytest.mark.skipif(
    "CUDAExecutionProvider" not in onnxruntime.get_available_providers(),
    reason="needs onnxruntime-gpu",
)
@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_the_real_package_runs_or_says_what_it_lacks(
    tiny_vit: Callable[..., Path], provider: Gpu
) -> None:
    program = (
        "import sys, engines\n"
        "from engines.contract import OpenOptions\n"
        "from engines.errors import FpetError\n"
        "try:\n"
        "    engines.open(sys.argv[1], options=OpenOptions(provider=sys.argv[2])).close()\n"
        "except FpetError as error:\n"
        "    sys.exit(error.exit_code)\n"
    )
    command = [sys.executable, "-c", program, str(tiny_vit()), provider]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode in (0, 4), done.stderr
    assert done.stderr == "" == done.stdout


def test_zero_copy_is_for_plans(tiny_vit: Callable[..., Path]) -> None:
    with pytest.raises(UsageError, match="only a plan of TensorRT") as caught:
        engines.open(tiny_vit(), options=OpenOptions(zero_copy=True))
    assert "TensorRT target" in caught.value.fix


def test_a_graph_that_is_refused_is_blamed_itself(package: Package, tmp_path: Path) -> None:
    package.raises = "[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : no kernel for Foo"
    header: Any = SimpleNamespace(opset=20)
    model = _ort_session.Model(source=b"", header=header, settings=None, where="here")
    with pytest.raises(engines.errors.EngineError, match="refuses the graph: no kernel for Foo"):
        _ort_session.open_session(model, "cuda")
