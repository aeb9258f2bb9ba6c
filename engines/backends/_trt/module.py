"""The TensorRT module that a target names: its import, or why it cannot be had."""

from __future__ import annotations

import importlib
from types import ModuleType

from engines.errors import InputError, MissingDependencyError
from engines.machine.installing import how_to_install

EXTRAS = {"tensorrt_rtx": "rtx", "tensorrt": "tensorrt"}
"""Our extra that installs a module, by module."""


def import_tensorrt(module: str, *, where: str) -> ModuleType:
    """Import a TensorRT module; its libraries may be absent even where the module is not."""
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
    return imported
