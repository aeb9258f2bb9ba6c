"""Names of a package that are imported when they are first used (PEP 562)."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def imported_when_used(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """Return the `__getattr__` of a package's page.

    Args:
        package: The package, for what is said of a name that it does not have.
        homes: Where each name lives, as "module.name".
    """

    def find(name: str) -> Any:
        """Import a name of the page."""
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, _, own_name = homes[name].rpartition(".")
        return getattr(importlib.import_module(module), own_name)

    return find
