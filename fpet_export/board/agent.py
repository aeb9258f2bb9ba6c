"""The board agent: the part of this toolkit that a board needs, as one file for its own Python.

`agent.pyz` is a zipapp (PEP 441) of seven verbs of the command line and of what they import: the
same code as here, without comments and docstrings. It needs Python 3.10, numpy and the runtime that
the board has; nothing is installed. The same sources give the same bytes.
"""

from __future__ import annotations

import io
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

from fpet_export.board.agent_modules import HOME, file_of, modules_needed
from fpet_export.board.bare_source import bare_source

VERBS = ("bench", "build", "check", "doctor", "predict", "targets", "verify")

_ROOTS = (
    "fpet_export.cli.start",
    "fpet_export.cli.agent_main",
    *(f"fpet_export.cli.verbs.{verb}" for verb in VERBS),
)
_REGISTRIES = ("engines/backends", "engines/targets", "benchmarks/peers")
"""Folders whose modules are found by their names, so that nothing imports them."""
_DATA = ("benchmarks/report/report.css", "benchmarks/report/report.html.jinja")
_MAIN = """\
import sys

if sys.version_info < (3, 10):
    sys.stderr.write("error: the agent needs Python 3.10, this is %d.%d\\n" % sys.version_info[:2])
    sys.exit(4)

from fpet_export.cli.start import run_process

def load():
    try:
        import numpy
    except ImportError as error:
        what = "the agent needs numpy: %s" % str(error).strip().splitlines()[0]
        where = sys.executable
        fix = "sudo apt-get install python3-numpy, or python3 -m pip install numpy"
        if "--json" in sys.argv[1:]:
            import json

            told = {"class": "MissingDependencyError", "exit_code": 4}
            told.update(what=what, where=where, fix=fix)
            print(json.dumps({"error": told}, indent=1))
        else:
            sys.stderr.write("error: %s\\n  where: %s\\n  fix:   %s\\n" % (what, where, fix))
        sys.exit(4)
    from fpet_export.cli.agent_main import command

    return command

run_process(load)
"""


_BUILDING = threading.Lock()
"""Held while sources are parsed: Python 3.11 fails where two threads parse at the same time."""


def build_agent() -> bytes:
    """Return the bytes of `agent.pyz`."""
    with _BUILDING:
        return _built()


def _built() -> bytes:
    content = io.BytesIO()
    content.write(b"#!/usr/bin/env python3\n")
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.writestr(_member("__main__.py"), _MAIN)
        for name, path in _files():
            content_of = bare_source if path.suffix == ".py" else bytes
            archive.writestr(_member(name), content_of(path.read_bytes()))
    return content.getvalue()


def _files() -> Iterator[tuple[str, Path]]:
    entries = [
        ".".join(path.relative_to(HOME).with_suffix("").parts)
        for folder in _REGISTRIES
        for path in sorted((HOME / folder).glob("*.py"))
        if path.name != "__init__.py"
    ]
    for module in modules_needed([*_ROOTS, *entries]):
        path = file_of(module)
        yield path.relative_to(HOME).as_posix(), path
    for name in _DATA:
        yield name, HOME / name


def _member(name: str) -> zipfile.ZipInfo:
    information = zipfile.ZipInfo(name)  # dated 1980, whatever today is
    information.compress_type = zipfile.ZIP_DEFLATED
    information.external_attr = 0o644 << 16
    return information
