"""Packages of PyTorch: built here for the CPU, opened, and refused where they do not belong."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent import futures
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

import engines

if importlib.util.find_spec("torch") is None:
    pytest.skip("needs torch", allow_module_level=True)

import torch

from engines.backends import aoti
from engines.backends._aoti import builder
from engines.backends._aoti import engine as _torch_engine
from engines.contract import BuildOptions, DeviceClock, Engine, OpenOptions
from engines.errors import (
    EngineError,
    InputError,
    MissingDependencyError,
    ParityError,
    TrustError,
    UsageError,
)
from engines.machine import processor
from engines.manifest import read_manifest, write_manifest
from tests.engines.conftest import BLOCKS, tiny_vit_model

TinyVit = Callable[..., Path]
QUICK = BuildOptions(optimization_level=0)
HAS_COMPILER = any(map(shutil.which, ("g++", "clang++", "c++")))
needs_compiler = pytest.mark.skipif(not HAS_COMPILER, reason="needs a C++ compiler: g++")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def images(batch: int = 1) -> dict[str, NDArray[Any]]:
    generator = np.random.default_rng(3)
    return {"image": generator.standard_normal((batch, 3, 32, 32)).astype(np.float32)}


def difference(actual: NDArray[Any], expected: NDArray[Any]) -> float:
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


@pytest.fixture(scope="module")
def built(tiny_vit: TinyVit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package for the CPU, compiled once; nothing of the compiler may be left behind."""
    if not HAS_COMPILER:
        pytest.skip("needs a C++ compiler: g++")
    trash = tmp_path_factory.mktemp("trash")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(trash))
        patch.setattr("tempfile.tempdir", str(trash))
        artefact = engines.build(tiny_vit(), target="torch-cpu", options=QUICK)
    assert not any(trash.iterdir())
    return artefact


@pytest.fixture
def artefact(built: Path, tmp_path: Path) -> Path:
    """A copy of the package that a test may spoil, with its graph beside it."""
    for file in built.parent.iterdir():
        shutil.copyfile(file, tmp_path / file.name)
    return tmp_path / built.name


def rewritten(artefact: Path, **changes: Any) -> None:
    manifest = read_manifest(artefact)
    assert manifest.runtime is not None
    runtime = dataclasses.replace(manifest.runtime, **changes)
    write_manifest(artefact, dataclasses.replace(manifest, runtime=runtime))


def test_it_says_what_onnx_runtime_says(built: Path) -> None:
    feeds = images()

    with (
        engines.open(built.with_name("vit.onnx")) as reference,
        engines.open(built, options=OpenOptions(threads=1)) as engine,
    ):
        typed: Engine = engine
        expected = reference.run(feeds)["logits"]

        assert difference(typed.run(feeds)["logits"], expected) < 1e-5
        shifted = typed.run({"image": feeds["image"] + 1})["logits"]
        assert difference(shifted, expected) > 1e-2  # negative control: the input matters
        assert not isinstance(engine, DeviceClock)


def test_the_manifest_says_what_it_is_bound_to(built: Path) -> None:
    manifest = read_manifest(built)

    assert built.name == "vit.torch-cpu.pt2"
    assert (manifest.kind, manifest.target) == ("engine", "torch-cpu")
    assert manifest.parents[0].file == "vit.onnx"
    runtime = manifest.runtime
    assert runtime is not None
    assert (runtime.flavour, runtime.version) == ("torch", torch.__version__)
    assert runtime.compute_capabilities == ()
    assert runtime.settings["provider"] == "cpu"
    assert runtime.settings["instruction_sets"].split() == list(processor.instruction_sets())
    assert runtime.settings["fused_attentions"] == str(BLOCKS)
    assert runtime.settings["optimization_level"] == "0"


