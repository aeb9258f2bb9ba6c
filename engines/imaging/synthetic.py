"""A stated set of synthetic images, for when the user has given none.

Natural images have a power spectrum that falls with the square of the frequency (Field 1987,
"Relations between the statistics of natural images and the response properties of cortical
cells"), edges, and colours that vary together. These have all three; they are good for parity and
for latency, never for accuracy.
"""

from __future__ import annotations

import numpy as np

from engines.imaging.images import ImageSet, PixelArray
from engines.plurals import counted

_SHAPES = 6


def synthetic_set(size: tuple[int, int], count: int, *, seed: int = 0) -> ImageSet:
    """Return `count` reproducible images of (height, width) `size`."""
    generator = np.random.default_rng(seed)
    pixels = np.stack([_image(size, generator) for _ in range(count)])
    return ImageSet(pixels=pixels, description=f"{counted(count, 'synthetic image')}, seed {seed}")


def _image(size: tuple[int, int], generator: np.random.Generator) -> PixelArray:
    """Return one (height, width, 3) image: shapes over correlated noise of a 1/f amplitude."""
    height, width = size
    mixing = np.array([[1.0, 0.5, 0.2], [1.0, -0.1, 0.3], [1.0, -0.4, -0.5]])
    field = np.stack([_noise(size, generator) for _ in range(3)], axis=-1) @ mixing.T
    rows, columns = np.mgrid[:height, :width]
    for _ in range(_SHAPES):
        row, column = generator.uniform(0, height), generator.uniform(0, width)
        high, wide = generator.uniform(0.05, 0.4, 2) * (height, width)
        inside = ((rows - row) / high) ** 2 + ((columns - column) / wide) ** 2 < 1
        field[inside] = 0.4 * field[inside] + generator.normal(0, 1.2, 3)
    image: PixelArray = np.clip(128 + 48 * field, 0, 255).astype(np.uint8)
    return image


def _noise(size: tuple[int, int], generator: np.random.Generator) -> np.ndarray:
    """Return (height, width) noise of unit deviation whose amplitude falls as 1/f."""
    height, width = size
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    frequency[0, 0] = 1.0 / max(size)
    spectrum = np.fft.rfft2(generator.normal(size=size)) / frequency
    spectrum[0, 0] = 0
    noise = np.fft.irfft2(spectrum, s=size)
    deviation = noise.std()
    return noise / deviation if deviation else noise
