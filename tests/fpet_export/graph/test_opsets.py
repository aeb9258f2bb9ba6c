"""Every opset that is offered: the file has it, is valid, and computes what the module computes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
import torch

from engines.errors import ExportError, UsageError
from fpet_export.graph import options, to_onnx
from fpet_export.graph.freeze import FrozenVit, input_shape
from fpet_export.graph.options import FreezeOptions
from fpet_export.model.fold import fold
from tests.fpet_export.tiny import MEAN, STD, adapted, checkpoint_of, relative, spec_of

pytestmark = pytest.mark.fresh_exports

OPSETS = range(options.OLDEST_OPSET, options.NEWEST_OPSET + 1)
PLAIN: dict[str, Any] = {"batch": 2}
CASES: dict[str, dict[str, Any]] = {
    "adapters": {"method": "adaptformer", "batch": 2, "input": "uint8-nhwc"},
    "no merge, quick gelu": {
        "batch": 2,
        "shape": {"pre_norm": True, "activation": "quick_gelu"},
        "merge_block": None,
    },
    "relu": {"batch": 2, "shape": {"activation": "relu"}},
    "tanh gelu": {"batch": 2, "shape": {"activation": "gelu_tanh"}},
    "dropped ties, dynamic batch": {"batch": (1, 4), "ties": "reference"},
    "mean of all tokens": {
        "batch": 2,
        "shape": {"prefix": (), "pool": "mean"},
        "merge_block": None,
        "attention_scale": "folded",
    },
}


def frozen(
    *,
    method: str = "lora",
    shape: dict[str, Any] | None = None,
    merge_block: int | None = 1,
    **options: Any,
) -> FrozenVit:
    spec = spec_of(**(shape or {}))
    folded, _ = fold(adapted(spec, checkpoint_of(spec, method, merge_block=merge_block)))
    return FrozenVit(folded, FreezeOptions(**options), MEAN, STD).eval()


def images_for(module: FrozenVit, count: int) -> torch.Tensor:
    shape = input_shape(module.spec, module.options, count)
    raw = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(3))
    return raw.float() / 255 if module.options.input == "float32" else raw.to(torch.uint8)


def newer_than(model: onnx.ModelProto, opset: int) -> set[str]:
    """Operators and attributes that the opset does not have."""
    found = set()
    for node in model.graph.node:
        schema = onnx.defs.get_schema(node.op_type, opset)  # raises where there is none
        assert schema.since_version <= opset
        known = set(schema.attributes)
        found |= {f"{node.op_type}.{a.name}" for a in node.attribute if a.name not in known}
        if len(node.input) > schema.max_input:
            found.add(f"{node.op_type} with {len(node.input)} inputs")
    return found


def check(module: FrozenVit, path: Path, opset: int) -> onnx.ModelProto:
    to_onnx.to_onnx(module, path, opset=opset)
    model = onnx.load(str(path))
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", opset)]
    assert model.ir_version == onnx.helper.find_min_ir_version_for(model.opset_import)
    assert newer_than(model, opset) == set()
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for count in (2,) if isinstance(module.options.batch, int) else (1, 3):
        images = images_for(module, count)
        (logits,) = session.run(None, {to_onnx.INPUT: images.numpy()})
        with torch.inference_mode():
            assert relative(np.asarray(logits), module(images).numpy()) < 1e-5  # measured: 1e-6
            other = module(images.flip(-1)).numpy()  # negative control: the images matter
        assert relative(np.asarray(logits), other) > 1e-3
    return model


@pytest.mark.parametrize("opset", OPSETS)
def test_an_opset_gives_a_valid_graph_of_that_opset(opset: int, tmp_path: Path) -> None:
    model = check(frozen(**PLAIN), tmp_path / "model.onnx", opset)

    operators = {node.op_type for node in model.graph.node}
    assert ("Gelu" if opset >= 20 else "Erf") in operators
    assert len({"Gelu", "Erf"} & operators) == 1


@pytest.mark.parametrize("activation", ["relu", "gelu_tanh", "quick_gelu"])
def test_opset_20_has_every_activation(activation: str, tmp_path: Path) -> None:
    check(frozen(batch=2, shape={"activation": activation}), tmp_path / "model.onnx", 20)


@pytest.mark.parametrize("case", CASES)
def test_opset_17_suits_every_form_of_the_network(case: str, tmp_path: Path) -> None:
    check(frozen(**CASES[case]), tmp_path / "model.onnx", 17)


def test_the_nodes_of_opset_17_keep_their_names_and_axes(tmp_path: Path) -> None:
    module = frozen(batch=2, ties="reference")
    names = {}
    for opset in (17, 18):
        to_onnx.to_onnx(module, tmp_path / "model.onnx", opset=opset)
        graph = onnx.load(str(tmp_path / "model.onnx")).graph
        names[opset] = [node.name for node in graph.node]
        (top,) = {len(node.input) for node in graph.node if node.op_type == "ReduceMax"}
        assert top == opset - 16

    assert names[17] == names[18]
    assert {"blocks/0/Erf", "blocks/1/merge/ReduceMax", "blocks/2/fc2/MatMul"} <= set(names[17])


@pytest.mark.parametrize("opset", [16, 24, 0])
def test_another_opset_is_refused_before_anything_runs(opset: int, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"17 to 23, not in {opset}"):
        to_onnx.to_onnx(frozen(**PLAIN), tmp_path / "model.onnx", opset=opset)

    assert list(tmp_path.iterdir()) == []


def test_an_exporter_that_writes_another_opset_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opsets = [onnx.helper.make_opsetid("", 18)]
    model = onnx.helper.make_model(onnx.GraphProto(name="other"), opset_imports=opsets)
    program = SimpleNamespace(model=onnx_ir.from_proto(model))
    monkeypatch.setattr(torch.onnx, "export", lambda *_, **__: program)

    with pytest.raises(ExportError, match="PyTorch wrote opset 18 instead of 21") as caught:
        to_onnx.to_onnx(frozen(**PLAIN), tmp_path / "model.onnx", opset=21)

    assert "--opset 18" in caught.value.fix
    assert list(tmp_path.iterdir()) == []
