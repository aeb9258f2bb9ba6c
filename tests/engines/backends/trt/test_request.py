"""What a build takes from its target, and what is refused before or right after TensorRT is there.

The builds run on stand-ins for recorded versions of TensorRT.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import engines
from engines.backends import trt as backend
from engines.backends._trt.timing_cache import Maker, read_timings, side_path, write_timings
from engines.contract import BuildOptions
from engines.engine import equivalent_command
from engines.errors import (
    EngineError,
    InputError,
    MissingDependencyError,
    TrustError,
    UsageError,
)
from engines.machine.jetson import JetsonIdentity
from engines.manifest import Manifest, TensorSpec, read_manifest, write_manifest
from tests.engines.backends.trt.recorded_tensorrt import Build, tensorrt

TinyVit = Callable[..., Path]
Install = Callable[..., Build]
ORIN = "jetson-orin-nano-8gb"


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    def put(version: str, *, gpu: str = "8.7", **told: Any) -> Build:
        build = Build(**told)
        monkeypatch.setitem(sys.modules, "tensorrt", tensorrt(version, build))
        monkeypatch.setattr(
            backend, "open_cuda", lambda: SimpleNamespace(compute_capability=lambda: gpu)
        )
        monkeypatch.setattr("engines.backends._trt.log._RECORDERS", {})
        return build

    return put


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading TensorRT fails, so a refusal must come before."""
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, None)


def stated(graph: Path, **facts: Any) -> Path:
    """Give a tiny ViT a manifest that says what its bytes do not."""
    dtype = facts.pop("dtype", "float32")
    rows = "batch" if "batch_range" in facts else 1
    known: dict[str, Any] = {"precision": "fp32", "opset": 20, "target": "tensorrt"}
    manifest = Manifest(
        kind="graph",
        file=graph.name,
        inputs=(TensorSpec(name="image", shape=(rows, 3, 32, 32), dtype=dtype),),
        outputs=(TensorSpec(name="logits", shape=(rows, 10), dtype=dtype),),
        weights="random",
        **(known | facts),
    )
    write_manifest(graph, manifest)
    return graph


def settings_of(plan: Path) -> dict[str, str]:
    runtime = read_manifest(plan).runtime
    assert runtime is not None
    return runtime.settings


def test_the_target_sets_workspace_and_level(tiny_vit: TinyVit, install: Install) -> None:
    build = install("10.3.0")

    plan = engines.build(tiny_vit(), target=ORIN)

    assert plan.name == "vit.jetson-orin-nano-8gb-jp6.2.plan"
    assert read_manifest(plan).target == "jetson-orin-nano-8gb@jp6.2"
    assert (build.level, build.pools) == (3, {"WORKSPACE": 2 << 30})
    assert build.creation_flags == 0b10
    settings = settings_of(plan)
    assert (settings["optimization_level"], settings["workspace_bytes"]) == ("3", str(2 << 30))
    assert "--memPoolSize=workspace:2048" in settings["trtexec"]
    assert "--stronglyTyped" in settings["trtexec"]


def test_the_caller_overrides_the_target(tiny_vit: TinyVit, install: Install) -> None:
    build = install("10.3.0")
    options = BuildOptions(optimization_level=0, workspace_bytes=1 << 20)

    engines.build(tiny_vit(), target=ORIN, options=options)

    assert (build.level, build.pools) == (0, {"WORKSPACE": 1 << 20})


def test_a_card_leaves_its_memory_to_the_builder(tiny_vit: TinyVit, install: Install) -> None:
    build = install("10.3.0", gpu="7.5")

    engines.build(tiny_vit(), target="t4")

    assert build.pools == {}


