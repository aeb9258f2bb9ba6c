"""Measure what the written files hold: accuracies, merges, sizes; write the expected outputs."""

import copy
import json
import platform
import time
from typing import Any

import numpy as np
import numpy.typing as npt
import sklearn
import timm
import torch
from sklearn.linear_model import LogisticRegression
from timm.models.vision_transformer import VisionTransformer

from examples.digits.backbone import MODEL_ARGS, PRETRAINING_FILE, WEIGHTS_FILE, load_backbone
from examples.digits.compose import CALIBRATION_SEED, TEST_SEED, load_images
from examples.digits.data import (
    FOLDER,
    SPLIT_SEED,
    SPLIT_SIZES,
    Images,
    Labels,
    compose_clean,
    compose_shifted,
    load_part,
    to_input,
)
from examples.digits.tables import write_tables
from examples.digits.tuning import VAL_SEED, files_of, read_run
from examples.training.changes import PARTNERS_SEED, measure_changes
from examples.training.model import TunedViT
from examples.training.run_files import RunFiles

RESULTS_FILE = FOLDER / "results.json"
EXPECTED_FILE = FOLDER / "expected.npz"
EXPECTED_COUNT = 32
RUNS = ("lora", "adaptformer")

PROBE_SEED = 4001
PROBE_RENDERINGS = 2
PROBE_STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0)


@torch.no_grad()
def _in_batches(function: Any, images: Images, batch_size: int = 60) -> torch.Tensor:
    return torch.cat(
        [
            function(to_input(images[start : start + batch_size]))
            for start in range(0, len(images), batch_size)
        ]
    )


def _accuracy(chosen: npt.NDArray[Any], labels: Labels) -> float:
    return round(float((chosen == labels).mean()), 4)


def measure_backbone(backbone: VisionTransformer) -> dict[str, Any]:
    """Measure the untuned backbone: its own head, and a linear probe on its frozen features.

    The probe sees `PROBE_RENDERINGS` renderings of every training digit; its regularisation is
    chosen on the validation digits.
    """
    test = load_part("test")
    clean = compose_clean(test.glyphs, torch.Generator())
    images, labels = load_images("test")

    def features(pictures: Images) -> npt.NDArray[np.float32]:
        values: npt.NDArray[np.float32] = _in_batches(
            lambda pixels: backbone.forward_features(pixels)[:, 0], pictures
        ).numpy()
        return values

    generator = torch.Generator().manual_seed(PROBE_SEED)
    train, val = load_part("train"), load_part("val")
    train_features = np.concatenate(
        [features(compose_shifted(train.glyphs, generator)) for _ in range(PROBE_RENDERINGS)]
    )
    train_labels = np.tile(train.labels, PROBE_RENDERINGS)
    val_images = compose_shifted(val.glyphs, torch.Generator().manual_seed(VAL_SEED))
    val_features = features(val_images)
    probes = [
        LogisticRegression(C=strength, max_iter=5000).fit(train_features, train_labels)
        for strength in PROBE_STRENGTHS
    ]
    probe = max(probes, key=lambda fitted: fitted.score(val_features, val.labels))
    return {
        "test_accuracy_clean": _accuracy(
            _in_batches(backbone, clean).argmax(dim=1).numpy(), test.labels
        ),
        "test_accuracy_shifted": _accuracy(
            _in_batches(backbone, images).argmax(dim=1).numpy(), labels
        ),
        "linear_probe_test_accuracy_shifted": _accuracy(probe.predict(features(images)), labels),
        "linear_probe_inverse_regularisation": probe.C,
    }


def merge_offsets(model: TunedViT, index: torch.Tensor) -> npt.NDArray[np.int64]:
    """Return the (B, Na, 2) steps in rows and columns from each A patch to its B patch.

    Args:
        model: Knows the order of the patches in A and B.
        index: (B, Na) matched patch, counted in B's order.
    """
    side = model.backbone.patch_embed.grid_size[1]
    source, target = model.set_a[None], model.set_b[index]
    rows = target // side - source // side
    columns = target % side - source % side
    offsets: npt.NDArray[np.int64] = torch.stack([rows, columns], dim=2).numpy()
    return offsets


def describe_offsets(offsets: npt.NDArray[np.int64]) -> dict[str, dict[str, float]]:
    """Group merges by direction and by distance; shares of all merges.

    Args:
        offsets: (..., 2) steps in rows (down is positive) and columns (right is positive).
    """
    rows, columns = offsets[..., 0], offsets[..., 1]
    distance = np.hypot(rows, columns)
    directions = {
        "up": (rows == -1) & (columns == 0),
        "down": (rows == 1) & (columns == 0),
        "left": (rows == 0) & (columns == -1),
        "right": (rows == 0) & (columns == 1),
        "other": distance > 1,
    }
    # The general direction of every merge, near or far, by the longer of its two steps.
    general = {
        "up": (rows < 0) & (-rows > np.abs(columns)),
        "down": (rows > 0) & (rows > np.abs(columns)),
        "left": (columns < 0) & (-columns > np.abs(rows)),
        "right": (columns > 0) & (columns > np.abs(rows)),
    }
    distances = {
        "1": distance == 1,
        "1 to 3": (distance > 1) & (distance <= 3),
        "3 to 6": (distance > 3) & (distance <= 6),
        "over 6": distance > 6,
    }
    return {
        title: {name: round(float(mask.mean()), 4) for name, mask in groups.items()}
        for title, groups in (
            ("neighbour", directions),
            ("general_direction", general),
            ("distance_patches", distances),
        )
    }


