"""What every tuning method promises; a new file in `model/methods/` is tested unseen."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from engines import registry
from engines.parity.outputs import engine_outputs
from engines.tasks.open_tasks import open_tasks
from fpet_export.model import methods
from fpet_export.model.attached import Edited, attach
from fpet_export.model.fold import fold
from fpet_export.model.methods import Factors, PetMethod
from fpet_export.model.vit import Vit
from tests.fpet_export.tasks.task_folders import write
from tests.fpet_export.tiny import adapted, checkpoint_of, images_of, relative, spec_of

NAMES = registry.available(methods)
SPEC = spec_of(depth=2)


def unfolded(model: Vit) -> list[str]:
    """Return the module paths of the layers that a method attached and that are still there."""
    found = []
    for index, block in enumerate(model.each_block()):
        found += [f"blocks.{index}.attn"] * isinstance(block.attn.qkv, Edited)
        found += [f"blocks.{index}.{name}" for name in block.branches]
    return found


def forward(model: Vit) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = copy.deepcopy(model).double()(
            torch.from_numpy(images_of(SPEC)).double()
        )
    return logits


def model_with(name: str, scale: float = 0.7) -> Vit:
    return adapted(SPEC, checkpoint_of(SPEC, name, scale=scale))


def difference(one: torch.Tensor, two: torch.Tensor) -> float:
    return relative(one.numpy(), two.numpy())


def test_the_folder_lists_the_methods() -> None:
    assert NAMES == ["adaptformer", "lora"]
    assert list(methods.all_methods()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_folding_keeps_the_outputs(name: str) -> None:
    model = model_with(name)
    folded, _ = fold(model)

    plain = adapted(SPEC, checkpoint_of(SPEC, "none"))

    assert difference(forward(folded), forward(model)) < 1e-6
    assert difference(forward(plain), forward(model)) > 1e-2  # the adapter matters


@pytest.mark.parametrize("name", NAMES)
def test_folding_twice_is_folding_once(name: str) -> None:
    once, stay = fold(model_with(name))
    twice, stay_again = fold(once)

    assert stay == stay_again
    assert torch.equal(forward(once), forward(twice))


@pytest.mark.parametrize("name", NAMES)
def test_folding_leaves_its_input_untouched(name: str) -> None:
    model = model_with(name)
    before = forward(model)
    attached = unfolded(model)

    folded, _ = fold(model)

    assert torch.equal(forward(model), before)
    assert unfolded(model) == attached != []
    assert folded.blocks[0] is not model.blocks[0]
    assert folded.pos_embed is model.pos_embed  # what does not change is shared


@pytest.mark.parametrize("name", NAMES)
def test_what_stays_is_what_is_still_attached(name: str) -> None:
    folded, stay = fold(model_with(name))

    assert stay == unfolded(folded)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scale", [0.0, 0.01, 1.0, 10.0, -2.0])
def test_every_scale_folds(name: str, scale: float) -> None:
    model = model_with(name, scale)
    folded, _ = fold(model)
    plain = forward(adapted(SPEC, checkpoint_of(SPEC, "none")))

    assert difference(forward(folded), forward(model)) < 1e-5
    assert (difference(forward(model), plain) < 1e-12) == (scale == 0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dim", [1, 8, 100])
def test_attach_takes_the_shapes_that_layers_announces(name: str, dim: int) -> None:
    method: PetMethod = methods.load(name)
    layers = method.layers(SPEC.width, dim)
    factors: Factors = {layer.name: torch.ones(layer.shape) for layer in layers}
    model = Vit(SPEC)

    attach(model, method.edits(1, factors, scale=0.5))

    tokens, _ = model.each_block()[1](torch.randn(1, 17, SPEC.width))
    assert tokens.shape == (1, 17, SPEC.width)
    assert len({layer.name for layer in layers}) == len(layers)
    assert all(dim in layer.shape and SPEC.width in layer.shape for layer in layers)
    assert method.title


@pytest.mark.parametrize("name", NAMES)
def test_what_stays_after_folding_has_a_cost(name: str) -> None:
    _, stay = fold(model_with(name))
    checkpoint = checkpoint_of(SPEC, name, dim=8)
    plain = checkpoint_of(SPEC, "none")

    extra = sum(checkpoint.macs(SPEC)) - sum(plain.macs(SPEC))

    assert extra == len(stay) * (17 + 9) // 2 * 2 * 8 * SPEC.width


def test_a_plain_model_folds_to_itself() -> None:
    model = adapted(SPEC, checkpoint_of(SPEC, "none"))
    folded, stay = fold(model)

    assert stay == []
    assert torch.equal(forward(folded), forward(model))


@pytest.mark.parametrize("name", NAMES)
def test_bypasses_name_every_layer_once(name: str) -> None:
    method = methods.load(name)
    named = [layer for bypass in method.bypasses() for layer in (bypass.down, bypass.up)]
    layers = {layer.name: layer.shape for layer in method.layers(SPEC.width, 8)}

    assert sorted(named) == sorted(layers)
    for bypass in method.bypasses():
        assert layers[bypass.down] == layers[bypass.up][::-1] == (8, SPEC.width)


@pytest.mark.parametrize("target", ["cpu", "rtx"])
@pytest.mark.parametrize("name", NAMES)
def test_a_shared_graph_gives_the_answers_of_the_adapted_model(
    name: str, target: str, tmp_path: Path
) -> None:
    folder = write(tmp_path, {"task": {"method": name}}, target=target)
    pixels = np.rint(images_of(spec_of(), 1).transpose(0, 2, 3, 1) * 255).astype(np.uint8)

    with open_tasks(folder.path) as tasks:
        handle = tasks.task("task")
        found = engine_outputs(handle, handle.manifest(), pixels).logits

    assert relative(found, folder.runs["task"].outputs(pixels).logits) < 1e-5
