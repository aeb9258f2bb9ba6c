"""Float32 graph to typed graph: from artefact to artefact, within an accuracy constraint."""

from __future__ import annotations

import dataclasses
import platform
from collections import Counter
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from calibration import integer_gemm, overflow
from calibration.accuracy import (
    AccuracyConstraint,
    LayerChoice,
    Measure,
    Quality,
    RevertedLayer,
    quality_json,
    satisfy,
)
from calibration.evaluator import GraphEvaluator
from calibration.policy import Policy, choose
from calibration.recipe import Recipe, amax_of, typed_graph, weights_of
from calibration.requirements import require_precision
from calibration.roles import sites
from calibration.table import (
    CalibrationTable,
    files_of,
    require_table_of,
    table_path,
    write_table,
)
from engines import precisions, storage
from engines.errors import UsageError
from engines.manifest import (
    Form,
    Manifest,
    Quantization,
    TensorSpec,
    manifest_path,
    read_manifest,
    write_manifest,
)
from engines.onnx_graph.files import Graph, read_graph, write_graph
from engines.parity.model_outputs import ModelOutputs
from engines.parity.rows import StageParity
from engines.plurals import counted
from engines.targets import Target
from engines.verdict import graph_as_parent

SCREENING_IMAGES = 16
"""Images on which a layer is measured alone: enough to rank, and half a minute a layer less."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Callbacks:
    """Functions that are told about progress; each may be None.

    Attributes:
        screened: Called with 1 when a layer was measured alone.
        reverted: Called with every layer that was reverted to high precision.
        measured: Called with the number of images that ran through a typed graph.
    """

    screened: Callable[[int], None] | None = None
    reverted: Callable[[RevertedLayer], None] | None = None
    measured: Callable[[int], None] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Typed:
    """A typed graph that was evaluated and not yet written.

    Attributes:
        graph: The graph.
        manifest: Its manifest, without hashes.
        recipe: How it was made.
        row: Its parity with the reference.
        choice: What is quantized and what was reverted; None for half precision.
        warning: What the overflow scan found near the end of the range, or None.
    """

    graph: Graph
    manifest: Manifest
    recipe: Recipe
    row: StageParity
    choice: LayerChoice | None = None
    warning: str | None = None


def recipe_for(
    target: Target, precision: str, *, io: str = precisions.FP32, half: str = precisions.FP16
) -> Recipe:
    """Return how a precision is written for a target.

    Raises:
        UsageError: The target has no such precision, or takes no such input.
    """
    require_precision(target, precision, io=io)
    reduced = target.int8_weights == "reduced"
    return Recipe(
        precision=precision,  # type: ignore[arg-type]  # checked above
        io=io,  # type: ignore[arg-type]  # checked by argparse
        form=target.integers,
        float_precision=half,  # type: ignore[arg-type]  # likewise
        largest_weight=integer_gemm.REDUCED if reduced else integer_gemm.FULL,
    )


def half_precision(
    onnx: Path,
    manifest: Manifest,
    recipe: Recipe,
    evaluator: GraphEvaluator,
    *,
    callbacks: Callbacks | None = None,
) -> Typed:
    """Make the FP16 or BF16 graph of an exported one.

    Raises:
        ExportError: A weight, or an activation on the evaluator's images, leaves float16's range.
    """
    warning = _scan(onnx, manifest, recipe, evaluator)
    graph = typed_graph(onnx, recipe)
    typed = _typed_manifest(manifest, recipe, graph)
    told = callbacks or Callbacks()
    evidence = evaluator.outputs(typed_graph(onnx, recipe), typed, progress=told.measured)
    row = evaluator.row(recipe.precision, evidence, recipe.precision)
    return Typed(graph=graph, manifest=typed, recipe=recipe, row=row, warning=warning)


def integers(
    onnx: Path,
    manifest: Manifest,
    recipe: Recipe,
    evaluator: GraphEvaluator,
    table: CalibrationTable,
    *,
    preset: str,
    keep: tuple[str, ...] = (),
    constraint: AccuracyConstraint | None = None,
    callbacks: Callbacks | None = None,
) -> Typed:
    """Make the INT8 or FP8 graph of an exported one, within an accuracy constraint.

    Args:
        onnx: The exported float32 graph.
        manifest: Its manifest.
        recipe: See `recipe_for`.
        evaluator: Images on which the constraint must hold.
        table: Ranges of this very graph.
        preset: See `calibration.policy.PRESETS`.
        keep: Layers that stay in the high precision from the start.
        constraint: What must hold; None for nothing.
        callbacks: Who is told.

    Raises:
        InputError: The table is not of this graph.
        BudgetError: The constraint cannot be satisfied.
        ExportError: A weight or an activation leaves float16's range.
        UsageError: The preset is unknown or does not suit the target, or nothing is left of it.
    """
    told = callbacks or Callbacks()
    exported = read_graph(onnx)
    require_table_of(table, manifest, [site.name for site in sites(exported)])
    policy = _first_policy(exported, recipe, preset, keep)
    del exported
    warning = _scan(onnx, manifest, recipe, evaluator)
    weights = weights_of(onnx, recipe, policy, table)

    last: list[ModelOutputs] = []

    def measure_on(these: GraphEvaluator) -> Measure:
        def measure(one: Policy) -> Quality:
            graph = typed_graph(onnx, recipe, policy=one, table=table, weights=weights)
            typed = _typed_manifest(manifest, recipe, graph)
            last[:] = [these.outputs(graph, typed, progress=told.measured)]
            return these.quality(last[0])

        return measure

    choice = satisfy(
        policy,
        constraint or AccuracyConstraint(),
        measure_on(evaluator),
        screen=measure_on(evaluator.on_fewer(SCREENING_IMAGES)),
        report=told.reverted,
        progress=told.screened,
    )
    graph = typed_graph(onnx, recipe, policy=choice.policy, table=table, weights=weights)
    return Typed(
        graph=graph,
        manifest=_typed_manifest(manifest, recipe, graph),
        recipe=recipe,
        row=evaluator.row(recipe.precision, last[0], recipe.precision),
        choice=choice,
        warning=warning,
    )


def _first_policy(exported: Graph, recipe: Recipe, preset: str, keep: tuple[str, ...]) -> Policy:
    """Return what is quantized before any layer is reverted.

    Raises:
        UsageError: The preset is unknown or does not suit the target, or nothing is left of it.
    """
    if recipe.form == "gemm" and preset == "vit-attention":
        raise UsageError(
            "on a CPU the attention stays in float32: integers make it no faster there",
            where="--preset vit-attention",
            fix="use --preset vit-linear",
        )
    policy = choose(exported, preset, keep=keep)
    if not policy.active:
        raise UsageError(
            "every layer is kept: nothing is left to quantize",
            where="--keep",
            fix="keep fewer layers, or use --precision fp16",
        )
    return policy


def write(
    made: Typed,
    source: Path,
    out: Path,
    *,
    table: CalibrationTable | None = None,
    parity: Mapping[str, Any] | None = None,
    target: str | None = None,
    force: bool = False,
    command: tuple[str, ...] = (),
) -> Path:
    """Write a typed graph with its manifest, and its calibration table beside it.

    Args:
        made: What to write.
        source: The float32 graph it was made from.
        out: The `.onnx` file.
        table: For a quantized graph.
        parity: What its check came to, as `ParityTable.to_json` gives it.
        target: What it was typed for; None is what the float32 graph was exported for.
        force: Replace files that exist.
        command: The command line to record.

    Returns:
        `out`.
    """
    for file in files_of(out, quantizes=made.choice is not None):
        storage.refuse_overwrite(file, force=force)
    with storage.atomic_path(out) as temporary:
        quantization = None
        if made.choice is not None and table is not None:
            beside = table_path(temporary)
            write_table(beside, table, chosen=_chosen(made, source, table))
            quantization = Quantization(
                preset=made.choice.policy.preset,
                quantized=made.choice.policy.active,
                kept=made.choice.policy.kept,
                observers=dict(made.recipe.observers),
                images=len(table.images),
                table=beside.name,
                table_sha256=storage.sha256_of(beside),
                quality=quality_json(made.choice.quality),
            )
        write_graph(made.graph, temporary)
        write_manifest(
            temporary,
            dataclasses.replace(
                made.manifest,
                file=out.name,
                quantization=quantization,
                target=target or made.manifest.target,
                parity=None if parity is None else dict(parity),
                parents=(graph_as_parent(source, _manifest_of(source)), *made.manifest.parents),
                command=command,
                tools=_tool_versions(),
            ),
        )
    return out


def _manifest_of(source: Path) -> Manifest | None:
    """Return the manifest of the float32 graph as it is now, with what its check came to."""
    return read_manifest(source, verify=False) if manifest_path(source).exists() else None


def _scan(onnx: Path, manifest: Manifest, recipe: Recipe, evaluator: GraphEvaluator) -> str | None:
    """Look for what float16 cannot hold, where float16 is used."""
    uses = recipe.float_precision if recipe.quantizes else recipe.precision
    if recipe.form != "pairs" or uses != precisions.FP16:
        return None
    few = evaluator.on_fewer(SCREENING_IMAGES).images
    reaches = overflow.scan(onnx, manifest, few.pixels)
    return overflow.judge(reaches, images=counted(len(few), "image"))


def _typed_manifest(manifest: Manifest, recipe: Recipe, graph: Graph) -> Manifest:
    """Return the manifest of a typed graph, as far as it is known before it is written."""
    preprocessing = manifest.preprocessing
    if preprocessing is not None and graph.inputs[0].dtype.name == "uint8":
        preprocessing = dataclasses.replace(preprocessing, dtype="uint8")
    operators = dict(sorted(Counter(node.op for node in graph.nodes).items()))
    return dataclasses.replace(
        manifest,
        inputs=_specs(manifest.inputs, graph.inputs),
        outputs=_specs(manifest.outputs, graph.outputs),
        precision=recipe.precision,
        preprocessing=preprocessing,
        form=_form(manifest.form, recipe),
        operators=operators,
        parity=None,
        companions=(),
    )


def _form(form: Form | None, recipe: Recipe) -> Form | None:
    if form is None or not recipe.quantizes:
        return form
    return dataclasses.replace(form, integers="gemm" if recipe.form == "gemm" else "pairs")


def _specs(specs: tuple[TensorSpec, ...], tensors: list[Any]) -> tuple[TensorSpec, ...]:
    return tuple(
        dataclasses.replace(spec, dtype=tensor.dtype.name)
        for spec, tensor in zip(specs, tensors, strict=True)
    )


def _chosen(made: Typed, source: Path, table: CalibrationTable) -> Mapping[str, Any]:
    """Return how the ranges were chosen from the table, for people and other tools."""
    assert made.choice is not None
    graph = read_graph(source)
    names = {site.tensor: site.name for site in sites(graph)}
    amax = amax_of(graph, made.recipe, table, made.choice.policy)
    return {
        "precision": made.recipe.precision,
        "observers": dict(made.recipe.observers),
        "weights": "compensated" if table.moments and made.recipe.form == "pairs" else "nearest",
        "amax": {names[tensor]: value for tensor, value in amax.items()},
        **made.choice.to_json(),
    }


def _tool_versions() -> dict[str, str]:
    names = ("fpet-export", "onnx", "onnx-graphsurgeon", "onnxruntime", "numpy", "ml_dtypes")
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in names}
