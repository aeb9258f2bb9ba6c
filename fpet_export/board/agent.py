"""The board agent: the part of this toolkit that a board needs, as one file for its own Python.

`agent.pyz` is a zipapp (PEP 441) of `engines`, `benchmarks` and seven verbs of the command line:
the same code as here. It needs Python 3.10, numpy and the runtime that the board has; nothing is
installed. The same sources give the same bytes.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

VERBS = ("bench", "build", "check", "doctor", "predict", "targets", "verify")

_PACKAGES = {
    "engines": ("**/*.py",),
    "benchmarks": ("*.py", "conditions/*.py", "experiments/__init__.py", "experiments/gemm_peak.py",
                   "peers/*.py", "report/*"),
    "fpet_export": (
        "__init__.py", "provenance.py", "reporter.py", "requests.py", "start.py",
        "board/__init__.py", "board/remote.py", "cli/*.py", "doctor/*.py",
        "model/__init__.py", "model/normalisation.py",
        "tasks/__init__.py", "tasks/build.py", "tasks/measure.py",
        "workflow/__init__.py",
        *(f"workflow/{name}.py" for name in (
            "batches", "engine_steps", "images", "measure", "next_commands", "plain",
            "steps", "target_facts", "trust", "typed_graph", "usable",
        )),
        *(f"cli/verbs/{name}.py" for name in ("__init__", *VERBS)),
    ),
}  # fmt: skip
_MAIN = """\
import sys

if sys.version_info < (3, 10):
    sys.stderr.write("error: the agent needs Python 3.10, this is %d.%d\\n" % sys.version_info[:2])
    sys.exit(4)

from fpet_export.start import run_process

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


def build_agent() -> bytes:
    """Return the bytes of `agent.pyz`."""
    content = io.BytesIO()
    content.write(b"#!/usr/bin/env python3\n")
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.writestr(_member("__main__.py"), _MAIN)
        for name, path in _files():
            archive.writestr(_member(name), path.read_bytes())
    return content.getvalue()


def _files() -> Iterator[tuple[str, Path]]:
    home = Path(__file__).resolve().parents[2]
    for package, patterns in _PACKAGES.items():
        for pattern in patterns:
            for path in sorted((home / package).glob(pattern)):
                if path.is_file():
                    yield path.relative_to(home).as_posix(), path


def _member(name: str) -> zipfile.ZipInfo:
    information = zipfile.ZipInfo(name)  # dated 1980, whatever today is
    information.compress_type = zipfile.ZIP_DEFLATED
    information.external_attr = 0o644 << 16
    return information
