from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import engines
from engines.backends import ort, trt
from engines.backends._ort import engine as _ort_engine
from engines.contract import Backend, BuildOptions, Engine
from engines.errors import InputError, TrustError, UnknownNameError, UsageError
from engines.manifest import manifest_path, read_manifest

TinyVit = Callable[..., Path]


def test_build_writes_the_artefact_and_its_side_car(tiny_vit: TinyVit) -> None:
    graph = tiny_vit()

    artefact = engines.build(graph, target="cpu", options=BuildOptions(command=("fpet-export",)))

    manifest = read_manifest(artefact)
    assert artefact.name == "vit.cpu.onnx"
    assert (manifest.kind, manifest.target, manifest.weights) == ("engine", "cpu", "unknown")
    assert manifest.command == ("fpet-export",)


def test_build_does_not_overwrite_without_force(tiny_vit: TinyVit) -> None:
    graph = tiny_vit()
    engines.build(graph, target="cpu")

    with pytest.raises(UsageError, match="exists already"):
        engines.build(graph, target="cpu")

    engines.build(graph, target="cpu", options=BuildOptions(force=True))


@pytest.mark.parametrize("name", ["other.plan", "other.engine", "other"])
def test_an_engine_is_not_built_under_an_ending_that_nothing_opens(
    name: str, tiny_vit: TinyVit
) -> None:
    graph = tiny_vit()
    out = graph.with_name(name)

    with pytest.raises(UsageError, match=r"engines of cpu end in \.onnx") as caught:
        engines.build(graph, target="cpu", out=out)

    assert str(out.with_suffix(".onnx")) in str(caught.value) and not out.exists()


@pytest.mark.parametrize("force", [False, True])
def test_a_plan_does_not_take_the_manifest_of_its_graph(force: bool, tiny_vit: TinyVit) -> None:
    graph = engines.build(tiny_vit(), target="cpu")  # has a manifest
    before = manifest_path(graph).read_bytes()
    out = graph.with_suffix(".plan")

    with pytest.raises(UsageError, match="would share one manifest"):
        engines.build(graph, target="rtx", out=out, options=BuildOptions(force=force))

    assert manifest_path(graph).read_bytes() == before and not out.exists()


def test_an_unknown_target_is_refused(tiny_vit: TinyVit) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'rtx'"):
        engines.build(tiny_vit(), target="rtxx")


def test_a_graph_without_a_manifest_opens(tiny_vit: TinyVit) -> None:
    with engines.open(tiny_vit()) as engine:
        typed: Engine = engine
        assert typed.run({"image": np.zeros((1, 3, 32, 32), np.float32)})["logits"].shape == (1, 10)


def test_a_plan_without_a_manifest_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.plan").write_bytes(b"code")

    with pytest.raises(TrustError, match="manifest is missing"):
        engines.open(tmp_path / "a.plan")


def test_a_changed_engine_is_refused(tiny_vit: TinyVit) -> None:
    artefact = engines.build(tiny_vit(), target="cpu")
    content = bytearray(artefact.read_bytes())
    content[len(content) // 2] ^= 1
    artefact.write_bytes(content)

    with pytest.raises(TrustError, match="SHA-256"):
        engines.open(artefact)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        engines.open(tmp_path / "none.onnx")
    with pytest.raises(InputError, match="no such graph"):
        engines.build(tmp_path / "none.onnx", target="cpu")


def test_another_ending_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.pth").write_bytes(b"")

    with pytest.raises(InputError, match=r"\.pth is none of \.onnx, \.plan, \.pt2"):
        engines.open(tmp_path / "model.pth")


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    graph = tmp_path / "bad.onnx"
    graph.write_bytes(b"\x08\x0a")

    with pytest.raises(InputError):
        engines.build(graph, target="cpu")

    assert list(tmp_path.iterdir()) == [graph]
    assert not manifest_path(tmp_path / "bad.cpu.onnx").exists()


def test_both_backends_keep_the_contract() -> None:
    """Mypy compares the modules with the protocol here; running only finds them."""
    contract: tuple[Backend, ...] = (ort, trt)
    kinds: tuple[type[Engine], ...] = (_ort_engine.OrtEngine, trt.TrtEngine)

    assert [engines.engine.backend(name) for name in ("ort", "trt")] == list(contract)
    assert len(kinds) == 2


@pytest.mark.parametrize("target", ["cpu", pytest.param("rtx", marks=pytest.mark.tensorrt)])
def test_a_full_disk_is_refused_in_a_sentence(tiny_vit: TinyVit, target: str) -> None:
    if target == "rtx":
        pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx-cu13")
    graph = tiny_vit(dtype="float16")
    program = (
        "import resource, sys, engines\n"
        "from engines.errors import FpetError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try:\n"
        "    engines.build(sys.argv[1], target=sys.argv[2])\n"
        "except FpetError as error:\n"
        "    print(error.what)\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", program, graph, target], capture_output=True, text=True
    )

    assert f"cannot write vit.{target}" in done.stdout, done.stderr
    assert list(graph.parent.iterdir()) == [graph]
