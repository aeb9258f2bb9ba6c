"""Use the whole INT8 range for inputs that are not symmetric, with a zero point of 0.

Every channel is moved by a constant, a whole number of steps near the middle of its range, and the
largest half range instead of the largest magnitude makes the step. GELU gives nothing below -0.17,
so half of a symmetric range holds nothing there; channels of norms and of mixed values lie to
either side of zero, each by another amount.

The bias of a norm takes the constant, and so does the bias of what makes the values, since mixing
adds up to one. Behind GELU it is an addition in the graph. The bias of what reads the moved input
takes the constant times the weights. They are the weights as they were rounded: then a zero that
was moved gives what a zero gave before, whatever the rounding of the weights.

FP8 has its finest steps around zero and is not moved; unsigned INT8 has a zero point.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import numpy as np

from calibration.grids import Grid
from calibration.roles import Linear, linears
from calibration.sources import (
    add_to_bias,
    bias_of,
    give,
    has_bias,
    norms,
    pointwise,
    second_linears,
    value_makers,
)
from calibration.table import Record, Vector
from engines.onnx_graph.files import Graph, Names, Node


@dataclasses.dataclass(frozen=True)
class Shift:
    """What is added to the channels of the input of linears.

    Attributes:
        steps: (C,) whole numbers of steps.
        amax: The largest magnitude afterwards, which makes the step `amax / grid.largest`.
    """

    steps: Vector
    amax: float


@dataclasses.dataclass(frozen=True)
class Place:
    """An input of linears to whose channels a constant can be added.

    Attributes:
        linears: Names of the linears that read it, in the graph's order.
        keeps_zero: Whether zero must stay inside the range: it is the commonest value behind GELU.
        values_of: The attention whose values are moved, or None.
        add: Adds a (C,) constant.
        products: Everything that reads the input, whose biases give the constant back.
    """

    linears: tuple[str, ...]
    keeps_zero: bool
    values_of: str | None
    add: Callable[[Vector, Names], None]
    products: tuple[Node, ...]


def places(graph: Graph) -> Iterator[Place]:
    """Yield the inputs of linears of a float32 graph that can be moved."""
    by_product = {id(linear.product): linear.name for linear in linears(graph)}
    for norm, products in norms(graph):
        fed = tuple(by_product[id(node)] for node in products if id(node) in by_product)
        if fed and len(norm.inputs) == 3 and all(has_bias(node) for node in products):
            yield Place(fed, False, None, _bias_of_norm(norm), tuple(products))
    for name, linear, projection in value_makers(graph):
        attention = name.rpartition("/")[0]
        add = _bias_of_values(linear)
        yield Place((projection.name,), False, attention, add, (projection.product,))
    for linear in second_linears(graph):
        yield Place((linear.name,), True, None, _addition(graph, linear), (linear.product,))


def choose(
    graph: Graph,
    records: Mapping[str, Record],
    active: Collection[str],
    grid: Grid,
    dtype: np.dtype[Any],
) -> dict[str, Shift]:
    """Return the shift of every input that is quantized and can be moved, by its first linear.

    Values that are quantized themselves stay centred.

    Args:
        graph: Float32, rewritten or not.
        records: What was seen at its sites.
        active: Names of what is quantized.
        grid: Grid of INT8.
        dtype: Type of the scales in the graph.
    """
    return {
        place.linears[0]: fit(
            records[f"{place.linears[0]}/input"], grid, dtype, keeps_zero=place.keeps_zero
        )
        for place in places(graph)
        if any(name in active for name in place.linears) and place.values_of not in active
    }


def fit(record: Record, grid: Grid, dtype: np.dtype[Any], *, keeps_zero: bool) -> Shift:
    """Return the shift that makes the channels of a site symmetric.

    Args:
        record: What was seen, with channels.
        grid: Grid of INT8.
        dtype: Type of the scale in the graph.
        keeps_zero: See `Place`.
    """
    lows, highs = ends(record, keeps_zero=keeps_zero)
    # A middle is rounded to whole steps, which reaches half a step further.
    amax = float((highs - lows).max()) / 2 * grid.largest / (grid.largest - 0.5)
    step = float(grid.scale(amax, dtype))
    return Shift(-np.rint((lows + highs) / 2 / step), amax)


def ends(record: Record, *, keeps_zero: bool) -> tuple[Vector, Vector]:
    """Return (C,) the lowest and the highest value that a site's channels must hold."""
    lows, highs = record.channel_lowest, record.channel_highest
    return (np.minimum(lows, 0), np.maximum(highs, 0)) if keeps_zero else (lows, highs)


def apply(
    graph: Graph, shifts: Mapping[str, Shift], grid: Grid, dtype: np.dtype[Any], names: Names
) -> None:
    """Shift what linears of a float32 graph read, in place; see `choose`.

    Their weights are rounded before, see `calibration.weight_rounding`.
    """
    for place in list(places(graph)):
        shift = shifts.get(place.linears[0])
        if shift is not None:
            moved = shift.steps * float(grid.scale(shift.amax, dtype))
            place.add(moved, names)
            for node in place.products:
                add_to_bias(node, -(moved @ node.inputs[1].values.astype(np.float64)), names)


def _bias_of_norm(norm: Node) -> Callable[[Vector, Names], None]:
    def add(moved: Vector, names: Names) -> None:
        give(norm, 2, norm.inputs[2].values.astype(np.float64) + moved, names)

    return add


def _bias_of_values(linear: Linear) -> Callable[[Vector, Names], None]:
    def add(moved: Vector, names: Names) -> None:
        added = np.zeros(bias_of(linear.product).shape)
        added[-len(moved) :] = moved
        add_to_bias(linear.product, added, names)

    return add


def _addition(graph: Graph, linear: Linear) -> Callable[[Vector, Names], None]:
    def add(moved: Vector, names: Names) -> None:
        linear.product.inputs[0] = pointwise(graph, "Add", linear, moved, names)

    return add
