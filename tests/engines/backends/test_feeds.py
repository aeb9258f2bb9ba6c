from __future__ import annotations

import numpy as np
import pytest

from engines.backends._feeds import check_feeds, resolved
from engines.errors import InputError
from engines.manifest import TensorSpec

IMAGE = TensorSpec(name="image", shape=("batch", 3, 2), dtype="float32")
SCALE = TensorSpec(name="scale", shape=("batch",), dtype="float32")
GOOD = np.zeros((2, 3, 2), np.float32)


def test_good_feeds_come_back_contiguous_in_the_graphs_order() -> None:
    feeds = {"scale": np.zeros(2, np.float32), "image": GOOD.transpose(0, 2, 1).swapaxes(1, 2)}

    checked, extents = check_feeds((IMAGE, SCALE), feeds, where="test")

    assert list(checked) == ["image", "scale"]
    assert all(value.flags.c_contiguous for value in checked.values())
    assert extents == {"batch": 2}


def test_a_scalar_keeps_its_shape() -> None:
    spec = TensorSpec(name="x", shape=(), dtype="float32")

    checked, _ = check_feeds((spec,), {"x": np.array(1, np.float32)}, where="test")

    assert checked["x"].shape == ()


@pytest.mark.parametrize(
    ("feeds", "words"),
    [
        ({}, "'image' is missing"),
        ({"image": GOOD, "other": GOOD}, "'other' is unexpected"),
        ({"image": GOOD.astype("float64")}, "dtype float64, wanted float32"),
        ({"image": GOOD.astype(">f4")}, "dtype >f4, wanted float32"),
        ({"image": GOOD[:, :2]}, r"shape \(2, 2, 2\), wanted \(batch, 3, 2\)"),
        ({"image": GOOD[0]}, r"shape \(3, 2\), wanted \(batch, 3, 2\)"),
        ({"image": GOOD[:0]}, "batch = 0, wanted 1 to 4"),
        ({"image": np.zeros((5, 3, 2), np.float32)}, "batch = 5, wanted 1 to 4"),
    ],
)
def test_a_wrong_feed_is_named(feeds: dict[str, np.ndarray], words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        check_feeds((IMAGE,), feeds, where="my engine", batch_range=(1, 4))

    assert caught.value.where == "my engine"
    assert caught.value.fix == "feed image float32 (batch, 3, 2)"


def test_all_wrong_feeds_are_named_together() -> None:
    with pytest.raises(InputError, match=r"'scale' is missing; .*'image' has dtype"):
        check_feeds((IMAGE, SCALE), {"image": GOOD.astype("uint8")}, where="test")


def test_one_extent_cannot_have_two_values() -> None:
    feeds = {"image": GOOD, "scale": np.zeros(3, np.float32)}

    with pytest.raises(InputError, match="'scale' has batch = 3, another feed has 2"):
        check_feeds((IMAGE, SCALE), feeds, where="test")


def test_resolved_fills_in_the_extents() -> None:
    assert resolved(IMAGE, {"batch": 7}) == (7, 3, 2)
    assert resolved(IMAGE, {}) is None
