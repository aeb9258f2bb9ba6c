"""Tune adapters, refinement adapter and head on the shifted task; the backbone stays frozen.

The head starts from the pretrained one, because the classes are the same.
"""

import shutil
import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from examples.digits.backbone import load_backbone
from examples.digits.data import Digits, Images, Labels, compose_shifted, to_input
from examples.digits.model import TunedViT
from examples.digits.run_files import (
    RunSettings,
    run_folder,
    write_checksums,
    write_log,
    write_settings,
    write_weights,
)
from examples.digits.schedule import batches, make_optimizer, set_learning_rate

VAL_SEED = 1001
"""Of the one rendering of the validation digits on which epochs are compared."""


@torch.no_grad()
def classify(model: TunedViT, images: Images, *, batch_size: int = 60) -> Labels:
    """Return the (B,) class index that the model chooses for each stored image."""
    model.eval()
    chosen = [
        model(to_input(images[start : start + batch_size])).logits.float().argmax(dim=1)
        for start in range(0, len(images), batch_size)
    ]
    indices: Labels = torch.cat(chosen).numpy()
    return indices


def tune(
    settings: RunSettings,
    train: Digits,
    val: Digits,
    *,
    epochs: int,
    batch_size: int,
    peak_lr: float,
    val_every: int,
    seed: int,
    command: Sequence[str],
) -> None:
    """Train one run on fresh renderings of the training digits and write its files.

    The files hold the epoch with the best validation accuracy; the test part is not looked at.

    Args:
        settings: What is attached to the backbone.
        train: Digits to learn from.
        val: Digits to choose the epoch on.
        epochs: Passes over the training digits, each one rendered anew.
        batch_size: Images a step; a smaller last batch is skipped.
        peak_lr: AdamW's learning rate after the warm-up.
        val_every: Epochs between two looks at the validation digits.
        seed: Of the adapters, the order and the renderings.
        command: The command line to store with the run.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed + 1)
    model = TunedViT(
        load_backbone(),
        method=settings.method,
        width=settings.width,
        bits=settings.bits,
        scale=settings.scale,
        merge_block=settings.merge_block,
    )
    val_images = compose_shifted(val.glyphs, torch.Generator().manual_seed(VAL_SEED))
    optimizer = make_optimizer(model, weight_decay=0.0)
    labels = torch.from_numpy(train.labels)
    steps = epochs * (len(labels) // batch_size)
    step, best_epoch, best_accuracy, train_seconds = 0, 0, -1.0, 0.0
    folder = run_folder(settings.method)
    shutil.rmtree(folder / "configs", ignore_errors=True)  # of a run with another width
    write_settings(settings, folder, command)
    log: list[dict[str, float]] = []
    for epoch in range(epochs):
        started = time.perf_counter()
        model.train()
        losses: list[float] = []
        for chosen in batches(len(labels), batch_size, generator):
            set_learning_rate(optimizer, step, steps, warmup=steps // 10, peak=peak_lr)
            images = to_input(compose_shifted(train.glyphs[chosen], generator))
            with torch.autocast("cpu", torch.bfloat16):
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
        if (epoch + 1) % val_every and epoch + 1 < epochs:
            print(f"{settings.method} epoch {epoch} loss {np.mean(losses):.4f}", flush=True)
            continue
        with torch.autocast("cpu", torch.bfloat16):
            accuracy = float((classify(model, val_images) == val.labels).mean())
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
        print(f"{settings.method} {log[-1]}", flush=True)
        if accuracy >= best_accuracy:
            best_epoch, best_accuracy = epoch, accuracy
            write_weights(model, folder)
        summary = {
            "best_epoch": best_epoch,
            "best_acc": round(best_accuracy, 4),
            "total_train_time": round(train_seconds, 1),
        }
        write_log([*log, summary], folder)
    write_checksums(folder)
