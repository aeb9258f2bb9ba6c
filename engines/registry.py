"""A folder is a registry: one module an entry, the file name is the entry's name."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

from engines.errors import MissingDependencyError, UnknownNameError
from engines.machine.installing import how_to_install
from engines.near_names import did_you_mean

_PACKAGES = ("fpet_export", "calibration", "engines", "benchmarks")
_EXTRA_OF = {
    "torch": "export",
    "timm": "export",
    "onnx": "export",
    "onnxscript": "export",
    "onnx_graphsurgeon": "export",
    "ml_dtypes": "export",
    "safetensors": "export",
    "yaml": "export",
    "PIL": "export",
    "rich": "export",
    "onnxruntime": "cpu",
    "tensorrt_rtx": "rtx",
    "tensorrt": "tensorrt",
    "openvino": "openvino",
    "dask": "sweep",
    "distributed": "sweep",
    "jinja2": "report",
    "matplotlib": "report",
}


def available(folder: ModuleType) -> list[str]:
    """List the entries of `folder` without importing any of them.

    An underscore in a file name is a hyphen on the command line only where the caller says so;
    a name that starts with one is shared code and no entry.
    """
    names = (module.name for module in pkgutil.iter_modules(folder.__path__))
    return sorted(name for name in names if not name.startswith("_"))


def load(folder: ModuleType, name: str) -> ModuleType:
    """Import the entry `name` of `folder`, and only that one.

    Raises:
        UnknownNameError: There is no such entry; a near name is proposed, never taken.
        MissingDependencyError: The entry needs a third-party package that is absent.
    """
    names = available(folder)
    if name not in names:
        raise UnknownNameError(
            f"{name!r} is not one of {', '.join(names)}",
            where=folder.__name__,
            fix=did_you_mean(name, names, otherwise="choose one of the names above"),
        )
    return import_or_explain(f"{folder.__name__}.{name}")


def import_or_explain(module: str) -> ModuleType:
    """Import `module`; say which extra brings the third-party package that it misses.

    Raises:
        MissingDependencyError: A package that is not ours is absent. A missing module of ours
            is a bug and keeps its own ModuleNotFoundError.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise explained(error, where=module) from error


def explained(error: ModuleNotFoundError, *, where: str = "") -> MissingDependencyError:
    """Return which extra brings the third-party package that an import misses.

    Args:
        error: What the import raised; a missing module of ours is a bug, and is raised again.
        where: What was imported; by default the package.
    """
    missing = (error.name or "").partition(".")[0]
    if not missing or missing in _PACKAGES:
        raise error
    return MissingDependencyError(
        f"the package {missing!r} is not installed",
        where=where or missing,
        fix=how_to_install(missing, _EXTRA_OF.get(missing)),
    )
