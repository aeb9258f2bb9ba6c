"""What a typed graph is made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from calibration.policy import choose
from calibration.recipe import OBSERVERS, Recipe, amax_of, typed_graph
from calibration.roles import sites
from calibration.table import CalibrationTable
from engines.onnx_graph.files import Graph, read_graph


def types_of(graph: Graph) -> set[str]:
    return {tensor.dtype.name for tensor in graph.tensors().values()} - {"int64", "bool"}


def made(path: Path, table: CalibrationTable | None = None, **recipe: Any) -> Graph:
    policy = None if table is None else choose(read_graph(path), "vit-linear")
    return typed_graph(path, Recipe(**recipe), policy=policy, table=table)


@pytest.mark.parametrize(
    ("recipe", "types"),
    [
        ({"precision": "fp16"}, "float32 float16"),
        ({"precision": "bf16"}, "float32 bfloat16"),
        ({"precision": "int8"}, "float32 float16 int8"),
        ({"precision": "int8", "float_precision": "bf16"}, "float32 bfloat16 int8"),
        ({"precision": "fp8"}, "float32 float16 float8_e4m3fn"),
        ({"precision": "int8", "io": "uint8"}, "float32 float16 int8 uint8"),
    ],
)
def test_the_types_of_a_recipe(
    recipe: dict[str, Any], types: str, merged: Path, table: CalibrationTable
) -> None:
    needs = Recipe(**recipe).quantizes
    assert needs == (recipe["precision"] in ("int8", "fp8"))

    assert types_of(made(merged, table if needs else None, **recipe)) == set(types.split())


def test_the_gemm_form_is_for_cpus(on_cpu: Path, cpu_table: CalibrationTable) -> None:
    graph = made(on_cpu, cpu_table, precision="int8", form="gemm")

    assert types_of(graph) == {"float32", "uint8", "int8", "int32"}


def test_the_rules_of_a_recipe_choose_the_ranges(merged: Path, table: CalibrationTable) -> None:
    graph = read_graph(merged)
    names = {site.tensor: site for site in sites(graph)}
    policy = choose(graph, "vit-attention")
    usual = amax_of(graph, Recipe(precision="int8"), table, policy)
    clipped = amax_of(
        graph,
        Recipe(
            precision="int8", observers={**OBSERVERS, "q": "entropy", "probabilities": "absmax"}
        ),
        table,
        policy,
    )

    assert set(usual) == set(names)
    for tensor, site in names.items():
        largest = table.records[site.name].histogram.largest
        if site.kind == "probabilities":
            assert clipped[tensor] == largest
            assert usual[tensor] <= largest
        elif site.kind == "q":
            assert usual[tensor] == largest
            assert clipped[tensor] <= largest
        elif site.kind == "input" and not site.consumer.endswith("proj"):  # see test_shift.py
            assert usual[tensor] == clipped[tensor] < largest
        else:
            assert usual[tensor] == clipped[tensor] == largest


def test_the_rewrites_of_the_table_are_applied(merged: Path, table: CalibrationTable) -> None:
    """A table of rewritten tensors with a graph that is not rewritten would be wrong twice."""
    graph = made(merged, table, precision="int8")
    before = read_graph(merged)
    name = "blocks.0.norm1.weight"

    factor = table.rewrites.factors["blocks/0/norm1/LayerNormalization"] if table.rewrites else None
    assert factor is not None
    after = graph.tensors()[name]
    assert isinstance(after, gs.Constant)
    assert np.allclose(after.values * factor, before.tensors()[name].values, rtol=1e-3)


def test_the_graph_on_disk_stays(merged: Path, table: CalibrationTable) -> None:
    content = merged.read_bytes()

    made(merged, table, precision="int8")
    made(merged, precision="fp16")

    assert merged.read_bytes() == content
