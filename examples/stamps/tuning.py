"""Tune one run: a linear probe on the frozen backbone first, then adapters and head together."""

from collections.abc import Sequence

import numpy as np
import timm
import torch
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from timm.models.vision_transformer import VisionTransformer

from benchmarks.experiments.dinov2_onnx import ARCHITECTURE, IMAGE
from benchmarks.experiments.pretrained import OUTPUT
from examples.stamps.data import CLASS_NAMES, FOLDER, Pictures, augment, load_training
from examples.training.model import TunedViT
from examples.training.run_files import RunFiles, RunSettings, attach
from examples.training.tuning import TrainImages, Training, classify
from examples.training.tuning import tune as tune_run

DATASET = "stamps"
BACKBONE = "vit_small_patch14_dinov2_224"
"""No model of timm: theirs, of the name without the size, takes images of 518 pixels."""

WEIGHTS_FILE = OUTPUT / "backbone" / "model.safetensors"
BATCH = 20
PROBE_STRENGTH = 0.1
"""Inverse regularisation of the probe from which the head starts."""


def load_backbone() -> VisionTransformer:
    """Load the pretrained ViT in eval mode, with a head of zeros.

    Raises:
        FileNotFoundError: `python -m benchmarks.experiments.pretrained` did not run yet.
    """
    backbone = timm.create_model(ARCHITECTURE, img_size=IMAGE, num_classes=len(CLASS_NAMES))
    assert isinstance(backbone, VisionTransformer)
    head = {name: torch.zeros_like(value) for name, value in backbone.head.state_dict().items()}
    backbone.head.load_state_dict(head)
    weights = load_file(WEIGHTS_FILE)
    backbone.load_state_dict(weights | {f"head.{name}": value for name, value in head.items()})
    return backbone.eval()


def files_of(name: str) -> RunFiles:
    """Return the files of the run `name`."""
    return RunFiles(folder=FOLDER / "runs" / name, dataset=DATASET)


def read_run(name: str) -> TunedViT:
    """Rebuild the tuned model `name` from its files, in eval mode."""
    return files_of(name).read(load_backbone())


@torch.no_grad()
def class_tokens(backbone: VisionTransformer, pictures: Pictures) -> torch.Tensor:
    """Return (I, C), what the head of the untuned backbone sees."""
    parts = [
        backbone.forward_features(pictures.input(slice(start, start + BATCH)))[:, 0]
        for start in range(0, len(pictures.labels), BATCH)
    ]
    return torch.cat(parts)


def fit_probe(backbone: VisionTransformer, pictures: Pictures) -> None:
    """Put a logistic regression on the pictures' class tokens into the head."""
    features = class_tokens(backbone, pictures).numpy()
    probe = LogisticRegression(C=PROBE_STRENGTH, max_iter=5000).fit(features, pictures.labels)
    assert (probe.classes_ == np.arange(len(CLASS_NAMES))).all()
    head = {"weight": torch.from_numpy(probe.coef_), "bias": torch.from_numpy(probe.intercept_)}
    backbone.head.load_state_dict(head)


def tune(settings: RunSettings, training: Training, command: Sequence[str]) -> None:
    """Train one run on the pictures to learn from, and write its files.

    Args:
        settings: What is attached to the backbone.
        training: How to train.
        command: The command line to store with the run.
    """
    train, val = load_training()
    backbone = load_backbone()
    fit_probe(backbone, train)
    torch.manual_seed(training.seed)
    model = attach(backbone, settings)
    files = files_of(settings.method)
    files.write_settings(settings, command, backbone=BACKBONE, classes=len(CLASS_NAMES))

    def validate(model: TunedViT) -> float:
        chosen = classify(model, len(val.labels), val.input, batch_size=BATCH)
        return float((chosen == val.labels).mean())

    print(f"{settings.method} probe acc {validate(model):.4f}", flush=True)
    images = TrainImages(
        labels=train.labels,
        batch=lambda chosen, generator: augment(train.input(chosen), generator),
    )
    tune_run(model, files, images, training, validate=validate)
