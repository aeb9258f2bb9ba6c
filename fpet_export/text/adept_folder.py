"""A folder of ADePT (HungerPWAY/ADePT): a soft prompt and a network that moves every embedding.

`adapter_config.json` with PROMPT_TUNING_LORAX and `adapter_model.bin` or `.safetensors`. The other
types of that repository, DePT among them, move embeddings by their place in the sentence.

Source: Tang et al., "ADePT: Adaptive Decomposed Prompt Tuning", ICLR 2025, eq. 5 to 7.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch

from engines.errors import CheckpointError
from fpet_export.model import torch_files
from fpet_export.model.backbones._names import compare_shapes

CONFIG = "adapter_config.json"
_FILES = ("adapter_model.safetensors", "adapter_model.bin")
_TYPE = "PROMPT_TUNING_LORAX"
_PROMPT = "prompt_embeddings"
_INNER = "prompt_encoder.lora_embedding_"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adept:
    """What was tuned.

    Attributes:
        prompt: (P, C) in front of every text.
        down: (C, R).
        down_bias: (R,).
        up: (R, C).
        up_bias: (C,).
        files: Files it was read from.
    """

    prompt: torch.Tensor
    down: torch.Tensor
    down_bias: torch.Tensor
    up: torch.Tensor
    up_bias: torch.Tensor
    files: tuple[Path, ...]

    def moved(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Return e + relu(e A + a) B + b for embeddings (…, C), in their type."""
        kind = embeddings.dtype
        hidden = torch.relu(embeddings @ self.down.to(kind) + self.down_bias.to(kind))
        return embeddings + hidden @ self.up.to(kind) + self.up_bias.to(kind)


def read(folder: Path) -> Adept:
    """Read a folder, strictly.

    Raises:
        CheckpointError: It is not whole, or holds another type of adapter.
    """
    config = _config(folder)
    kind = config.get("peft_type")
    if kind != _TYPE:
        raise CheckpointError(
            f"peft_type is {kind!r}, wanted {_TYPE!r}, which is ADePT",
            where=str(folder / CONFIG),
            fix="only ADePT folds into a table of embeddings: the others move an embedding by its "
            "place in the text",
        )
    prompts, width, rank = (
        _whole(config, key, folder) for key in ("num_virtual_tokens", "token_dim", "r")
    )
    copies = _whole(config, "num_transformer_submodules", folder, otherwise=1)
    path = next((folder / name for name in _FILES if (folder / name).is_file()), None)
    if path is None:
        raise CheckpointError(
            f"beside {CONFIG} lies neither {' nor '.join(_FILES)}",
            where=str(folder),
            fix="copy the whole folder that the training saved",
        )
    tensors = _tensors(path)
    wanted: dict[str, tuple[int, ...]] = {
        _PROMPT: (prompts * copies, width),
        f"{_INNER}A": (width, rank),
        f"{_INNER}a": (rank,),
        f"{_INNER}B": (rank, width),
        f"{_INNER}b": (width,),
    }
    if _PROMPT in tensors and len(tensors[_PROMPT]) == prompts:
        wanted[_PROMPT] = (prompts, width)  # the second copy, of a decoder, is not always saved
    problems = compare_shapes({n: tuple(t.shape) for n, t in tensors.items()}, wanted)
    if problems:
        raise CheckpointError(
            f"the tensors are not those of ADePT as {CONFIG} says: {problems}",
            where=str(path),
            fix="copy the folder that the training saved again",
        )
    return Adept(
        prompt=tensors[_PROMPT][:prompts],
        down=tensors[f"{_INNER}A"],
        down_bias=tensors[f"{_INNER}a"],
        up=tensors[f"{_INNER}B"],
        up_bias=tensors[f"{_INNER}b"],
        files=(folder / CONFIG, path),
    )


def _whole(config: dict[str, Any], key: str, folder: Path, *, otherwise: int | None = None) -> int:
    value: Any = config.get(key)
    value = otherwise if value is None else value
    if type(value) is not int or value < 1:
        raise CheckpointError(
            f"{key} is {value!r}, wanted a whole number of at least 1",
            where=str(folder / CONFIG),
            fix="copy the folder that the training saved again",
        )
    return value


def _config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    try:
        document: Any = json.loads(path.read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{CONFIG} cannot be read: {error}", where=str(folder), fix="give the adapter's folder"
        ) from error
    if not isinstance(document, dict):
        raise CheckpointError(
            f"it holds {type(document).__name__}, wanted an object",
            where=str(path),
            fix="copy the folder that the training saved again",
        )
    return document


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    content = torch_files.read_content(path)
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in content.items() if isinstance(content, dict) else ():
        finite = isinstance(tensor, torch.Tensor) and tensor.is_floating_point()
        if not finite or not tensor.isfinite().all():
            raise CheckpointError(
                f"{name} is no tensor of finite floating numbers",
                where=str(path),
                fix="copy the folder that the training saved again",
            )
        tensors[str(name)] = tensor.double()
    return tensors
