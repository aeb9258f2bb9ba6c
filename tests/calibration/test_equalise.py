"""Exact rewrites: the answers stay, the values are centred and the channels even out."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from calibration import equalise, shift
from calibration.collect import collect
from calibration.roles import linears
from calibration.table import CalibrationTable, Record, Rewrites
from engines.errors import InputError
from engines.manifest import read_manifest, write_manifest
from engines.onnx_graph.files import Graph, read_graph
from tests.calibration.exports import (
    DEPTH,
    MERGE_BLOCK,
    Exports,
    feed_of,
    images_of,
    run,
    saved,
    source_of,
)


def half_range(record: Record, *, keeps_zero: bool = False) -> np.ndarray:
    lows, highs = shift.ends(record, keeps_zero=keeps_zero)
    return (highs - lows) / 2


VARIANTS: list[dict[str, Any]] = [
    {},
    {"target": "cpu"},
    {"opset": 17},
    {"method": "adaptformer"},
    {"qkv_bias": False},
    {"merge_block": None},
]


def rough(path: Path, folder: Path) -> Path:
    """A copy whose norms have channels of very different size, as trained networks have."""
    graph = read_graph(path)
    generator = np.random.default_rng(0)
    for node in graph.nodes:
        if node.op == "LayerNormalization" and node.name.startswith("blocks"):
            for constant in node.inputs[1:3]:
                factor = np.exp(generator.normal(0, 1, constant.shape)).astype(np.float32)
                constant.values = constant.values * factor
        if "qkv/Add" in node.name or "key_value/Add" in node.name:
            bias = next(t for t in node.inputs if isinstance(t, gs.Constant))
            shift = generator.normal(0, 0.5, bias.shape).astype(np.float32)
            bias.values = bias.values + shift
    copy = saved(graph, folder / "rough.onnx")
    manifest = read_manifest(path)
    write_manifest(copy, dataclasses.replace(manifest, file=copy.name, companions=()))
    return copy


def rewritten(path: Path, folder: Path) -> tuple[Path, CalibrationTable, Graph, Rewrites]:
    table = collect(path, source_of(folder / "images.npz", images_of(16), path))
    graph = read_graph(path)
    rewrites = equalise.fit(graph, table)
    equalise.apply(graph, rewrites)
    return saved(graph, folder / "rewritten.onnx"), table, graph, rewrites


def seen_again(after: Path, path: Path, folder: Path) -> CalibrationTable:
    """What is seen of the rewritten graph, on the images it was fitted on."""
    write_manifest(after, dataclasses.replace(read_manifest(path), file=after.name))
    return collect(after, source_of(folder / "images.npz", images_of(16), path))


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_the_answers_stay(variant: dict[str, Any], exports: Exports, tmp_path: Path) -> None:
    path = rough(exports(**variant), tmp_path)
    after, _, _, rewrites = rewritten(path, tmp_path)
    feed = feed_of(path, images_of(8, seed=1))
    outputs = ["logits"] if "merge_block" in variant else ["logits", "match", "size"]

    before, found = run(path, feed, outputs), run(after, feed, outputs)

    peak = np.abs(before[0]).max()
    assert np.abs(found[0] - before[0]).max() < 1e-4 * peak
    for one, other in zip(found[1:], before[1:], strict=True):
        assert np.array_equal(one, other)
    assert len(rewrites.values) == len(rewrites.inputs) == len(rewrites.value_factors) == DEPTH
    assert rewrites.factors
    parts = (rewrites.factors, rewrites.inputs, rewrites.value_factors)
    moved = [factor for part in parts for factor in part.values()]
    assert all(not np.allclose(factor, 1, rtol=0.1) for factor in moved)


def test_every_norm_that_only_products_read_is_scaled(
    merged: Path, table: CalibrationTable
) -> None:
    assert table.rewrites is not None
    assert set(table.rewrites.factors) == {
        f"blocks/{block}/norm{norm}/LayerNormalization" for block in range(DEPTH) for norm in (1, 2)
    }
    assert set(table.rewrites.values) == {f"blocks/{block}/attn/qkv" for block in range(DEPTH)}


def test_a_norm_that_something_else_reads_is_left_alone(cpu_table: CalibrationTable) -> None:
    """The last block cuts its queries out of the normalised tokens."""
    assert cpu_table.rewrites is not None
    last = DEPTH - 1
    norms = {f"blocks/{block}/norm{norm}" for block in range(DEPTH) for norm in (1, 2)}
    assert set(cpu_table.rewrites.factors) == {
        f"{norm}/LayerNormalization" for norm in norms - {f"blocks/{last}/norm1"}
    }
    assert f"blocks/{last}/attn/key_value" in cpu_table.rewrites.values


@pytest.mark.parametrize("variant", [{}, {"target": "cpu"}], ids=str)
def test_values_come_out_centred(variant: dict[str, Any], exports: Exports, tmp_path: Path) -> None:
    path = rough(exports(**variant), tmp_path)
    after, _, graph, _ = rewritten(path, tmp_path)
    feed = feed_of(path, images_of(16))
    names = [linear.name for linear in linears(graph) if linear.kind in ("qkv", "key_value")]
    added = [f"{name}/Add" for name in names]
    outputs = [node.outputs[0].name for node in graph.nodes if node.name in added]

    before, found = run(path, feed, outputs), run(after, feed, outputs)

    assert len(outputs) == DEPTH
    for old, new in zip(before, found, strict=True):
        values_before, values = old[..., -64:], new[..., -64:]
        assert np.abs(values.mean(axis=(0, 1))).max() < 1e-4 * np.abs(values).max()
        assert np.abs(values_before.mean(axis=(0, 1))).max() > 0.1  # negative control
        assert np.allclose(new[..., :-64], old[..., :-64], atol=1e-3)  # queries and keys stay


def test_channels_even_out(exports: Exports, tmp_path: Path) -> None:
    """The spread of the activations shrinks to a fifth, besides that of the weights."""
    path = rough(exports(), tmp_path)
    after, table, _, _ = rewritten(path, tmp_path)
    again = seen_again(after, path, tmp_path)

    for block in range(DEPTH):
        for part in ("attn/qkv", "fc1"):
            name = f"blocks/{block}/{part}/input"
            spread = [np.log(half_range(one.records[name])).std() for one in (table, again)]
            assert spread[1] < 0.3 * spread[0]


def test_most_of_a_range_moves_into_the_weights(exports: Exports, tmp_path: Path) -> None:
    """SmoothQuant's equation 4 with alpha 0.8, on the activations and on the weights."""
    path = rough(exports(), tmp_path)
    after, table, graph, _ = rewritten(path, tmp_path)
    again = seen_again(after, path, tmp_path)
    before = {linear.name: linear for linear in linears(read_graph(path))}

    for linear in linears(graph):
        if linear.kind != "fc1":
            continue
        rows = np.abs(linear.weight.values).max(axis=1)
        old_rows = np.abs(before[linear.name].weight.values).max(axis=1)
        old_reach = half_range(table.records[f"{linear.name}/input"])
        reach = half_range(again.records[f"{linear.name}/input"])
        assert np.allclose(reach, (old_reach * old_rows) ** 0.2, rtol=1e-3)
        assert np.allclose(rows, (old_reach * old_rows) ** 0.8, rtol=1e-3)


