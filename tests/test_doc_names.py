"""Files, modules and names that the pages, docstrings and comments mention exist."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("fpet_export", "calibration", "engines", "benchmarks")
SOURCES = [
    path
    for folder in (*PACKAGES, "examples", "docs", "tests")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if path != Path(__file__).resolve()
]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *(ROOT / "docs").rglob("*.md"),
    *(ROOT / "examples").rglob("*.md"),
]
_SPAN = re.compile(r"```.*?```|``[^`]+``|`[^`]+`", flags=re.DOTALL)
_FILE = re.compile(
    r"(?<![\w./-])((?:fpet_export|calibration|engines|benchmarks|tests|docs|\.ci)/[\w./-]*[\w/])"
)
_DOTTED = re.compile(rf"(?<![\w./-])((?:{'|'.join(PACKAGES)})(?:\.[A-Za-z_]\w*)+)")
_SUFFIXES = ("py", "md", "npz", "json", "toml", "svg", "png", "css", "jinja", "txt")


def mentioned(text: str) -> str:
    """What stands in backquotes or in fenced blocks, where names of ours stand."""
    return "\n".join(_SPAN.findall(text))


def missing_files(text: str) -> list[str]:
    """The paths in a text that are not there; PLACEHOLDERS in capitals are none."""
    return [
        name
        for name in _FILE.findall(text)
        if not (ROOT / name).exists() and not re.search(r"(?:^|[/_.-])[A-Z]{2,}", name)
    ]


def missing_names(text: str) -> list[str]:
    """The dotted names in a text of which a module, or a word in that module, is not there."""
    return [name for name in _DOTTED.findall(text) if not is_there(name.split("."))]


def is_there(parts: list[str]) -> bool:
    """Say whether the module exists, and its source has the words that follow the module's name."""
    if parts[-1] in _SUFFIXES:  # the name of a file, not of a module
        return True
    for count in range(len(parts), 0, -1):
        path = ROOT.joinpath(*parts[:count])
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if file.is_file():
            text = file.read_text("utf-8")
            return all(re.search(rf"\b{word}\b", text) for word in parts[count:])
    return False


def missing(paths: Iterable[Path]) -> dict[str, list[str]]:
    """What each text names and is not there."""
    found = {}
    for path in paths:
        text = mentioned(path.read_text("utf-8"))
        if wrong := missing_files(text) + missing_names(text):
            found[str(path.relative_to(ROOT))] = wrong
    return found


def test_what_the_pages_name_exists() -> None:
    assert missing(PAGES) == {}


def test_what_docstrings_and_comments_name_exists() -> None:
    assert missing(SOURCES) == {}


def test_what_is_not_there_is_found() -> None:
    text = mentioned(
        "see `engines/nowhere.py`, `engines.errors.NoSuchError`, `engines.gone` and 'x'"
    )

    assert missing_files(text) == ["engines/nowhere.py"]
    assert missing_names(text) == ["engines.errors.NoSuchError", "engines.gone"]
