"""Whether our packages are ours: another project's `engines` must not run in the place of ours.

Three of our package names are common words (docs/adr/0001). This file needs the standard library
alone, so that it can look before the first of them is imported; importing another project's package
would run its code, and end in an error about a name that it does not have.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import sys
from importlib.machinery import PathFinder
from typing import NamedTuple

OURS = ("calibration", "engines", "benchmarks")
EXIT_CODE = 4
"""Something is not installed as it must be; as `engines.errors.MissingDependencyError`."""


class Foreign(NamedTuple):
    """Another project's package that hides one of ours."""

    what: str
    where: str
    fix: str


def foreign_package() -> Foreign | None:
    """Return the first package of another project that Python finds in the place of ours."""
    home = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))  # noqa: PTH120 — a zip, too
    for name in OURS:
        if PathFinder.find_spec(name, [home]) is None:
            continue  # the board agent leaves it at home
        found = _found_in(name)
        if found is not None and found != home:
            return Foreign(
                what=f"Python finds {name!r} of another project, in place of the one in {home}",
                where=found,
                fix=_mend(found),
            )
    return None


def require_ours() -> None:
    """Refuse to go on with another project's package.

    Raises:
        ImportError: There is one; the message says where it lies and how to get rid of it.
    """
    found = foreign_package()
    if found is not None:
        raise ImportError(f"{found.what}\n  where: {found.where}\n  fix:   {found.fix}")


def stop_if_foreign() -> None:
    """End the process with `EXIT_CODE` and a message where another project's package is found."""
    found = foreign_package()
    if found is None:
        return
    if "--json" in sys.argv[1:]:
        error = {"class": "MissingDependencyError", "exit_code": EXIT_CODE, **found._asdict()}
        sys.stdout.write(json.dumps({"error": error}, indent=1) + "\n")
    else:
        sys.stderr.write(f"✗ error: {found.what}\n  where: {found.where}\n  fix:   {found.fix}\n")
    sys.exit(EXIT_CODE)


def _found_in(name: str) -> str | None:
    """Return the folder that holds what Python imports under this name; None where it is unknown.

    A package that was imported already is the one that counts.
    """
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    locations = list(spec.submodule_search_locations or ())
    path = locations[0] if locations else spec.origin
    return None if path is None else os.path.dirname(os.path.realpath(path))  # noqa: PTH120


def _mend(found: str) -> str:
    typed = ["fpet-export", *sys.argv[1:]]
    on_path = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    if found in map(os.path.realpath, on_path):
        return f"leave it off PYTHONPATH: {shlex.join(['env', '-u', 'PYTHONPATH', *typed])}"
    if found == os.path.realpath(os.curdir):
        return "leave that folder, or run the installed command: fpet-export"
    return "install fpet-export into an environment of its own: python3 -m venv"