@pytest.mark.parametrize("variant", [{}, {"target": "cpu"}, {"opset": 17}], ids=str)
def test_what_proj_reads_is_scaled_where_the_values_are_made(
    variant: dict[str, Any], exports: Exports, tmp_path: Path
) -> None:
    """The same without an operator."""
    path = rough(exports(**variant), tmp_path)
    after, table, graph, rewrites = rewritten(path, tmp_path)
    again = seen_again(after, path, tmp_path)
    before = {linear.name: linear for linear in linears(read_graph(path))}
    makers = {name.rpartition("/")[0]: name for name in rewrites.value_factors}

    projections = [linear for linear in linears(graph) if linear.kind == "proj"]
    assert len(projections) == len(makers) == DEPTH
    for linear in projections:
        factor = rewrites.value_factors[makers[linear.name.rpartition("/")[0]]]
        weights = before[linear.name].weight.values
        rows = np.abs(weights).max(axis=1)
        found = half_range(again.records[f"{linear.name}/input"])
        reach = found * factor
        assert np.allclose(factor, reach**0.8 / rows**0.2, rtol=1e-2)
        assert np.allclose(linear.weight.values, weights * factor[:, None], rtol=1e-5)
        assert np.allclose(reach, half_range(table.records[f"{linear.name}/input"]), rtol=1e-2)
    assert len(graph.nodes) == len(read_graph(path).nodes) + DEPTH  # of fc2 alone


