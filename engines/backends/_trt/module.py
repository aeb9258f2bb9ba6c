"""The TensorRT module that a target names: its import, or why it cannot be had."""

from __future__ import annotations

import importlib
from types import ModuleType

from engines.errors import InputError, MissingDependencyError
from engines.machine.installing import how_to_install
from engines.machine.jetpack import NEEDED

EXTRAS = {"tensorrt_rtx": "rtx", "tensorrt": "tensorrt"}
"""Our extra that installs a module, by module."""

UPDATE = "on a Jetson update JetPack, elsewhere: python3 -m pip install -U tensorrt"


def import_tensorrt(module: str, *, where: str) -> ModuleType:
    """Import a TensorRT module; its libraries may be absent even where the module is not.

    Raises:
        InputError: There is no such TensorRT.
        MissingDependencyError: It cannot be imported, or it is too old.
    """
    if module not in EXTRAS:
        raise InputError(
            f"{module!r} is neither tensorrt nor tensorrt_rtx", where=where, fix="choose a target"
        )
    try:
        imported = importlib.import_module(module)
        if not hasattr(imported, "Builder"):  # a folder with type stubs imports as an empty package
            raise ImportError("the package holds type stubs only")
    except (ImportError, OSError) as error:
        hint = "" if module == "tensorrt" else " (x86-64 only)"
        raise MissingDependencyError(
            f"{module} cannot be imported: {error}",
            where=where,
            fix=f"{how_to_install(module, EXTRAS[module])}{hint}",
        ) from error
    if is_too_old(module, imported.__version__):
        raise MissingDependencyError(
            f"this is TensorRT {imported.__version__}: {NEEDED}",
            where=where,
            fix=UPDATE,
        )
    return imported


def is_too_old(module: str, version: str) -> bool:
    """Say whether this is a TensorRT that cannot build a graph by the types in it, as 8.6."""
    return module == "tensorrt" and int(version.partition(".")[0]) < 10
