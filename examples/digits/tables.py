"""The tables of this folder's README, from `results.json`."""

from typing import Any

from examples.digits.data import FOLDER
from examples.training import tables as marked
from examples.training.tables import changes_table, percent, table

README_FILE = FOLDER / "README.md"
TITLES = {"lora": "LoRA", "adaptformer": "AdaptFormer"}
WIDTHS = {"lora": "rank", "adaptformer": "width"}


def write_tables(results: dict[str, Any]) -> None:
    """Replace what stands between the marks of each table in the README.

    Args:
        results: As `examples.digits.report` stores them.
    """
    marked.write_tables(
        README_FILE,
        {
            "accuracy": accuracy_table(results),
            "changes": changes_table(results["runs"]),
            "directions": directions_table(results["runs"]),
        },
    )


def accuracy_table(results: dict[str, Any]) -> str:
    """Return the accuracies of the backbone and of every run."""
    backbone = results["backbone"]
    rows = [
        ["backbone, own head, clean digits", percent(backbone["test_accuracy_clean"])],
        ["backbone, own head, shifted task", percent(backbone["test_accuracy_shifted"])],
        [
            "backbone, linear probe, shifted task",
            percent(backbone["linear_probe_test_accuracy_shifted"]),
        ],
    ]
    for name, run in results["runs"].items():
        settings = run["settings"]
        rows.append(
            [
                f"{TITLES[name]} {settings['bit']}-bit, {WIDTHS[name]} {settings['dim']}, FPET",
                f"**{percent(run['test_accuracy'])}**",
                percent(run["val_accuracy"]),
                f"{run['train_wall_seconds']:.0f} s",
                f"{sum(run['file_bytes'].values()):,} bytes",
            ]
        )
    return table(["model", "test accuracy", "validation", "training", "adapter files"], rows)


def directions_table(runs: dict[str, Any]) -> str:
    """Return where the patches of every run merge to."""
    rows = []
    for name, run in runs.items():
        merges = run["merges"]
        rows.append(
            [
                name,
                *map(percent, merges["general_direction"].values()),
                percent(merges["distance_patches"]["1"]),
                percent(merges["distance_patches"]["over 6"]),
                percent(merges["share_changed_by_refinement"]),
                percent(merges["mean_share_of_the_most_common_target"]),
                str(merges["patches_without_match"]),
            ]
        )
    header = ["run", "up", "down", "left", "right", "to a direct neighbour", "over 6 patches away"]
    header += ["changed by the refinement adapter", "most common target", "without a match"]
    return table(header, rows)
