"""What a typed graph is made of, and the one function that makes it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from calibration import casts, equalise, integer_gemm, observers, qdq, shift, weight_rounding
from calibration.grids import GRIDS
from calibration.policy import Policy
from calibration.roles import sites
from calibration.table import CalibrationTable
from calibration.weight_rounding import RoundedWeight
from engines import precisions, registry
from engines.onnx_graph.files import Graph, Names, read_graph

OBSERVERS: Mapping[str, str] = {
    "input": "absmax",
    "q": "absmax",
    "k": "absmax",
    "v": "absmax",
    "probabilities": "mse",
}
"""Rule by kind of site. Clipping pays only for the probabilities, which are mostly tiny."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides a typed graph, besides the graph it is made from.

    Attributes:
        precision: One of `engines.precisions.TYPED`.
        io: Types of pixels and logits; see `calibration.casts.cast_graph`.
        form: "pairs" puts Q/DQ pairs into a half-precision graph, "gemm" makes integer products
            in a float32 graph (CPU).
        float_precision: The type of what is not quantized, for "pairs".
        observers: Rule by kind of site.
        largest_weight: Largest magnitude of INT8 weights in the "gemm" form.
    """

    precision: precisions.TypedName
    io: precisions.InputOutput = precisions.FP32
    form: Literal["pairs", "gemm"] = "pairs"
    float_precision: precisions.HalfName = precisions.FP16
    observers: Mapping[str, str] = dataclasses.field(default_factory=lambda: dict(OBSERVERS))
    largest_weight: int = integer_gemm.FULL

    @property
    def quantizes(self) -> bool:
        """Whether it needs a calibration."""
        return precisions.PRECISIONS[self.precision].needs_ranges

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of what is not quantized."""
        return casts.HALVES[self.float_precision] if self.form == "pairs" else casts.FLOAT32


def typed_graph(
    onnx: Path,
    recipe: Recipe,
    *,
    policy: Policy | None = None,
    table: CalibrationTable | None = None,
    weights: Mapping[str, RoundedWeight] | None = None,
) -> Graph:
    """Make the typed graph of an exported float32 one.

    Args:
        onnx: The exported graph.
        recipe: What to make.
        policy: What is quantized; None for a half-precision graph.
        table: What was seen at the sites; likewise.
        weights: What `weights_of` gave for these layers or more; None asks it.

    Raises:
        ExportError: A weight does not fit into the type.
    """
    graph = read_graph(onnx)
    if not recipe.quantizes:
        if recipe.form == "pairs":
            casts.cast_graph(graph, cast("precisions.HalfName", recipe.precision), io=recipe.io)
        return graph
    assert policy is not None
    assert table is not None
    if table.rewrites is not None:
        equalise.apply(graph, table.rewrites.for_layers(policy.active))
    if recipe.form == "gemm":
        integer_gemm.insert(
            graph,
            policy,
            _ranges(graph, recipe, table, policy),
            largest_weight=recipe.largest_weight,
        )
        return graph
    grid = GRIDS[recipe.precision]
    if weights is None:
        weights = weight_rounding.round_weights(graph, table, policy.active, grid, recipe.dtype)
    active = {name: weights[name] for name in policy.active if name in weights}
    shifts = shifts_of(graph, recipe, table, policy)
    names = Names(graph)
    weight_rounding.apply(graph, active, names)
    shift.apply(graph, shifts, grid, recipe.dtype, names)
    kept = amax_of(graph, recipe, table, policy)
    casts.cast_graph(graph, recipe.float_precision, io=recipe.io)
    qdq.insert(graph, policy, kept, grid, {name: each.scale for name, each in active.items()})
    return graph


def weights_of(
    onnx: Path, recipe: Recipe, policy: Policy, table: CalibrationTable
) -> dict[str, RoundedWeight]:
    """Round the weights of all layers of a policy, for the graphs of many policies like it.

    Empty for the "gemm" form, which rounds for itself.
    """
    if recipe.form == "gemm":
        return {}
    graph = read_graph(onnx)
    if table.rewrites is not None:
        equalise.apply(graph, table.rewrites.for_layers(policy.active))
    grid = GRIDS[recipe.precision]
    return weight_rounding.round_weights(graph, table, policy.active, grid, recipe.dtype)


def amax_of(
    graph: Graph, recipe: Recipe, table: CalibrationTable, policy: Policy
) -> dict[str, float]:
    """Return the largest magnitude kept of every site's tensor, by tensor name."""
    grid = GRIDS[recipe.precision]
    shifts = shifts_of(graph, recipe, table, policy)
    kept = {}
    for site in sites(graph):
        if site.kind == "input" and site.consumer in shifts:
            kept[site.tensor] = shifts[site.consumer].amax
            continue
        rule = cast(observers.Observer, registry.load(observers, recipe.observers[site.kind]))
        kept[site.tensor] = rule.amax(table.records[site.name].histogram, grid)
    return kept


def shifts_of(
    graph: Graph, recipe: Recipe, table: CalibrationTable, policy: Policy
) -> dict[str, shift.Shift]:
    """Return what is added to the inputs of linears; see `calibration.shift.choose`.

    Another rule than absmax reads the histogram, which is of the values as they were.
    """
    symmetric = recipe.precision == precisions.INT8 and recipe.form != "gemm"
    if not symmetric or recipe.observers["input"] != "absmax" or table.rewrites is None:
        return {}
    grid = GRIDS[precisions.INT8]
    return shift.choose(graph, table.records, policy.active, grid, recipe.dtype)


def _ranges(
    graph: Graph, recipe: Recipe, table: CalibrationTable, policy: Policy
) -> dict[str, tuple[float, float]]:
    """Return the smallest and the largest value kept of every site's tensor."""
    names = {site.tensor: site.name for site in sites(graph)}
    found = {}
    for tensor, amax in amax_of(graph, recipe, table, policy).items():
        record = table.records[names[tensor]]
        found[tensor] = (max(record.lowest, -amax), min(record.highest, amax))
    return found
