"""Every kind of edit with every merger and every head: frozen, and as ONNX, what it was attached.

All cells run frozen in PyTorch. The ONNX graph of every fifth cell is compared, another merger and
head with each kind of edit; `--slow` compares them all. A cell that is refused says why.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import onnxruntime
import pytest
import torch

from engines.errors import FpetError
from engines.manifest import Head
from engines.parity.comparison import compare_stage
from engines.parity.gates import Gates
from engines.parity.model_outputs import ModelOutputs
from fpet_export.graph import to_onnx
from fpet_export.graph.freeze import FrozenVit
from fpet_export.graph.options import FreezeOptions
from fpet_export.model import reference
from fpet_export.model.adapt import adapt
from fpet_export.model.bottleneck import Bottleneck
from fpet_export.model.checkpoints.convpass import Convpass
from fpet_export.model.checkpoints.dyt import MlpGate
from fpet_export.model.edits import (
    Added,
    Affine,
    Branch,
    Dense,
    Edit,
    GatedLowRank,
    InputLowRank,
    LowRank,
    Magnitude,
    PositionShift,
    Tokens,
)
from fpet_export.model.fold import fold
from fpet_export.model.gates import NormRule
from fpet_export.model.kept import Reads
from fpet_export.model.vit import Vit
from fpet_export.model.vit_spec import VitSpec
from tests.fpet_export.tiny import MEAN, STD, backbone_of, checkpoint_of, images_of, spec_of

DEPTH, IMAGES = 3, 3
MERGES = (
    "none",
    "fpet@1",
    "tome:r=2",
    "tome:r=3@1-2",
    "diffrate:16-14,12-11,9-8",
    "diffrate:17-13,13-10,10-9",
)
HEADS: tuple[Head, ...] = ("logits", "features", "tokens")


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return 0.3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def low_rank(site: str, spec: VitSpec) -> LowRank:
    return LowRank(site, down=draw(3, spec.width), up=draw(spec.width, 3, seed=1))


def bottleneck(spec: VitSpec) -> Bottleneck:
    return Bottleneck(draw(4, spec.width), draw(spec.width, 4, seed=1), scale=0.7)


def convolution(spec: VitSpec, reads: Reads) -> Convpass:
    shapes = {"down": (4, spec.width), "down_bias": (4,), "conv": (4, 4, 3, 3), "conv_bias": (4,)}
    shapes |= {"up": (spec.width, 4), "up_bias": (spec.width,)}
    tensors = {name: draw(*shape) for name, shape in shapes.items()}
    return Convpass(tensors, scale=0.7, grid=spec.grid, reads=reads)


def everywhere(make: Callable[[str], Edit], *leaves: str) -> list[Edit]:
    return [make(f"blocks.{block}.{leaf}") for block in range(DEPTH) for leaf in leaves]


def gated(spec: VitSpec) -> Callable[[str], Edit]:
    def make(site: str) -> Edit:
        tensors = {"down": draw(3, spec.width), "up": draw(spec.width, 3, seed=1)}
        return GatedLowRank(site, **tensors, rule=NormRule(threshold=0.2))

    return make


METHODS: dict[str, Callable[[VitSpec], list[Edit]]] = {
    "nothing": lambda spec: [],
    "low rank": lambda s: everywhere(lambda site: low_rank(site, s), "attn.q", "attn.k", "attn.v"),
    "lengths of rows": lambda s: [
        edit
        for site in ("blocks.0.attn.k", "blocks.2.attn.proj")
        for edit in (low_rank(site, s), Magnitude(site, norm=1 + draw(s.width)))
    ],
    "scale and shift": lambda s: everywhere(
        lambda site: Affine(site, scale=1 + draw(s.width), shift=draw(s.width, seed=1)),
        "norm1", "attn.proj", "norm2",
    ),
    "map of the input": lambda s: everywhere(
        lambda site: InputLowRank(
            site, down=draw(3, s.width), up=draw(s.width, 3, seed=1), down_bias=draw(3),
            up_bias=draw(s.width), scale=0.7,
        ),
        "attn.qkv",
    ),
    "added map": lambda s: everywhere(
        lambda site: Added(site, weight=draw(s.width, s.width), bias=draw(s.width)), "attn.proj"
    ),
    "own weights": lambda s: everywhere(
        lambda site: Dense(site, weight=draw(s.hidden, s.width), bias=draw(s.hidden)), "mlp.fc1"
    ),
    "bottleneck": lambda s: [
        Branch(block=block, name="adapter", module=bottleneck(s)) for block in range(DEPTH)
    ],
    "prompts": lambda s: [Tokens(block=None, vectors=draw(2, s.width))],
    "prompts of every block": lambda s: [
        Tokens(block=block, vectors=draw(2, s.width, seed=block)) for block in range(DEPTH)
    ],
    "gated keys": lambda s: everywhere(gated(s), "attn.q", "attn.k", "attn.v"),
    "gated values": lambda s: everywhere(gated(s), "attn.v"),
    "gated linears": lambda s: everywhere(gated(s), "attn.proj"),
    "gate of the MLP": lambda s: [
        Branch(block=block, name="gate", module=MlpGate(draw(1, s.width, seed=block), draw(1)))
        for block in range(DEPTH)
    ],
    "offset of the patches": lambda s: [Branch(block=None, name="adept", module=bottleneck(s))],
    "added positions": lambda s: [PositionShift(tensor=draw(s.patches, s.width))],
    "convolution": lambda s: [
        Branch(block=block, name=reads, module=convolution(s, reads))
        for block in range(DEPTH)
        for reads in ("norm1", "norm2")
    ],
}  # fmt: skip

CELLS = list(itertools.product(METHODS, MERGES, HEADS))

REFUSED = {
    **{("gated keys", merge): "queries or keys have a gated update" for merge in MERGES[4:]},
    **{("convolution", merge): "no image is left" for merge in MERGES[1:]},
}
"""By method and merge: why there is no such graph."""


PROMPTED = [name for name in METHODS if any(
    isinstance(edit, Tokens) and edit.block is None for edit in METHODS[name](spec_of(depth=DEPTH))
)]  # fmt: skip


def network(method: str, merge: str, head: Head) -> Vit:
    spec = spec_of(depth=DEPTH)
    run = dataclasses.replace(
        checkpoint_of(spec, "none", merge_block=None),
        method=method, changes=tuple(METHODS[method](spec)), merge=merge,
    )  # fmt: skip
    return adapt(backbone_of(spec), run, head)


def frozen_of(model: Vit, **options: object) -> FrozenVit:
    folded, _ = fold(model)
    return FrozenVit(folded, FreezeOptions(**options), MEAN, STD).eval()  # type: ignore[arg-type]


def compare(stage: str, found: ModelOutputs, wanted: ModelOutputs) -> None:
    row = compare_stage(stage, found, wanted, gates=Gates())
    assert row.relative <= 1e-5
    assert not row.unexplained_flips
    assert row.judged == IMAGES


def why_not(method: str, merge: str, head: Head) -> str | None:
    reasons = [REFUSED[method, merge]] if (method, merge) in REFUSED else []
    # With prompts there are more tokens than the schedule begins with.
    if head == "tokens" and (merge == MERGES[4] or (merge == MERGES[5] and method in PROMPTED)):
        reasons.append("loses some of them")
    return "|".join(reasons) or None


@pytest.mark.parametrize(("method", "merge", "head"), CELLS)
def test_a_frozen_network_gives_what_the_attached_one_gives(
    method: str, merge: str, head: Head
) -> None:
    problem = why_not(method, merge, head)
    if problem is not None:
        with pytest.raises(FpetError, match=problem):
            frozen_of(network(method, merge, head))
        return
    model, images = network(method, merge, head), images_of(spec_of(), IMAGES)

    with torch.inference_mode():
        found = frozen_of(model).trace(torch.from_numpy(images))

    wanted = reference.run(model, images, MEAN, STD)
    arrays = {name: tensor.numpy() for name, tensor in found.items()}
    compare("frozen", ModelOutputs(**arrays, head=head), wanted)  # type: ignore[arg-type]


@pytest.mark.parametrize("merge", MERGES)
@pytest.mark.parametrize("pool", ["mean", "class+mean"])
def test_a_mean_over_merged_patches_is_the_attached_ones(
    merge: str, pool: Literal["mean", "class+mean"]
) -> None:
    """The sizes of DiffRate do not count patches, whether it prunes or not."""
    spec, images = spec_of(depth=DEPTH, pool=pool), images_of(spec_of(), IMAGES)
    run = dataclasses.replace(checkpoint_of(spec, "none", merge_block=None), merge=merge)
    model = adapt(backbone_of(spec), run)

    with torch.inference_mode():
        found = frozen_of(model).trace(torch.from_numpy(images))

    arrays = {name: tensor.numpy() for name, tensor in found.items()}
    wanted = reference.run(model, images, MEAN, STD)
    compare("frozen", ModelOutputs(**arrays), wanted)  # type: ignore[arg-type]


def is_compared(cell: tuple[str, str, Head]) -> bool:
    """Whether the indices of a cell sum to a multiple of five."""
    method, merge, head = cell
    return (list(METHODS).index(method) + MERGES.index(merge) + HEADS.index(head)) % 5 == 0


@pytest.mark.parametrize(
    ("method", "merge", "head"),
    [
        pytest.param(*cell, marks=() if is_compared(cell) else pytest.mark.slow)
        for cell in CELLS
        if why_not(*cell) is None
    ],
)
def test_its_graph_gives_the_same(method: str, merge: str, head: Head, tmp_path: Path) -> None:
    model, images = network(method, merge, head), images_of(spec_of(), IMAGES)
    path = tmp_path / "model.onnx"
    to_onnx.to_onnx(frozen_of(model, batch=IMAGES), path, opset=20)

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {"images": images})

    wanted = reference.run(model, images, MEAN, STD)
    compare("onnx", ModelOutputs(logits=np.asarray(output), head=head), wanted)