def test_it_opens_without_our_module_and_without_onnx(built: Path) -> None:
    program = (
        "import sys; sys.modules.update(dict.fromkeys(['onnx', 'timm', 'fpet_export']))\n"
        "import numpy as np, engines\n"
        f"with engines.open({str(built)!r}) as engine:\n"
        "    print(engine.run({'image': np.zeros((1, 3, 32, 32), 'float32')})['logits'].shape)\n"
        "print('engines.backends._aoti.module' in sys.modules)\n"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert done.stdout.split("\n")[:2] == ["(1, 10)", "False"], done.stderr
    assert done.stderr == ""


def test_nothing_is_left_behind_by_an_open_engine(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = (
        "import numpy as np, engines\n"
        f"with engines.open({str(built)!r}) as engine:\n"
        "    engine.run({'image': np.zeros((1, 3, 32, 32), 'float32')})\n"
    )

    environment = {**os.environ, "TMPDIR": str(tmp_path), "CXX": "no-compiler-here"}
    environment.pop("TORCHINDUCTOR_CACHE_DIR", None)
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)

    assert not any(tmp_path.iterdir())


def test_a_bound_run_is_one_inference(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with engines.open(built) as engine:
        calls: list[Any] = []
        real = engine._package  # type: ignore[attr-defined]
        engine._package = lambda *given: calls.append(given) or real(*given)  # type: ignore
        run_once = engine.bind(images())
        assert not calls
        run_once()
        run_once()

        assert len(calls) == 2
        assert calls[0][0].data_ptr() == calls[1][0].data_ptr()


def test_threads_are_the_engines_own_and_the_process_keeps_its_own(built: Path) -> None:
    before = torch.get_num_threads()
    seen: list[int] = []

    with engines.open(built, options=OpenOptions(threads=before + 1)) as engine:
        real = engine._package  # type: ignore[attr-defined]
        engine._package = lambda *given: seen.append(torch.get_num_threads()) or real(*given)  # type: ignore
        engine.run(images())
        assert engine.describe()["threads"] == str(before + 1)

    assert seen == [before + 1]
    assert torch.get_num_threads() == before


def test_a_read_only_feed_is_taken_and_a_wrong_one_refused(built: Path) -> None:
    feed = images()["image"]
    feed.flags.writeable = False

    with engines.open(built) as engine:
        assert engine.run({"image": feed})["logits"].shape == (1, 10)
        with pytest.raises(InputError, match="shape"):
            engine.run(images(2))
        with pytest.raises(InputError, match="dtype"):
            engine.run({"image": feed.astype(np.float64)})


def test_a_closed_engine_is_refused(built: Path) -> None:
    with engines.open(built) as engine:
        run_once = engine.bind(images())

    for call in (run_once, lambda: engine.run(images())):
        with pytest.raises(EngineError, match="closed"):
            call()
    engine.close()


def test_threads_run_side_by_side(built: Path) -> None:
    feeds = [{"image": images()["image"] + shift} for shift in range(4)]
    with engines.open(built, options=OpenOptions(threads=1)) as engine:
        expected = [engine.run(one)["logits"] for one in feeds]

        def repeat(place: int) -> bool:
            return all(
                np.array_equal(engine.run(feeds[place])["logits"], expected[place])
                for _ in range(20)
            )

        with futures.ThreadPoolExecutor(4) as pool:
            assert all(pool.map(repeat, range(4)))


# -- trust -------------------------------------------------------------------------------------


def test_a_package_without_its_manifest_is_not_opened(artefact: Path) -> None:
    artefact.with_name("vit.torch-cpu.manifest.json").unlink()

    with pytest.raises(TrustError, match="the manifest is missing"):
        engines.open(artefact)


def test_a_changed_package_is_not_opened(artefact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aoti, "_load", lambda *_, **__: pytest.fail("it was loaded"))
    content = bytearray(artefact.read_bytes())
    content[len(content) // 2] ^= 1
    artefact.write_bytes(content)

    with pytest.raises(TrustError, match="SHA-256"):
        engines.open(artefact)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": "2.0.1"}, r"built for PyTorch 2\.0\.1, this is"),
        ({"machine": "riscv64"}, "built for another CPU: this one lacks riscv64"),
        ({"settings": {"provider": "cpu", "instruction_sets": "avx99"}}, "lacks avx99"),
        ({"flavour": "onnxruntime"}, "says that onnxruntime built it, not torch"),
    ],
    ids=["version", "machine", "instructions", "runtime"],
)
def test_a_package_of_elsewhere_is_refused_before_it_is_loaded(
    artefact: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], words: str
) -> None:
    monkeypatch.setattr(aoti, "_load", lambda *_, **__: pytest.fail("it was loaded"))
    rewritten(artefact, **changes)

    with pytest.raises(TrustError, match=words) as caught:
        engines.open(artefact)

    if "flavour" not in changes:
        assert "fpet-export build" in caught.value.fix
        assert "--target torch-cpu" in caught.value.fix


