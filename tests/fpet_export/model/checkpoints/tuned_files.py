"""What the tests of tuned files share: a backbone on disk, and all that is promised of a format."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import fpet_export
from engines import registry
from engines.errors import CheckpointError, FpetError
from fpet_export.model import checkpoints
from fpet_export.model.attached import edited_layers
from fpet_export.model.backbones.random_weights import draw
from fpet_export.stages import Adapted
from tests.fpet_export.tiny import MEAN, STD, images_of, relative, spec_of
from tests.references.tuned_reference import Tuned

SPEC = spec_of(depth=2, hidden=256)
WIDTH, HIDDEN, CLASSES = SPEC.width, SPEC.hidden, SPEC.classes
NORMALISATION = "0.4,0.5,0.6/0.2,0.25,0.3"
SAID: dict[str, Any] = {"heads": SPEC.heads, "pool": "token", "normalisation": NORMALISATION}
Tensors = dict[str, torch.Tensor]


def backbone(seed: int = 0) -> Tensors:
    """The network without its head."""
    return {n: t for n, t in draw(SPEC, seed).items() if not n.startswith("head")}


def head(seed: int = 7) -> Tensors:
    return {n: t for n, t in draw(SPEC, seed).items() if n.startswith("head")}


class Drawing:
    """Draws tensors that matter, one after the other."""

    def __init__(self, seed: int = 3) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int, near: float = 0.0) -> torch.Tensor:
        noise = torch.randn(shape, generator=self._generator)
        return near + 0.5 * noise / shape[-1] ** 0.5 if len(shape) > 1 else near + 0.2 * noise


def save(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in content.items()}, path)
    else:
        torch.save(content, path)
    return path


def wide(tensor: torch.Tensor) -> np.ndarray:
    found: np.ndarray = tensor.double().numpy()
    return found


def expected(weights: Tensors, **hooks: Any) -> np.ndarray:
    """The logits of the test images, by the reference; see `Tuned` for what a method may do."""
    network = Tuned(
        weights={name: wide(tensor) for name, tensor in weights.items()},
        heads=SPEC.heads,
        depth=SPEC.depth,
        patch=SPEC.patch[0],
        **hooks,
    )
    mean, std = (np.asarray(values)[:, None, None] for values in (MEAN, STD))
    return network.logits((images_of(SPEC).astype(np.float64) - mean) / std)


def pixels() -> np.ndarray:
    found: np.ndarray = np.rint(images_of(SPEC) * 255).astype(np.uint8)
    return found.transpose(0, 2, 3, 1)


def proven(run: Adapted, wanted: np.ndarray, folder: Path, *, stay: int = 0) -> None:
    """Compare the model as trained, folded, and its ONNX graph, with the reference.

    `stay` is the number of layers that do not fold.
    """
    folder.mkdir(exist_ok=True)
    folded = run.fold()
    graph = folded.freeze().to_onnx(folder / "model.onnx")
    assert relative(run.outputs(pixels()).logits, wanted) < 1e-6
    assert len(folded.stay) == stay
    assert not any(edit.folds for _, layer in edited_layers(folded.model) for edit in layer.edits)
    assert relative(folded.outputs(pixels()).logits, wanted) < 1e-6
    assert relative(_answers(graph), wanted) < 1e-5


def _answers(graph: Path) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    rows = [session.run(None, {given.name: image[None]})[0] for image in images_of(SPEC)]
    found: np.ndarray = np.concatenate(rows)
    return found


def is_other(run: Adapted, wanted: np.ndarray) -> None:
    """A negative control: what another setting gives is far from the reference."""
    assert relative(run.fold().outputs(pixels()).logits, wanted) > 1e-4


def formats(path: Path) -> list[str]:
    """The formats that recognise a path."""
    known: Any = {n: registry.load(checkpoints, n) for n in registry.available(checkpoints)}
    return [name for name, entry in known.items() if entry.recognises(str(path))]


def refused(path: Path, *words: str, kind: type[FpetError] = CheckpointError, **said: Any) -> None:
    """Check that a file is refused with these words, and with what to do."""
    with pytest.raises(FpetError) as caught:
        fpet_export.load(path, **said)
    assert type(caught.value) is kind, caught.value
    assert caught.value.fix and caught.value.where
    for word in words:
        assert word in str(caught.value), f"{word!r} is not in:\n{caught.value}"


def damaged(folder: Path, tensors: Tensors, mutation: Mutation, name: str, **said: Any) -> None:
    """Check that a file is refused in which something happened to one tensor."""
    path = save(folder / "damaged.pth", mutation.change(tensors, name))
    refused(path, *(word.format(name=name) for word in mutation.words), **said)


@dataclasses.dataclass(frozen=True)
class Mutation:
    """What is done to one tensor, and the words that the refusal must have."""

    name: str
    change: Callable[[Tensors, str], Tensors]
    words: tuple[str, ...] = ()


def _nan(tensor: torch.Tensor) -> torch.Tensor:
    broken = tensor.clone()
    broken.view(-1)[-1] = torch.nan
    return broken


MUTATIONS = [
    Mutation("missing", lambda t, n: {k: v for k, v in t.items() if k != n}, ("{name}",)),
    Mutation("extra", lambda t, n: t | {n + "_of_another": t[n]}, ("{name}_of_another",)),
    Mutation("longer", lambda t, n: t | {n: torch.cat([t[n], t[n][:1]])}),
    Mutation("one dimension more", lambda t, n: t | {n: t[n][None]}, ("{name}",)),
    Mutation("empty", lambda t, n: t | {n: t[n][:0]}),
    Mutation("NaN", lambda t, n: t | {n: _nan(t[n])}, ("{name}", "NaN")),
    Mutation("beyond float32", lambda t, n: t | {n: t[n].double() * 1e300}, ("{name}",)),
    Mutation("int8", lambda t, n: t | {n: t[n].to(torch.int8)}, ("{name}", "int8")),
    Mutation("complex", lambda t, n: t | {n: t[n].to(torch.complex64)}, ("{name}",)),
]
"""Every one of them must be refused, whichever tensor of the method it meets."""
