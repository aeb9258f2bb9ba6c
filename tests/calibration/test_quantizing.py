"""`calibration.quantize`: one call from a float32 graph to a typed one, with its refusals."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

import calibration
import engines
from calibration.table import CalibrationTable, read_table
from engines.errors import BudgetError, InputError, ParityError, TrustError, UsageError
from engines.manifest import read_manifest, write_manifest
from tests.calibration.exports import Exports, images_of, write_shard


def test_half_precision_is_written_beside_the_graph(exports: Exports, tmp_path: Path) -> None:
    out = calibration.quantize(exports(), precision="fp16", out=tmp_path / "half.onnx")

    manifest = read_manifest(out)
    assert (manifest.precision, manifest.weights) == ("fp16", read_manifest(exports()).weights)
    assert manifest.parity is not None
    (row,) = manifest.parity["rows"]
    assert (row["stage"], row["failures"]) == ("fp16", [])
    assert manifest.parents[0].sha256 == read_manifest(exports()).sha256


def test_images_give_the_ranges_and_the_engine_runs(exports: Exports, tmp_path: Path) -> None:
    write_shard(tmp_path / "images.npz", images_of(16))
    graph = exports(target="cpu")
    out = calibration.quantize(
        graph,
        precision="int8",
        out=tmp_path / "q.onnx",
        calibration=tmp_path / "images.npz",
        images=images_of(6),
        keep=("blocks/0",),
    )
    found = read_manifest(out).quantization
    assert found is not None
    assert (found.images, found.preset) == (16, "vit-linear")
    assert found.kept and all(name.startswith("blocks/0") for name in found.kept)
    table = read_table(out.with_name("q.table.json"))
    with engines.open(calibration.quantize(
        graph, precision="int8", out=tmp_path / "again.onnx", calibration=table
    )) as engine:  # fmt: skip
        assert engine.outputs[0].shape[-1] == 5


def test_a_constraint_that_nothing_satisfies_writes_nothing(
    merged: Path, table: CalibrationTable, tmp_path: Path
) -> None:
    with pytest.raises(BudgetError, match="limit on accuracy"):
        calibration.quantize(
            merged, precision="int8", out=tmp_path / "q.onnx", calibration=table,
            images=images_of(4), constraint=calibration.AccuracyConstraint(min_sqnr_db=400.0),
        )  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_quantized_is_refused(
    merged: Path, on_cpu: Path, table: CalibrationTable, tmp_path: Path
) -> None:
    out = tmp_path / "q.onnx"
    with pytest.raises(UsageError, match="need images to find ranges on"):
        calibration.quantize(merged, precision="int8", out=out)
    with pytest.raises(UsageError, match="does not run fp8"):
        calibration.quantize(on_cpu, precision="fp8", out=out, calibration=table)
    with pytest.raises(InputError, match="was exported for"):
        calibration.quantize(on_cpu, precision="fp16", out=out, target="rtx")
    half = calibration.quantize(merged, precision="fp16", out=tmp_path / "half.onnx")
    with pytest.raises(InputError, match="this graph is fp16 already"):
        calibration.quantize(half, precision="int8", out=out, calibration=table)
    with pytest.raises(UsageError, match="exists already"):
        calibration.quantize(merged, precision="fp16", out=half)
    assert calibration.quantize(merged, precision="fp16", out=half, force=True) == half
    assert not out.exists()


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        ({"half": "int3"}, "half"),
        ({"io": "uint9"}, "io"),
        ({"preset": "vit-everything"}, "preset"),
        ({"keep": ("blocks/0",)}, "keep"),
        ({"calibration": "images"}, "calibration"),
        ({"constraint": calibration.AccuracyConstraint(min_sqnr_db=9.0)}, "constraint"),
    ],
)
def test_what_would_not_be_obeyed_is_refused(
    settings: dict[str, Any], where: str, merged: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as caught:
        calibration.quantize(merged, precision="fp16", out=tmp_path / "half.onnx", **settings)
    assert caught.value.where == where
    with pytest.raises(InputError, match="no such file"):
        calibration.quantize(tmp_path / "none.onnx", precision="fp16")
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_failed_or_changed_is_not_quantized(merged: Path, tmp_path: Path) -> None:
    graph = tmp_path / merged.name
    graph.write_bytes(merged.read_bytes())
    rows = [{"stage": "onnx", "failures": ["unexplained flips"]}]
    failed = dataclasses.replace(read_manifest(merged), parity={"rows": rows})
    write_manifest(graph, failed)
    with pytest.raises(ParityError, match="unexplained flips"):
        calibration.quantize(graph, precision="fp16", out=tmp_path / "half.onnx")
    with graph.open("ab") as file:
        file.write(b"\0")
    with pytest.raises(TrustError, match="bytes"):
        calibration.quantize(graph, precision="fp16", out=tmp_path / "half.onnx")


def test_an_unknown_name_of_the_page_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'calibrated'"):
        calibration.calibrated  # noqa: B018
