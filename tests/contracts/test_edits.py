"""What every edit promises: attached and folded it gives the same, at every site it may be at."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable

import pytest
import torch

from engines.errors import CheckpointError, FoldError
from fpet_export.graph.freeze import FrozenVit
from fpet_export.graph.options import FreezeOptions
from fpet_export.model.attached import Edited, attach, edited_layers
from fpet_export.model.bottleneck import Bottleneck
from fpet_export.model.edits import (
    Added,
    Affine,
    Branch,
    Dense,
    Edit,
    InputLowRank,
    LowRank,
    Magnitude,
    Own,
    SiteEdit,
    Tokens,
    describe,
)
from fpet_export.model.fold import fold
from fpet_export.model.kept import Reads
from fpet_export.model.vit import Vit
from fpet_export.model.vit_spec import Activation
from tests.fpet_export.tiny import (
    NO_SHIFT,
    adapted,
    checkpoint_of,
    images_of,
    relative,
    spec_of,
)

SPEC = spec_of(depth=3)
MERGE_BLOCK = 1
THIRDS = ("blocks.1.attn.q", "blocks.1.attn.k", "blocks.1.attn.v")
LINEAR = (
    *THIRDS, "blocks.0.attn.qkv", "blocks.1.attn.proj", "blocks.0.mlp.fc1", "blocks.2.mlp.fc2",
    "head",
)  # fmt: skip
PATCHES = "patch_embed"
NORMS = ("blocks.0.norm1", "blocks.1.norm2", "norm")
ANYWHERE = (*LINEAR, PATCHES, *NORMS)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return 0.3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def low_rank(site: str, out: int, inp: int, **more: float) -> SiteEdit:
    return LowRank(site, down=draw(3, inp), up=draw(out, 3, seed=1), bias=draw(out), **more)


def magnitude(site: str, out: int, inp: int) -> SiteEdit:
    return Magnitude(site, norm=draw(out).abs() + 0.5)


def affine(site: str, out: int, inp: int) -> SiteEdit:
    return Affine(site, scale=1 + draw(out), shift=draw(out, seed=1))


def shift(site: str, out: int, inp: int) -> SiteEdit:
    return Affine(site, shift=draw(out))


def input_low_rank(site: str, out: int, inp: int) -> SiteEdit:
    tensors = {"down": draw(3, inp), "up": draw(inp, 3, seed=1)}
    return InputLowRank(site, **tensors, down_bias=draw(3), up_bias=draw(inp), scale=0.7)


def dense(site: str, out: int, inp: int) -> SiteEdit:
    return Dense(site, weight=draw(out, inp), bias=draw(out))


def added(site: str, out: int, inp: int) -> SiteEdit:
    return Added(site, weight=draw(out, inp), bias=draw(out))


def other_bias(site: str, out: int, inp: int) -> SiteEdit:
    return Dense(site, bias=draw(out))


def other_weight(site: str, out: int, inp: int) -> SiteEdit:
    return Dense(site, weight=draw(out, inp))


Maker = Callable[[str, int, int], SiteEdit]
CELLS = [
    *((make, site) for make in (low_rank, magnitude, added) for site in (*LINEAR, PATCHES)),
    *((input_low_rank, site) for site in LINEAR),
    *(
        (make, site)
        for make in (affine, shift, dense, other_bias, other_weight)
        for site in ANYWHERE
    ),
]


PLAIN = checkpoint_of(SPEC, "none", merge_block=MERGE_BLOCK)


def plain() -> Vit:
    """A model whose key weights take part in a match."""
    return adapted(SPEC, PLAIN)


def size_of(site: str) -> tuple[int, int]:
    """Return (out, in) of a site of `SPEC`."""
    width = SPEC.width
    special = {
        PATCHES: (width, 3 * SPEC.patch[0] * SPEC.patch[1]),
        "head": (SPEC.classes, width),
        "qkv": (3 * width, width),
        "fc1": (SPEC.hidden, width),
        "fc2": (width, SPEC.hidden),
    }
    if "norm" in site:
        return width, 1
    return special.get(site.rpartition(".")[2], (width, width))


def logits_of(model: Vit) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = copy.deepcopy(model).double()(
            torch.from_numpy(images_of(SPEC)).double()
        )
    return found


def difference(one: torch.Tensor, two: torch.Tensor) -> float:
    return relative(one.numpy(), two.numpy())


@pytest.mark.parametrize(("make", "site"), CELLS)
def test_attached_and_folded_give_the_same(make: Maker, site: str) -> None:
    model = plain()
    before = logits_of(model)
    attach(model, [make(site, *size_of(site))])

    folded, stay = fold(model)

    assert (stay, edited_layers(folded)) == ([], [])
    assert difference(logits_of(folded), logits_of(model)) < 1e-6
    assert difference(logits_of(model), before) > 1e-4  # the edit matters


@pytest.mark.parametrize("first", [low_rank, affine, input_low_rank, dense, magnitude])
@pytest.mark.parametrize("second", [low_rank, affine, input_low_rank, dense, magnitude])
def test_edits_of_one_layer_act_in_their_order(first: Maker, second: Maker) -> None:
    """DoRA is a low-rank part whose rows then get a length; the other order is something else."""
    model, site = plain(), "blocks.1.attn.k"
    pair = [first(site, *size_of(site)), second(site, *size_of(site))]

    attach(model, pair)

    assert difference(logits_of(fold(model)[0]), logits_of(model)) < 1e-6


def test_another_order_is_another_model() -> None:
    edits = [make(THIRDS[1], *size_of(THIRDS[1])) for make in (low_rank, magnitude)]
    one, other = plain(), plain()

    attach(one, edits)
    attach(other, edits[::-1])

    assert difference(logits_of(one), logits_of(other)) > 1e-4


def test_thirds_of_qkv_do_not_touch_each_other() -> None:
    model = plain()
    weight = model.each_block()[1].attn.qkv.weight.clone()

    attach(model, [low_rank(THIRDS[1], *size_of(THIRDS[1]))])
    folded = fold(model)[0].each_block()[1].attn.qkv.weight

    width = SPEC.width
    changed = (folded != weight).any(dim=1)
    assert changed[width : 2 * width].all()
    assert not changed[:width].any()
    assert not changed[2 * width :].any()


def test_a_layer_without_a_bias_gets_one_only_when_it_needs_one() -> None:
    spec = spec_of(depth=1, qkv_bias=False)
    for edit, expected in ((Affine, True), (LowRank, False)):
        model = adapted(spec, checkpoint_of(spec, "none", merge_block=None))
        site, out, inp = "blocks.0.attn.q", spec.width, spec.width
        changed = (
            Affine(site, shift=draw(out))
            if edit is Affine
            else LowRank(site, down=draw(2, inp), up=draw(out, 2))
        )
        attach(model, [changed])

        folded = fold(model)[0]

        assert (folded.each_block()[0].attn.qkv.bias is not None) == expected
        assert difference(logits_of(folded), logits_of(model)) < 1e-6


@pytest.mark.parametrize("site", ["blocks.3.attn.q", "blocks.0.attn.x", "blocks.0", "head_dist"])
def test_a_layer_that_the_network_does_not_have_is_refused(site: str) -> None:
    with pytest.raises(CheckpointError, match=r"has no layer") as caught:
        attach(plain(), [shift(site, SPEC.width, 1)])

    assert caught.value.where == site


@pytest.mark.parametrize(
    ("make", "site"), [(low_rank, THIRDS[0]), (affine, "norm"), (dense, "head")]
)
def test_tensors_of_another_width_are_refused(make: Maker, site: str) -> None:
    out, inp = size_of(site)

    with pytest.raises(CheckpointError, match=r"wanted \("):
        attach(plain(), [make(site, out + 1, inp)])


@pytest.mark.parametrize(
    "edit",
    [
        Own(name="pos_embed", tensor=draw(1, 3, SPEC.width)),
        Own(name="dist_token", tensor=draw(1, 1, SPEC.width)),
        Tokens(vectors=draw(4, SPEC.width + 1)),
        Tokens(vectors=draw(0, SPEC.width), block=0),
        Branch(block=0, name="b", module=Bottleneck(draw(2, 7), draw(SPEC.width, 2), scale=1.0)),
        Branch(
            block=0,
            name="b",
            module=Bottleneck(
                draw(2, SPEC.width), draw(SPEC.width, 2), scale=1.0, up_bias=draw(SPEC.width + 1)
            ),
        ),
    ],
    ids=["positions", "no such token", "prompts", "no prompts", "width", "bias"],
)
def test_what_the_network_does_not_have_in_this_shape_is_refused(edit: Edit) -> None:
    with pytest.raises(CheckpointError, match=r"wanted \(|has none|has \("):
        attach(plain(), [edit])


@pytest.mark.parametrize("activation", ["relu", "quick_gelu", "gelu"])
@pytest.mark.parametrize("reads", ["norm1", "residual", "norm2", "mlp"])
def test_a_bottleneck_keeps_its_answers_when_its_scale_folds(
    activation: Activation, reads: Reads
) -> None:
    model = plain()
    before = logits_of(model)
    module = Bottleneck(
        draw(4, SPEC.width),
        draw(SPEC.width, 4),
        scale=-0.7,
        down_bias=draw(4),
        up_bias=draw(SPEC.width),
        activation=activation,
        reads=reads,
    )
    attach(model, [Branch(block=1, name="b", module=module)])

    folded, stay = fold(model)

    assert stay == ["blocks.1.b"]
    assert difference(logits_of(folded), logits_of(model)) < 1e-6
    assert difference(logits_of(model), before) > 1e-4


@pytest.mark.parametrize("block", [None, 0, MERGE_BLOCK, 2])
def test_prompts_stand_beside_the_tokens(block: int | None) -> None:
    """Those of one block are keys and values of its attention alone, in whichever form."""
    before, tokens = logits_of(plain()), SPEC.tokens
    prompts = Tokens(vectors=draw(4, SPEC.width), block=block)
    model = adapted(SPEC, dataclasses.replace(PLAIN, changes=(prompts,)))

    folded, stay = fold(model)

    assert stay == ["prompt_token" if block is None else f"blocks.{block}.prompts"]
    assert folded.spec.tokens == tokens + (4 if block is None else 0)
    assert difference(logits_of(model), before) > 1e-4
    for attention in ("primitive", "fused"):
        for scale in ("split", "folded"):
            frozen = FrozenVit(
                folded, FreezeOptions(attention=attention, attention_scale=scale), *NO_SHIFT
            )
            found = frozen(torch.from_numpy(images_of(SPEC)))
            assert relative(found.detach().numpy(), logits_of(model).numpy()) < 1e-5


def test_edits_of_keys_reach_the_prompts() -> None:
    """What a prompt gives as key and value passes the layers as every token does."""
    model, other = plain(), plain()
    prompts = Tokens(vectors=draw(4, SPEC.width), block=2)
    attach(model, [low_rank("blocks.2.attn.k", *size_of("blocks.2.attn.k")), prompts])
    attach(other, [prompts])

    folded = fold(model)[0]
    frozen = FrozenVit(folded, FreezeOptions(), *NO_SHIFT)(torch.from_numpy(images_of(SPEC)))

    assert difference(logits_of(folded), logits_of(model)) < 1e-6
    assert relative(frozen.detach().numpy(), logits_of(model).numpy()) < 1e-5
    assert difference(logits_of(other), logits_of(model)) > 1e-4


def test_a_row_of_zeros_has_no_direction() -> None:
    model = plain()
    block = model.each_block()[1].attn
    block.proj.weight = torch.nn.Parameter(torch.zeros_like(block.proj.weight), requires_grad=False)
    attach(model, [magnitude("blocks.1.attn.proj", *size_of("blocks.1.attn.proj"))])

    with pytest.raises(FoldError, match="NaN or infinity"):
        fold(model)


def test_only_products_may_be_inputs_of_a_graph() -> None:
    model = plain()
    attach(model, [affine("blocks.0.attn.qkv", *size_of("blocks.0.attn.qkv"))])
    layer = model.each_block()[0].attn.qkv
    assert isinstance(layer, Edited)

    with pytest.raises(FoldError, match="Affine cannot be an input"):
        layer.as_product()


def test_what_was_tuned_is_said_in_one_line() -> None:
    edits: list[Edit] = [
        *(low_rank(site, *size_of(site)) for site in THIRDS),
        LowRank("head", down=draw(5, SPEC.width), up=draw(SPEC.classes, 5)),
        dense("norm", *size_of("norm")),
        Branch(block=0, name="adapter_mlp", module=Bottleneck(draw(2, 4), draw(4, 2), scale=1.0)),
    ]

    assert describe(edits) == (
        "low-rank update of q, k, v, head (rank 3 to 5), own weights of norm, "
        "bottleneck of adapter_mlp"
    )
    checkpoint = dataclasses.replace(checkpoint_of(SPEC, "none"), changes=tuple(edits))
    assert checkpoint.is_tuned
    assert describe(edits) in checkpoint.describe_tuning()
    assert sum(checkpoint.macs(SPEC)) > sum(checkpoint_of(SPEC, "none").macs(SPEC))
