"""A text encoder with ADePT inside its table of embeddings, as one ONNX graph that was checked.

ADePT moves every embedding by a function of that embedding alone. There are as many of them as
there are words, so that the function is computed once for each: E' = E + f(E). The graph looks up
E' where it would have looked up E, and nothing of f is left in it.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from engines import storage
from engines.errors import CheckpointError, ParityError, UsageError
from engines.registry import import_or_explain
from fpet_export.graph.to_onnx import quiet_exporter
from fpet_export.text import adept_folder
from fpet_export.text.adept_folder import Adept

LIMIT = 1e-5
"""Largest difference to the encoder as it was trained, relative to its largest number."""

_OPSET = 20
_TEXTS = 4
"""Random texts of different lengths that every graph is checked on."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextEncoder:
    """A graph on disk.

    Attributes:
        path: The `.onnx` file; `NAME.json` beside it says what is in here.
        tokens: Tokens of a text; shorter ones are filled up and masked.
        prompts: Tokens that stand in front of a text in the output.
        difference: Largest difference to the encoder as it was trained, in float64, relative to
            its largest number.
    """

    path: Path
    tokens: int
    prompts: int
    difference: float


class FoldedEncoder(nn.Module):
    """Token numbers and a mask to hidden states, the prompt in front.

    Args:
        encoder: Of transformers; it is given embeddings.
        table: (words, C) what the network looks up.
        prompt: (P, C).
    """

    def __init__(self, encoder: nn.Module, table: torch.Tensor, prompt: torch.Tensor) -> None:
        super().__init__()
        self.encoder = encoder
        self.table = nn.Parameter(table, requires_grad=False)
        self.prompt = nn.Parameter(prompt, requires_grad=False)

    def embed(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Return (B, N, C)."""
        return nn.functional.embedding(input_ids, self.table)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Map (B, N) numbers and their (B, N) mask of 0 and 1 to (B, P + N, C)."""
        embedded = self.embed(input_ids)
        batch, count = len(input_ids), len(self.prompt)
        front = self.prompt.expand(batch, -1, -1)
        ones = attention_mask.new_ones(batch, count)
        found = self.encoder(
            inputs_embeds=torch.cat([front, embedded], dim=1),
            attention_mask=torch.cat([ones, attention_mask], dim=1),
        )
        return cast(torch.Tensor, found[0])


class TrainedEncoder(FoldedEncoder):
    """The same as it was trained: the table is the model's own, and every text is moved."""

    def __init__(self, encoder: nn.Module, table: torch.Tensor, adept: Adept) -> None:
        super().__init__(encoder, table, adept.prompt.to(table.dtype))
        self.adept = adept

    def embed(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Return (B, N, C)."""
        return self.adept.moved(super().embed(input_ids))


def export_encoder(
    adapter: str | Path,
    *,
    model: str | Path,
    output: str | Path,
    tokens: int = 128,
    force: bool = False,
) -> TextEncoder:
    """Fold ADePT into a text encoder of transformers and write it as ONNX, checked.

    Args:
        adapter: Folder of ADePT.
        model: Folder of the model that it was trained on.
        output: Folder for `encoder.onnx` and `encoder.json`.
        tokens: Tokens of a text.
        force: Replace files that exist.

    Raises:
        CheckpointError: The adapter is not whole, or does not fit the model.
        MissingDependencyError: transformers is not installed.
        ParityError: The graph does not answer as the encoder that was trained.
        UsageError: The output exists, or the model takes fewer tokens.
    """
    path = Path(output) / "encoder.onnx"
    storage.refuse_overwrite(path, force=force)
    adept = adept_folder.read(Path(adapter))
    return write_folded(_encoder(Path(model)), adept, path, tokens=tokens, where=str(model))


def write_folded(
    encoder: nn.Module, adept: Adept, path: Path, *, tokens: int, where: str
) -> TextEncoder:
    """Fold ADePT into an encoder and write it; see `export_encoder`.

    Args:
        encoder: Takes `inputs_embeds` and `attention_mask`, has `get_input_embeddings()`, and
            returns hidden states first.
        adept: What was tuned.
        path: The `.onnx` file.
        tokens: Tokens of a text.
        where: Whom to name in an error.
    """
    table = _table(encoder, adept, where=where)
    folded = FoldedEncoder(encoder, adept.moved(table).float(), adept.prompt.float()).eval()
    texts = _texts(len(table), tokens)
    _require_room(folded, texts[0])
    path.parent.mkdir(parents=True, exist_ok=True)
    with storage.atomic_path(path) as temporary:  # which a graph that fails its check never leaves
        _write(folded, texts[0], temporary)
        found = _answers(temporary, texts)
        trained = TrainedEncoder(copy.deepcopy(encoder).double(), table, adept).eval()
        difference = _difference(trained, texts, found)
        _judge(difference, where=str(path))
    document = {
        "file": path.name,
        "sha256": storage.sha256_of(path),
        "inputs": {"input_ids": [1, tokens], "attention_mask": [1, tokens]},
        "output": {"last_hidden_state": [1, len(adept.prompt) + tokens, table.shape[1]]},
        "prompts": len(adept.prompt),
        "difference": difference,
        "adapter": {file.name: storage.sha256_of(file) for file in adept.files},
    }
    storage.write_text(path.with_suffix(".json"), json.dumps(document, indent=1) + "\n")
    return TextEncoder(path=path, tokens=tokens, prompts=len(adept.prompt), difference=difference)


def _judge(difference: float, *, where: str) -> None:
    if not difference <= LIMIT:
        raise ParityError(
            f"the graph differs from the encoder that was trained by {difference:.1e} of its "
            f"largest number, wanted {LIMIT:.0e}",
            where=where,
            fix="report this with the config.json of the model",
        )


def _encoder(folder: Path) -> nn.Module:
    """Return the encoder of a model, in float32 and eval mode."""
    transformers: Any = import_or_explain("transformers")
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            "there is no config.json in it", where=str(folder), fix="give the model's folder"
        )
    try:
        model, loaded = transformers.AutoModel.from_pretrained(
            str(folder),
            local_files_only=True,
            dtype=torch.float32,
            attn_implementation="eager",
            output_loading_info=True,
        )
    # transformers raises almost any exception over a folder that is not whole.
    except Exception as error:
        raise CheckpointError(
            f"transformers cannot load it: {str(error).strip().splitlines()[0][:200]}",
            where=str(folder),
            fix="give the folder of the model that the adapter was trained on",
        ) from error
    # What is absent from the file transformers draws at random; the hidden states need no pooler.
    absent = sorted(n for n in loaded["missing_keys"] if not n.startswith("pooler."))
    absent += sorted(str(name) for name in loaded["mismatched_keys"])
    if absent:
        raise CheckpointError(
            f"{absent[0]} is not in its weights as its config.json says",
            where=str(folder),
            fix="give the whole folder of the model that the adapter was trained on",
        )
    config = model.config
    if getattr(config, "is_decoder", False) and not config.is_encoder_decoder:
        raise CheckpointError(
            f"{config.model_type} is a decoder", where=str(folder), fix="give an encoder of text"
        )
    encoder = model.get_encoder() if config.is_encoder_decoder else model
    return cast(nn.Module, encoder.eval().requires_grad_(False))


def _table(encoder: Any, adept: Adept, *, where: str) -> torch.Tensor:
    """Return float64 (words, C): what the model makes of every number, with its own factor."""
    own = encoder.get_input_embeddings()
    words, width = own.weight.shape
    if width != adept.prompt.shape[1]:
        raise CheckpointError(
            f"the adapter moves embeddings of width {adept.prompt.shape[1]}, the model has {width}",
            where=where,
            fix="give the folder of the model that the adapter was trained on",
        )
    with torch.no_grad():
        found: torch.Tensor = own(torch.arange(words)[None])[0].double()
    return found


def _require_room(module: FoldedEncoder, text: Mapping[str, NDArray[np.int64]]) -> None:
    """Refuse a text that is longer than the positions of the model."""
    given = {name: torch.from_numpy(value) for name, value in text.items()}
    try:
        with torch.no_grad():
            module(**given)
    except (IndexError, RuntimeError) as error:
        raise UsageError(
            f"the model does not take {text['input_ids'].shape[1]} tokens behind a prompt of "
            f"{len(module.prompt)}: {str(error).strip().splitlines()[0][:120]}",
            where="tokens",
            fix="give fewer tokens, such that they and the prompt fit the positions of the model",
        ) from error


def _texts(words: int, tokens: int) -> list[dict[str, NDArray[np.int64]]]:
    """Return random texts; each is shorter than the one before, and filled up."""
    if tokens < 1:
        raise UsageError(f"a text of {tokens} tokens is none", where="tokens", fix="give 1 or more")
    generator = np.random.default_rng(0)
    texts = []
    for index in range(_TEXTS):
        mask = np.zeros((1, tokens), np.int64)
        mask[:, : max(1, tokens - index * tokens // _TEXTS)] = 1
        numbers = generator.integers(0, words, (1, tokens))
        texts.append({"input_ids": numbers, "attention_mask": mask})
    return texts


def _write(module: nn.Module, text: dict[str, NDArray[np.int64]], path: Path) -> None:
    example = tuple(torch.from_numpy(value) for value in text.values())
    with quiet_exporter(), torch.no_grad():
        program = torch.onnx.export(
            module,
            example,
            dynamo=True,
            opset_version=_OPSET,
            input_names=list(text),
            output_names=["last_hidden_state"],
            verbose=False,
        )
    assert program is not None
    program.save(str(path), external_data=False)


def _answers(path: Path, texts: list[dict[str, NDArray[np.int64]]]) -> list[NDArray[np.float32]]:
    runtime: Any = import_or_explain("onnxruntime")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return [session.run(None, text)[0] for text in texts]


def _difference(
    module: nn.Module,
    texts: list[dict[str, NDArray[np.int64]]],
    found: list[NDArray[np.float32]],
) -> float:
    """Return the largest difference at the prompt and at tokens that are no filling."""
    worst, largest = 0.0, 0.0
    for text, answers in zip(texts, found, strict=True):
        given: Mapping[str, torch.Tensor] = {n: torch.from_numpy(v) for n, v in text.items()}
        with torch.no_grad():
            wanted: NDArray[np.float64] = module(**given).numpy()
        prompts = wanted.shape[1] - text["attention_mask"].shape[1]
        read = np.concatenate([np.ones(prompts, bool), text["attention_mask"][0] == 1])
        worst = max(worst, float(np.abs(answers - wanted)[:, read].max()))
        largest = max(largest, float(np.abs(wanted[:, read]).max()))
    return worst / largest
