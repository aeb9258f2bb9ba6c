"""Fields of requests: how a value is converted, and which values are refused."""

from __future__ import annotations

import dataclasses
import math
import numbers
import re
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from engines.errors import UsageError
from engines.near_names import did_you_mean

_MERGES = r"fpet@[0-9]{1,4}|tome:r=[0-9][0-9,]*(,(in|de)creasing)?(@[0-9]+-[0-9]+)?|diffrate:.+"


def one_of(*choices: str, default: str | None = None) -> Any:
    """Return a field that holds one of some names."""
    return dataclasses.field(default=default, metadata={"choices": choices})


def from_one(default: int | None) -> Any:
    """Return a field that holds a whole number from 1."""
    return dataclasses.field(default=default, metadata={"least": 1})


def from_zero(default: float | None) -> Any:
    """Return a field that holds an amount: a number from 0."""
    return dataclasses.field(default=default, metadata={"least": 0.0})


def judged_by(require: Callable[[Any, str], None], default: Any = None) -> Any:
    """Return a field that `require(value, name)` refuses a value of; None is not judged."""
    return dataclasses.field(default=default, metadata={"require": require})


def convert_and_check(request: Any) -> None:
    """Convert the fields of a new request, and refuse values that they do not take.

    Raises:
        UsageError: A value is of another type, none of the choices, or out of its range.
    """
    for field in dataclasses.fields(request):
        value = getattr(request, field.name)
        found = _converted(value, str(field.type))
        if found is not value:
            object.__setattr__(request, field.name, found)
        _refuse(field, found, _types_of(type(request))[field.name])


def require_merge_block(value: int | str, where: str) -> None:
    """Refuse what is neither a block's number nor "none"."""
    if value != "none" and (isinstance(value, str) or value < 0):
        raise UsageError(
            f"{value!r} is neither a block's number nor 'none'",
            where=where,
            fix="give the 0-based block after whose attention tokens merge",
        )


def require_merge(value: str, where: str) -> None:
    """Refuse what says neither where tokens merge nor that it is to be searched."""
    if value not in ("none", "auto") and not re.fullmatch(_MERGES, value):
        raise UsageError(
            f"{value!r} is not 'none', 'auto', 'fpet@N', 'tome:r=N' or 'diffrate:FILE'",
            where=where,
            fix="fpet@6 merges half of the patches after the attention of block 6, counted from 0; "
            "tome:r=8 merges 8 tokens in every block, tome:r=16@3-9 in some, "
            "tome:r=8,decreasing on a slope; diffrate:FILE follows a schedule; auto "
            "searches what keeps --max-drop or --min-agreement",
        )


def require_stated_merge(value: str, where: str) -> None:
    """Refuse what does not say where tokens merge; a search needs images."""
    require_merge(value, where)
    if value == "auto":
        raise UsageError(
            "a search for a merge judges answers on images, and this reads none",
            where=f"{where} auto",
            fix="state a merge, such as fpet@6, or search with export or deploy",
        )


def require_colour(value: tuple[int, int, int], where: str) -> None:
    """Refuse what is not red, green and blue from 0 to 255."""
    if not all(0 <= one <= 255 for one in value):
        raise UsageError(
            f"{value!r} is no colour", where=where, fix="give red, green and blue from 0 to 255"
        )


def require_batch(value: int | tuple[int, int], where: str) -> None:
    """Refuse what is neither a number of images nor a range of numbers."""
    low, high = value if isinstance(value, tuple) else (value, value + 1)
    if not 1 <= low < high:
        raise UsageError(
            f"{value!r} is neither a number from 1 nor a range from 1 upward",
            where=where,
            fix="give the images of one inference, or the lowest and highest number, as (1, 8)",
        )


def require_profile(value: tuple[int, int, int], where: str) -> None:
    """Refuse batches that do not rise from 1."""
    low, tuned, high = value
    if not 1 <= low <= tuned <= high:
        raise UsageError(
            f"{value!r} does not rise from 1",
            where=where,
            fix="give smallest, tuned and largest batch, as (1, 8, 32)",
        )


