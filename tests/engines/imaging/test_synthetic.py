"""Synthetic images: the same every time, natural in their spectrum, each another."""

from __future__ import annotations

import numpy as np
import pytest

from engines.imaging.synthetic import synthetic_set


def test_a_seed_gives_the_same_images_every_time() -> None:
    first, again = synthetic_set((32, 48), 3), synthetic_set((32, 48), 3)

    assert first.pixels.shape == (3, 32, 48, 3)
    assert first.pixels.dtype == np.uint8
    assert first.pixels.tobytes() == again.pixels.tobytes()
    assert first.description == "3 synthetic images, seed 0"
    assert first.labels is None


def test_more_images_begin_with_the_same_ones() -> None:
    few, many = synthetic_set((16, 16), 2), synthetic_set((16, 16), 5)

    assert (many.pixels[:2] == few.pixels).all()


def test_seeds_and_images_differ() -> None:
    one, other = synthetic_set((32, 32), 2), synthetic_set((32, 32), 2, seed=1)

    assert (one.pixels != other.pixels).mean() > 0.5
    assert (one.pixels[0] != one.pixels[1]).mean() > 0.5
    assert other.description == "2 synthetic images, seed 1"


def test_the_amplitude_falls_with_the_frequency() -> None:
    """Natural images: amplitude ~ 1/f (Field 1987); white noise has a slope of 0."""
    pixels = synthetic_set((128, 128), 8).pixels.astype(np.float64).mean(axis=-1)
    window = np.hanning(128)[:, None] * np.hanning(128)
    amplitude = np.abs(np.fft.fft2((pixels - pixels.mean(axis=(1, 2), keepdims=True)) * window))
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(128), np.fft.fftfreq(128)))
    inside = (frequency > 0.03) & (frequency < 0.4)
    slope, _ = np.polyfit(np.log(frequency[inside]), np.log(amplitude.mean(axis=0)[inside]), 1)

    assert -1.5 < slope < -0.7


def test_pixels_use_the_range_and_channels_vary_together() -> None:
    pixels = synthetic_set((64, 64), 8).pixels.astype(np.float64)

    assert pixels.min() < 30
    assert pixels.max() > 225
    assert 100 < pixels.mean() < 156
    channels = np.asarray(np.corrcoef(pixels.reshape(-1, 3).T))
    assert 0.3 < channels[0, 1] < 0.999


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (3, 2)])
def test_tiny_sizes_work(size: tuple[int, int]) -> None:
    assert synthetic_set(size, 2).pixels.shape == (2, *size, 3)
