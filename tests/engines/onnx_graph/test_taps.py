"""Inner tensors as outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from engines.contract import OpenOptions
from engines.engine import open_engine
from engines.errors import ExportError
from engines.onnx_graph.taps import with_outputs
from tests.calibration.exports import feed_of, images_of, run


def test_inner_tensors_come_out_and_the_answers_stay(merged: Path, tmp_path: Path) -> None:
    feed = feed_of(merged, images_of(1))
    inner = next(
        node.output[0] for node in onnx.load(merged).graph.node if node.op_type == "Softmax"
    )
    expected = run(merged, feed, ("logits", "match", inner))

    tapped = with_outputs(merged, ["match", inner, "match"], tmp_path)

    with open_engine(tapped, options=OpenOptions(rewrites="none")) as engine:
        assert [spec.name for spec in engine.outputs][:2] == ["logits", "match"]
        found = engine.run({"images": feed})
    for name, value in zip(("logits", "match", inner), expected, strict=True):
        assert np.array_equal(found[name], value)


def test_the_graph_itself_stays(merged: Path, tmp_path: Path) -> None:
    before = merged.read_bytes()

    with_outputs(merged, ["match"], tmp_path)

    assert merged.read_bytes() == before


def test_an_output_of_the_graph_is_not_added_again(merged: Path, tmp_path: Path) -> None:
    tapped = with_outputs(merged, ["logits"], tmp_path)

    names = [value.name for value in onnx.load(str(tapped)).graph.output]
    assert names == ["logits"]


def test_a_tensor_that_is_not_there_is_refused(merged: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="no tensor 'elsewhere'") as caught:
        with_outputs(merged, ["match", "elsewhere"], tmp_path)

    assert caught.value.where == str(merged)
