"""DINOv2 inside an ONNX file of somebody else, as a checkpoint under timm's names.

Small tensors keep Hugging Face's names in that file. The weights of linear layers have none
(`onnx::MatMul_...`), lie there as (in, out), and are found by the node that reads them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines import storage, tensor_file
from engines.errors import InputError
from engines.registry import import_or_explain

ARCHITECTURE = "vit_small_patch14_dinov2"
WIDTH, DEPTH, IMAGE, PATCH = 384, 12, 224, 14

Array = NDArray[np.float32]

_NAMED = {
    "norm1.weight": "norm1.weight",
    "norm1.bias": "norm1.bias",
    "attention.output.dense.bias": "attn.proj.bias",
    "layer_scale1.lambda1": "ls1.gamma",
    "norm2.weight": "norm2.weight",
    "norm2.bias": "norm2.bias",
    "mlp.fc1.bias": "mlp.fc1.bias",
    "mlp.fc2.bias": "mlp.fc2.bias",
    "layer_scale2.lambda1": "ls2.gamma",
}
_LINEAR = {
    "attention/output/dense": "attn.proj",
    "mlp/fc1": "mlp.fc1",
    "mlp/fc2": "mlp.fc2",
}


def write_checkpoint(graph: Path, folder: Path) -> Path:
    """Write `model.safetensors` and timm's `config.json` into `folder`; return the weights' file.

    Args:
        graph: The ONNX file with the backbone inside.
        folder: Is made where it does not exist.

    Raises:
        InputError: The file holds no such backbone.
        MissingDependencyError: onnx or torch is not installed.
    """
    weights = read_backbone(graph)
    path = folder / "model.safetensors"
    tensor_file.write_arrays(path, weights, {"format": "pt"})
    config = {
        "architecture": ARCHITECTURE,
        "num_classes": 0,
        "num_features": WIDTH,
        "global_pool": "token",
        "model_args": {"img_size": IMAGE},
        "pretrained_cfg": {
            "input_size": [3, IMAGE, IMAGE],
            "fixed_input_size": True,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "crop_mode": "center",
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
            "num_classes": 0,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
            "license": "apache-2.0",
        },
    }
    storage.write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")
    return path


def read_backbone(graph: Path) -> dict[str, Array]:
    """Return the tensors of timm's `vit_small_patch14_dinov2` at 224 pixels, without a head.

    Raises:
        InputError: One is missing, or has another shape.
        MissingDependencyError: onnx or torch is not installed.
    """
    onnx = import_or_explain("onnx")
    helper = import_or_explain("onnx.numpy_helper")
    model = onnx.load(str(graph))
    tensors = {one.name: helper.to_array(one) for one in model.graph.initializer}
    factors = {
        node.name: tensors[name]
        for node in model.graph.node
        if node.op_type == "MatMul"
        for name in node.input
        if name in tensors
    }
    try:
        found = _mapped(tensors, factors)
        grid = _grid(tensors)
    except KeyError as error:
        raise InputError(
            f"it has no {error.args[0]}",
            where=str(graph),
            fix="give the graph of the package that this program names",
        ) from error
    found["pos_embed"] = np.concatenate([found["pos_embed"], resampled(grid, IMAGE // PATCH)], 1)
    return {name: np.ascontiguousarray(array, np.float32) for name, array in found.items()}


def resampled(grid: Array, side: int) -> Array:
    """Return (1, side * side, C) positions of a square grid (1, N, C), by a bicubic filter.

    With the antialiasing that timm uses; taken in float64, so that processors agree in float32.
    """
    torch = import_or_explain("torch")
    functional = import_or_explain("torch.nn.functional")
    old = round(grid.shape[1] ** 0.5)
    image = torch.from_numpy(grid.astype(np.float64)).reshape(1, old, old, -1).permute(0, 3, 1, 2)
    new = functional.interpolate(image, size=(side, side), mode="bicubic", antialias=True)
    rows = new.permute(0, 2, 3, 1).reshape(1, side * side, -1)
    positions: Array = rows.numpy().astype(np.float32)
    return positions


def _mapped(tensors: dict[str, Any], factors: dict[str, Any]) -> dict[str, Array]:
    stem = "backbone.embeddings"
    found = {
        "cls_token": tensors[f"{stem}.cls_token"],
        "patch_embed.proj.weight": tensors[f"{stem}.patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": tensors[f"{stem}.patch_embeddings.projection.bias"],
        "norm.weight": tensors["backbone.layernorm.weight"],
        "norm.bias": tensors["backbone.layernorm.bias"],
        "pos_embed": _position_of_class(tensors),
    }
    for index in range(DEPTH):
        theirs, ours = f"backbone.encoder.layer.{index}", f"blocks.{index}"
        node = f"/backbone/encoder/layer.{index}"
        for name, target in _NAMED.items():
            found[f"{ours}.{target}"] = tensors[f"{theirs}.{name}"]
        for name, target in _LINEAR.items():
            found[f"{ours}.{target}.weight"] = factors[f"{node}/{name}/MatMul"].T
        inside = [f"attention/attention/{part}" for part in ("query", "key", "value")]
        found[f"{ours}.attn.qkv.weight"] = np.concatenate(
            [factors[f"{node}/{part}/MatMul"].T for part in inside]
        )
        found[f"{ours}.attn.qkv.bias"] = np.concatenate(
            [tensors[f"{theirs}.{part.replace('/', '.')}.bias"] for part in inside]
        )
    return found


def _position_of_class(tensors: dict[str, Any]) -> Array:
    """Return (1, 1, C): the one tensor of that shape that has no name of the module's own."""
    return _only(
        tensors, "position of the class token", lambda shape: shape == (1, 1, WIDTH), "backbone."
    )


def _grid(tensors: dict[str, Any]) -> Array:
    """Return (1, N, C), the positions of a square grid of patches; stored in either order."""
    grid = _only(
        tensors,
        "positions of the patches",
        lambda shape: len(shape) >= 3 and WIDTH in shape and np.prod(shape) == 37 * 37 * WIDTH,
        "backbone.",
    )
    if grid.shape[-1] == WIDTH:
        return grid.reshape(1, -1, WIDTH)
    return grid.reshape(WIDTH, -1).T[None]


def _only(tensors: dict[str, Any], what: str, wanted: Any, named: str) -> Array:
    fitting = [t for name, t in tensors.items() if wanted(t.shape) and not name.startswith(named)]
    if len(fitting) != 1:
        raise KeyError(f"{what} ({len(fitting)} tensors have its shape)")
    array: Array = fitting[0]
    return array
