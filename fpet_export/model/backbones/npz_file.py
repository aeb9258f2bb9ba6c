"""The original `.npz` files of Google's ViT release, such as `imagenet21k/ViT-B_16.npz`.

Names and layouts (HWIO convolutions, (in, heads, width) projections) are those of the JAX code
of Dosovitskiy et al. 2021. The pre-logits layer and the 21k head are not used by tuned runs.
"""

from __future__ import annotations

import dataclasses
import re
import zipfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from engines.errors import CheckpointError
from fpet_export.model import torch_files
from fpet_export.model.backbones import Backbone, BackboneOptions, _stated_pixels
from fpet_export.model.backbones._names import check_weights, spec_from_names
from fpet_export.model.backbones._positions import for_image
from fpet_export.model.facts import Fact

FloatArray = NDArray[np.floating]

_OPTIMIZER_PREFIX = "opt/target/"
_IGNORED = re.compile(r"(pre_logits|head)/")
_FIXED = {
    "cls": "cls_token",
    "embedding/bias": "patch_embed.proj.bias",
    "Transformer/posembed_input/pos_embedding": "pos_embed",
    "Transformer/encoder_norm/scale": "norm.weight",
    "Transformer/encoder_norm/bias": "norm.bias",
}
_BLOCK_NAMES = {
    "LayerNorm_0/scale": "norm1.weight",
    "LayerNorm_0/bias": "norm1.bias",
    "LayerNorm_2/scale": "norm2.weight",
    "LayerNorm_2/bias": "norm2.bias",
    "MlpBlock_3/Dense_0/bias": "mlp.fc1.bias",
    "MlpBlock_3/Dense_1/bias": "mlp.fc2.bias",
    "MultiHeadDotProductAttention_1/out/bias": "attn.proj.bias",
}
_ATTENTION = "MultiHeadDotProductAttention_1"


def recognises(text: str) -> bool:
    """Whether `text` ends like a numpy archive."""
    return text.lower().endswith(".npz")


def read(text: str, options: BackboneOptions) -> Backbone:
    """Read the archive and translate its names to timm's."""
    path = Path(text)
    arrays = _load(path)
    weights = {name: torch.from_numpy(array) for name, array in translate(arrays, path).items()}
    if options.pool == "avg":
        raise CheckpointError(
            "these archives are read by their class token, and --pool says avg",
            where=str(path),
            fix="leave --pool out",
        )
    options = dataclasses.replace(options, pool="token", run_pool=None)
    heads = Fact(_heads(arrays, path), "the shape of the query kernel")
    spec, facts = spec_from_names(weights, options, where=path.name, shown=heads)
    release = "the original release"
    facts |= {
        name: Fact(facts[name].value, release) for name in ("pool", "activation", "norm epsilon")
    }
    weights, spec, resampled = for_image(
        check_weights(weights, spec, where=str(path)), spec, options, where=path.name
    )
    prepared, source, others, resize = _stated_pixels.of_file(path, spec.image, None, options)
    return Backbone(
        spec=spec,
        weights=weights,
        source=path.name,
        quality="trained",
        preprocessing=prepared,
        normalisation=source,
        files=(path, *others),
        facts=facts | resampled | resize,
    )


def _heads(arrays: dict[str, FloatArray], path: Path) -> int:
    """Return the number of heads, which the (width, heads, head width) query kernels show."""
    kernels = [a for n, a in arrays.items() if n.endswith(f"{_ATTENTION}/query/kernel")]
    shapes = {kernel.shape for kernel in kernels}
    if len(shapes) != 1 or len(shape := shapes.pop()) != 3:
        raise CheckpointError(
            "the query kernels have no common shape (width, heads, head width)",
            where=str(path),
            fix="give a file of the original release, such as imagenet21k/ViT-B_16.npz",
        )
    return int(shape[1])


def _load(path: Path) -> dict[str, FloatArray]:
    if not path.is_file():
        raise CheckpointError("there is no such file", where=str(path), fix="check the path")
    torch_files.verify_archive(path)
    try:
        with zipfile.ZipFile(path):  # numpy would read a lone array or a pickle all the same
            pass
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, NotImplementedError) as e:
        raise CheckpointError(
            f"this is not a whole .npz archive: {e}", where=str(path), fix="fetch the file again"
        ) from e
    wrong = sorted(name for name, array in arrays.items() if array.dtype.kind != "f")
    if wrong:
        raise CheckpointError(
            f"{wrong[0]} holds {arrays[wrong[0]].dtype}, wanted floating point numbers",
            where=str(path),
            fix="give an original ViT archive",
        )
    return {name.removeprefix(_OPTIMIZER_PREFIX): array for name, array in arrays.items()}


def translate(arrays: dict[str, FloatArray], path: Path) -> dict[str, FloatArray]:
    """Return float32 arrays under timm's names.

    Raises:
        CheckpointError: A name of the original layout is missing or unknown, or a shape is wrong.
    """
    rest = {name: array.astype(np.float32) for name, array in arrays.items()}
    rest = {name: array for name, array in rest.items() if not _IGNORED.match(name)}
    result: dict[str, FloatArray] = {}
    blocks = sorted({int(m[1]) for n in rest if (m := re.search(r"encoderblock_(\d+)/", n))})
    try:
        result["patch_embed.proj.weight"] = rest.pop("embedding/kernel").transpose(3, 2, 0, 1)
        for old, new in _FIXED.items():
            result[new] = rest.pop(old)
        for index in blocks:
            _translate_block(rest, result, index)
    except (KeyError, ValueError, IndexError) as error:
        raise CheckpointError(
            f"not an original ViT archive: {error}",
            where=str(path),
            fix="give a file of the original release, such as imagenet21k/ViT-B_16.npz",
        ) from error
    if rest:
        raise CheckpointError(
            f"{len(rest)} unknown arrays, such as {sorted(rest)[0]}",
            where=str(path),
            fix="give an original plain ViT, not a hybrid or a Mixer",
        )
    return {name: np.ascontiguousarray(array) for name, array in result.items()}


def _translate_block(
    rest: dict[str, FloatArray], result: dict[str, FloatArray], index: int
) -> None:
    old, new = f"Transformer/encoderblock_{index}/", f"blocks.{index}."
    for source, name in _BLOCK_NAMES.items():
        result[new + name] = rest.pop(old + source)
    parts = [rest.pop(f"{old}{_ATTENTION}/{part}/kernel") for part in ("query", "key", "value")]
    width = parts[0].shape[0]
    result[new + "attn.qkv.weight"] = np.concatenate([p.reshape(width, -1).T for p in parts])
    biases = [rest.pop(f"{old}{_ATTENTION}/{part}/bias") for part in ("query", "key", "value")]
    result[new + "attn.qkv.bias"] = np.concatenate([b.ravel() for b in biases])
    out = rest.pop(f"{old}{_ATTENTION}/out/kernel")
    result[new + "attn.proj.weight"] = out.reshape(-1, out.shape[-1]).T
    for number, name in ((0, "fc1"), (1, "fc2")):
        result[f"{new}mlp.{name}.weight"] = rest.pop(f"{old}MlpBlock_3/Dense_{number}/kernel").T
