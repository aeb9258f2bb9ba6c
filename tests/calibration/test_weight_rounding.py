"""Rounded weights: outputs stay close, means stay, and every number is one of the grid."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from calibration import equalise, weight_rounding
from calibration.grids import GRIDS, Grid
from calibration.moments import Moments
from calibration.policy import choose
from calibration.recipe import Recipe, typed_graph, weights_of
from calibration.roles import linears, sites
from calibration.sources import bias_of
from calibration.table import CalibrationTable
from engines.onnx_graph.files import Names, read_graph

FLOAT16 = np.dtype(np.float16)
GRID = pytest.mark.parametrize("grid", GRIDS.values(), ids=list(GRIDS))
WIDTH, OUTPUTS, ROWS = 40, 12, 600


def correlated(seed: int) -> np.ndarray:
    """Rows that move mostly in eight directions, around a mean that is not zero."""
    directions = np.random.default_rng(0).normal(size=(8, WIDTH))
    generator = np.random.default_rng(seed)
    rows = generator.normal(size=(ROWS, 8)) @ directions
    found: np.ndarray = (rows + 0.1 * generator.normal(size=(ROWS, WIDTH)) + 1).astype(np.float32)
    return found


def weight_and_scale(grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    weight = np.random.default_rng(7).normal(size=(WIDTH, OUTPUTS)).astype(np.float32)
    return weight, grid.scale(np.abs(weight).max(axis=0), FLOAT16)


def covariance(rows: np.ndarray) -> np.ndarray:
    moments = Moments(rows.shape[1])
    moments.add(rows)
    return moments.covariance()


@GRID
def test_the_outputs_of_other_rows_are_closer_than_to_the_nearest(grid: Grid) -> None:
    weight, scale = weight_and_scale(grid)
    other = correlated(2) - correlated(2).mean(axis=0)
    nearest = grid.rounded(weight, scale)

    found = weight_rounding.compensated(weight, covariance(correlated(1)), grid, scale)

    noise, usual = (((other @ (each - weight)) ** 2).sum() for each in (found, nearest))
    assert noise < usual / 2
    assert ((found - weight) ** 2).sum() > ((nearest - weight) ** 2).sum()  # it costs the weights


@GRID
@pytest.mark.parametrize("variance", [1.0, 0.0])
def test_inputs_that_have_nothing_to_do_with_each_other_round_to_the_nearest(
    grid: Grid, variance: float
) -> None:
    weight, scale = weight_and_scale(grid)

    found = weight_rounding.compensated(weight, variance * np.eye(WIDTH), grid, scale)

    assert np.array_equal(found, grid.rounded(weight, scale))


@GRID
@pytest.mark.parametrize("half", [np.float16, ml_dtypes.bfloat16])
def test_the_pair_gives_back_what_was_rounded(grid: Grid, half: Any) -> None:
    weight, _ = weight_and_scale(grid)
    scale = grid.scale(np.abs(weight).max(axis=0), np.dtype(half))

    found = weight_rounding.compensated(weight, covariance(correlated(1)), grid, scale)

    assert np.array_equal(grid.rounded(found.astype(half), scale), found)
    assert not np.array_equal(grid.rounded(weight, scale), found)  # negative control


@GRID
def test_the_bias_takes_back_the_mean_error(
    grid: Grid, merged: Path, table: CalibrationTable
) -> None:
    graph = read_graph(merged)
    assert table.rewrites is not None
    equalise.apply(graph, table.rewrites)
    site_of = {site.tensor: site.name for site in sites(graph)}
    means = {
        linear.name: table.records[site_of[linear.activation.name]].channel_mean
        for linear in linears(graph)
    }
    before = {each.name: means[each.name] @ each.weight.values for each in linears(graph)}
    biases = {each.name: bias_of(each.product).values.copy() for each in linears(graph)}

    rounded = weight_rounding.round_weights(graph, table, list(means), grid, FLOAT16)
    weight_rounding.apply(graph, rounded, Names(graph))

    assert len(rounded) == len(means)
    for linear in linears(graph):
        moved = means[linear.name] @ linear.weight.values - before[linear.name]
        mended = bias_of(linear.product).values - biases[linear.name]
        assert np.allclose(moved + mended, 0, atol=1e-5)
        assert np.abs(moved).max() > 1e-4  # negative control: there was something to mend


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_only_constants_differ_from_rounding_to_the_nearest(
    precision: Any, merged: Path, table: CalibrationTable
) -> None:
    policy = choose(read_graph(merged), "vit-linear")
    recipe = Recipe(precision=precision)
    nearest = dataclasses.replace(table, moments={})

    graphs = [typed_graph(merged, recipe, policy=policy, table=each) for each in (table, nearest)]

    operators, shapes = zip(
        *(
            (
                Counter(node.op for node in graph.nodes),
                Counter(str(tensor.shape) for tensor in graph.tensors().values()),
            )
            for graph in graphs
        ),
        strict=True,
    )
    assert operators[0] == operators[1]
    assert shapes[0] == shapes[1]
    weights = [weights_of(merged, recipe, policy, each) for each in (table, nearest)]
    exact = GRIDS[precision]
    for name in policy.active:
        compensated, plain = (each[name] for each in weights)
        assert np.array_equal(compensated.scale, plain.scale)
        assert not np.array_equal(compensated.values, plain.values)
        for each in (compensated, plain):
            assert np.array_equal(exact.rounded(each.values, each.scale), each.values)


def test_the_scale_stays_where_the_largest_weight_became_smaller(
    merged: Path, table: CalibrationTable
) -> None:
    """The pair takes the scale of the rounding, and not that of the rounded weights."""
    policy = choose(read_graph(merged), "vit-linear").only("blocks/0/fc1")
    recipe = Recipe(precision="int8")
    weights = weights_of(merged, recipe, policy, table)
    (name,) = weights
    values = weights[name].values * np.float32(0.5)
    halved = {name: dataclasses.replace(weights[name], values=values)}

    graph = typed_graph(merged, recipe, policy=policy, table=table, weights=halved)

    found = next(t for n, t in graph.tensors().items() if n == f"{name}/weight/scale")
    assert np.array_equal(found.values, weights[name].scale)


def test_moments_of_parts_are_those_of_the_whole() -> None:
    rows = correlated(3)
    parts = Moments(WIDTH)
    for part in np.split(rows, 4):
        parts.add(part.reshape(2, -1, WIDTH))

    assert parts.rows == ROWS
    assert np.allclose(parts.covariance(), np.cov(rows.T, bias=True), atol=1e-4)
