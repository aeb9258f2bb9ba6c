"""The pictures: made by `benchmarks.experiments.pretrained`, and which of them do what.

The test half chooses nothing. Every fifth picture of the training half is held out of the training
and chooses the epoch.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch.nn import functional

from benchmarks.experiments import stamps
from benchmarks.experiments.pretrained import OUTPUT

FOLDER = Path(__file__).parent
PICTURES = OUTPUT / "pictures"
CLASS_NAMES = stamps.KINDS
HELD_OUT = 5
"""One of so many pictures of the training half is for validation."""

Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Labelled pictures in memory.

    Attributes:
        pixels: (I, 3, 224, 224) uint8.
        labels: (I,) index in `CLASS_NAMES`.
    """

    pixels: torch.Tensor
    labels: Labels

    def input(self, part: slice | torch.Tensor = slice(None)) -> torch.Tensor:
        """Return (B, 3, 224, 224) float32 in [0, 1] of some of the pictures."""
        return self.pixels[part].float() / 255.0


def load_pictures(names: list[str], half: str) -> Pictures:
    """Decode pictures of one half, by their paths in the list.

    Raises:
        FileNotFoundError: `python -m benchmarks.experiments.pretrained` did not run yet.
    """
    pixels, labels = [], []
    for name in names:
        file = stamps.file_name(name)
        with Image.open(PICTURES / half / file) as image:
            pixels.append(torch.from_numpy(np.asarray(image.convert("RGB")).copy()))
        labels.append(CLASS_NAMES.index(file.partition("/")[0]))
    stacked = torch.stack(pixels).permute(0, 3, 1, 2).contiguous()
    return Pictures(pixels=stacked, labels=np.array(labels, np.int64))


def divide(names: list[str]) -> tuple[list[str], list[str]]:
    """Divide the training half into pictures to learn from and pictures to validate on.

    Inside a kind the order is that of a hash of the name, so each kind gives its share.
    """
    order = sorted(
        names, key=lambda name: (name.partition("/")[0], hashlib.sha256(name.encode()).digest())
    )
    held_out = set(order[HELD_OUT // 2 :: HELD_OUT])
    return [name for name in names if name not in held_out], sorted(held_out)


def load_training() -> tuple[Pictures, Pictures]:
    """Return the pictures to learn from and those to validate on."""
    train, val = divide(stamps.read_split(FOLDER / "split.json")["train"])
    return load_pictures(train, "train"), load_pictures(val, "train")


def load_test() -> Pictures:
    """Return the test half."""
    return load_pictures(stamps.read_split(FOLDER / "split.json")["test"], "test")


def augment(pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Mirror every other picture or so, and turn, zoom and shift all a little, on white.

    Args:
        pixels: (B, 3, H, W) in [0, 1].
        generator: Source of the maps.
    """
    count = len(pixels)

    def uniform(low: float, high: float) -> torch.Tensor:
        return torch.rand(count, generator=generator) * (high - low) + low

    angle = uniform(-0.2, 0.2)
    inverse_zoom = uniform(0.85, 1.15)
    mirror = 1.0 - 2.0 * (torch.rand(count, generator=generator) < 0.5).float()
    cos, sin = angle.cos() * inverse_zoom, angle.sin() * inverse_zoom
    top = torch.stack([cos * mirror, -sin, uniform(-0.1, 0.1)], dim=1)
    bottom = torch.stack([sin * mirror, cos, uniform(-0.1, 0.1)], dim=1)
    grid = functional.affine_grid(
        torch.stack([top, bottom], dim=1), list(pixels.shape), align_corners=False
    )
    ink = functional.grid_sample(1.0 - pixels, grid, align_corners=False)  # zero is white
    return (1.0 - ink).clamp(0.0, 1.0)