def test_what_fc2_reads_is_scaled_behind_gelu(exports: Exports, tmp_path: Path) -> None:
    """The same by a product of its own and in the weights."""
    path = exports()
    after, table, graph, rewrites = rewritten(path, tmp_path)
    again = seen_again(after, path, tmp_path)
    before = {linear.name: linear for linear in linears(read_graph(path))}

    for linear in (linear for linear in linears(graph) if linear.kind == "fc2"):
        factor = rewrites.inputs[linear.name]
        reach = half_range(table.records[f"{linear.name}/input"], keeps_zero=True)
        weights = before[linear.name].weight.values
        product = linear.activation.inputs[0]
        assert product.name == f"{linear.name}/Mul"
        assert product.inputs[0].inputs[0].op == "Gelu"
        assert np.allclose(factor, reach**0.8 / np.abs(weights).max(axis=1) ** 0.2, rtol=1e-6)
        found = half_range(again.records[f"{linear.name}/input"], keeps_zero=True)
        assert np.allclose(found, reach / factor, rtol=1e-3)
        assert np.allclose(linear.weight.values, weights * factor[:, None], rtol=1e-6)


def test_less_of_a_range_moves_for_fp8(exports: Exports, tmp_path: Path) -> None:
    """Its noise is a share of each value: the paper's half, and the values stay as they are."""
    path = exports()
    _, table, graph, for_int8 = rewritten(path, tmp_path)

    found = equalise.fit(read_graph(path), table, "fp8")

    assert (len(found.value_factors), len(for_int8.value_factors)) == (0, DEPTH)
    assert found.values.keys() == for_int8.values.keys()
    before = {linear.name: linear for linear in linears(read_graph(path))}
    for linear in linears(graph):
        if linear.kind == "fc2":
            reach = table.records[f"{linear.name}/input"].channel_largest
            rows = np.abs(before[linear.name].weight.values).max(axis=1)
            assert np.allclose(found.inputs[linear.name], reach**0.65 / rows**0.35, rtol=1e-6)
    norm = next(iter(found.factors))
    assert not np.allclose(found.factors[norm], for_int8.factors[norm], rtol=1e-2)


def test_a_factor_that_only_one_side_takes_is_seen(exports: Exports, tmp_path: Path) -> None:
    """Negative control of the answers: the product in the graph without the one in the weights."""
    path = exports()
    after, _, _, rewrites = rewritten(path, tmp_path)
    graph = read_graph(after)
    (linear,) = (linear for linear in linears(graph) if linear.name == "blocks/0/fc2")
    linear.weight.values = linear.weight.values / rewrites.inputs[linear.name][:, None].astype("f4")
    feed = feed_of(path, images_of(8, seed=1))

    (before,), (found,) = run(path, feed), run(saved(graph, tmp_path / "half.onnx"), feed)

    assert np.abs(found - before).max() > 1e-2 * np.abs(before).max()


def test_a_factor_of_the_values_that_proj_does_not_take_is_seen(
    exports: Exports, tmp_path: Path
) -> None:
    """Negative control likewise."""
    path = rough(exports(), tmp_path)
    after, _, _, rewrites = rewritten(path, tmp_path)
    graph = read_graph(after)
    (linear,) = (linear for linear in linears(graph) if linear.name == "blocks/0/attn/proj")
    factor = rewrites.value_factors["blocks/0/attn/qkv"][:, None].astype("f4")
    linear.weight.values = linear.weight.values / factor
    feed = feed_of(path, images_of(8, seed=1))

    (before,), (found,) = run(path, feed), run(saved(graph, tmp_path / "half.onnx"), feed)

    assert np.abs(found - before).max() > 1e-2 * np.abs(before).max()


def test_a_layer_that_is_kept_gets_no_product(merged: Path, table: CalibrationTable) -> None:
    assert table.rewrites is not None
    graph = read_graph(merged)

    equalise.apply(graph, table.rewrites.for_layers(["blocks/1/fc2"]))

    products = [node.name for node in graph.nodes if node.name.endswith("/fc2/Mul")]
    assert products == ["blocks/1/fc2/Mul"]


def test_the_key_of_the_match_reads_the_scaled_tokens(
    merged: Path, table: CalibrationTable
) -> None:
    graph = read_graph(merged)
    before = {tensor.name: tensor.values.copy() for tensor in constants(graph)}
    assert table.rewrites is not None

    equalise.apply(graph, table.rewrites)

    norm = f"blocks/{MERGE_BLOCK}/norm1/LayerNormalization"
    factor = table.rewrites.factors[norm].astype(np.float64)
    for name in (f"blocks.{MERGE_BLOCK}.merge.key.weight", f"blocks.{MERGE_BLOCK}.attn.qkv.weight"):
        after = graph.tensors()[name].values
        expected = before[name] * factor[:, None]
        assert np.allclose(after[:, :128], expected[:, :128], rtol=1e-6)  # queries and keys


