"""Write the images of the shifted task that are part of the repository."""

import numpy as np
import torch
from PIL import Image

from examples.digits.data import (
    CLASS_NAMES,
    FOLDER,
    MODEL_SIZE,
    Images,
    Labels,
    compose_shifted,
    load_part,
)

TEST_FILE = FOLDER / "test.npz"
CALIBRATION_FILE = FOLDER / "calibration.npz"
IMAGE_FOLDER = FOLDER / "images"

TEST_SEED = 2001
CALIBRATION_SEED = 3001
CALIBRATION_COUNT = 256
PICTURE_COUNT = 8


def load_images(name: str) -> tuple[Images, Labels]:
    """Load the stored images and labels of `test` or `calibration`."""
    with np.load(FOLDER / f"{name}.npz") as stored:
        return stored["images"], stored["labels"]


def compose_files() -> None:
    """Compose the whole test part, 256 training digits for calibration, and 8 test pictures."""
    test = load_part("test")
    images = compose_shifted(test.glyphs, torch.Generator().manual_seed(TEST_SEED))
    names = np.array(CLASS_NAMES)
    np.savez_compressed(TEST_FILE, images=images, labels=test.labels, class_names=names)

    train = load_part("train")
    generator = torch.Generator().manual_seed(CALIBRATION_SEED)
    chosen = torch.randperm(len(train.labels), generator=generator)[:CALIBRATION_COUNT]
    np.savez_compressed(
        CALIBRATION_FILE,
        images=compose_shifted(train.glyphs[chosen], generator),
        labels=train.labels[chosen.numpy()],
        class_names=names,
    )

    IMAGE_FOLDER.mkdir(exist_ok=True)
    seen: list[str] = []
    for index, label in enumerate(test.labels):
        word = CLASS_NAMES[label]
        if word in seen:
            continue
        seen.append(word)
        picture = Image.fromarray(images[index])
        picture = picture.resize((MODEL_SIZE, MODEL_SIZE), Image.Resampling.BICUBIC)
        picture.save(IMAGE_FOLDER / f"test_{index:03d}_{word}.png", optimize=True)
        if len(seen) == PICTURE_COUNT:
            break
