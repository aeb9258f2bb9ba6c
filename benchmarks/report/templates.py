"""Fills the HTML templates of this folder; jinja2 is needed for pages alone."""

from __future__ import annotations

import base64
import importlib.resources
from typing import Any

from engines import registry

_MARKS = {"good": "✓", "bad": "✗", "open": "!", "done": "✓", "failed": "✗", "warning": "!"}
_SAID = {
    "good": "good", "bad": "bad", "open": "not known",
    "done": "done", "failed": "failed", "warning": "warning",
}  # fmt: skip


def fill(template: str, **values: Any) -> str:
    """Return a page. It loads nothing and runs no script.

    Args:
        template: Name of a file in this folder.
        values: What it names.

    Raises:
        MissingDependencyError: jinja2 is not installed.
    """
    jinja2 = registry.import_or_explain("jinja2")
    settings = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    settings.filters.update(ms=lambda ns: f"{ns / 1e6:.2f}", size=_size, uri=_data_uri)
    settings.globals.update(mark=_MARKS.__getitem__, said=_SAID.__getitem__)
    page: str = settings.from_string(_resource(template)).render(
        style=_resource("report.css"), **values
    )
    return page + "\n"


def _resource(name: str) -> str:
    return importlib.resources.files("benchmarks.report").joinpath(name).read_text(encoding="utf-8")


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 100_000 else f"{max(count / 1e3, 0.1):.1f} kB"


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