@pytest.mark.parametrize(
    ("installed", "asked", "fits"),
    [
        ("10.16.1.11", f"{ORIN}@jp6.2", f"{ORIN}@jp7.2"),
        ("10.3.0", f"{ORIN}@jp7.2", f"{ORIN}@jp6.2.2"),
    ],
)
def test_another_tensorrt_than_the_release_names_the_release_that_fits(
    installed: str, asked: str, fits: str, tiny_vit: TinyVit, install: Install
) -> None:
    install(installed)
    graph = tiny_vit()

    with pytest.raises(UsageError, match=f"installed is {installed}") as caught:
        engines.build(graph, target=asked)

    assert f"--target {fits}" in caught.value.fix
    assert list(graph.parent.iterdir()) == [graph]


def test_tensorrt_8_is_refused_with_what_is_needed(
    tiny_vit: TinyVit, monkeypatch: pytest.MonkeyPatch
) -> None:
    old: Any = ModuleType("tensorrt")
    old.__version__, old.Builder = "8.6.2", object
    monkeypatch.setitem(sys.modules, "tensorrt", old)

    with pytest.raises(
        MissingDependencyError, match=r"TensorRT 8\.6\.2: JetPack 6\.1 or"
    ) as caught:
        engines.build(tiny_vit(), target="tensorrt")

    assert "update JetPack" in caught.value.fix


def test_a_tensorrt_that_no_release_has_is_refused(tiny_vit: TinyVit, install: Install) -> None:
    install("10.13.0.35")

    with pytest.raises(UsageError, match=r"needs tensorrt 10\.3 to 10\.7, installed is") as caught:
        engines.build(tiny_vit(), target=ORIN)

    assert "no release of jetson-orin-nano-8gb has 10.13.0.35" in caught.value.fix


def test_another_gpu_than_the_target_is_refused(tiny_vit: TinyVit, install: Install) -> None:
    install("10.3.0", gpu="8.6")

    with pytest.raises(UsageError, match=r"has compute capability 8\.7, the GPU of .* 8\.6"):
        engines.build(tiny_vit(), target=ORIN)


def jetson(target: str | None) -> JetsonIdentity:
    return JetsonIdentity("NVIDIA Jetson X", ("p1234-0000",), "36.4.3", "6.2", target, "")


