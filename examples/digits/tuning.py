"""Tune one run on the shifted task.

The head starts from the pretrained one, because the classes are the same.
"""

from collections.abc import Sequence

import torch

from examples.digits.backbone import load_backbone
from examples.digits.data import CLASS_NAMES, FOLDER, Digits, compose_shifted, to_input
from examples.training.model import TunedViT
from examples.training.run_files import RunFiles, RunSettings, attach
from examples.training.tuning import TrainImages, Training, classify
from examples.training.tuning import tune as tune_run

DATASET = "digits"
BACKBONE = "vit_digits_patch16_224"
"""No model of timm: a name that one has would claim to be it."""

VAL_SEED = 1001
"""Of the one rendering of the validation digits on which epochs are compared."""


def files_of(name: str) -> RunFiles:
    """Return the files of the run `name`."""
    return RunFiles(folder=FOLDER / "runs" / name, dataset=DATASET)


def read_run(name: str) -> TunedViT:
    """Rebuild the tuned model `name` from the files of this example, in eval mode."""
    return files_of(name).read(load_backbone())


def tune(
    settings: RunSettings,
    train: Digits,
    val: Digits,
    training: Training,
    *,
    command: Sequence[str],
) -> None:
    """Train one run on fresh renderings of the training digits and write its files.

    The files hold the epoch with the best validation accuracy; the test part is not looked at.

    Args:
        settings: What is attached to the backbone.
        train: Digits to learn from.
        val: Digits to choose the epoch on.
        training: How to train.
        command: The command line to store with the run.
    """
    torch.manual_seed(training.seed)
    model = attach(load_backbone(), settings)
    val_images = compose_shifted(val.glyphs, torch.Generator().manual_seed(VAL_SEED))
    files = files_of(settings.method)
    files.write_settings(settings, command, backbone=BACKBONE, classes=len(CLASS_NAMES))

    def validate(model: TunedViT) -> float:
        chosen = classify(model, len(val_images), lambda part: to_input(val_images[part]))
        return float((chosen == val.labels).mean())

    images = TrainImages(
        labels=train.labels,
        batch=lambda chosen, generator: to_input(compose_shifted(train.glyphs[chosen], generator)),
    )
    tune_run(model, files, images, training, validate=validate)
