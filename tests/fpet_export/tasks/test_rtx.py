"""Task weights as inputs of a real TensorRT-RTX plan cost no kernel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import engines
from calibration.casts import cast_graph
from engines.contract import BuildOptions
from engines.fusion.report import FusionReport, fusion_path, read_fusion
from engines.manifest import read_manifest
from engines.onnx_graph.files import read_graph, write_graph
from tests.fpet_export.tasks.task_folders import run_of, write

pytestmark = pytest.mark.tensorrt

REQUESTS: dict[str, dict[str, Any]] = {
    "lora": {"method": "lora", "dim": 8, "seed": 1},
    "adaptformer": {"method": "adaptformer", "dim": 16, "seed": 2},
}


def plan_of(graph: Path) -> FusionReport:
    options = BuildOptions(compute_capabilities=("8.6",), force=True)
    return read_fusion(fusion_path(engines.build(graph, target="rtx", options=options)))


@pytest.mark.parametrize("method", sorted(REQUESTS))
def test_as_many_kernels_as_with_constants(method: str, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx-cu13")
    single = run_of(**REQUESTS[method]).fold().freeze(target="rtx").to_onnx(tmp_path / "single")
    graph = read_graph(single)
    cast_graph(graph, "fp16", io="fp32")
    write_graph(graph, tmp_path / "single.fp16.onnx")
    write(tmp_path / "tasks", {"task": REQUESTS[method]}, target="rtx", precision="fp16")
    shared = tmp_path / f"tasks/backbone.merge1.{method}.onnx"

    constants, inputs = plan_of(tmp_path / "single.fp16.onnx"), plan_of(shared)

    assert len(inputs.kernels) == len(constants.kernels)
    assert inputs.per_block == constants.per_block
    assert len(inputs.attentions) == len(constants.attentions) == 3
    plan = read_manifest(shared.with_name(f"backbone.merge1.{method}.rtx.plan"))
    assert [spec.name for spec in plan.inputs] == [s.name for s in read_manifest(shared).inputs]
