"""Tune adapters, refinement adapter and head; the backbone stays frozen."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from examples.training.model import TunedViT
from examples.training.run_files import RunFiles
from examples.training.schedule import batches, make_optimizer, set_learning_rate

Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Training:
    """How to train.

    Attributes:
        epochs: Passes over the training images.
        batch_size: Images a step; a smaller last batch is skipped.
        peak_lr: AdamW's learning rate after the warm-up.
        val_every: Epochs between two looks at the validation images.
        seed: Seed of the adapters, the order and what else is random about the training images.
        bfloat16: Whether products are taken in bfloat16, which not every processor does quickly.
    """

    epochs: int
    batch_size: int
    peak_lr: float
    val_every: int
    seed: int
    bfloat16: bool = True


@dataclass(frozen=True, kw_only=True)
class TrainImages:
    """Images to learn from.

    Attributes:
        labels: (I,) class index.
        batch: Makes the (B, 3, H, W) input of (B,) indices and a generator, anew in every epoch.
    """

    labels: Labels
    batch: Callable[[torch.Tensor, torch.Generator], torch.Tensor]


@torch.no_grad()
def classify(
    model: TunedViT,
    count: int,
    pixels: Callable[[slice], torch.Tensor],
    *,
    batch_size: int = 60,
) -> Labels:
    """Return the (I,) class index that the model chooses for each image.

    Args:
        model: Is put into eval mode.
        count: Number of images.
        pixels: Makes the (B, 3, H, W) input of a slice of the images.
        batch_size: Images that go through the model at once.
    """
    model.eval()
    chosen = [
        model(pixels(slice(start, start + batch_size))).logits.float().argmax(dim=1)
        for start in range(0, count, batch_size)
    ]
    indices: Labels = torch.cat(chosen).numpy()
    return indices


def tune(
    model: TunedViT,
    files: RunFiles,
    train: TrainImages,
    training: Training,
    *,
    validate: Callable[[TunedViT], float],
) -> None:
    """Train one run and write its weights, log and checksums.

    The files hold the epoch with the best validation accuracy, the last of several.

    Args:
        model: With fresh adapters.
        files: Files of the run; its settings are there already.
        train: What to learn from.
        training: How.
        validate: The accuracy on images that are not learned from, 0..1.
    """
    generator = torch.Generator().manual_seed(training.seed + 1)
    optimizer = make_optimizer(model, weight_decay=0.0)
    labels = torch.from_numpy(train.labels)
    steps = training.epochs * (len(labels) // training.batch_size)
    step, best_epoch, best_accuracy, train_seconds = 0, 0, -1.0, 0.0
    log: list[dict[str, float]] = []
    for epoch in range(training.epochs):
        started = time.perf_counter()
        model.train()
        losses: list[float] = []
        for chosen in batches(len(labels), training.batch_size, generator):
            set_learning_rate(optimizer, step, steps, warmup=steps // 10, peak=training.peak_lr)
            images = train.batch(chosen, generator)
            with torch.autocast("cpu", torch.bfloat16, enabled=training.bfloat16):
                logits = model(images).logits
            loss = functional.cross_entropy(logits.float(), labels[chosen])
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.item())
            step += 1
        trained = time.perf_counter()
        train_seconds += trained - started
        if (epoch + 1) % training.val_every and epoch + 1 < training.epochs:
            print(f"{model.method} epoch {epoch} loss {np.mean(losses):.4f}", flush=True)
            continue
        with torch.autocast("cpu", torch.bfloat16, enabled=training.bfloat16):
            accuracy = validate(model)
        tested = time.perf_counter()
        log.append(
            {
                "epoch": epoch,
                "acc": round(accuracy, 4),
                "train_time": round(trained - started, 2),
                "test_time": round(tested - trained, 2),
                "loss": round(float(np.mean(losses)), 4),
            }
        )
        print(f"{model.method} {log[-1]}", flush=True)
        if accuracy >= best_accuracy:
            best_epoch, best_accuracy = epoch, accuracy
            files.write_weights(model)
        summary = {
            "best_epoch": best_epoch,
            "best_acc": round(best_accuracy, 4),
            "total_train_time": round(train_seconds, 1),
        }
        files.write_log([*log, summary])
    files.write_checksums()
