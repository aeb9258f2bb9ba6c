"""Natural images without a download: crops of photographs that two Python packages bring along.

scikit-image and scikit-learn carry a handful of photographs inside their wheels. The files are
read where they lie; `skimage.data`'s own functions might fetch what they miss.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from engines import registry
from engines.errors import UsageError
from engines.imaging.images import ImageSet, PixelArray

PHOTOGRAPHS = (
    ("skimage", "data/astronaut.png"),
    ("sklearn", "datasets/images/china.jpg"),
    ("skimage", "data/chelsea.png"),
    ("skimage", "data/coffee.png"),
    ("sklearn", "datasets/images/flower.jpg"),
    ("skimage", "data/rocket.jpg"),
    ("skimage", "data/motorcycle_left.png"),
)
"""(package, file in it); colour photographs, none of them a diagram or a micrograph."""

_SMALLEST = 0.5


def natural_set(size: tuple[int, int], count: int, *, seed: int = 0) -> ImageSet:
    """Return `count` random crops, the photographs in turn, resized to (height, width) `size`.

    A crop has the aspect ratio of `size` and takes between a half and all of what fits into the
    photograph.

    Args:
        size: (height, width).
        count: Number of crops.
        seed: Seed of the position and the extent.

    Raises:
        UsageError: Fewer than one crop is asked for.
        MissingDependencyError: A package that brings the photographs is not installed.
    """
    if count < 1:
        raise UsageError(
            f"{count} images, wanted 1 or more", where="images", fix="give a positive number"
        )
    generator = np.random.default_rng(seed)
    photographs = [_read(package, file) for package, file in PHOTOGRAPHS[:count]]
    crops = [_crop(photographs[i % len(photographs)], size, generator) for i in range(count)]
    names = [Path(PHOTOGRAPHS[i % len(PHOTOGRAPHS)][1]).stem for i in range(count)]
    listed = ", ".join(dict.fromkeys(names))
    return ImageSet(
        pixels=np.stack(crops),
        description=f"{count} random crops, seed {seed}, of photographs that scikit-image and "
        f"scikit-learn ship: {listed}",
        names=tuple(f"{name}[{i // len(PHOTOGRAPHS)}]" for i, name in enumerate(names)),
    )


def _read(package: str, file: str) -> Any:
    pil = registry.import_or_explain("PIL.Image")
    (folder,) = registry.import_or_explain(package).__path__
    with pil.open(Path(folder) / file) as image:
        return image.convert("RGB")


def _crop(image: Any, size: tuple[int, int], generator: np.random.Generator) -> PixelArray:
    pil = registry.import_or_explain("PIL.Image")
    height, width = size
    largest = min(image.height / height, image.width / width)
    scale = largest * generator.uniform(_SMALLEST, 1.0)
    high, wide = height * scale, width * scale
    top = generator.uniform(0.0, image.height - high)
    left = generator.uniform(0.0, image.width - wide)
    box = (left, top, left + wide, top + high)
    resized = image.resize((width, height), pil.Resampling.BICUBIC, box=box)
    return np.asarray(resized, dtype=np.uint8)
