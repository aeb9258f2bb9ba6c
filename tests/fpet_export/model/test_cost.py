"""Tokens and multiply-adds against the published table."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fpet_export.graph.freeze import FrozenVit
from fpet_export.graph.options import FreezeOptions
from fpet_export.model import cost
from fpet_export.model.fold import fold
from fpet_export.model.kept import Extra
from fpet_export.model.merge_plan import NOWHERE, at_block, merge_plan
from fpet_export.model.vit_spec import VitSpec
from tests.fpet_export.tiny import NO_SHIFT, adapted, checkpoint_of, images_of, spec_of

VIT_B = VitSpec(
    image=(224, 224), patch=(16, 16), width=768, depth=12, heads=12, hidden=3072, classes=1000
)


def giga(merge_block: int | None, **method: object) -> float:
    plan = merge_plan(VIT_B, at_block(merge_block))
    return sum(cost.macs(VIT_B, plan, **method)[:-1]) / 1e9  # type: ignore[arg-type]


PUBLISHED = (8.98, 9.72, 10.46, 11.20, 11.93, 12.67, 13.41, 14.15, 14.89, 15.62, 16.36, 17.10)


@pytest.mark.parametrize(("merge_block", "published"), [*enumerate(PUBLISHED), (None, 17.563)])
def test_multiply_adds_are_the_published_ones(merge_block: int | None, published: float) -> None:
    """The averaged keys, their refinement, match and merge add 0.027 G to the table's sum."""
    match = 0.0 if merge_block is None else 0.027

    assert giga(merge_block) == pytest.approx(published + match, abs=0.006)


def test_adaptformer_of_width_8_costs_22_mega() -> None:
    left = [Extra()] + [Extra(outputs=2 * 8 * VIT_B.width)] * VIT_B.depth
    extra = giga(6, added=left) - giga(6)

    assert extra == pytest.approx(0.0218, abs=5e-4)
    assert giga(6, added=[Extra()] * (VIT_B.depth + 1)) == giga(6)


@pytest.mark.parametrize(("block", "full"), [(0, 0), (6, 6), (11, 11)])
def test_a_merge_leaves_99_of_197_tokens(block: int, full: int) -> None:
    merged = merge_plan(VIT_B, at_block(block))
    assert merged.tokens == (197,) * full + (99,) * (12 - full)
    assert merge_plan(VIT_B, NOWHERE).tokens == (197,) * 12


def test_a_class_token_head_saves_most_of_the_last_block() -> None:
    saved = giga(6) - giga(6, last=1)

    assert saved == pytest.approx(0.6, abs=0.1)


def test_a_merge_in_the_last_block_is_counted_though_one_token_leaves_it() -> None:
    last = VIT_B.depth - 1
    hidden, counted = giga(None, last=1), giga(last, last=1)

    every_query = 2 * (VIT_B.tokens - 1) * VIT_B.width * (VIT_B.width + VIT_B.tokens)
    assert counted - hidden > every_query / 1e9


@pytest.mark.parametrize("method", ["lora", "adaptformer"])
@pytest.mark.parametrize("last_block", ["class-token", "all-tokens"])
@pytest.mark.parametrize("merge_block", [None, 0, 1, 2])
def test_the_closed_form_is_what_torch_counts_in_the_frozen_module(
    method: str, last_block: str, merge_block: int | None
) -> None:
    spec = spec_of()
    checkpoint = checkpoint_of(spec, method, merge_block=merge_block)
    folded, _ = fold(adapted(spec, checkpoint))
    options = FreezeOptions(last_block=last_block)  # type: ignore[arg-type]  # parametrized
    module = FrozenVit(folded, options, *NO_SHIFT).eval()

    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        module(torch.from_numpy(images_of(spec, 1)))

    macs = checkpoint.macs(spec, last=module.tokens[-1])
    assert 2 * sum(macs) == counter.get_total_flops()


@pytest.mark.parametrize(
    ("merge", "rows"),
    [("none", [256] * 12), ("fpet@6", [256] * 6 + [128] * 6), ("tome:r=8", [256] * 8 + [128] * 4)],
)
def test_a_gpu_computes_whole_tiles(merge: str, rows: list[int]) -> None:
    """99 tokens take one tile of 128 rows, 129 take two; with many images nothing is lost."""
    plan = merge_plan(VIT_B, merge)

    tiled = cost.macs(VIT_B, plan, tile=128)
    batched = cost.macs(VIT_B, plan, tile=128, batch=128)

    linears = 2 * VIT_B.width * VIT_B.hidden
    plain = cost.macs(VIT_B, plan)
    for block, (after, padded) in enumerate(zip(plan.tokens, rows, strict=True), start=1):
        assert tiled[block] - plain[block] >= linears * (padded - after)
        assert batched[block] == plain[block]
