"""What every task of a folder says about images, to check its engines on other machines."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from calibration.evaluator import evidence_in
from calibration.merge_evidence import Evidence, decided
from engines.contract import Engine
from engines.engine import open_engine
from engines.imaging.images import ImageSet
from engines.manifest import Manifest
from engines.onnx_graph.files import read_graph
from engines.onnx_graph.taps import with_outputs
from engines.parity.comparison import ReferenceOutputs
from engines.parity.finite import require_finite
from engines.parity.gates import gates_of
from engines.parity.model_outputs import FloatArray, ModelOutputs
from engines.parity.outputs import as_written, batches
from engines.tasks.folder import TaskFolder
from engines.tasks.open_tasks import TaskEngine, open_tasks


def references_of_tasks(
    folder: TaskFolder, images: Mapping[str, ImageSet]
) -> Iterator[tuple[str, ReferenceOutputs]]:
    """Yield what each task says about its images on the shared graphs as they are written.

    Args:
        folder: Folder of the tasks, checked.
        images: By task; the others are left out.
    """
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fpet-export-")))
        engines: dict[str, Engine] = {}
        taps: dict[str, tuple[Evidence, ...]] = {}
        used = {folder.index.task(name, where=str(folder.path)).structure for name in images}
        for graph in (folder.graphs[number] for number in sorted(used)):
            name, path = graph.path.name, graph.path
            evidence = taps[name] = _evidence_of(path, graph.manifest)
            if evidence:
                asked = (tensor for each in evidence for tensor in each.tensors)
                path = with_outputs(path, asked, scratch)
            engine = open_engine(path, options=as_written(graph.manifest))
            engines[name] = stack.enter_context(engine)
        tasks = stack.enter_context(open_tasks(folder.path, engines=engines, resident_bytes=0))
        for name, own in images.items():
            handle = tasks.task(name)
            graph = folder.graphs[handle.task.structure]
            logits, margin = _run(handle, graph.manifest, own, taps[graph.path.name])
            outputs = ModelOutputs(logits=logits, margin=margin)
            require_finite(outputs, own.names, of=f"{name} on {graph.path.name}")
            expected = ReferenceOutputs(
                name=f"{name} on {graph.path.name}",
                images=own,
                outputs=outputs,
                gates=gates_of(graph.manifest.precision),
            )
            yield name, expected


def _evidence_of(graph: Path, manifest: Manifest) -> tuple[Evidence, ...]:
    """Return by what a float32 graph decides; nothing where nobody need know it.

    Rounded graphs are held to gates that a token merged elsewhere does not reach.
    """
    return evidence_in(read_graph(graph), manifest) if manifest.is_float32 else ()


def _run(
    handle: TaskEngine, manifest: Manifest, images: ImageSet, evidence: tuple[Evidence, ...]
) -> tuple[FloatArray, FloatArray | None]:
    """Return (I, K) logits, and (I, Na) how sure the match was."""
    logits, margin = [], []
    for feeds, count in batches(handle, manifest, images.pixels):
        found = handle.run(feeds)
        logits.append(found[handle.outputs[0].name][:count])
        if evidence:
            assert manifest.model is not None, "every shared graph states it"
            prefix = manifest.model.prefix_tokens
            won = [decided(each, found, prefix)[1] for each in evidence]
            margin.append(np.concatenate(won, axis=1)[:count])
    return np.concatenate(logits), np.concatenate(margin) if margin else None
