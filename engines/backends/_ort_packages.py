"""Which packages of ONNX Runtime are installed: two of them overwrite each other's files."""

from __future__ import annotations

import functools
import shlex
import sys
from importlib import metadata

from engines.errors import MissingDependencyError

PACKAGES = ("onnxruntime", "onnxruntime-gpu")


def installed() -> dict[str, str]:
    """Return the version of each package that is installed, by its name."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


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
