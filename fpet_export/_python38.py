"""What Python 3.9 and 3.10 added, for sources that `fpet_export.downlevel` rewrote.

Written for Python 3.8 itself; nothing outside the agent imports it.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import sys
import types
import typing
from typing import Any, Callable, Iterator, Mapping, cast  # noqa: UP035  # Python 3.8

UnionType: Any = getattr(types, "UnionType", typing.Union)
_ABSENT: Any = object()

cache: Any = functools.lru_cache(maxsize=None)  # Python 3.8


class NDArray:
    """`numpy.typing.NDArray` for annotations that nobody evaluates; old numpy has none."""

    def __class_getitem__(cls, item: Any) -> Any:
        return Any


def union(first: Any, second: Any) -> Any:
    """Return `first | second`, of mappings and types too (PEP 584 and 604)."""
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return {**first, **second}
    try:
        return first | second
    except TypeError:
        return typing.Union[first, second]  # noqa: UP007  # Python 3.8


def zip_strict(*iterables: Any, strict: bool = False) -> Iterator[Any]:
    """Return `zip(*iterables, strict=strict)` (PEP 618)."""
    if not strict:
        yield from zip(*iterables)  # noqa: B905  # Python 3.8
        return
    for row in itertools.zip_longest(*iterables, fillvalue=_ABSENT):
        if any(value is _ABSENT for value in row):
            raise ValueError("zip() arguments differ in length")
        yield row


def removeprefix(text: str, prefix: str) -> str:
    """Return `text.removeprefix(prefix)` (PEP 616)."""
    return text[len(prefix) :] if text.startswith(prefix) else text


def removesuffix(text: str, suffix: str) -> str:
    """Return `text.removesuffix(suffix)` (PEP 616)."""
    return text[: -len(suffix)] if suffix and text.endswith(suffix) else text


def dataclass(*, kw_only: bool = False, **options: Any) -> Callable[[type], type]:
    """Return `dataclasses.dataclass(kw_only=…)`; fields without a default may follow others."""
    if not kw_only or sys.version_info >= (3, 10):
        return dataclasses.dataclass(**options, **({"kw_only": True} if kw_only else {}))

    def decorate(cls: type) -> type:
        needed = []
        for name, annotation in vars(cls).get("__annotations__", {}).items():
            if name not in vars(cls) and not str(annotation).startswith("ClassVar"):
                setattr(cls, name, _ABSENT)  # a default, so that the order of fields is free
                needed.append(name)
        made: Any = dataclasses.dataclass(**options)(cls)
        fill = made.__init__

        @functools.wraps(fill)
        def initialise(self: Any, **values: Any) -> None:
            absent = [
                field.name
                for field in dataclasses.fields(made)
                if field.default is _ABSENT and field.name not in values
            ]
            if absent:
                raise TypeError(f"{made.__name__} needs {', '.join(absent)}")
            fill(self, **values)

        made.__init__ = initialise
        return cast(type, made)

    return decorate
