"""What a token merger promises, with the published golden cases of FPET."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engines import registry
from engines.errors import InputError
from engines.manifest import MergeStep
from fpet_export.graph.merge_reads import reads_of
from fpet_export.model import mergers
from fpet_export.model.mergers import _slots, fpet
from fpet_export.model.merging import Attended
from fpet_export.model.vit import Block
from fpet_export.model.vit_spec import VitSpec
from tests.references.fpet_reference import checkerboard, published_match

ENTRIES = registry.available(mergers)
SPEC = VitSpec(image=(64, 48), patch=(16, 16), width=12, depth=3, heads=2, hidden=24, classes=5)
GRIDS = st.tuples(st.integers(1, 9), st.integers(1, 9)).filter(lambda grid: grid[0] * grid[1] > 1)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


SCHEDULE = "diffrate:13-13,11-8,5-5"
ASKED = {
    "fpet": ("fpet@1",),
    "tome": ("tome:r=3", "tome:r=100", "tome:r=2,decreasing", "tome:r=2@1-2"),
    "diffrate": (SCHEDULE, "diffrate:13-9,6-6,6-5"),
}
"""Of every merger, plans over the three blocks of `SPEC`, some with several blocks."""

CELLS = [(name, asked) for name in ENTRIES for asked in ASKED[name]]


def attended_of(keys: torch.Tensor, *, queries: torch.Tensor | None = None) -> Attended:
    """Return attention with these (B, H, N, D) keys, of which a merger reads no more."""
    own = keys if queries is None else queries
    return Attended(keys.new_zeros(1), own, keys, None)


@pytest.mark.parametrize(("name", "asked"), CELLS)
@pytest.mark.parametrize("prefix", [("cls",), ("cls", "dist"), ("cls", "reg", "reg")])
def test_both_statements_of_a_step_agree(
    name: str, asked: str, prefix: tuple[Literal["cls", "dist", "reg"], ...]
) -> None:
    """Counts, order, the paper's form and the frozen one say the same, block after block."""
    entry = mergers.load(name)
    spec = dataclasses.replace(SPEC, prefix=prefix, pool="mean")
    down_up = tuple(drawn(*layer.shape, seed=7) for layer in entry.layers(spec.head_width))
    block = Block(spec).eval().requires_grad_(False)
    for index, parameter in enumerate(block.parameters()):
        parameter.data = drawn(*parameter.shape, seed=index) / 3
    steps = entry.steps(spec, asked)
    modules = [entry.attach(spec, step, down_up or None) for step in steps]  # type: ignore[arg-type]
    orders = [module.order for module in modules]
    tokens = drawn(2, spec.tokens, spec.width)
    ordered = placed(tokens, orders[0], len(prefix))
    size: torch.Tensor | None = None
    sizes: torch.Tensor | None = None

    assert entry.title and steps
    for step, module, leave in zip(steps, modules, [*orders[1:], None], strict=True):
        assert entry.macs(spec, step) > 0
        assert tokens.shape[1] == step.before
        bias = None if size is None else size.log().transpose(1, 2).unsqueeze(1)
        merged = module(tokens, block.attn(tokens, bias), size)
        frozen = module.frozen(reads_of(block.attn), ties="argmax", leave=leave)
        found = frozen(ordered, ordered, sizes)

        assert merged.tokens.shape[1] == step.after
        assert merged.match.shape == merged.margin.shape == (2, step.sources)
        assert torch.equal(found.match, merged.match)
        wanted = placed(merged.tokens, leave, len(prefix))
        torch.testing.assert_close(found.tokens, wanted, rtol=1e-5, atol=1e-5)
        spread = placed(merged.size, leave, len(prefix)).squeeze(-1)
        torch.testing.assert_close(found.sizes, spread, rtol=1e-5, atol=1e-5)
        assert (found.chosen.sum(dim=1) <= 1).all()
        lost = step.before - int(found.chosen[0].sum())
        assert lost == step.pruned
        for image in range(2):
            slots, stays = entry.joined(spec.grid, len(prefix), step, merged.match[image].numpy())
            assert len(stays) == step.after - len(prefix)
            assert (slots[stays] == np.arange(len(stays))).all()
            assert (slots < 0).sum() == step.pruned
        tokens, size, ordered, sizes = merged.tokens, merged.size, found.tokens, found.sizes


def placed(x: torch.Tensor, order: torch.Tensor | None, prefix: int) -> torch.Tensor:
    """Return (B, N, …) with its patches in another order."""
    if order is None:
        return x
    return torch.cat([x[:, :prefix], x[:, prefix:][:, order]], dim=1)


def test_a_merger_is_asked_of_the_registry() -> None:
    folder = Path(mergers.__file__).parent
    for path in folder.parents[1].rglob("*.py"):
        if path.parent != folder:
            for name in ENTRIES:
                text = path.read_text("utf-8")
                assert f"mergers.{name}" not in text, path
                assert f"mergers import {name}" not in text, path


