"""The digits, their fixed split, the shifted task, and the way from a stored image to model input.

Every image of this example, for training and for test, is composed as a small uint8 RGB image and
then takes one and the same path: PIL bicubic resize to 224x224, divided by 255, no mean or std.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch.nn import functional

FOLDER = Path(__file__).parent
SPLIT_FILE = FOLDER / "split.json"
CLASS_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

SPLIT_SEED = 20250328
SPLIT_SIZES = {"train": 1077, "val": 360, "test": 360}
STORED_SIZE = 32  # pixels a side of a composed image
MODEL_SIZE = 224  # pixels a side of the model's input
STRIPE_WAVELENGTH = 8.0  # pixels of a stored image, in the shifted task

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]
Part = Literal["train", "val", "test"]
Composer = Callable[[torch.Tensor, torch.Generator], Images]


@dataclass(frozen=True, kw_only=True)
class Digits:
    """One part of the split.

    Attributes:
        glyphs: (B, 8, 8) float32 ink in [0, 1].
        labels: (B,) class index.
    """

    glyphs: torch.Tensor
    labels: Labels


def make_split(labels: Labels) -> dict[str, list[int]]:
    """Deal the samples of every class to train, val and test in the proportions of `SPLIT_SIZES`.

    Args:
        labels: (B,) class index of all samples.

    Returns:
        Sorted sample indices by part; the parts are disjoint and cover everything.
    """
    generator = np.random.default_rng(SPLIT_SEED)
    # Sort by (rank inside the class, class): dealing that list in runs keeps every class spread
    # evenly over the parts, whatever the part sizes are.
    order = np.empty(len(labels), dtype=np.float64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        order[members] = (generator.permutation(len(members)) + 0.5) / len(members)
    dealt = np.argsort(order, kind="stable")
    split: dict[str, list[int]] = {}
    start = 0
    for part, count in SPLIT_SIZES.items():
        split[part] = sorted(int(index) for index in dealt[start : start + count])
        start += count
    return split


def load_part(part: Part) -> Digits:
    """Load one part of the committed split."""
    everything = load_digits()
    indices = json.loads(SPLIT_FILE.read_text())[part]
    glyphs = torch.from_numpy(everything.images[indices]).float() / 16.0
    return Digits(glyphs=glyphs, labels=everything.target[indices].astype(np.int64))


def _uniform(
    shape: tuple[int, ...], low: float, high: float, generator: torch.Generator
) -> torch.Tensor:
    return torch.rand(shape, generator=generator) * (high - low) + low


def render_ink(
    glyphs: torch.Tensor,
    generator: torch.Generator,
    *,
    rotation_deg: float,
    shear: float,
    zoom: tuple[float, float],
    shift: float,
) -> torch.Tensor:
    """Draw 8x8 glyphs at `STORED_SIZE` under a random affine map.

    Args:
        glyphs: (B, 8, 8) ink in [0, 1].
        generator: Source of the random maps.
        rotation_deg: Largest rotation either way, in degrees.
        shear: Largest shear either way, dimensionless.
        zoom: Smallest and largest size of the digit, 1 fills the image.
        shift: Largest shift either way, as a share of half the image.

    Returns:
        (B, 32, 32) ink in [0, 1].
    """
    count = len(glyphs)
    limit = float(np.deg2rad(rotation_deg))
    angle = _uniform((count,), -limit, limit, generator)
    slant = _uniform((count,), -shear, shear, generator)
    inverse_zoom = 1.0 / _uniform((count,), *zoom, generator)
    offset = _uniform((count, 2), -shift, shift, generator)
    cos, sin = angle.cos() * inverse_zoom, angle.sin() * inverse_zoom
    top = torch.stack([cos, cos * slant - sin, offset[:, 0]], dim=1)
    bottom = torch.stack([sin, sin * slant + cos, offset[:, 1]], dim=1)
    grid = functional.affine_grid(
        torch.stack([top, bottom], dim=1),
        [count, 1, STORED_SIZE, STORED_SIZE],
        align_corners=False,
    )
    drawn = functional.grid_sample(glyphs[:, None], grid, mode="bicubic", align_corners=False)
    return drawn[:, 0].clamp(0.0, 1.0)


def _to_uint8(pixels: torch.Tensor) -> Images:
    images: Images = (pixels.clamp(0.0, 1.0) * 255.0).round().to(torch.uint8).numpy()
    return images


def compose_clean(glyphs: torch.Tensor, generator: torch.Generator) -> Images:
    """Draw upright white digits on black; uses no randomness.

    Args:
        glyphs: (B, 8, 8) ink in [0, 1].
        generator: Not used; present because all composers share one signature.

    Returns:
        (B, 32, 32, 3) images.
    """
    ink = render_ink(glyphs, generator, rotation_deg=0, shear=0, zoom=(1, 1), shift=0)
    return _to_uint8(ink[..., None].expand(-1, -1, -1, 3))


def compose_pretraining(glyphs: torch.Tensor, generator: torch.Generator) -> Images:
    """Draw white digits on black with the light augmentation of the backbone's pretraining.

    Args:
        glyphs: (B, 8, 8) ink in [0, 1].
        generator: Source of the random maps and of the brightness.

    Returns:
        (B, 32, 32, 3) images.
    """
    ink = render_ink(glyphs, generator, rotation_deg=15, shear=0.15, zoom=(0.75, 1.1), shift=0.12)
    brightness = _uniform((len(glyphs), 1, 1), 0.6, 1.0, generator)
    return _to_uint8((ink * brightness)[..., None].expand(-1, -1, -1, 3))


def _random_colours(
    count: int, low: float, high: float, generator: torch.Generator
) -> torch.Tensor:
    """Draw (count, 1, 1, 3) colours whose luma lies between `low` and `high`."""
    luma_weights = torch.tensor([0.299, 0.587, 0.114])
    raw = torch.rand((count, 3), generator=generator)
    luma = _uniform((count, 1), low, high, generator)
    # Fade towards grey until the wanted luma is reached inside the colour cube.
    chroma = raw - (raw @ luma_weights)[:, None]
    room = torch.where(chroma > 0, (1 - luma) / chroma, -luma / chroma)
    strength = room.amin(dim=1, keepdim=True).clamp(max=1.0)
    return (luma + strength * chroma)[:, None, None, :]


def compose_coloured(glyphs: torch.Tensor, generator: torch.Generator) -> Images:
    """Draw light digits on dark, plain grounds, both coloured in every other image or so.

    Args:
        glyphs: (B, 8, 8) ink in [0, 1].
        generator: Source of the random maps and of the colours.

    Returns:
        (B, 32, 32, 3) images.
    """
    count = len(glyphs)
    ink = render_ink(glyphs, generator, rotation_deg=15, shear=0.15, zoom=(0.75, 1.1), shift=0.12)[
        ..., None
    ]
    coloured = (torch.rand((count, 1, 1, 1), generator=generator) < 0.6).float()
    digit = coloured * _random_colours(count, 0.6, 1.0, generator) + (1 - coloured)
    ground = coloured * _random_colours(count, 0.0, 0.4, generator)
    return _to_uint8(ink * digit + (1 - ink) * ground)


def _stripes() -> torch.Tensor:
    """Return (32, 32) in [0, 1]: diagonal stripes, the same ones in every image."""
    axis = torch.arange(STORED_SIZE, dtype=torch.float32)
    along = (axis[None, :] + axis[:, None]) / 2**0.5
    return 0.5 + 0.5 * torch.sin(2 * np.pi * along / STRIPE_WAVELENGTH)


def compose_shifted(glyphs: torch.Tensor, generator: torch.Generator) -> Images:
    """Draw the shifted task: light coloured digits over strong stripes of two colours.

    The stripes lie in the same place in every image; their colours, the digit's colour, a slight
    turn and the pixel noise are drawn anew. The turn is smaller than in pretraining.

    Args:
        glyphs: (B, 8, 8) ink in [0, 1].
        generator: Source of the maps, colours and pixel noise.

    Returns:
        (B, 32, 32, 3) images.
    """
    count = len(glyphs)
    ink = render_ink(glyphs, generator, rotation_deg=5, shear=0.05, zoom=(0.9, 1.1), shift=0.04)[
        ..., None
    ]
    digit = _random_colours(count, 0.85, 1.0, generator)
    dark = _random_colours(count, 0.0, 0.1, generator)
    bright = _random_colours(count, 0.55, 0.7, generator)
    mixture = _stripes()[None, ..., None]
    ground = (1 - mixture) * dark + mixture * bright
    grain = 0.03 * torch.randn((count, STORED_SIZE, STORED_SIZE, 3), generator=generator)
    return _to_uint8(ink * digit + (1 - ink) * ground + grain)


def to_input(images: Images) -> torch.Tensor:
    """Resize stored images with PIL's bicubic filter and divide by 255.

    Args:
        images: (B, h, w, 3) stored images.

    Returns:
        (B, 3, 224, 224) float32 in [0, 1].
    """
    resized = np.stack(
        [
            np.asarray(
                Image.fromarray(image).resize((MODEL_SIZE, MODEL_SIZE), Image.Resampling.BICUBIC)
            )
            for image in images
        ]
    )
    return torch.from_numpy(resized).permute(0, 3, 1, 2).contiguous().float() / 255.0
