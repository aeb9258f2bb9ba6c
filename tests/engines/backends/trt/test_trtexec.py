from __future__ import annotations

import dataclasses
import json
import shlex
from pathlib import Path

import pytest

from engines.backends._trt.request import Request
from engines.backends._trt.trtexec import trtexec_line

ONNX, PLAN = Path("a.onnx"), Path("a.plan")
PLAIN = Request(
    shapes={}, batches=None, compute_capabilities=(), optimization_level=None, workspace_bytes=None
)
COMMON = "--noTF32 --maxAuxStreams=0 --profilingVerbosity=detailed --skipInference"


def test_the_line_of_tensorrt() -> None:
    request = dataclasses.replace(
        PLAIN,
        optimization_level=4,
        workspace_bytes=2**30,
        timing_cache=Path("my cache"),
        shapes={"image": ((1, 3, 8, 8), (2, 3, 8, 8), (4, 3, 8, 8))},
    )

    line = trtexec_line(Path("a model.onnx"), PLAN, request, module="tensorrt", version="10.3.0")

    assert line == (
        f"trtexec '--onnx=a model.onnx' --saveEngine=a.plan --stronglyTyped {COMMON} "
        "--builderOptimizationLevel=4 --memPoolSize=workspace:1024 "
        "'--timingCacheFile=my cache' "
        "--minShapes=image:1x3x8x8 --optShapes=image:2x3x8x8 --maxShapes=image:4x3x8x8"
    )


@pytest.mark.parametrize(
    ("version", "asks"), [(None, True), ("10.0", True), ("10.16.2", True), ("11.4.1", False)]
)
def test_strong_typing_is_asked_for_where_it_is_a_choice(version: str | None, asks: bool) -> None:
    line = trtexec_line(ONNX, PLAN, PLAIN, module="tensorrt", version=version)

    assert ("--stronglyTyped" in line) == asks


def test_the_line_of_tensorrt_rtx() -> None:
    request = dataclasses.replace(PLAIN, compute_capabilities=("8.6", "12.0"))

    line = trtexec_line(ONNX, PLAN, request, module="tensorrt_rtx", version="1.7.1.116")

    assert line == (
        f"tensorrt_rtx --onnx=a.onnx --saveEngine=a.plan {COMMON} --computeCapabilities=86,120"
    )


FULL = dataclasses.replace(
    PLAIN,
    optimization_level=3,
    workspace_bytes=2**30,
    timing_cache=Path("t.cache"),
    shapes={"image": ((1, 3), (2, 3), (4, 3))},
)
OPTIONS: dict[str, list[str]] = json.loads(
    (Path(__file__).parents[3] / "golden" / "trtexec_options.json").read_text("utf-8")
)


@pytest.mark.parametrize(
    ("tag", "version"),
    [
        ("v10.3.0", "10.3.0"),
        ("v10.13.0", "10.13.0"),
        ("v10.16", "10.16.2"),
        ("v11.1", "11.1.0"),
        ("v11.1", None),  # any version from 10.0 on
    ],
)
def test_every_option_is_one_that_trtexec_reads(tag: str, version: str | None) -> None:
    """`tests/golden/make_trtexec_options.py` read them off trtexec's source."""
    line = trtexec_line(ONNX, PLAN, FULL, module="tensorrt", version=version)

    said = {word.removeprefix("--").partition("=")[0] for word in shlex.split(line)[1:]}

    assert said <= set(OPTIONS[tag])
    assert {"onnx", "memPoolSize", "timingCacheFile", "optShapes", "skipInference"} <= said


def test_the_recorded_options_are_no_list_of_everything() -> None:
    """The negative control: with every option everywhere the test above would prove nothing."""
    assert not {"fp16", "layerPrecisions", "precisionConstraints"} & set(OPTIONS["v11.1"])