def test_a_package_for_a_gpu_needs_one_of_its_generation(
    artefact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aoti, "_load", lambda *_, **__: pytest.fail("it was loaded"))
    settings = {
        "provider": "cuda",
        "gpu": "NVIDIA H100",
        "instruction_sets": " ".join(processor.instruction_sets()),
    }
    rewritten(artefact, compute_capabilities=("9.0",), settings=settings)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(MissingDependencyError, match="sees no CUDA device"):
        engines.open(artefact)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 6))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA A10")
    with pytest.raises(TrustError, match=r"9\.0 \(NVIDIA H100\), this is 8\.6 \(NVIDIA A10\)"):
        engines.open(artefact)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (OpenOptions(provider="cuda"), "built for the provider cpu"),
        (OpenOptions(rewrites="none"), "runs as PyTorch compiled it"),
        (OpenOptions(zero_copy=True), "only a plan of TensorRT"),
        (OpenOptions(threads=0), "threads is 0"),
    ],
)
def test_options_of_other_runtimes_are_refused(
    built: Path, options: OpenOptions, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        engines.open(built, options=options)


def test_a_package_that_failed_its_check_is_refused(artefact: Path) -> None:
    manifest = read_manifest(artefact)
    row = {"stage": "engine", "failures": ["agreement 10 %"]}
    write_manifest(artefact, dataclasses.replace(manifest, parity={"rows": [row]}))

    with pytest.raises(ParityError, match="failed its check"):
        engines.open(artefact)


# -- builds that are refused -------------------------------------------------------------------


def no_compiler(*_: Any, **__: Any) -> Any:
    pytest.fail("the compiler was started")


@pytest.mark.parametrize(
    ("path", "cxx", "words"),
    [("", None, "none of g\\+\\+"), (None, "no-such-compiler -O2", "no-such-compiler")],
)
def test_without_a_compiler_the_build_says_how_to_get_one(
    tiny_vit: TinyVit,
    monkeypatch: pytest.MonkeyPatch,
    path: str | None,
    cxx: str | None,
    words: str,
) -> None:
    monkeypatch.setattr(builder, "_run", no_compiler)
    monkeypatch.delenv("CXX", raising=False)
    if path is not None:
        monkeypatch.setenv("PATH", path)
    if cxx is not None:
        monkeypatch.setenv("CXX", cxx)
    graph = tiny_vit()

    with pytest.raises(MissingDependencyError, match=words) as caught:
        engines.build(graph, target="torch-cpu")

    assert "apt-get install g++" in caught.value.fix
    assert [file.name for file in graph.parent.iterdir()] == ["vit.onnx"]


def test_without_a_gpu_nothing_is_built_for_one(
    tiny_vit: TinyVit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(builder, "_run", no_compiler)

    with pytest.raises(MissingDependencyError, match="sees no CUDA device"):
        engines.build(tiny_vit(), target="torch-cuda")


def test_a_dynamic_extent_without_a_range_is_refused(
    tiny_vit: TinyVit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builder, "_run", no_compiler)

    with pytest.raises(InputError, match="'batch' of 'image' is dynamic, and nothing says its"):
        engines.build(tiny_vit(batch="batch"), target="torch-cpu")


def test_another_dynamic_extent_than_the_batch_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builder, "_run", no_compiler)
    model = tiny_vit_model()
    value = onnx.helper.make_tensor_value_info("down", onnx.TensorProto.FLOAT, ["rank", 64])
    model.graph.input.append(value)
    onnx.save(model, str(tmp_path / "vit.onnx"))

    with pytest.raises(InputError, match="'rank' of 'down' is dynamic"):
        engines.build(tmp_path / "vit.onnx", target="torch-cpu")


@pytest.mark.parametrize(
    "values",
    [{"workspace_bytes": 1}, {"compute_capabilities": ("9.0",)}],
    ids=str,
)
def test_build_options_of_tensorrt_are_refused(tiny_vit: TinyVit, values: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="the target torch-cpu takes no"):
        engines.build(tiny_vit(), target="torch-cpu", options=BuildOptions(**values))


@needs_compiler
def test_an_operator_that_is_not_known_is_named_by_the_compiler(tmp_path: Path) -> None:
    model = tiny_vit_model()
    model.graph.node.add(op_type="NonZero", name="n", input=["logits"], output=["places"])
    path = tmp_path / "vit.onnx"
    onnx.save(model, str(path))

    with pytest.raises(InputError, match="does not translate: NonZero"):
        engines.build(path, target="torch-cpu", options=QUICK)

    assert [file.name for file in tmp_path.iterdir()] == ["vit.onnx"]


@needs_compiler
def test_a_cancelled_build_leaves_nothing(tiny_vit: TinyVit) -> None:
    graph = tiny_vit()

    with pytest.raises(EngineError, match="cancelled"):
        engines.build(graph, target="torch-cpu", options=BuildOptions(progress=lambda *_: False))

    assert [file.name for file in graph.parent.iterdir()] == ["vit.onnx"]


# -- what a GPU needs --------------------------------------------------------------------------


def test_tf32_is_off_in_a_run_and_the_process_keeps_its_own_setting() -> None:
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = True
    try:
        with _torch_engine.exact_float32():
            inside = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
        assert inside == (False, False)
        assert torch.backends.cudnn.allow_tf32
    finally:
        torch.backends.cudnn.allow_tf32 = before


@pytest.mark.gpu
@needs_gpu
@needs_compiler
@pytest.mark.parametrize("cuda_graph", [True, False])
def test_a_gpu_says_what_onnx_runtime_says(tiny_vit: TinyVit, cuda_graph: bool) -> None:
    graph = tiny_vit()
    artefact = engines.build(graph, target="torch-cuda", options=QUICK)
    feeds, others = images(), {"image": images()["image"] + 1}

    with (
        engines.open(graph) as reference,
        engines.open(artefact, options=OpenOptions(cuda_graph=cuda_graph)) as engine,
    ):
        for one in (feeds, others, feeds):
            expected = reference.run(one)["logits"]
            assert difference(engine.run(one)["logits"], expected) < 1e-4
        run_once = engine.bind(feeds)
        run_once()
        assert isinstance(engine, DeviceClock)
        assert all(taken > 0 for taken in engine.device_times_ns(feeds, runs=3))
        assert engine.describe()["cuda_graph"].startswith("yes" if cuda_graph else "no")
