"""The tables of this folder's README, from `results.json`."""

from collections.abc import Iterable, Sequence
from typing import Any

from examples.digits.data import FOLDER

README_FILE = FOLDER / "README.md"
TITLES = {"lora": "LoRA", "adaptformer": "AdaptFormer"}
WIDTHS = {"lora": "rank", "adaptformer": "width"}


def write_tables(results: dict[str, Any]) -> None:
    """Replace what stands between the marks of each table in the README.

    Args:
        results: As `examples.digits.report` stores them.
    """
    text = README_FILE.read_text()
    for name, table in (
        ("accuracy", accuracy_table(results)),
        ("changes", changes_table(results["runs"])),
        ("directions", directions_table(results["runs"])),
    ):
        start, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        before, _, rest = text.partition(start)
        _, _, after = rest.partition(end)
        text = f"{before}{start}\n{table}\n{end}{after}"
    README_FILE.write_text(text)


def accuracy_table(results: dict[str, Any]) -> str:
    """Return the accuracies of the backbone and of every run."""
    backbone = results["backbone"]
    rows = [
        ["backbone, own head, clean digits", _percent(backbone["test_accuracy_clean"])],
        ["backbone, own head, shifted task", _percent(backbone["test_accuracy_shifted"])],
        [
            "backbone, linear probe, shifted task",
            _percent(backbone["linear_probe_test_accuracy_shifted"]),
        ],
    ]
    for name, run in results["runs"].items():
        settings = run["settings"]
        rows.append(
            [
                f"{TITLES[name]} {settings['bit']}-bit, {WIDTHS[name]} {settings['dim']}, FPET",
                f"**{_percent(run['test_accuracy'])}**",
                _percent(run["val_accuracy"]),
                f"{run['train_wall_seconds']:.0f} s",
                f"{sum(run['file_bytes'].values()):,} bytes",
            ]
        )
    return _table(["model", "test accuracy", "validation", "training", "adapter files"], rows)


def changes_table(runs: dict[str, Any]) -> str:
    """Return what becomes of every run's answers when the merge is left out or done wrongly."""
    rows = []
    for name, run in runs.items():
        for change, found in run["without_the_merge"].items():
            rows.append(
                [
                    name,
                    change.replace("_", " "),
                    f"{_percent(found['test_accuracy'])} ({_percent(run['test_accuracy'])})",
                    _percent(found["classes_changed"]),
                    _percent(found["largest_logit_change"]),
                ]
            )
    return _table(
        ["run", "change", "test accuracy (with the merge)", "other class", "largest logit change"],
        rows,
    )


def directions_table(runs: dict[str, Any]) -> str:
    """Return where the patches of every run merge to."""
    rows = []
    for name, run in runs.items():
        merges = run["merges"]
        rows.append(
            [
                name,
                *map(_percent, merges["general_direction"].values()),
                _percent(merges["distance_patches"]["1"]),
                _percent(merges["distance_patches"]["over 6"]),
                _percent(merges["share_changed_by_refinement"]),
                _percent(merges["mean_share_of_the_most_common_target"]),
                str(merges["patches_without_match"]),
            ]
        )
    header = ["run", "up", "down", "left", "right", "to a direct neighbour", "over 6 patches away"]
    header += ["changed by the refinement adapter", "most common target", "without a match"]
    return _table(header, rows)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header)]
    lines += [[*row, *[""] * (len(header) - len(row))] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