def test_a_constant_that_two_layers_share_is_not_changed_twice(
    merged: Path, table: CalibrationTable, tmp_path: Path
) -> None:
    """An exporter stores equal weights once: the biases of zero of two blocks are one tensor."""
    graph = read_graph(merged)
    nodes = {node.name: node for node in graph.nodes}
    for norm in ("norm1", "norm2"):
        first, second = (nodes[f"blocks/{b}/{norm}/LayerNormalization"] for b in (0, 2))
        for place in (1, 2):
            second.inputs[place] = first.inputs[place]
    for part in ("attn/qkv", "attn/proj"):
        first, second = (nodes[f"blocks/{b}/{part}/Add"] for b in (0, 2))
        place = next(i for i, t in enumerate(first.inputs) if isinstance(t, gs.Constant))
        other = next(i for i, t in enumerate(second.inputs) if isinstance(t, gs.Constant))
        second.inputs[other] = first.inputs[place]
        nodes[f"blocks/2/{part}/MatMul"].inputs[1] = nodes[f"blocks/0/{part}/MatMul"].inputs[1]
    nodes["blocks/2/fc1/MatMul"].inputs[1] = nodes["blocks/0/fc1/MatMul"].inputs[1]
    path = saved(graph, tmp_path / "shared.onnx")
    feed = feed_of(merged, images_of(4))
    assert table.rewrites is not None
    graph = read_graph(path)

    equalise.apply(graph, table.rewrites)

    after = saved(graph, tmp_path / "rewritten.onnx")
    (expected,), (found,) = run(path, feed), run(after, feed)
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


def test_nothing_is_rewritten_without_rewrites(merged: Path) -> None:
    graph = read_graph(merged)
    before = {tensor.name: tensor.values.copy() for tensor in constants(graph)}

    equalise.apply(graph, Rewrites({}, {}))

    for tensor in constants(graph):
        assert np.array_equal(tensor.values, before[tensor.name])


def test_an_empty_channel_does_not_blow_up(exports: Exports, tmp_path: Path) -> None:
    """A channel that is always zero, and one that no weight reads."""
    graph = read_graph(exports())
    for node in graph.nodes:
        if node.name == "blocks/0/norm2/LayerNormalization":
            for constant in node.inputs[1:3]:
                constant.values = constant.values.copy()
                constant.values[5] = 0.0
        if node.name == "blocks/0/fc1/MatMul":
            node.inputs[1].values = node.inputs[1].values.copy()
            node.inputs[1].values[7] = 0.0
    path = saved(graph, tmp_path / "empty.onnx")
    write_manifest(path, dataclasses.replace(read_manifest(exports()), file=path.name))

    after, _, changed, rewrites = rewritten(path, tmp_path)

    factor = rewrites.factors["blocks/0/norm2/LayerNormalization"]
    assert np.isfinite(factor).all()
    assert (factor > 0).all()
    assert all(np.isfinite(tensor.values).all() for tensor in constants(changed))
    feed = feed_of(exports(), images_of(4))
    (expected,), (found,) = run(path, feed), run(after, feed)
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


def constants(graph: Graph) -> list[Any]:
    return [t for t in graph.tensors().values() if isinstance(t, gs.Constant)]


@pytest.mark.parametrize(
    "rewrites",
    [
        Rewrites({"blocks/0/attn/qkv": np.zeros(63)}, {}),
        Rewrites({"blocks/9/attn/qkv": np.zeros(64)}, {}),
        Rewrites({}, {"blocks/0/norm1/LayerNormalization": np.ones(65)}),
        Rewrites({}, {"norm/LayerNormalization": np.ones(64)}),
        Rewrites({}, {}, {"blocks/0/fc2": np.ones(64)}),
        Rewrites({}, {}, {"blocks/0/fc1": np.ones(64)}),
        Rewrites({}, {}, {}, {"blocks/0/attn/qkv": np.ones(63)}),
        Rewrites({}, {}, {}, {"blocks/0/attn/proj": np.ones(64)}),
    ],
    ids=["width", "layer", "factors", "norm", "inputs", "not fc2", "value width", "not values"],
)
def test_what_was_moved_in_another_graph_is_refused(rewrites: Rewrites, merged: Path) -> None:
    with pytest.raises(InputError, match="the calibration table moved"):
        equalise.apply(read_graph(merged), rewrites)
