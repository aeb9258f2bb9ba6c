"""A shifted input: exact without rounding, a whole number of steps, zero stays on the grid."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from calibration import shift, weight_rounding
from calibration.grids import INT8
from calibration.policy import choose
from calibration.recipe import OBSERVERS, Recipe, amax_of, shifts_of, typed_graph
from calibration.roles import linears, sites
from calibration.sources import bias_of
from calibration.table import CalibrationTable, Record, seen
from engines.onnx_graph.files import Graph, Names, read_graph
from tests.calibration.exports import DEPTH, MERGE_BLOCK, feed_of, images_of, run, saved

FLOAT32 = np.dtype(np.float32)
FC2 = [f"blocks/{block}/fc2" for block in range(DEPTH)]


class Fine:
    """A grid without rounding: what is left of a shift then must change no answer."""

    def scale(self, amax: Any, dtype: np.dtype[Any]) -> np.ndarray:
        return INT8.scale(amax, dtype)

    def rounded(self, values: np.ndarray, scale: np.ndarray) -> np.ndarray:
        return values


def record_of(*channels: tuple[float, float]) -> Record:
    return seen(np.array(channels, np.float32).T, channels=True)


def shifted(
    path: Path, table: CalibrationTable, folder: Path, *, kind: str, gives_back: bool = True
) -> Path:
    """The graph with the inputs of one kind of linear shifted, and nothing rounded."""
    graph = read_graph(path)
    active = [linear.name for linear in linears(graph) if linear.kind == kind]
    shifts = shift.choose(graph, table.records, active, INT8, FLOAT32)
    assert len(shifts) == DEPTH
    assert all(np.abs(found.steps).max() > 1 for found in shifts.values())
    before = {linear.name: bias_of(linear.product).values.copy() for linear in linears(graph)}
    shift.apply(graph, shifts, Fine(), FLOAT32, Names(graph))  # type: ignore[arg-type]
    for linear in linears(graph):
        if linear.name in active and not gives_back:
            bias_of(linear.product).values = before[linear.name]
    return saved(graph, folder / f"shifted-{gives_back}.onnx")


@pytest.mark.parametrize("kind", ["qkv", "proj", "fc1", "fc2"])
def test_the_answers_stay(kind: str, merged: Path, table: CalibrationTable, tmp_path: Path) -> None:
    feed = feed_of(merged, images_of(8, seed=1))
    outputs = ["logits", "match"]
    before, match = run(merged, feed, outputs)

    found, same = run(shifted(merged, table, tmp_path, kind=kind), feed, outputs)
    (wrong,) = run(shifted(merged, table, tmp_path, kind=kind, gives_back=False), feed)

    peak = np.abs(before).max()
    assert np.abs(found - before).max() < 1e-4 * peak
    assert np.array_equal(match, same)
    assert np.abs(wrong - before).max() > 1e-2 * peak  # negative control


def test_what_else_reads_a_norm_gives_the_constant_back(
    merged: Path, table: CalibrationTable
) -> None:
    """The keys of the match read the norm, too, and are not quantized."""
    graph = read_graph(merged)
    place = next(p for p in shift.places(graph) if f"blocks/{MERGE_BLOCK}/attn/qkv" in p.linears)
    keys = next(node for node in place.products if "/merge/" in node.name)
    before = bias_of(keys).values.copy()
    shifts = shift.choose(graph, table.records, place.linears, INT8, FLOAT32)

    shift.apply(graph, shifts, INT8, FLOAT32, Names(graph))

    (found,) = shifts.values()
    moved = found.steps * float(INT8.scale(found.amax, FLOAT32))
    wanted = before - moved @ keys.inputs[1].values.astype(np.float64)
    assert np.allclose(bias_of(keys).values, wanted, atol=1e-5)
    assert not np.allclose(before, wanted, atol=1e-5)  # negative control


def test_a_norm_with_a_reader_that_cannot_give_it_back_stays(merged: Path) -> None:
    graph = read_graph(merged)
    place = next(p for p in shift.places(graph) if "blocks/0/fc1" in p.linears)
    addition = place.products[0].outputs[0].outputs[0]
    addition.op = "Sub"

    assert "blocks/0/fc1" not in {p.linears[0] for p in shift.places(graph)}


def test_values_that_are_quantized_themselves_stay_centred(
    merged: Path, table: CalibrationTable
) -> None:
    graph = read_graph(merged)
    shifts = {
        preset: shifts_of(graph, Recipe(precision="int8"), table, choose(graph, preset))
        for preset in ("vit-linear", "vit-attention")
    }

    only = set(shifts["vit-linear"]) - set(shifts["vit-attention"])
    assert only == {f"blocks/{block}/attn/proj" for block in range(DEPTH)}


def test_a_shift_is_a_whole_number_of_steps_and_halves_the_range() -> None:
    record = record_of((-0.17, 10.0), (-0.1, 0.3), (-4.0, 4.0), (5.0, 6.0))

    found = shift.fit(record, INT8, FLOAT32, keeps_zero=True)

    step = float(INT8.scale(found.amax, FLOAT32))
    assert found.amax == pytest.approx(10.17 / 2 * 127 / 126.5)
    assert found.steps.tolist() == [
        -np.rint(4.915 / step),
        -np.rint(0.1 / step),
        0.0,
        -np.rint(3.0 / step),
    ]


def test_zero_may_leave_the_range_of_a_norm() -> None:
    found = shift.fit(record_of((-1.0, 1.0), (5.0, 6.0)), INT8, FLOAT32, keeps_zero=False)

    assert found.amax == pytest.approx(1.0 * 127 / 126.5)
    assert found.steps[1] == -np.rint(5.5 / float(INT8.scale(found.amax, FLOAT32)))


@pytest.mark.parametrize("low", [-0.17, 0.0, -3.0, 0.4])
@pytest.mark.parametrize("high", [0.4, 0.5, 13.7])
def test_both_ends_of_every_channel_stay_inside(low: float, high: float) -> None:
    found = shift.fit(record_of((low, high), (-0.17, 7.3)), INT8, FLOAT32, keeps_zero=True)

    step = float(INT8.scale(found.amax, FLOAT32))
    for channel, ends in enumerate([(low, high), (-0.17, 7.3)]):
        moved = np.array([*ends, 0.0]) / step + found.steps[channel]
        assert np.abs(moved).max() <= 127 + 1e-4


def test_zero_gives_what_it_gave_before(merged: Path, table: CalibrationTable) -> None:
    """The bias takes the rounded weights: a row of zeros comes out as the bias was."""
    half = np.dtype(np.float16)
    graph = read_graph(merged)
    linear = next(linear for linear in linears(graph) if linear.kind == "fc2")
    shifts = shift.choose(graph, table.records, [linear.name], INT8, half)
    (found,) = shifts.values()

    exact = linear.weight.values.copy()
    names = Names(graph)
    rounded = weight_rounding.round_weights(graph, table, [linear.name], INT8, half)
    weight_rounding.apply(graph, rounded, names)
    before = bias_of(linear.product).values.astype(np.float64)

    shift.apply(graph, shifts, INT8, half, names)

    scale = INT8.scale(found.amax, half)
    constant = next(t for t in linear.activation.inputs[0].inputs if isinstance(t, gs.Constant))
    row = INT8.rounded(constant.values.astype(half), scale)
    weight = linear.weight.values.astype(np.float64)
    after = row.astype(np.float64) @ weight + bias_of(linear.product).values
    assert np.abs(found.steps).max() > 1
    assert np.allclose(after, before, atol=1e-5)
    unrounded = row.astype(np.float64) @ exact + bias_of(linear.product).values
    assert not np.allclose(unrounded, before, atol=1e-5)  # negative control


@pytest.mark.parametrize(
    ("recipe", "is_shifted"),
    [
        ({"precision": "int8"}, True),
        ({"precision": "int8", "float_precision": "bf16"}, True),
        ({"precision": "int8", "form": "gemm"}, False),
        ({"precision": "fp8"}, False),
        ({"precision": "int8", "observers": {**OBSERVERS, "input": "mse"}}, False),
    ],
    ids=str,
)
def test_symmetric_int8_by_absmax_is_shifted(
    recipe: dict[str, Any], is_shifted: bool, merged: Path, table: CalibrationTable
) -> None:
    graph, exported = made(merged, table, **recipe), read_graph(merged)
    policy = choose(exported, "vit-linear")

    added = [node.name.rpartition("/")[0] for node in graph.nodes if is_shift(node)]
    assert added == (FC2 if is_shifted else [])
    shifts = shifts_of(exported, Recipe(**recipe), table, policy)
    assert set(shifts) == (set(policy.active) if is_shifted else set())


def test_without_equalising_nothing_is_shifted(merged: Path, table: CalibrationTable) -> None:
    plain = dataclasses.replace(table, rewrites=None)

    graph = made(merged, plain, precision="int8")

    assert not [n for n in graph.nodes if ("fc2/" in n.name and n.op == "Mul") or is_shift(n)]


def test_a_layer_that_is_kept_is_not_shifted(merged: Path, table: CalibrationTable) -> None:
    graph = made(merged, table, keep=["blocks/1/fc2"], precision="int8")

    added = [node.name.rpartition("/")[0] for node in graph.nodes if is_shift(node)]
    assert added == [name for name in FC2 if name != "blocks/1/fc2"]


def test_the_range_is_that_of_the_shifted_values(merged: Path, table: CalibrationTable) -> None:
    graph = read_graph(merged)
    kept = "blocks/1/fc1"
    policy = choose(graph, "vit-linear", keep=[kept])

    found = amax_of(graph, Recipe(precision="int8"), table, policy)

    for site in sites(graph):
        record = table.records[site.name]
        if site.consumer == kept:
            assert found[site.tensor] == record.histogram.largest
        elif site.kind == "input":
            lows, highs = record.channel_lowest, record.channel_highest
            if site.consumer in FC2:
                lows, highs = np.minimum(lows, 0), np.maximum(highs, 0)
            assert found[site.tensor] == pytest.approx((highs - lows).max() / 2 * 127 / 126.5)
            assert found[site.tensor] < record.histogram.largest * 127 / 126.5


def made(path: Path, table: CalibrationTable, *, keep: Any = (), **recipe: Any) -> Graph:
    policy = choose(read_graph(path), "vit-linear", keep=keep)
    return typed_graph(path, Recipe(**recipe), policy=policy, table=table)


def is_shift(node: Any) -> bool:
    """An addition before the product of fc2; the one behind it reads the product."""
    return bool(
        node.op == "Add"
        and "/fc2/Add" in node.name
        and not any(t.inputs and t.inputs[0].op == "MatMul" for t in node.inputs)
    )
