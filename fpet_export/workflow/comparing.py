"""How artefacts answer beside a reference: a run, a graph, an engine, or a task of a folder.

Two engines are compared without onnx.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from engines.errors import UsageError
from engines.imaging.images import ImageSet
from engines.manifest import Manifest
from engines.parity.comparison import ReferenceOutputs
from engines.parity.gates import gates_of
from engines.parity.outputs import Progress, manifest_of, outputs_of, tokens_of
from engines.parity.rounding import rounding_in
from engines.parity.rows import StageParity
from engines.precisions import FP16
from fpet_export.reporter import Reporter
from fpet_export.steps import task_names
from fpet_export.steps.float64_reference import begin

if TYPE_CHECKING:
    from calibration.evaluator import GraphEvaluator
    from fpet_export.stages import Adapted


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reference:
    """What the first artefact said.

    Attributes:
        outputs: Logits, and match, sizes and margins where it shows them.
        evaluator: Evaluator of a float32 graph, which shows its keys too; None otherwise.
    """

    outputs: ReferenceOutputs
    evaluator: GraphEvaluator | None = None

    def row(self, path: Path, relative: float | None, advance: Progress) -> StageParity:
        """Compare one artefact with the reference, by the gates of its precision."""
        manifest = manifest_of(path)
        gates = gates_of(manifest.precision, rounding=rounding_in(manifest.parity))
        if manifest.kind == "graph":
            from fpet_export.workflow import graph_answers

            actual = graph_answers.beside(path, manifest, self.outputs, self.evaluator, advance)
        else:
            actual = outputs_of(path, self.outputs.images.pixels, progress=advance)
        if relative is not None:
            gates = dataclasses.replace(gates, relative=relative)
        return self.outputs.compare(path.name, actual, gates=gates)

    def task_row(
        self, folder: Path, name: str, relative: float | None, advance: Progress
    ) -> StageParity:
        """Compare one task with the reference, by the gates of its graph and of its factors."""
        from fpet_export.steps.one_task import task_outputs

        manifest = task_names.task_manifest(folder, name)
        _require_classes(manifest, name, self)
        is_half = manifest.task is not None and manifest.task.half == FP16
        gates = gates_of(FP16 if is_half else manifest.precision)
        if relative is not None:
            gates = dataclasses.replace(gates, relative=relative)
        outputs = task_outputs(folder, name, self.outputs.images.pixels, progress=advance)
        return self.outputs.compare(name, outputs, gates=gates)


def reference_of(
    first: str, adapted: Adapted | None, images: ImageSet, reporter: Reporter
) -> Reference:
    """Run the first artefact, or the run, on the images that the others are compared on."""
    path = Path(first)
    with reporter.progress(path.name, len(images)) as advance:
        if adapted is not None:
            return Reference(outputs=begin(adapted, images, progress=advance))
        manifest, evaluator = manifest_of(path), None
        if manifest.kind == "graph":
            from fpet_export.workflow import graph_answers

            found, evaluator = graph_answers.of_first(path, manifest, images, advance)
        else:
            found = outputs_of(path, images.pixels, progress=advance)
    outputs = ReferenceOutputs(
        name=f"artefact {path.name}", images=images, outputs=found, tokens=tokens_of(manifest)
    )
    return Reference(outputs=outputs, evaluator=evaluator)


def _require_classes(manifest: Manifest, name: str, reference: Reference) -> None:
    classes = reference.outputs.outputs.logits.shape[1]
    if manifest.model is not None and manifest.model.classes != classes:
        raise UsageError(
            f"the task {name!r} has {manifest.model.classes} classes, the reference {classes}",
            where="--task",
            fix="compare it with the run that it was made from",
        )
