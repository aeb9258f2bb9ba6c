"""Which modules the board agent needs, found from what they import."""

from __future__ import annotations

import ast
import dataclasses
import functools
from collections.abc import Iterable, Iterator
from pathlib import Path

HOME = Path(__file__).resolve().parents[2]
_OURS = ("fpet_export", "calibration", "engines", "benchmarks")
_NOT_THERE = ("torch", "timm", "onnx", "onnxscript", "onnx_graphsurgeon", "safetensors", "yaml")
"""Packages that a board does not have."""
_STAYS = "fpet_export.board"
"""What reaches out to a board is not on it."""


def modules_needed(roots: Iterable[str]) -> list[str]:
    """Return every module that the roots import, at their top or when they run, sorted.

    An import inside a function is not followed where it leads to a module that needs, at its own
    top, a package which a board does not have: a board never gets there.
    """
    found: set[str] = set()
    waiting = list(roots)
    while waiting:
        module = waiting.pop()
        if module in found:
            continue
        found.add(module)
        package, _, _ = module.rpartition(".")
        if package:
            waiting.append(package)
        waiting += _imports(module, inside=False)
        waiting += [one for one in _imports(module, inside=True) if not _stays_home(one)]
    return sorted(found)


def file_of(module: str) -> Path:
    """Return the source of a module of ours."""
    path = HOME / module.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@functools.cache
def _stays_home(module: str) -> bool:
    """Say whether a module cannot be imported on a board, or is none of its business."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        one = waiting.pop()
        if one.partition(".")[0] in _NOT_THERE or one == _STAYS or one.startswith(f"{_STAYS}."):
            return True
        if one in seen or one.partition(".")[0] not in _OURS:
            continue
        seen.add(one)
        waiting += _imports(one, inside=False, foreign=True)
    return False


def _imports(module: str, *, inside: bool, foreign: bool = False) -> tuple[str, ...]:
    """Return what a module imports: at its top, or inside its functions."""
    found: list[str] = []
    for statement in _source(module).imports:
        if statement.inside != inside:
            continue
        homes = _source(statement.module).homes if _is_module(statement.module) else {}
        if statement.names is None:
            found += [statement.module, *homes.values()]
        for name in statement.names or ():
            whole = f"{statement.module}.{name}"
            found.append(whole if _is_module(whole) else homes.get(name, statement.module))
    return tuple(dict.fromkeys(one for one in found if foreign or one.partition(".")[0] in _OURS))


def _is_module(name: str) -> bool:
    return name.partition(".")[0] in _OURS and file_of(name).is_file()


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Import:
    """One import: the module, and what of it; `names` is None for `import module`."""

    module: str
    names: tuple[str, ...] | None
    inside: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Source:
    """What a file says of imports.

    Attributes:
        imports: At its top and inside its functions; those for type checkers are left out.
        homes: Of a package: the modules of the names that it imports when they are first used.
    """

    imports: tuple[_Import, ...]
    homes: dict[str, str]


@functools.cache
def _source(module: str) -> _Source:
    """Read a module of ours."""
    body = ast.parse(file_of(module).read_text("utf-8")).body
    homes: dict[str, str] = {}
    for node in body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_HOME":
            homes = ast.literal_eval(node.value)
    return _Source(
        imports=tuple(_statements(body)),
        homes={name: home.rpartition(".")[0] for name, home in homes.items()},
    )


def _statements(body: Iterable[ast.AST], *, inside: bool = False) -> Iterator[_Import]:
    for node in body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            names = tuple(alias.name for alias in node.names)
            yield _Import(module=node.module, names=names, inside=inside)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield _Import(module=alias.name, names=None, inside=inside)
        is_function = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        yield from _statements(ast.iter_child_nodes(node), inside=inside or is_function)
