"""Data sets that are a text file: `path label` a line, or a table with a header.

Paths are relative to the folder of the file. The label of a line is its last word, so that paths
may hold blanks; a label with blanks needs a table.
"""

from __future__ import annotations

import csv
import dataclasses
import re
from pathlib import Path

from engines.errors import InputError
from engines.imaging.class_names import Form, read_lines
from engines.imaging.files import normal, shortened

LISTS = (".txt", ".lst", ".list")
TABLES = (".csv", ".tsv")

_PATHS = (
    "path", "file", "filename", "file_name", "filepath", "file_path", "image", "img", "image_path",
    "img_path", "image_file",
)  # fmt: skip
_LABELS = (
    "label", "labels", "class", "class_name", "classname", "class_id", "class_index", "target",
    "category", "label_name", "label_id", "y",
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Listed:
    """What a list or a table names.

    Attributes:
        files: One an image, as absolute or relative to the current folder.
        classes: The label of each, as it is written; empty where none has one.
        form: "list" or "table".
    """

    files: tuple[Path, ...]
    classes: tuple[str, ...]
    form: Form


def read_list(path: Path) -> Listed:
    """Read a list or a table, by its ending.

    Raises:
        InputError: A line or a header is not what it should be, a label is missing, or an image
            has two of them.
        UsageError: The file cannot be read, or is no UTF-8 text.
    """
    is_table = path.suffix.lower() in TABLES
    rows = _table_rows(path) if is_table else _list_rows(path)
    if not rows:
        raise InputError(
            "this list names no images", where=str(path), fix="add one line for each image"
        )
    labelled = [label for _, _, label in rows if label]
    if labelled and len(labelled) < len(rows):
        number = next(number for number, _, label in rows if not label)
        raise InputError(
            f"line {number} has no label, and others have one",
            where=str(path),
            fix="give every image a label, or none",
        )
    seen: dict[str, tuple[int, str]] = {}
    for number, name, label in rows:
        before = seen.setdefault(name, (number, label))
        if before[1] != label:
            raise InputError(
                f"{name} has two labels: {before[1]!r} in line {before[0]}, {label!r} in line "
                f"{number}",
                where=str(path),
                fix="keep only the right one",
            )
    return Listed(
        files=tuple(path.parent / name for _, name, _ in rows),
        classes=tuple(labelled),
        form="table" if is_table else "list",
    )


_Row = tuple[int, str, str]
"""Number of the line, from 1; path; label, which may be empty."""


def _list_rows(path: Path) -> list[_Row]:
    rows: list[_Row] = []
    for number, line in enumerate(read_lines(path, what="the list of images"), 1):
        words = line.strip().rsplit(None, 1)
        if words and not rows:
            _refuse_header(line, number, path)
        if words:
            rows.append((number, words[0], normal(words[1]) if len(words) == 2 else ""))
    return rows


def _refuse_header(line: str, number: int, path: Path) -> None:
    """Refuse the heading of a table as the first image of a list.

    Raises:
        InputError: The line holds usual names of columns only, and no file is called so.
    """
    cells = [cell.strip().lower() for cell in re.split(r"[,;\t ]", line) if cell.strip()]
    is_header = {*cells} <= {*_PATHS, *_LABELS} and any(cell in _PATHS for cell in cells)
    if is_header and not (path.parent / line.strip().rsplit(None, 1)[0]).exists():
        raise InputError(
            f"line {number} is the header of a table and names no image: {line.strip()!r}",
            where=str(path),
            fix="remove that line; or, where the columns are separated by commas or tabs, give the "
            "file the ending .csv or .tsv",
        )


def _table_rows(path: Path) -> list[_Row]:
    text = "\n".join(read_lines(path, what="the table of images"))
    delimiters = "\t" if path.suffix.lower() == ".tsv" else ",;\t"
    header = text.partition("\n")[0]
    delimiter = max(delimiters, key=header.count)
    try:
        reader = csv.reader(text.split("\n"), delimiter=delimiter, strict=True)
        lines = [(reader.line_num, cells) for cells in reader if any(map(str.strip, cells))]
    except csv.Error as error:
        raise InputError(
            f"the table cannot be read: {error}", where=str(path), fix="save it as plain CSV"
        ) from error
    if not lines:
        return []
    columns = [cell.strip() for cell in lines[0][1]]
    path_column = _column(columns, _PATHS, "the path of the image", path)
    label_column = None if len(columns) == 1 else _column(columns, _LABELS, "the label", path)
    rows = []
    for number, cells in lines[1:]:
        if len(cells) != len(columns):
            raise InputError(
                f"line {number} has {len(cells)} cells, the header {len(columns)}",
                where=str(path),
                fix="quote cells that hold the separator",
            )
        label = "" if label_column is None else normal(cells[label_column])
        name = cells[path_column].strip()
        if not name or (label_column is not None and not label):
            raise InputError(
                f"line {number} has no {'label' if name else 'path'}",
                where=str(path),
                fix="fill the cell in, or remove the line",
            )
        rows.append((number, name, label))
    return rows


def _column(columns: list[str], usual: tuple[str, ...], what: str, path: Path) -> int:
    """Return the index of the one column that is called as usual."""
    found = [
        index
        for index, column in enumerate(columns)
        if column.lower().replace(" ", "_").replace("-", "_") in usual
    ]
    if len(found) == 1:
        return found[0]
    which = (
        f"several columns may hold {what}: {', '.join(columns[index] for index in found)}"
        if found
        else f"no column has a name that means {what}"
    )
    raise InputError(
        f"{which}; the columns are {shortened(columns, 12)}",
        where=str(path),
        fix=f"call one column {usual[0]!r} (or one of {', '.join(usual[1:])}), and no other one so",
    )