def require_sizes(value: tuple[int, ...], where: str) -> None:
    """Refuse what is not some numbers from 1."""
    if not value or min(value) < 1:
        raise UsageError(
            f"{value!r} is not a list of numbers from 1",
            where=where,
            fix="give some, as (1, 8, 64)",
        )


def require_share(value: float, where: str) -> None:
    """Refuse what is not a share."""
    if not 0 <= value <= 1:
        raise UsageError(
            f"{value!r} is not a share from 0 to 1",
            where=where,
            fix=f"give {value / 100:g} for {value:g} %" if 1 < value <= 100 else "give 0.99, say",
        )


def path_from(text: str | Path) -> Path:
    """Return a path; pathlib alone makes the current folder of an empty string.

    Raises:
        UsageError: The string is empty.
    """
    if text == "":
        raise UsageError(
            "a path is empty",
            where="the arguments",
            fix="name a file or a folder ('.' is the current one); was a variable not set?",
        )
    return Path(text)


def _converted(value: Any, annotation: str) -> Any:
    """Return a value as its field holds it: paths from strings, tuples from lists.

    Raises:
        UsageError: A string that is to be a path is empty.
    """
    if isinstance(value, str):
        if annotation.startswith("Path"):
            return path_from(value)
        if annotation.startswith("tuple["):  # "cpu,rtx", as on the command line
            value = [part.strip() for part in value.split(",") if part.strip()]
    if isinstance(value, Path) and annotation.startswith("str"):
        return str(value)
    if isinstance(value, Path) and annotation.startswith("tuple["):
        value = [value]
    if isinstance(value, (list, tuple)) and "tuple[" in annotation:
        kinds: dict[str, Callable[[Any], Any]] = {"Path": path_from, "str": str}
        item = next((made for name, made in kinds.items() if f"tuple[{name}" in annotation), None)
        found = tuple(item(one) if item else one for one in value)
        return value if found == value else found
    return value


def _refuse(field: dataclasses.Field[Any], value: Any, wanted: Any) -> None:
    """Refuse a value out of its field's choices or range, or of another type.

    Raises:
        UsageError: It is.
    """
    if isinstance(value, str) and not value and value != field.default:
        raise UsageError(
            "an empty text", where=field.name, fix="fill it in, or leave the setting out"
        )
    choices: Sequence[object] | None = field.metadata.get("choices")
    if choices is not None and value not in choices and value != field.default:
        names = tuple(map(str, choices))
        raise UsageError(
            f"{value!r} is not one of {', '.join(names)}",
            where=field.name,
            fix=did_you_mean(str(value), names, otherwise="choose one of the names above"),
        )
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{value} is not finite", where=field.name, fix="give a finite number")
    least = field.metadata.get("least")
    if least is not None and value is not None and not _is_from(least, value):
        kind = "whole number" if isinstance(least, int) else "number"
        raise UsageError(
            f"{value!r} is not a {kind} from {least:g}",
            where=field.name,
            fix=f"give a number from {least:g}",
        )
    if not _fits(value, wanted):
        raise UsageError(
            f"{value!r} is a {type(value).__name__}, wanted {field.type}",
            where=field.name,
            fix="give a value of that type",
        )
    require = field.metadata.get("require")
    if require is not None and value is not None:
        require(value, field.name)


def _is_from(least: float, value: Any) -> bool:
    """Say whether a value is a number from `least`, and a whole one where `least` is one."""
    return _fits(value, type(least)) and value >= least


_TYPES: dict[type, dict[str, Any]] = {}


def _types_of(kind: type) -> dict[str, Any]:
    """Return the types of a request's fields, which are resolved once."""
    if kind not in _TYPES:
        _TYPES[kind] = get_type_hints(kind)
    return _TYPES[kind]


def _fits(value: Any, wanted: Any) -> bool:
    """Say whether a value is of a field's type; numbers of numpy are numbers."""
    origin, parts = get_origin(wanted), get_args(wanted)
    if origin in (Union, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is Literal:
        return value in parts
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        kinds = [parts[0]] * len(value) if parts[-1] is Ellipsis else parts
        return len(kinds) == len(value) and all(map(_fits, value, kinds))
    if wanted in (int, float):
        kind = numbers.Integral if wanted is int else numbers.Real
        return isinstance(value, kind) and not isinstance(value, bool)
    return isinstance(value, origin or wanted)
