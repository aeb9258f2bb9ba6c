"""From artefact to artefact: typed graphs with their manifests, evaluated, within a constraint."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from calibration import graph_typing
from calibration.accuracy import AccuracyConstraint, RevertedLayer
from calibration.evaluator import GraphEvaluator, evaluator_for
from calibration.graph_typing import Callbacks, Typed, recipe_for
from calibration.recipe import Recipe
from calibration.requirements import require_opset
from calibration.table import CalibrationTable, files_of, read_table, table_path
from engines import precisions, storage
from engines.engine import load_target
from engines.errors import BudgetError, ExportError, InputError, ParityError, UsageError
from engines.manifest import Manifest, read_manifest, write_manifest
from engines.onnx_graph.files import read_graph
from engines.onnx_header import read_onnx_header
from tests.calibration.exports import MERGE_BLOCK, Exports, images_of, saved
from tests.calibration.test_overflow import scaled
from tests.calibration.test_roles import ATTENTIONS, EVERY

IMAGES = images_of(20, seed=4)


@pytest.fixture(scope="module")
def evaluator(merged: Path) -> GraphEvaluator:
    return evaluator_for(merged, read_manifest(merged), IMAGES)


@pytest.fixture(scope="module")
def manifest(merged: Path) -> Manifest:
    return read_manifest(merged)


@pytest.fixture(scope="module")
def int8(
    merged: Path, manifest: Manifest, evaluator: GraphEvaluator, table: CalibrationTable
) -> Typed:
    recipe = recipe_for(load_target("rtx"), "int8")
    return graph_typing.integers(merged, manifest, recipe, evaluator, table, preset="vit-attention")


# Recipes


@pytest.mark.parametrize(
    ("target", "precision", "form"),
    [
        ("rtx", "fp16", "pairs"),
        ("rtx", "fp8", "pairs"),
        ("tensorrt", "int8", "pairs"),
        ("cpu", "int8", "gemm"),
        ("openvino", "int8", "gemm"),
        ("cuda", "fp16", "pairs"),
    ],
)
def test_the_target_decides_the_form(target: str, precision: str, form: str) -> None:
    recipe = recipe_for(load_target(target), precision, half="bf16")

    assert (recipe.form, recipe.precision, recipe.float_precision) == (form, precision, "bf16")


@pytest.mark.parametrize(
    ("target", "precision"),
    [("cpu", "fp16"), ("cpu", "fp8"), ("openvino", "bf16"),
     ("cuda", "int8"), ("rtx", "fp32")],
)  # fmt: skip
def test_a_precision_that_the_target_lacks_is_refused(target: str, precision: str) -> None:
    with pytest.raises(UsageError, match=f"{target} does not run {precision}") as caught:
        recipe_for(load_target(target), precision)

    assert caught.value.where == f"--precision {precision}"


@pytest.mark.parametrize("io", ["typed", "uint8"])
def test_a_float32_graph_keeps_its_input(io: str) -> None:
    with pytest.raises(UsageError, match="computes in float32") as caught:
        recipe_for(load_target("cpu"), "int8", io=io)

    assert caught.value.where == f"--io {io}"


# Half precision


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("io", ["fp32", "typed", "uint8"])
def test_half_precision_is_evaluated(
    precision: str, io: str, merged: Path, manifest: Manifest, evaluator: GraphEvaluator
) -> None:
    counts: list[int] = []
    recipe = recipe_for(load_target("rtx"), precision, io=io)

    made = graph_typing.half_precision(
        merged, manifest, recipe, evaluator, callbacks=Callbacks(measured=counts.append)
    )

    assert made.row.failures == ()
    assert made.row.stage == precision
    assert (made.choice, made.warning) == (None, None)
    assert sum(counts) == len(IMAGES)
    assert made.manifest.inputs[0].dtype == made.graph.inputs[0].dtype.name
    assert made.manifest.outputs[0].dtype == made.graph.outputs[0].dtype.name
    assert made.manifest.preprocessing is not None
    raw = "uint8" if io == "uint8" else "float32"
    assert made.manifest.preprocessing.dtype == raw


def test_what_leaves_float16_is_refused_for_fp16_and_taken_as_bf16(
    merged: Path, tmp_path: Path
) -> None:
    path = scaled(merged, tmp_path, 3e5)
    manifest = read_manifest(path)
    evaluator = evaluator_for(path, manifest, images_of(6))

    with pytest.raises(ExportError, match="float16 ends at"):
        graph_typing.half_precision(path, manifest, Recipe(precision="fp16"), evaluator)

    made = graph_typing.half_precision(path, manifest, Recipe(precision="bf16"), evaluator)
    assert made.warning is None
    assert np.isfinite(made.row.relative)


# Integers


def test_integers_say_what_is_quantized(int8: Typed) -> None:
    assert int8.choice is not None
    assert int8.choice.policy.active == (*EVERY, *ATTENTIONS)
    assert int8.choice.quality.sqnr_db == pytest.approx(int8.row.sqnr_db)
    assert int8.choice.quality.images == len(IMAGES)
    assert int8.row.failures == ()
    assert int8.manifest.precision == "int8"
    assert int8.manifest.operators["QuantizeLinear"] == 8 * 3 + 4 * 3


def test_a_promise_puts_layers_back_until_it_is_kept(
    merged: Path, manifest: Manifest, evaluator: GraphEvaluator, table: CalibrationTable
) -> None:
    keep = ("blocks/0", "blocks/1")
    steps: list[RevertedLayer] = []
    screened: list[int] = []

    def act(constraint: AccuracyConstraint | None) -> Typed:
        return graph_typing.integers(
            merged,
            manifest,
            recipe_for(load_target("rtx"), "int8"),
            evaluator,
            table,
            preset="vit-attention",
            keep=keep,
            constraint=constraint,
            callbacks=Callbacks(reverted=steps.append, screened=screened.append),
        )

    constraint = AccuracyConstraint(min_sqnr_db=act(None).row.sqnr_db + 1)
    made = act(constraint)

    assert made.choice is not None
    assert constraint.missed(made.choice.quality) == ()
    assert constraint.missed(made.choice.before) != ()
    assert made.choice.policy.kept[10:] == tuple(step.layer for step in steps)
    assert 0 < len(steps) < 5
    assert sum(screened) == 5
    assert made.row.sqnr_db == pytest.approx(made.choice.quality.sqnr_db)
    quantizers = {n.name for n in made.graph.nodes if n.op == "QuantizeLinear"}
    for name in made.choice.policy.kept:
        assert f"{name}/weight/QuantizeLinear" not in quantizers


def test_layers_may_stay_from_the_start(
    merged: Path, manifest: Manifest, evaluator: GraphEvaluator, table: CalibrationTable
) -> None:
    made = graph_typing.integers(
        merged, manifest, Recipe(precision="fp8"), evaluator, table,
        preset="vit-linear", keep=("blocks/0",),
    )  # fmt: skip

    assert made.choice is not None
    assert made.choice.policy.active == tuple(EVERY[4:])
    assert made.manifest.precision == "fp8"


def test_a_graph_with_nothing_quantized_is_refused(
    merged: Path, manifest: Manifest, evaluator: GraphEvaluator, table: CalibrationTable
) -> None:
    with pytest.raises(UsageError, match="nothing is left to quantize") as caught:
        graph_typing.integers(
            merged, manifest, Recipe(precision="int8"), evaluator, table,
            preset="vit-linear", keep=("blocks",),
        )  # fmt: skip

    assert caught.value.where == "--keep"


def test_a_promise_that_cannot_be_kept_is_refused(
    merged: Path, manifest: Manifest, evaluator: GraphEvaluator, table: CalibrationTable
) -> None:
    keep = tuple(EVERY[1:])

    with pytest.raises(BudgetError) as caught:
        graph_typing.integers(
            merged, manifest, Recipe(precision="int8"), evaluator, table,
            preset="vit-linear", keep=keep, constraint=AccuracyConstraint(min_sqnr_db=200),
        )  # fmt: skip

    assert caught.value.exit_code == 8


def test_integers_on_a_cpu(on_cpu: Path, cpu_table: CalibrationTable) -> None:
    manifest = read_manifest(on_cpu)
    evaluator = evaluator_for(on_cpu, manifest, images_of(6))
    recipe = recipe_for(load_target("cpu"), "int8")

    made = graph_typing.integers(
        on_cpu, manifest, recipe, evaluator, cpu_table, preset="vit-linear"
    )

    assert made.row.failures == ()
    assert made.manifest.operators["Gemm"] == 14
    with pytest.raises(UsageError, match="attention stays in float32") as caught:
        graph_typing.integers(
            on_cpu, manifest, recipe, evaluator, cpu_table, preset="vit-attention"
        )
    assert "vit-linear" in caught.value.fix


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"graph": "b" * 64}, "another graph"), ({"records": {}}, "other sites")],
)
def test_a_table_of_something_else_is_refused(
    changes: dict[str, Any],
    words: str,
    merged: Path,
    manifest: Manifest,
    evaluator: GraphEvaluator,
    table: CalibrationTable,
) -> None:
    other = dataclasses.replace(table, **changes)

    with pytest.raises(InputError, match=words):
        graph_typing.integers(
            merged, manifest, Recipe(precision="int8"), evaluator, other, preset="vit-linear"
        )


def test_a_graph_whose_match_is_wrong_does_not_pass(
    merged: Path, table: CalibrationTable, tmp_path: Path
) -> None:
    """It searches for the least similar tokens: no rounding of the keys explains that."""
    manifest = read_manifest(merged)
    evaluator = evaluator_for(merged, manifest, images_of(6))
    graph = read_graph(merged)
    (search,) = (node for node in graph.nodes if node.op == "ArgMax")
    (scores,) = search.inputs
    opposite = gs.Variable("opposite", dtype=scores.dtype, shape=scores.shape)
    name = f"blocks/{MERGE_BLOCK}/merge/Neg"
    graph.layer(name=name, op="Neg", inputs=[scores], outputs=[opposite])
    search.inputs[0] = opposite
    wrong = saved(graph.toposort(), tmp_path / "wrong.onnx")

    made = graph_typing.integers(
        wrong, manifest, Recipe(precision="int8"), evaluator, table, preset="vit-linear"
    )

    assert not made.row.passed
    assert "unexplained flips" in made.row.failures[0]


# Files


def test_it_leaves_a_graph_its_manifest_and_its_table(
    int8: Typed, merged: Path, table: CalibrationTable, tmp_path: Path
) -> None:
    out = tmp_path / "model.int8.onnx"

    assert graph_typing.write(int8, merged, out, table=table, command=("fpet-export", "x")) == out

    assert {path.name for path in tmp_path.iterdir()} == {
        "model.int8.onnx", "model.int8.manifest.json", "model.int8.table.json",
    }  # fmt: skip
    assert set(files_of(out, quantizes=True)) == set(tmp_path.iterdir())
    found, before = read_manifest(out), read_manifest(merged)
    header = read_onnx_header(out)
    assert (found.kind, found.file, found.precision) == ("graph", "model.int8.onnx", "int8")
    assert (found.inputs, found.outputs, found.opset) == (header.inputs, header.outputs, 20)
    assert found.parents[0].role == "graph"
    assert found.parents[0].sha256 == storage.sha256_of(merged) == before.sha256
    assert found.parents[1:] == before.parents
    assert found.command == ("fpet-export", "x")
    assert {"fpet-export", "onnx", "onnxruntime", "numpy", "python"} <= set(found.tools)
    assert (found.model, found.labels, found.probes) == (before.model, before.labels, before.probes)
    graph = onnx.load(str(out)).graph
    assert sum(found.operators.values()) == len(graph.node)
    assert found.operators["DequantizeLinear"] == found.operators["QuantizeLinear"] == 36


def test_the_manifest_says_how_it_was_quantized(
    int8: Typed, merged: Path, table: CalibrationTable, tmp_path: Path
) -> None:
    out = graph_typing.write(int8, merged, tmp_path / "m.int8.onnx", table=table)
    beside = table_path(out)

    found = read_manifest(out).quantization
    assert found is not None
    assert (found.preset, found.kept) == ("vit-attention", ())
    assert found.quantized == (*EVERY, *ATTENTIONS)
    assert found.observers["probabilities"] == "mse"
    assert (found.images, found.table) == (16, "m.int8.table.json")
    assert found.table_sha256 == storage.sha256_of(beside)
    assert found.quality is not None
    assert found.quality["images"] == len(IMAGES)
    assert read_table(beside).hashes == table.hashes
    chosen = json.loads(beside.read_text())["chosen"]
    assert chosen["precision"] == "int8"
    assert set(chosen["amax"]) == set(table.records)
    assert chosen["quantized"] == list(found.quantized)


def test_half_precision_leaves_no_table(
    merged: Path, manifest: Manifest, evaluator: GraphEvaluator, tmp_path: Path
) -> None:
    made = graph_typing.half_precision(merged, manifest, Recipe(precision="fp16"), evaluator)

    out = graph_typing.write(made, merged, tmp_path / "m.fp16.onnx")

    assert {path.name for path in tmp_path.iterdir()} == {"m.fp16.onnx", "m.fp16.manifest.json"}
    assert read_manifest(out).quantization is None
    assert read_manifest(out).precision == "fp16"


@pytest.mark.parametrize("name", ["m.onnx", "m.manifest.json", "m.table.json"])
def test_no_file_is_replaced_without_force(
    name: str, int8: Typed, merged: Path, table: CalibrationTable, tmp_path: Path
) -> None:
    (tmp_path / name).write_text("mine")

    with pytest.raises(UsageError, match=f"{name} exists"):
        graph_typing.write(int8, merged, tmp_path / "m.onnx", table=table)

    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"
    graph_typing.write(int8, merged, tmp_path / "m.onnx", table=table, force=True)
    assert read_manifest(tmp_path / "m.onnx").precision == "int8"


def test_a_broken_network_is_not_written_as_half_precision(merged: Path, tmp_path: Path) -> None:
    """NaN in a weight: its own answers are no numbers, which the float32 graph must give."""
    graph = read_graph(merged)
    weight = next(n for n in graph.nodes if n.name == "blocks/2/fc1/MatMul").inputs[1]
    weight.values = weight.values.copy()
    weight.values[0, 0] = np.nan
    path = saved(graph, tmp_path / "broken.onnx")
    write_manifest(path, dataclasses.replace(read_manifest(merged), file=path.name))
    manifest = read_manifest(path)

    with pytest.raises(ParityError, match="not finite for 6 of 6 images"):
        evaluator_for(path, manifest, images_of(6))


@pytest.mark.parametrize("precision", precisions.QUANTIZED)
def test_an_opset_without_half_precision_pairs_is_refused(precision: str, exports: Exports) -> None:
    path, target = exports(opset=18), load_target("rtx")
    with pytest.raises(UsageError, match="opset 18; QuantizeLinear takes half") as caught:
        require_opset(path, read_manifest(path), precision, target)
    assert caught.value.fix == "export the run again with --opset 19"
    require_opset(path, read_manifest(path), "fp16", target)
    require_opset(path, read_manifest(path), "int8", load_target("cpu"))
    newer = exports(opset=19)
    require_opset(newer, read_manifest(newer), precision, target)
