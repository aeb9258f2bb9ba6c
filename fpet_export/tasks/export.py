"""Runs on one backbone to a folder: the shared graphs, a delta a task, the index.

See docs/tasks.md for what lies in the folder and why.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import get_args

from engines import storage
from engines.engine import default_path, load_target
from engines.errors import CheckpointError, TrustError, UsageError
from engines.fusion.report import fusion_path
from engines.manifest import (
    SHARED,
    Manifest,
    Preprocessing,
    TensorSpec,
    manifest_path,
    read_manifest,
    write_manifest,
)
from engines.precisions import FP16, FactorName
from engines.targets import Target
from engines.tasks.index import (
    FILE,
    Structure,
    TaskIndex,
    check_names,
    read_index,
    store,
    write_index,
)
from engines.tensor_file import write_arrays
from fpet_export.graph import to_onnx
from fpet_export.model.fingerprint import fingerprint
from fpet_export.stages import Adapted, Folded, Frozen
from fpet_export.tasks.file import write_task
from fpet_export.tasks.graph import Promotion, base_weights, type_graph
from fpet_export.tasks.options import TaskOptions
from fpet_export.tasks.recipes import recipes
from fpet_export.tasks.template import TaskLayout, closed_layout, make_template, open_layout

Runs = Mapping[str, Adapted]


def export_tasks(runs: Runs, out: Path | str, options: TaskOptions | None = None) -> TaskIndex:
    """Write runs of one backbone to a folder.

    Nothing is compared here; `fpet_export.tasks.verify` does that.

    Args:
        runs: Name to run, at least one.
        out: The folder.
        options: See TaskOptions.

    Returns:
        The index, as it was written.

    Raises:
        UsageError: A name is no file name or given twice, the folder holds tasks already, or the
            target does not run the precision.
        CheckpointError: The runs have different backbones or preprocessing.
        ExportError: A graph is not what was planned.
    """
    options, folder = options or TaskOptions(), Path(out)
    check_names(runs)
    _require_precision(options)
    storage.refuse_overwrite(folder / FILE, force=options.force)
    _remove_earlier(folder)
    identity = common_backbone(runs)
    groups = group_runs(runs, options.resolved)
    structures, tasks = [], {}
    for number, (layout, names) in enumerate(groups):
        structure, manifest = write_graph(folder, runs[names[0]], layout, options)
        structures.append(structure)
        for name in names:
            tasks[name] = write_task(
                folder,
                name,
                runs[name],
                structure=number,
                graph=manifest,
                backbone=identity,
                half=options.half,
                labels=options.labels.get(name, ()),
            )
    index = TaskIndex(
        backbone=identity,
        target=options.resolved.name,
        structures=tuple(structures),
        tasks=tuple(tasks[name] for name in runs),
        command=tuple(options.command),
    )
    write_index(folder, index)
    return index


def _require_precision(options: TaskOptions) -> None:
    """Refuse a graph that its target would not run as it is typed."""
    target, precision = options.resolved, options.precision
    if precision not in target.precisions:
        known = [name for name in target.precisions if name in get_args(FactorName)]
        raise UsageError(
            f"{target.name} runs no graph that is typed {precision}",
            where="--precision",
            fix=f"choose {' or '.join(known)}, or another target",
        )


def _remove_earlier(folder: Path) -> None:
    """Remove what an earlier index names, and engines of its graphs: none of it fits any more."""
    if not (folder / FILE).exists():
        return
    try:
        earlier = read_index(folder)
    except TrustError:  # damaged: its files are overwritten one by one
        (folder / FILE).unlink()
        return
    (folder / FILE).unlink()
    for structure in earlier.structures:
        remove_graph(folder, structure, load_target(earlier.target))
    for task in earlier.tasks:
        remove_file(folder / task.delta.file)


def remove_graph(folder: Path, structure: Structure, target: Target) -> None:
    """Remove a shared graph, what its inputs start from, and the engine that was built from it."""
    graph = folder / structure.graph.file
    for file in (graph, default_path(graph, target)):
        remove_file(file)
    if structure.base is not None:
        remove_file(folder / structure.base.file)


def remove_file(path: Path) -> None:
    """Remove an artefact with its companions, its manifest and its fusion report."""
    with contextlib.suppress(TrustError):
        for companion in read_manifest(path, verify=False).companions:
            path.with_name(companion.file).unlink(missing_ok=True)
    for part in (path, manifest_path(path), fusion_path(path)):
        part.unlink(missing_ok=True)


def common_backbone(runs: Runs) -> str:
    """Return the fingerprint that all runs share.

    Raises:
        UsageError: There is no run.
        CheckpointError: The runs have different backbones or preprocessing, or one changed weights
            that a shared graph has as constants.
    """
    if not runs:
        raise UsageError("there is no run", where="RUN", fix="name at least one")
    found: dict[int, str] = {}  # runs usually share the very object, and hashing takes time
    first = next(iter(runs))
    for name, run in runs.items():
        if run.checkpoint.changes:
            raise CheckpointError(
                f"{name!r} changed weights that a shared graph has as constants: "
                f"{run.checkpoint.describe_tuning()}",
                where=name,
                fix="export this run by itself: fpet-export export",
            )
        key = id(run.backbone)
        if key not in found:
            found[key] = fingerprint(run.backbone)
        expected = found[id(runs[first].backbone)]
        if found[key] != expected:
            raise CheckpointError(
                f"{name!r} was tuned on another backbone ({run.backbone.source}, "
                f"{found[key][:16]}…) than {first!r} ({runs[first].backbone.source}, "
                f"{expected[:16]}…)",
                where=name,
                fix="export the runs of each backbone into a folder of their own",
            )
        if run.preprocessing != runs[first].preprocessing:
            raise CheckpointError(
                f"{name!r} prepares images differently from {first!r}: "
                f"{differing(run.preprocessing, runs[first].preprocessing)}",
                where=name,
                fix="the preprocessing is part of the shared graph: export this run by itself",
            )
    return found[id(runs[first].backbone)]


def differing(one: Preprocessing, other: Preprocessing) -> str:
    """Return the fields in which two differ, with both values."""
    fields = (field.name for field in dataclasses.fields(Preprocessing))
    return ", ".join(
        f"{name} {getattr(one, name)} against {getattr(other, name)}"
        for name in fields
        if getattr(one, name) != getattr(other, name)
    )


def group_runs(runs: Runs, target: Target) -> list[tuple[TaskLayout, list[str]]]:
    """Put the runs together that share a graph.

    A runtime that takes open extents runs every method in one graph, where the parts that a task
    does not have are zero. A plan has fixed extents and one method.
    """
    is_plan = target.backend == "trt"
    groups: dict[tuple[object, ...], list[str]] = {}
    for name, run in runs.items():
        found = run.checkpoint
        own = (found.method, found.refinement is not None) if is_plan else ()
        groups.setdefault((found.merge_block, *own), []).append(name)
    layouts = []
    for key, names in groups.items():
        checkpoints = [runs[name].checkpoint for name in names]
        layout = (closed_layout if is_plan else open_layout)(checkpoints)
        assert layout.merge_block == key[0]
        layouts.append((layout, names))
    return layouts


def write_graph(
    folder: Path,
    run: Adapted,
    layout: TaskLayout,
    options: TaskOptions,
    *,
    taken: Collection[str] = (),
) -> tuple[Structure, Manifest]:
    """Trace the template of a layout and write the graph that its tasks share.

    Args:
        folder: Where to.
        run: One of the tasks; it brings the backbone.
        layout: What they have in common.
        options: See TaskOptions.
        taken: Names of files that the graph may not have.
    """
    template = make_template(run.backbone, layout)
    adapted = dataclasses.replace(run, model=template.model, checkpoint=template.checkpoint)
    frozen = _freeze(adapted, layout, options)
    inputs = recipes(layout, run.backbone.spec, frozen.module)
    base = {}
    if any(wanted.base for wanted in inputs):
        bare = make_template(run.backbone, dataclasses.replace(layout, dims={}))
        plain = dataclasses.replace(adapted, model=bare.model)
        base = base_weights(_freeze(plain, layout, options).module, inputs)
    promotion = Promotion(template, inputs, base)
    stem = _free_stem(layout, taken)
    path = folder / f"{stem}.onnx"
    operators = to_onnx.to_onnx(frozen.module, path, opset=frozen.target.opset, last=promotion)
    manifest = _manifest(frozen, path, operators, promotion, options)
    if options.precision == FP16:
        manifest = type_graph(path, manifest)
    manifest = write_manifest(path, manifest)
    stored_base = None
    if base:
        write_arrays(folder / f"{stem}.base.safetensors", base, {})
        stored_base = store(folder, f"{stem}.base.safetensors")
    structure = Structure(
        graph=store(folder, path.name),
        inputs=tuple(
            dataclasses.replace(wanted, dtype=spec.dtype)
            for wanted, spec in zip(promotion.inputs, manifest.inputs[1:], strict=True)
        ),
        base=stored_base,
        merge_block=layout.merge_block,
    )
    return structure, manifest


def _free_stem(layout: TaskLayout, taken: Collection[str]) -> str:
    stem = f"backbone{_suffix(layout)}"
    numbered = (f"{stem}.{number}" for number in itertools.count(2))
    return next(one for one in itertools.chain([stem], numbered) if f"{one}.onnx" not in taken)


def _suffix(layout: TaskLayout) -> str:
    """Tell the graphs of one folder apart: by merge block, and plans by their method, too."""
    parts = [] if layout.merge_block is None else [f"merge{layout.merge_block}"]
    if not layout.is_open:
        parts += ["-".join(layout.dims) or "head"]
        parts += ["unrefined"] if layout.merge_block is not None and not layout.refined else []
    return "".join(f".{word}" for word in parts)


def _freeze(adapted: Adapted, layout: TaskLayout, options: TaskOptions) -> Frozen:
    return Folded(model=adapted.model, stay=(), source=adapted).freeze(
        batch=options.batch,
        target=options.resolved,
        input=options.input,
        opset=options.opset,
        updates="low-rank" if layout.form == "low-rank" else "folded",
    )


def _manifest(
    frozen: Frozen,
    path: Path,
    operators: dict[str, int],
    promotion: Promotion,
    options: TaskOptions,
) -> Manifest:
    """Return the manifest of a shared graph: no method and no classes of its own."""
    manifest = frozen.manifest(path, operators, command=options.command)
    assert manifest.model is not None
    rows = manifest.outputs[0].shape[0]
    head = next(wanted for wanted in promotion.inputs if wanted.name == "head.bias")
    return dataclasses.replace(
        manifest,
        inputs=(
            *manifest.inputs,
            *(
                TensorSpec(name=wanted.name, shape=wanted.shape, dtype=wanted.dtype)
                for wanted in promotion.inputs
            ),
        ),
        outputs=(TensorSpec(name="logits", shape=(rows, head.shape[0]), dtype="float32"),),
        weights=frozen.source.source.backbone.quality,
        model=dataclasses.replace(manifest.model, method=SHARED, classes=0),
    )
