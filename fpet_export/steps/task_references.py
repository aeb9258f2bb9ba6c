"""What every task of a folder says about images, to check its engines on other machines."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from calibration.evaluator import margins, metric_tensor
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
        taps: dict[str, tuple[str, str] | None] = {}
        used = {folder.index.task(name, where=str(folder.path)).structure for name in images}
        for graph in (folder.graphs[number] for number in sorted(used)):
            name, path = graph.path.name, graph.path
            tensors = taps[name] = _taps_of(path, graph.manifest)
            if tensors is not None:
                path = with_outputs(path, tensors, scratch)
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


def _taps_of(graph: Path, manifest: Manifest) -> tuple[str, str] | None:
    """Return keys and match of a float32 graph that merges; None where nobody need know them.

    Rounded graphs are held to gates that a token merged elsewhere does not reach.
    """
    if not manifest.is_float32 or not manifest.shows_match:
        return None
    keys = metric_tensor(read_graph(graph))
    assert keys is not None, "a graph with a match has keys"
    return keys, manifest.probes["match"]


def _run(
    handle: TaskEngine, manifest: Manifest, images: ImageSet, taps: tuple[str, str] | None
) -> tuple[FloatArray, FloatArray | None]:
    """Return (I, K) logits, and (I, Na) how sure the match was."""
    logits, margin = [], []
    for feeds, count in batches(handle, manifest, images.pixels):
        found = handle.run(feeds)
        logits.append(found[handle.outputs[0].name][:count])
        if taps is not None:
            assert manifest.model is not None, "every shared graph states it"
            keys, match = (found[name][:count] for name in taps)
            prefix = manifest.model.prefix_tokens
            margin.append(margins(keys, prefix=prefix, sources=match.shape[1]))
    return np.concatenate(logits), np.concatenate(margin) if margin else None
