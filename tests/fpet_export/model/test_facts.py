"""A fact and its sources."""

from __future__ import annotations

import pytest

from engines.errors import CheckpointError
from fpet_export.model.facts import Fact, reconcile


def test_sources_that_agree_give_the_first() -> None:
    first = Fact(6, "params.sh")

    assert reconcile("the merge block", [first, Fact(6, "the bytes")], where="run") is first
    assert reconcile("the merge block", [], where="run") is None
    assert str(first) == "6 (params.sh)"


def test_sources_that_disagree_are_both_named() -> None:
    claims = [Fact(6, "params.sh"), Fact(6, "the bytes"), Fact(5, "--merge-block")]

    with pytest.raises(CheckpointError) as caught:
        reconcile("the merge block", claims, where="run")

    for word in ("the merge block", "6", "params.sh", "5", "--merge-block", "run"):
        assert word in str(caught.value)


def test_an_option_may_be_left_out() -> None:
    claims = [Fact(4, "--heads"), Fact(2, "config.json")]

    for pair in (claims, claims[::-1]):
        with pytest.raises(CheckpointError) as caught:
            reconcile("the number of heads", pair, where="run")
        assert caught.value.fix == "leave --heads out, or correct config.json if that is wrong"