def test_another_jetson_than_the_target_is_refused(
    tiny_vit: TinyVit, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All Orins have 8.7, and a plan is tuned for the one that it was built on."""
    install("10.3.0")
    here = jetson("jetson-agx-orin-64gb@jp6.2")
    monkeypatch.setattr(backend, "read_board", lambda modules: here)

    with pytest.raises(UsageError, match=f"{ORIN}@jp6.2 was asked for, this is {here.target}"):
        engines.build(tiny_vit(), target=ORIN)


@pytest.mark.parametrize("here", [f"{ORIN}@jp6.2.1", ORIN, None])
def test_the_manifest_keeps_the_board_that_built_the_plan(
    here: str | None, tiny_vit: TinyVit, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("10.3.0")
    monkeypatch.setattr(backend, "read_board", lambda modules: jetson(here))

    settings = settings_of(engines.build(tiny_vit(), target=ORIN))

    assert settings["board"] == "NVIDIA Jetson X"
    assert (settings["l4t"], settings["jetpack"]) == ("36.4.3", "6.2")


@pytest.mark.parametrize("gpu", ["11.0", "10.1"])
def test_both_spellings_of_thor_are_taken(gpu: str, tiny_vit: TinyVit, install: Install) -> None:
    install("10.16.1.11", gpu=gpu)

    plan = engines.build(tiny_vit(), target="jetson-thor-t5000")

    runtime = read_manifest(plan).runtime
    assert runtime is not None
    assert runtime.compute_capabilities == (gpu,)


@pytest.mark.usefixtures("absent")
@pytest.mark.parametrize(
    ("precision", "target"),
    [
        ("fp8", ORIN),
        ("fp8", "jetson-agx-orin-64gb@jp7.2.2-trt11"),
        ("fp8", "a100"),
        ("bf16", "t4"),
        ("fp32", "t4@rtx"),
    ],
)
def test_a_precision_that_the_gpu_lacks_is_refused_before_tensorrt(
    precision: str, target: str, tiny_vit: TinyVit
) -> None:
    graph = stated(tiny_vit(opset=17), precision=precision, opset=17)
    resolved = engines.engine.load_target(target)

    with pytest.raises(InputError, match=f"the graph is {precision}, which {resolved.name}") as e:
        engines.build(graph, target=target)

    assert f"--precision fp16 --target {resolved.name}" in e.value.fix


@pytest.mark.usefixtures("absent")
@pytest.mark.parametrize(("precision", "target"), [("fp8", "l4"), ("bf16", ORIN), ("int8", "t4")])
def test_a_precision_that_the_gpu_has_gets_as_far_as_tensorrt(
    precision: str, target: str, tiny_vit: TinyVit
) -> None:
    """The negative control."""
    graph = stated(tiny_vit(), precision=precision)

    with pytest.raises(MissingDependencyError, match="cannot be imported"):
        engines.build(graph, target=target)


@pytest.mark.usefixtures("absent")
def test_a_plan_for_a_jetson_is_built_there(tiny_vit: TinyVit) -> None:
    graph = tiny_vit()

    with pytest.raises(MissingDependencyError, match="is built on that Jetson") as caught:
        engines.build(graph, target=ORIN)

    assert f"fpet-export bundle {graph} --target {ORIN}@jp6.2" in caught.value.fix


def test_batches_narrow_the_profile_and_the_manifest(tiny_vit: TinyVit, install: Install) -> None:
    build = install("10.3.0")
    graph = stated(tiny_vit(batch="batch"), batch_range=(1, 16))

    plan = engines.build(graph, target=ORIN, options=BuildOptions(batches=(2, 4, 8)))

    (profile,) = build.profiles
    assert profile == {"image": ((2, 3, 32, 32), (4, 3, 32, 32), (8, 3, 32, 32))}
    assert read_manifest(plan).batch_range == (2, 8)
    settings = settings_of(plan)
    assert settings["profiles"].endswith("(8, 3, 32, 32), tuned for (4, 3, 32, 32)")
    assert "--optShapes=image:4x3x32x32 --maxShapes=image:8x3x32x32" in settings["trtexec"]


@pytest.mark.usefixtures("absent")
def test_batches_beyond_the_graph_s_range_are_refused(tiny_vit: TinyVit) -> None:
    graph = stated(tiny_vit(batch="batch"), batch_range=(1, 16))

    with pytest.raises(UsageError, match="asked for; the graph has 1 to 16"):
        engines.build(graph, target=ORIN, options=BuildOptions(batches=(2, 4, 17)))


@pytest.mark.usefixtures("absent")
def test_batches_of_a_static_graph_are_refused(tiny_vit: TinyVit) -> None:
    with pytest.raises(UsageError, match="the graph has a fixed batch"):
        engines.build(tiny_vit(), target=ORIN, options=BuildOptions(batches=(1, 8, 8)))


@pytest.mark.parametrize(
    "options", [BuildOptions(batches=(1, 8, 8)), BuildOptions(timing_cache=Path("x"))]
)
def test_a_cpu_takes_no_option_of_tensorrt(options: BuildOptions, tiny_vit: TinyVit) -> None:
    with pytest.raises(UsageError, match="the target cpu takes no"):
        engines.build(tiny_vit(), target="cpu", options=options)


def test_every_line_of_the_log_is_in_the_error(tiny_vit: TinyVit, install: Install) -> None:
    lines = [f"complaint number {index}" for index in range(40)]
    install("10.3.0", complaints=lines)

    with pytest.raises(EngineError, match="could not build the engine") as caught:
        engines.build(tiny_vit(), target=ORIN)

    assert all(line in caught.value.what for line in lines)


# Timing caches


def test_timings_are_kept_and_used_by_the_next_build(
    tiny_vit: TinyVit, install: Install, tmp_path: Path
) -> None:
    cache = tmp_path / "orin.cache"
    options = BuildOptions(timing_cache=cache, force=True)
    graph, given, settings = tiny_vit(), [], []

    for _ in range(2):
        build = install("10.3.0")
        settings.append(settings_of(engines.build(graph, target=ORIN, options=options)))
        given += build.timings_given

    first, second = settings
    assert given == [b"", b" and more"]
    assert (first["timing_cache"], second["timing_cache"]) == ("new", "used, 9 bytes")
    assert cache.read_bytes() == b" and more and more"
    assert side_path(cache).exists()
    here = Maker(version="10.3.0", compute_capability="8.7")
    assert read_timings(cache, here).keep
    assert f"--timingCacheFile={cache}" in second["trtexec"]


def test_timings_that_tensorrt_does_not_take_are_left_alone(
    tiny_vit: TinyVit, install: Install, tmp_path: Path
) -> None:
    build, cache = install("10.3.0", takes_timings=False), tmp_path / "orin.cache"
    write_timings(cache, b"another Orin", Maker(version="10.3.0", compute_capability="8.7"))

    plan = engines.build(tiny_vit(), target=ORIN, options=BuildOptions(timing_cache=cache))

    assert build.timings_given == [b"another Orin", b""]
    assert "TensorRT says that it was made on another GPU" in settings_of(plan)["timing_cache"]
    assert cache.read_bytes() == b"another Orin"


def test_timings_that_were_changed_stop_the_build(
    tiny_vit: TinyVit, install: Install, tmp_path: Path
) -> None:
    build, cache = install("10.3.0"), tmp_path / "orin.cache"
    write_timings(cache, b"good", Maker(version="10.3.0", compute_capability="8.7"))
    cache.write_bytes(b"evil")
    graph = tiny_vit()

    with pytest.raises(TrustError, match="not the one that its side file describes"):
        engines.build(graph, target=ORIN, options=BuildOptions(timing_cache=cache))

    assert build.creation_flags == -1
    assert list(graph.parent.iterdir()) == [graph]


@pytest.mark.usefixtures("absent")
def test_tensorrt_rtx_takes_no_timings(tiny_vit: TinyVit, tmp_path: Path) -> None:
    options = BuildOptions(timing_cache=tmp_path / "rtx.cache")

    with pytest.raises(UsageError, match="TensorRT-RTX times no kernels while it builds"):
        engines.build(tiny_vit(), target="rtx", options=options)


# The line for NVIDIA's own tool


@pytest.mark.usefixtures("absent")
@pytest.mark.parametrize(
    ("target", "start", "part"),
    [
        (ORIN, "trtexec", "--stronglyTyped"),
        ("tensorrt", "trtexec", "--stronglyTyped"),
        ("rtx-4090@rtx", "tensorrt_rtx", "--computeCapabilities=89"),
        ("rtx", "tensorrt_rtx", "--computeCapabilities=80,86,89,120,121"),
        ("jetson-thor-t5000@jp7.2.2-trt11", "trtexec", "--memPoolSize=workspace:32768"),
    ],
)
def test_the_line_needs_no_tensorrt_and_builds_nothing(
    target: str, start: str, part: str, tiny_vit: TinyVit
) -> None:
    graph = tiny_vit()

    line = equivalent_command(graph, target=target)

    file_name = engines.engine.load_target(target).file_name
    assert line.startswith(f"{start} --onnx={graph} --saveEngine={graph.parent}/vit.{file_name}.")
    assert part in line
    assert ("--stronglyTyped" in line) == (target in (ORIN, "tensorrt"))
    assert list(graph.parent.iterdir()) == [graph]


def test_a_cpu_has_no_such_line(tiny_vit: TinyVit) -> None:
    with pytest.raises(UsageError, match="cpu is built by onnxruntime, which has no command"):
        equivalent_command(tiny_vit(), target="cpu")
