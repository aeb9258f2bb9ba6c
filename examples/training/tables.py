"""Tables between two marks of a README."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any


def write_tables(readme: Path, tables: Mapping[str, str]) -> None:
    """Replace what stands between the marks `<!-- NAME -->` and `<!-- end of NAME -->`.

    Args:
        readme: The file.
        tables: By name.

    Raises:
        ValueError: A mark is missing.
    """
    text = readme.read_text()
    for name, written in tables.items():
        start, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        before, opened, rest = text.partition(start)
        _, closed, after = rest.partition(end)
        if not (opened and closed):
            raise ValueError(f"{readme} has no marks for the table {name!r}")
        text = f"{before}{start}\n{written}\n{end}{after}"
    readme.write_text(text)


def changes_table(runs: Mapping[str, Any]) -> str:
    """Return what becomes of every run's answers when the merge is left out or done wrongly."""
    rows = []
    for name, run in runs.items():
        for change, found in run["without_the_merge"].items():
            rows.append(
                [
                    name,
                    change.replace("_", " "),
                    f"{percent(found['test_accuracy'])} ({percent(run['test_accuracy'])})",
                    percent(found["classes_changed"]),
                    percent(found["largest_logit_change"]),
                ]
            )
    return table(
        ["run", "change", "test accuracy (with the merge)", "other class", "largest logit change"],
        rows,
    )


def percent(share: float) -> str:
    """Return a share as a percentage."""
    return f"{100 * share:.1f} %"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown; short rows are filled up."""
    lines = [header, ["---"] * len(header)]
    lines += [[*row, *[""] * (len(header) - len(row))] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