@torch.no_grad()
def measure_run(model: TunedViT, files: RunFiles) -> dict[str, Any]:
    """Measure one run on the test images, in float32.

    Args:
        model: Read from `files`.
        files: Files of the run.
    """
    images, labels = load_images("test")
    batches = torch.split(to_input(images), 60)
    outputs = [model(batch) for batch in batches]
    chosen = torch.cat([output.logits.argmax(dim=1) for output in outputs]).numpy()
    index = torch.cat([output.match.index() for output in outputs])
    margin = torch.cat([output.match.margin() for output in outputs])
    unmatched = sum(int((output.match.choice.sum(dim=2) != 1).sum()) for output in outputs)
    offsets = merge_offsets(model, index)
    settings, log = files.read_settings(), files.read_log()
    # How much every single place of the grid changes its mind from image to image.
    modal_share = [
        np.unique(column, return_counts=True)[1].max() / len(column) for column in index.numpy().T
    ]
    unrefined = copy.deepcopy(model)
    unrefined.refinement.adapter_up.weight.zero_()
    unrefined_index = torch.cat([unrefined(batch).match.index() for batch in batches])
    return {
        "settings": {
            "method": settings.method,
            "bit": settings.bits,
            "dim": settings.width,
            "scale": settings.scale,
            "merge_block": settings.merge_block,
        },
        "command": files.command.read_text().strip(),
        "train_wall_seconds": log[-1]["total_train_time"],
        "best_epoch": log[-1]["best_epoch"],
        "val_accuracy": log[-1]["best_acc"],
        "test_accuracy": _accuracy(chosen, labels),
        "without_the_merge": measure_changes(model, batches, labels),
        "merges": {
            **describe_offsets(offsets),
            "mean_share_of_the_most_common_target": round(float(np.mean(modal_share)), 4),
            "share_changed_by_refinement": round(
                float((index != unrefined_index).float().mean()), 4
            ),
            "patches_without_match": unmatched,
            "margin_min": float(margin.min()),
            "margin_p01": float(margin.flatten().quantile(0.01)),
            "margin_median": float(margin.median()),
        },
        "file_bytes": {path.name: path.stat().st_size for path in (files.tensors, files.records)},
    }


@torch.no_grad()
def write_expected(models: dict[str, TunedViT]) -> None:
    """Write float64 logits, matches and margins of the first test images.

    Args:
        models: By the name of the run; read from files, float32.
    """
    images, _ = load_images("test")
    pixels = to_input(images[:EXPECTED_COUNT]).double()
    arrays: dict[str, npt.NDArray[Any]] = {}
    for name, model in models.items():
        output = model.double()(pixels)
        assert output.match is not None
        arrays[f"{name}_logits"] = output.logits.numpy()
        arrays[f"{name}_match"] = output.match.index().numpy()
        arrays[f"{name}_margin"] = output.match.margin().numpy()
    np.savez_compressed(EXPECTED_FILE, allow_pickle=False, **arrays)


def report() -> None:
    """Write `results.json`, `expected.npz` and the README's tables from the example's files."""
    started = time.perf_counter()
    models = {name: read_run(name) for name in RUNS}
    results: dict[str, Any] = {
        "backbone": {
            "model_args": MODEL_ARGS,
            "parameters": sum(p.numel() for p in load_backbone().parameters()),
            "file_bytes": WEIGHTS_FILE.stat().st_size,
            "pretraining": json.loads(PRETRAINING_FILE.read_text()),
            **measure_backbone(load_backbone()),
        },
        "runs": {name: measure_run(model, files_of(name)) for name, model in models.items()},
        "images": {part: SPLIT_SIZES[part] for part in ("train", "val", "test")},
        "seeds": {
            "split": SPLIT_SEED,
            "val": VAL_SEED,
            "test": TEST_SEED,
            "calibration": CALIBRATION_SEED,
            "probe": PROBE_SEED,
            "random_partners": PARTNERS_SEED,
        },
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "timm": timm.__version__,
            "scikit-learn": sklearn.__version__,
            "numpy": np.__version__,
        },
        "machine": f"{platform.machine()} processor, {torch.get_num_threads()} threads, no GPU",
    }
    write_expected(models)
    results["report_wall_seconds"] = round(time.perf_counter() - started, 1)
    RESULTS_FILE.write_text(json.dumps(results, indent=2) + "\n")
    write_tables(results)
    print(json.dumps(results, indent=2))
