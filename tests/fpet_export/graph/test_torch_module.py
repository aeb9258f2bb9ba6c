"""What a package of PyTorch is compiled from: the module that is read from an exported graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from onnx import helper
from torch.overrides import TorchFunctionMode

from calibration.graph_typing import recipe_for
from calibration.recipe import typed_graph
from engines.backends._aoti.module import ALIGNED, OnnxModule
from engines.errors import InputError
from engines.targets._lookup import load_target
from fpet_export.graph import to_onnx
from fpet_export.graph.freeze import FrozenVit
from fpet_export.graph.options import FreezeOptions
from fpet_export.model.fold import fold
from tests.fpet_export.tiny import MEAN, STD, adapted, checkpoint_of, images_of, relative, spec_of

FORMS: dict[str, dict[str, Any]] = {
    "class token": {},
    "scale on q and k": {"attention_scale": "split"},
    "all tokens": {"last_block": "all-tokens"},
    "not merged": {"run": {"merge_block": None}},
    "merged in the last block": {"run": {"merge_block": 2}},
    "branches that stay": {"run": {"method": "adaptformer"}},
    "mean pool": {"shape": {"prefix": (), "pool": "mean"}},
    "mean pool with a norm": {"shape": {"pool": "mean", "pool_norm": True}},
    "distillation token": {"shape": {"prefix": ("cls", "dist"), "pool": "class+dist"}},
    "quick gelu": {"shape": {"activation": "quick_gelu", "pre_norm": True, "patch_bias": False}},
    "published ties": {"ties": "reference"},
    "opset 17": {"opset": 17},
    "opset 23": {"opset": 23},
    "raw pixels": {"input": "uint8-nhwc"},
    "several images": {"batch": 3},
    "a range of batches": {"batch": (1, 4), "input": "uint8-nchw"},
}


def write(path: Path, **form: Any) -> Path:
    run = {"method": "lora"} | form.pop("run", {})
    spec = spec_of(**form.pop("shape", {}))
    opset = form.pop("opset", 20)
    folded, _ = fold(adapted(spec, checkpoint_of(spec, **run)))
    options = FreezeOptions(**({"attention_scale": "folded"} | form))
    to_onnx.to_onnx(FrozenVit(folded, options, MEAN, STD).eval(), path, opset=opset)
    return path


def feed_of(session: onnxruntime.InferenceSession) -> np.ndarray:
    found = session.get_inputs()[0]
    batch, *rest = (n if isinstance(n, int) else 3 for n in found.shape)
    images = images_of(spec_of(), batch)
    if rest[0] != 3:
        images = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
    return np.rint(images * 255).astype(np.uint8) if "uint8" in found.type else images


def both(path: Path) -> tuple[np.ndarray, np.ndarray, OnnxModule]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    images = feed_of(session)
    module = OnnxModule(path).eval()
    with torch.inference_mode():
        found = module(torch.from_numpy(images)).numpy()
    return found, session.run(None, {"images": images})[0], module


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form_of_the_graph_says_what_onnx_runtime_says(
    form: dict[str, Any], tmp_path: Path
) -> None:
    found, expected, module = both(write(tmp_path / "model.onnx", **form))

    assert found.dtype == expected.dtype
    assert relative(found, expected) < 2e-6
    assert module.attentions == spec_of().depth
    assert module.linears >= 4 * spec_of().depth


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_graph_in_half_precision_keeps_its_types(precision: str, tmp_path: Path) -> None:
    exported = write(tmp_path / "model.onnx")
    recipe = recipe_for(load_target("torch-cuda"), precision)
    typed = tmp_path / "typed.onnx"
    import onnx_graphsurgeon as gs

    onnx.save(gs.export_onnx(typed_graph(exported, recipe)), str(typed))
    full = OnnxModule(exported).eval()
    half = OnnxModule(typed).eval()

    images = torch.from_numpy(images_of(spec_of(), 1))
    with torch.inference_mode():
        difference = relative(half(images).numpy(), full(images).numpy())

    assert 1e-5 < difference < (5e-3 if precision == "fp16" else 5e-2)
    dtypes = {buffer.dtype for buffer in half.buffers()}
    assert dtypes == {getattr(torch, {"fp16": "float16", "bf16": "bfloat16"}[precision]),
                      torch.float32}  # fmt: skip
    assert half.attentions == spec_of().depth


class Masks(TorchFunctionMode):
    """Collects the mask of every attention operator."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[torch.Tensor | None] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            self.found.append((kwargs or {})["attn_mask"])
        return func(*args, **(kwargs or {}))


def test_blocks_behind_the_merge_share_one_mask_in_aligned_rows(tmp_path: Path) -> None:
    module = OnnxModule(write(tmp_path / "model.onnx", run={"merge_block": 0})).eval()

    with torch.inference_mode(), Masks() as masks:
        module(torch.from_numpy(images_of(spec_of(), 1)))

    first, second, third = masks.found
    assert first is None
    assert second is not None
    assert second is third
    assert all(stride % ALIGNED == 0 for stride in second.stride()[:-1])


def test_weights_are_held_once(tmp_path: Path) -> None:
    path = write(tmp_path / "model.onnx")
    in_graph = sum(
        int(np.prod(tensor.dims))
        for tensor in onnx.load(str(path)).graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT
    )

    held = sum(buffer.numel() for buffer in OnnxModule(path).buffers())

    assert held <= in_graph


def test_a_softmax_that_others_read_too_stays_as_it_is(tmp_path: Path) -> None:
    path = write(tmp_path / "model.onnx")
    model = onnx.load(str(path))
    softmax = next(node for node in model.graph.node if node.op_type == "Softmax")
    model.graph.output.append(helper.make_tensor_value_info(softmax.output[0], 1, None))
    onnx.save(model, str(path))

    module = OnnxModule(path).eval()
    with torch.inference_mode():
        logits, weights = module(torch.from_numpy(images_of(spec_of(), 1)))

    assert module.attentions == spec_of().depth - 1
    assert logits.shape == (1, 5)
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights.sum(-1)))


def test_operators_that_are_not_known_are_all_named(tmp_path: Path) -> None:
    path = write(tmp_path / "model.onnx")
    model = onnx.load(str(path))
    for name in ("TopK", "QuantizeLinear"):
        model.graph.node.add(op_type=name, name=name, input=["images"], output=[name])
    model.graph.node.add(op_type="Thing", domain="org.other", input=["images"], output=["thing"])
    onnx.save(model, str(path))

    with pytest.raises(InputError, match=r"does not translate: QuantizeLinear, TopK, org"):
        OnnxModule(path)


def test_a_form_of_an_operator_that_is_not_known_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "model.onnx")
    model = onnx.load(str(path))
    argmax = next(node for node in model.graph.node if node.op_type == "ArgMax")
    argmax.attribute.add(name="select_last_index", i=1, type=2)
    del argmax.attribute[:-1]
    onnx.save(model, str(path))

    with pytest.raises(
        InputError, match="has a form that the PyTorch backend does not translate: ArgMax"
    ):
        OnnxModule(path)(torch.from_numpy(images_of(spec_of(), 1)))
