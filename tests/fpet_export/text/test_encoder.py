"""ADePT inside the embeddings of a text encoder, against a loop over words."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from engines.errors import CheckpointError, FpetError, ParityError, UsageError
from fpet_export.text import adept_folder, encoder
from fpet_export.text.adept_folder import CONFIG
from fpet_export.text.encoder import TextEncoder, export_encoder, write_folded

WORDS, WIDTH, RANK, PROMPTS, TOKENS = 23, 16, 4, 3, 6
CONFIGURATION = {
    "peft_type": "PROMPT_TUNING_LORAX",
    "num_virtual_tokens": PROMPTS,
    "token_dim": WIDTH,
    "r": RANK,
    "num_transformer_submodules": 1,
}
FILE = "adapter_model.safetensors"
NAMES = ("prompt_embeddings", *(f"prompt_encoder.lora_embedding_{one}" for one in "AaBb"))
SHAPES = ((PROMPTS, WIDTH), (WIDTH, RANK), (RANK,), (RANK, WIDTH), (WIDTH,))


class Scaled(nn.Embedding):
    """Some models multiply what they look up."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return 3.0 * super().forward(input)


class Encoder(nn.Module):
    """One block of attention over embeddings that it scales, with a table of positions."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.words: nn.Embedding = Scaled(WORDS, WIDTH)
        self.places = nn.Parameter(torch.randn(TOKENS + PROMPTS, WIDTH))
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def get_input_embeddings(self) -> nn.Module:
        return self.words

    def forward(
        self, *, inputs_embeds: torch.Tensor, attention_mask: torch.Tensor
    ) -> tuple[torch.Tensor]:
        x = inputs_embeds + self.places[torch.arange(inputs_embeds.shape[1])]
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        bias = (1 - attention_mask[:, None, :].to(x.dtype)) * -1e9
        share = (q @ k.transpose(1, 2) / math.sqrt(WIDTH) + bias).softmax(dim=-1)
        return (x + self.out(share @ v),)


def write(folder: Path, **fields: Any) -> Path:
    folder.mkdir(exist_ok=True)
    generator = torch.Generator().manual_seed(4)
    (folder / CONFIG).write_text(json.dumps(CONFIGURATION | fields))
    tensors = {
        name: torch.randn(shape, generator=generator)
        for name, shape in zip(NAMES, SHAPES, strict=True)
    }
    save_file(tensors, folder / FILE)
    return folder


def exported(folder: Path) -> TextEncoder:
    adept = adept_folder.read(write(folder / "adapter"))
    path = folder / "out" / "encoder.onnx"
    return write_folded(Encoder().eval(), adept, path, tokens=TOKENS, where="the model")


def test_the_graph_answers_as_the_loop_over_words(tmp_path: Path) -> None:
    import onnxruntime

    found = exported(tmp_path)

    assert found.difference < 1e-6
    t = {n: v.double().numpy() for n, v in load_file(tmp_path / "adapter" / FILE).items()}
    prompt, down, down_bias, up, up_bias = (t[name] for name in NAMES)
    model = Encoder().double()
    table = 3.0 * model.words.weight.detach().numpy()
    numbers = np.array([[5, 0, 22, 5, 1, 9]])
    rows = [*prompt]
    for number in numbers[0]:
        e = table[number]
        rows.append(e + np.maximum(e @ down + down_bias, 0) @ up + up_bias)
    mask = np.ones((1, TOKENS), np.int64)
    with torch.no_grad():
        (wanted,) = model(
            inputs_embeds=torch.tensor(np.stack(rows))[None],
            attention_mask=torch.ones(1, TOKENS + PROMPTS),
        )
    session = onnxruntime.InferenceSession(found.path, providers=["CPUExecutionProvider"])
    (hidden,) = session.run(None, {"input_ids": numbers, "attention_mask": mask})
    assert hidden.shape == (1, PROMPTS + TOKENS, WIDTH)
    assert np.abs(hidden - wanted.numpy()).max() < 1e-5 * np.abs(wanted.numpy()).max()


def test_nothing_of_the_offset_is_left_in_the_graph(tmp_path: Path) -> None:
    import onnx

    found = exported(tmp_path)

    graph = onnx.load(found.path).graph
    extents = {tuple(tensor.dims) for tensor in graph.initializer}
    assert (WORDS, WIDTH) in extents
    assert not any(RANK in dims for dims in extents)
    assert not any(node.op_type == "Relu" for node in graph.node)
    document = json.loads(found.path.with_suffix(".json").read_text())
    assert document["output"]["last_hidden_state"] == [1, PROMPTS + TOKENS, WIDTH]


def test_a_graph_that_differs_is_not_left_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder, "LIMIT", 1e-12)
    with pytest.raises(ParityError, match="differs"):
        exported(tmp_path)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_text_must_fit_the_positions(tmp_path: Path) -> None:
    adept = adept_folder.read(write(tmp_path / "adapter"))
    for tokens in (0, TOKENS + 1):
        with pytest.raises(UsageError, match="tokens"):
            write_folded(Encoder(), adept, tmp_path / "e.onnx", tokens=tokens, where="the model")


def test_an_adapter_of_another_width_is_refused(tmp_path: Path) -> None:
    adept = adept_folder.read(write(tmp_path / "adapter"))
    other = Encoder()
    other.words = Scaled(WORDS, WIDTH + 1)
    with pytest.raises(CheckpointError, match="width"):
        write_folded(other, adept, tmp_path / "e.onnx", tokens=TOKENS, where="the model")


def test_a_second_prompt_is_of_the_decoder(tmp_path: Path) -> None:
    folder = write(tmp_path / "adapter", num_transformer_submodules=2)
    tensors = load_file(folder / FILE)
    one = adept_folder.read(folder).prompt
    both = torch.cat([tensors[NAMES[0]], tensors[NAMES[0]] + 1])
    save_file(tensors | {NAMES[0]: both}, folder / FILE)
    assert torch.equal(adept_folder.read(folder).prompt, one)


@pytest.mark.parametrize(
    "fields",
    [
        {"peft_type": "PROMPT_TUNING_LORA"},
        {"peft_type": "LORA"},
        {"r": 0},
        {"r": "4"},
        {"token_dim": WIDTH + 1},
        {"num_virtual_tokens": None},
        {"num_virtual_tokens": PROMPTS + 1},
    ],
    ids=str,
)
def test_another_configuration_is_refused(fields: dict[str, Any], tmp_path: Path) -> None:
    refused(write(tmp_path / "adapter", **fields))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("change", ["missing", "longer", "NaN", "int8", "extra"])
def test_damaged_tensors_are_refused(name: str, change: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "adapter")
    tensors = load_file(folder / FILE)
    own = tensors.pop(name)
    changed = {
        "missing": {},
        "longer": {name: torch.cat([own, own[:1]])},
        "NaN": {name: torch.full_like(own, math.nan)},
        "int8": {name: own.to(torch.int8)},
        "extra": {name: own, name + "_of_another": own.clone()},
    }[change]
    save_file(tensors | changed, folder / FILE)
    refused(folder)


def test_a_folder_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "adapter")
    (folder / FILE).unlink()
    refused(folder)
    for text in ("", "[]", "{"):
        (folder / CONFIG).write_text(text)
        refused(folder)
    (folder / CONFIG).unlink()
    refused(folder)


def refused(folder: Path) -> None:
    with pytest.raises(FpetError) as caught:
        adept_folder.read(folder)
    assert type(caught.value) is CheckpointError
    assert caught.value.where and caught.value.fix


@pytest.mark.filterwarnings("default")  # transformers warns about itself
@pytest.mark.parametrize("kind", ["bert", "roberta", "t5", "bart"])
def test_models_of_transformers_are_folded(kind: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="needs fpet-export[hf]")
    torch.manual_seed(2)
    small = {"vocab_size": WORDS, "hidden_size": WIDTH, "intermediate_size": 32}
    small |= {"num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 40}
    of_t5 = {"vocab_size": WORDS, "d_model": WIDTH, "d_kv": 8, "d_ff": 32, "num_layers": 2}
    of_bart = {"vocab_size": WORDS, "d_model": WIDTH, "scale_embedding": True}
    of_bart |= {"encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 2}
    of_bart |= {"decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    model = {
        "bert": lambda: transformers.BertModel(transformers.BertConfig(**small)),
        "roberta": lambda: transformers.RobertaModel(transformers.RobertaConfig(**small)),
        "t5": lambda: transformers.T5Model(transformers.T5Config(**of_t5, num_heads=2)),
        "bart": lambda: transformers.BartModel(transformers.BartConfig(**of_bart)),
    }[kind]()
    model.save_pretrained(tmp_path / "model")
    adapter = write(tmp_path / "adapter")
    said: dict[str, Any] = {"model": tmp_path / "model", "tokens": TOKENS}

    found = export_encoder(adapter, output=tmp_path / "out", **said)

    assert (found.prompts, found.tokens) == (PROMPTS, TOKENS)
    assert found.difference < 1e-6
    with pytest.raises(UsageError, match="exists"):
        export_encoder(adapter, output=tmp_path / "out", **said)
    weights = load_file(tmp_path / "model" / "model.safetensors")
    lost = next(name for name in weights if ".0." in name)
    kept = {name: tensor for name, tensor in weights.items() if name != lost}
    save_file(kept, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="is not in its weights"):
        export_encoder(adapter, output=tmp_path / "other", **said)
