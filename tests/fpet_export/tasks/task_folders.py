"""Folders of tiny tasks that tests write, with the runs that they came from."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from engines.tasks.index import TaskIndex
from fpet_export.model.adapt import adapt
from fpet_export.model.backbones import Backbone
from fpet_export.model.facts import Fact
from fpet_export.model.vit_spec import VitSpec
from fpet_export.stages import Adapted
from fpet_export.tasks.export import export_tasks
from fpet_export.tasks.options import TaskOptions
from tests.fpet_export.tiny import backbone_of, checkpoint_of, spec_of


@dataclasses.dataclass(frozen=True)
class TaskFolder:
    """A folder of tasks and the runs in it."""

    path: Path
    runs: dict[str, Adapted]
    index: TaskIndex


MIXED: dict[str, dict[str, Any]] = {
    "lora8": {"method": "lora", "dim": 8, "seed": 1},
    "lora4": {"method": "lora", "dim": 4, "seed": 2, "bit": 4},
    "adapt16": {"method": "adaptformer", "dim": 16, "seed": 3, "bit": 1},
    "probe": {"method": "none", "seed": 4, "refined": False},
}
"""Two ranks, two methods and a run without adapters or refinement."""


def run_of(
    spec: VitSpec | None = None, backbone: Backbone | None = None, **request: Any
) -> Adapted:
    """Return a tiny run."""
    spec = spec or spec_of()
    backbone = backbone or backbone_of(spec)
    checkpoint = checkpoint_of(spec, **request)
    return Adapted(
        model=adapt(backbone, checkpoint),
        checkpoint=checkpoint,
        backbone=backbone,
        preprocessing=backbone.preprocessing,
        normalisation=Fact("none", "the test"),
    )


def write(
    folder: Path,
    requests: dict[str, dict[str, Any]] | None = None,
    *,
    spec: VitSpec | None = None,
    **options: Any,
) -> TaskFolder:
    """Write tiny tasks that share one backbone object."""
    spec = spec or spec_of()
    backbone = backbone_of(spec)
    runs = {
        name: run_of(spec, backbone, **request) for name, request in (requests or MIXED).items()
    }
    return TaskFolder(folder, runs, export_tasks(runs, folder, TaskOptions(**options)))


def single_logits(run: Adapted, folder: Path, images: np.ndarray, **freeze: Any) -> np.ndarray:
    """Return what the run's own export says in ONNX Runtime."""
    import onnxruntime

    graph = run.fold().freeze(**freeze).to_onnx(folder / "single.onnx", force=True)
    session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    logits: np.ndarray = session.run(None, {"images": images})[0]
    return logits
