"""Which packages of ONNX Runtime are installed: two of them overwrite each other's files."""

from __future__ import annotations

import functools
import importlib.util
import shlex
import sys
from importlib import metadata
from pathlib import Path

from engines.errors import MissingDependencyError

PACKAGES = ("onnxruntime", "onnxruntime-gpu")


def installed() -> dict[str, str]:
    """Return the version of each package that shares its folder with the one in use, by name."""
    folders: dict[Path, dict[str, str]] = {}
    for name in PACKAGES:
        for found in metadata.distributions(name=name):
            folder = Path(str(found.locate_file("onnxruntime"))).resolve()
            folders.setdefault(folder, {}).setdefault(name, found.version)
    used = importlib.util.find_spec("onnxruntime")
    if used is None or used.origin is None:
        return {}
    return folders.get(Path(used.origin).resolve().parent, {})


def mend() -> str:
    """Return the command that leaves one of the two, the one for GPUs, which has the CPU too."""
    pip = [sys.executable, "-m", "pip"]
    return (
        f"{shlex.join([*pip, 'uninstall', '-y', *PACKAGES])} && "
        f"{shlex.join([*pip, 'install', 'onnxruntime-gpu'])}"
    )


@functools.cache
def require_one() -> None:
    """Refuse to run with two packages of ONNX Runtime in each other's way.

    Raises:
        MissingDependencyError: Both are installed.
    """
    found = installed()
    if len(found) > 1:
        names = " and ".join(f"{name} {version}" for name, version in found.items())
        raise MissingDependencyError(
            f"{names} are both installed, and each has overwritten files of the other",
            where="onnxruntime",
            fix=mend(),
        )