def test_the_four_by_four_board_is_the_published_one() -> None:
    set_a, set_b = fpet.partition((4, 4))

    assert (set_a + 1).tolist() == [1, 3, 9, 11, 6, 8, 14, 16]
    assert (set_b + 1).tolist() == [5, 7, 13, 15, 2, 4, 10, 12]


@pytest.mark.parametrize(
    ("grid", "sizes"),
    [
        ((14, 14), (98, 98)),
        ((7, 7), (25, 24)),
        ((13, 13), (85, 84)),
        ((15, 15), (113, 112)),
        ((37, 37), (685, 684)),
        ((24, 24), (288, 288)),
        ((14, 28), (196, 196)),
    ],
)
def test_the_two_colours_have_the_published_sizes(
    grid: tuple[int, int], sizes: tuple[int, int]
) -> None:
    set_a, set_b = fpet.partition(grid)

    assert (len(set_a), len(set_b)) == sizes
    assert ((set_a // grid[1] + set_a % grid[1]) % 2 == 0).all()
    assert ((set_b // grid[1] + set_b % grid[1]) % 2 == 1).all()


def test_a_board_of_14_starts_as_published() -> None:
    set_a, set_b = fpet.partition((14, 14))

    assert set_a[:9].tolist() == [0, 2, 4, 6, 8, 10, 12, 28, 30]
    assert set_a[49:52].tolist() == [15, 17, 19]
    assert set_b[:8].tolist() == [14, 16, 18, 20, 22, 24, 26, 42]
    assert set_b[49:52].tolist() == [1, 3, 5]


@given(GRIDS)
def test_the_board_is_a_partition_and_neighbours_differ(grid: tuple[int, int]) -> None:
    set_a, set_b = fpet.partition(grid)

    assert sorted([*set_a, *set_b]) == list(range(grid[0] * grid[1]))
    assert (set_a.tolist(), set_b.tolist()) == checkerboard(*grid)
    colour = np.zeros(grid, dtype=int)
    colour.ravel()[set_b] = 1
    assert (colour[1:] != colour[:-1]).all()
    assert (colour[:, 1:] != colour[:, :-1]).all()


def test_a_single_patch_cannot_be_split() -> None:
    with pytest.raises(InputError, match="no second colour") as caught:
        fpet.partition((1, 1))

    assert caught.value.exit_code == 3
    assert "--merge none" in caught.value.fix


def fpet_merge(grid: tuple[int, int], prefix: int) -> fpet.ReferenceMerger:
    count = len(fpet.partition(grid)[0])
    step = MergeStep(block=0, before=prefix + grid[0] * grid[1], merged=count, sources=count)
    return fpet.ReferenceMerger(step, grid, prefix)


@given(GRIDS, st.integers(0, 3), st.integers(0, 2**31 - 1))
def test_merging_conserves_patches_and_mass(grid: tuple[int, int], prefix: int, seed: int) -> None:
    patches = grid[0] * grid[1]
    merger = fpet_merge(grid, prefix)
    tokens = drawn(2, prefix + patches, 6, seed=seed).double()
    keys = drawn(2, 3, prefix + patches, 4, seed=seed + 1).double()

    merged, size, match, _ = merger(tokens, attended_of(keys), None)

    assert merged.shape[1] == merger.step.after
    assert (size.sum(dim=(1, 2)) == prefix + patches).all()
    torch.testing.assert_close((merged * size).sum(dim=1), tokens.sum(dim=1))
    assert torch.equal(merged[:, :prefix], tokens[:, :prefix])
    assert (size[:, :prefix] == 1).all()
    assert match.shape == (2, len(merger.set_a))


def test_random_keys_of_a_vit_b_all_match() -> None:
    tokens, keys = drawn(1, 197, 64), drawn(1, 12, 197, 64, seed=1)

    merged, size, _, _ = fpet_merge((14, 14), 1)(tokens, attended_of(keys), None)

    assert merged.shape == (1, 99, 64)
    assert size.sum() == 197
    assert size[0, 0] == 1
    assert torch.equal(merged[0, 0], tokens[0, 0])


def test_equal_keys_are_dropped_by_the_published_rule_and_kept_by_an_argmax() -> None:
    scores = torch.ones(1, 98, 98)

    reference = fpet.reference_match(scores)
    best = fpet.argmax_match(scores)
    dropping = fpet.argmax_match(scores, drop_ties=True)

    assert reference.sum() == 0
    assert (dropping == -1).all()
    assert (best == 0).all()


def test_two_equal_best_keys_lose_the_tokens_that_prefer_them() -> None:
    keys = drawn(1, 1, 197, 64)
    set_a, set_b = (indices + 1 for indices in fpet.partition((14, 14)))
    keys[:, :, [set_b[3], set_b[7]]] = keys[:, :, [set_a[0]]]

    merge = fpet_merge((14, 14), 1)
    _, size, match, margin = merge(drawn(1, 197, 8), attended_of(keys), None)

    assert match[0, 0] == -1
    dropped = match[0] == -1  # every token whose best are the two equal ones is lost
    assert torch.equal(dropped, margin[0] == 0)
    assert size.sum() == 197 - dropped.sum()


def test_a_tie_below_the_best_changes_nothing() -> None:
    scores = torch.tensor([[[0.9, 0.5, 0.5]]])

    assert fpet.reference_match(scores).tolist() == [[[1, 0, 0]]]
    assert fpet.argmax_match(scores, drop_ties=True).tolist() == [[0]]


@pytest.mark.parametrize(("ulps", "kept"), [(1, 0), (2, 0), (4, 1), (6, 1)])
def test_the_gap_that_float32_needs_is_the_published_one(ulps: int, kept: int) -> None:
    """At 0.9, 2 units in the last place are 1.2e-7 and are dropped; 4 are 2.4e-7 and match.

    Three units (1.8e-7) go either way: it depends on how the mean of the two scores rounds.
    """
    best = np.float32(0.9)
    second = best
    for _ in range(ulps):
        second = np.nextafter(second, np.float32(0))
    scores = torch.tensor([[[float(second), float(best), 0.1]]])

    assert fpet.reference_match(scores).sum() == kept
    assert fpet.argmax_match(scores, drop_ties=True).tolist() == [[1 if kept else -1]]
    assert fpet.argmax_match(scores).tolist() == [[1]]
    assert fpet.reference_match(scores.double()).sum() == 1


@given(st.integers(1, 8), st.integers(1, 8), st.integers(0, 2**31 - 1))
def test_both_forms_of_the_rule_agree_with_the_equations(n_a: int, n_b: int, seed: int) -> None:
    scores = torch.rand((1, n_a, n_b), generator=torch.Generator().manual_seed(seed)).double()
    expected = published_match(scores[0].numpy())

    reference = fpet.reference_match(scores)
    dropping = fpet.argmax_match(scores, drop_ties=True)

    assert dropping[0].tolist() == expected
    assert torch.equal(fpet.argmax_match(scores).clamp(min=0), dropping.clamp(min=0))
    assert torch.equal(torch.nn.functional.one_hot(dropping, n_b).double(), reference)


@given(st.integers(1, 9), st.integers(1, 6), st.booleans(), st.integers(0, 2**31 - 1))
def test_one_product_averages_tokens_that_share_a_slot(
    count: int, keep: int, weighted: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn((2, keep + count, 5), generator=generator).double()
    joins = torch.randint(-1, keep, (2, count), generator=generator)
    slot = torch.cat([torch.arange(keep).expand(2, -1), joins], dim=1)
    sizes = torch.randint(1, 9, slot.shape, generator=generator).float() if weighted else None
    stay = torch.randperm(keep, generator=generator)

    merged, size = _slots.averaged(tokens, _slots.chosen_by(slot, stay), sizes)

    for image in range(2):
        for place, wanted in enumerate(stay.tolist()):
            inside = slot[image] == wanted
            weight = torch.ones(keep + count) if sizes is None else sizes[image]
            mean = (tokens[image] * weight[:, None])[inside].sum(dim=0) / weight[inside].sum()
            torch.testing.assert_close(merged[image, place], mean, rtol=1e-6, atol=1e-6)
            assert size[image, place] == weight[inside].sum()


@given(st.integers(1, 30), st.integers(0, 2**31 - 1))
def test_ranks_are_those_of_a_stable_sort(count: int, seed: int) -> None:
    scores = torch.randint(0, 5, (2, count), generator=torch.Generator().manual_seed(seed)).float()

    order = scores.argsort(dim=-1, descending=True, stable=True)

    wanted = torch.empty_like(order).scatter(1, order, torch.arange(count).expand(2, -1))
    assert torch.equal(_slots.ranks(scores).long(), wanted)


@pytest.mark.parametrize("place", [0, 1, 5])
def test_an_all_zero_key_makes_no_nan(place: int) -> None:
    keys = drawn(1, 2, 17, 8)
    keys[:, :, place] = 0

    merged, size, _, _ = fpet_merge((4, 4), 1)(drawn(1, 17, 6), attended_of(keys), None)

    assert merged.isfinite().all()
    assert size.isfinite().all()


def test_normalising_changes_no_real_key() -> None:
    metric = 1e-3 * drawn(4, 8).double()

    expected = metric / metric.norm(dim=-1, keepdim=True)

    torch.testing.assert_close(_slots.normalise(metric), expected, rtol=1e-14, atol=0)


def test_the_refinement_has_a_relu_and_no_scale() -> None:
    metric, down, up = drawn(1, 5, 8), drawn(32, 8, seed=1), drawn(8, 32, seed=2)

    expected = metric + (metric @ down.T).clamp(min=0) @ up.T

    torch.testing.assert_close(fpet.refine(metric, down, up), expected)
    assert fpet.refine(metric, None, None) is metric
