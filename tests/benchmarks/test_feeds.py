from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks.feeds import static_batch, synthetic_feeds
from engines.errors import InputError
from engines.manifest import Dimension, TensorSpec


def image(shape: tuple[Dimension, ...], dtype: str = "float32") -> tuple[TensorSpec, ...]:
    return (TensorSpec(name="images", shape=shape, dtype=dtype),)


def feed(shape: tuple[Dimension, ...], dtype: str = "float32", batch: int = 2) -> Any:
    return synthetic_feeds(image(shape, dtype), batch=batch, seed=0, name="e")["images"]


def test_every_layout_and_type_shows_the_same_pixels() -> None:
    planar = feed(("batch", 3, 16, 8))
    raw = feed(("batch", 3, 16, 8), "uint8")
    interleaved = feed((2, 16, 8, 3), "uint8")

    np.testing.assert_array_equal(interleaved.transpose(0, 3, 1, 2), raw)
    np.testing.assert_allclose(planar, raw / 255.0, rtol=1e-6)
    assert planar.flags.c_contiguous
    assert raw.std() > 10  # not a blank picture


def test_images_of_a_batch_differ() -> None:
    first, second = feed(("batch", 3, 16, 8))

    assert np.abs(first - second).max() > 0.1


def test_other_inputs_get_small_numbers_of_their_own_first_extent() -> None:
    specs = (*image(("batch", 3, 8, 8)), TensorSpec(name="a", shape=(12, 5), dtype="float16"))

    weights = synthetic_feeds(specs, batch=4, seed=0, name="e")["a"]

    assert weights.shape == (12, 5)
    assert weights.dtype == np.float16
    assert 0 < np.abs(weights).max() < 0.2


def test_static_batch_is_read_from_the_first_input() -> None:
    assert static_batch(image((8, 3, 4, 4))) == 8
    assert static_batch(image(("batch", 3, 4, 4))) is None
    assert static_batch(()) is None


def test_another_batch_than_the_fixed_one_is_refused() -> None:
    with pytest.raises(InputError, match=r"fixed batch of 8(.|\n)*--batch 8"):
        feed((8, 3, 4, 4), batch=1)


def test_an_open_image_size_is_refused() -> None:
    with pytest.raises(InputError, match="dynamic extents than its batch: height, width"):
        feed(("batch", 3, "height", "width"))
