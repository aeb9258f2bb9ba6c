"""Measure what the written files hold on the test half, and write the tables of the README."""

import json
import platform
import time
from typing import Any

import timm
import torch

from examples.stamps.data import FOLDER, load_test
from examples.stamps.tuning import BATCH, files_of, read_run
from examples.training.changes import PARTNERS_SEED, measure_changes
from examples.training.tables import changes_table, percent, table, write_tables

RESULTS_FILE = FOLDER / "results.json"
README_FILE = FOLDER / "README.md"
RUNS = {"lora": "LoRA 32-bit, rank 8, FPET", "adaptformer": "AdaptFormer 1-bit, width 64, FPET"}


@torch.no_grad()
def measure_run(name: str) -> dict[str, Any]:
    """Measure one run on the test half, in float32."""
    model, files, pictures = read_run(name), files_of(name), load_test()
    batches = torch.split(pictures.input(), BATCH)
    chosen = torch.cat([model(batch).logits.argmax(dim=1) for batch in batches]).numpy()
    summary = files.read_log()[-1]
    return {
        "command": files.command.read_text().strip(),
        "train_wall_seconds": summary["total_train_time"],
        "best_epoch": summary["best_epoch"],
        "val_accuracy": summary["best_acc"],
        "test_accuracy": round(float((chosen == pictures.labels).mean()), 4),
        "without_the_merge": measure_changes(model, batches, pictures.labels),
        "file_bytes": {path.name: path.stat().st_size for path in (files.tensors, files.records)},
    }


def report() -> None:
    """Write `results.json` and the README's tables from the example's files."""
    started = time.perf_counter()
    runs: dict[str, Any] = {}
    for name in RUNS:
        if not files_of(name).log.is_file():
            continue
        runs[name] = measure_run(name)
        print(json.dumps({name: runs[name]}, indent=2), flush=True)
    results = {
        "runs": runs,
        "seeds": {"random_partners": PARTNERS_SEED},
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "timm": timm.__version__,
        },
        "report_wall_seconds": round(time.perf_counter() - started, 1),
    }
    RESULTS_FILE.write_text(json.dumps(results, indent=2) + "\n")
    write_tables(README_FILE, {"accuracy": accuracy_table(runs), "changes": changes_table(runs)})


def accuracy_table(runs: dict[str, Any]) -> str:
    """Return the accuracies and sizes of every run."""
    rows = [
        [
            RUNS[name],
            f"**{percent(run['test_accuracy'])}**",
            percent(run["val_accuracy"]),
            f"{run['train_wall_seconds']:.0f} s",
            f"{sum(run['file_bytes'].values()):,} bytes",
        ]
        for name, run in runs.items()
    ]
    return table(["model", "test accuracy", "validation", "training", "adapter files"], rows)
