"""What the classes are called, and which class of a model each label of a data set means.

A model knows its classes by index: the order of its head's rows. A data set may know them by name,
by index, or by both. Names are compared with names; nothing is taken from the order of a list
where names are known, and where they are not, the result says that it rests on an order.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from engines.errors import InputError, UsageError
from engines.imaging.files import is_number, normal, shortened
from engines.plurals import counted

BY_NAME = "by name"
BY_FOLDED_NAME = "by name, ignoring case, blanks and _"
BY_INDEX = "by index"
BY_INDEX_FROM_1 = "by index, without a class 0"
"""Whole numbers that begin at 1: they may count from there, which shifts every class by one."""
BY_ORDER = {
    "folders": "by folder order",
    "list": "by alphabetical order of the labels",
    "table": "by alphabetical order of the labels",
}
"""How labels were found where nothing says which class a name is: this may be wrong."""

Form = Literal["folders", "list", "table", "shard"]
_NOUNS = {
    "folders": "class folders",
    "list": "labels of the list",
    "table": "labels of the table",
    "shard": "class names of the shard",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stated:
    """What a data set says about the classes of its images.

    Attributes:
        form: Where it says so: in the names of folders, in a list, in a table, in a shard.
        index: (I,) place of each image's class in `classes`; of a shard the index it states.
        classes: The set's own classes: distinct names in the set's order; of a shard its
            `class_names`, empty where it has none.
        empty: Those without an image.
        span: Smallest and largest index that a shard states, also of images that were not chosen.
        where: The set, for messages.
    """

    form: Form
    index: NDArray[np.int64]
    classes: tuple[str, ...]
    empty: tuple[str, ...] = ()
    span: tuple[int, int] = (0, 0)
    where: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class KnownClasses:
    """What is known about the classes of a model.

    Attributes:
        count: Number of logits; None where nobody knows, 0 of a model that gives none.
        names: In the order of the logits; empty where nobody knows.
        source: Who says the names, such as "the labels of model.onnx".
    """

    count: int | None = None
    names: tuple[str, ...] = ()
    source: str = "the model"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Matched:
    """The labels of a data set as classes of a model.

    Attributes:
        labels: (I,) indices of logits.
        names: Names of the classes by index, where somebody states their order; else empty.
        found: How labels were found: `BY_NAME`, `BY_FOLDED_NAME`, `BY_INDEX`, `BY_INDEX_FROM_1` or
            one of `BY_ORDER`.
    """

    labels: NDArray[np.int64]
    names: tuple[str, ...]
    found: str


def is_sure(found: str | None) -> bool:
    """Whether labels that were found this way mean the classes that they say."""
    return found not in BY_ORDER.values()


def read_class_names(path: Path) -> tuple[str, ...]:
    """Read a text file with one class name a line, in the order of the logits.

    A byte-order mark and blanks around a name are no part of it.

    Raises:
        UsageError: The file cannot be read, is empty, has an empty line between two names, or
            gives two classes one name.
    """
    lines = [normal(line) for line in read_lines(path, what="the class names")]
    while lines and not lines[-1]:
        lines.pop()
    fix = "give a UTF-8 text file with one class name per line, in the order of the logits"
    if not lines:
        raise UsageError("there are no class names in this file", where=str(path), fix=fix)
    if "" in lines:
        raise UsageError(
            f"line {lines.index('') + 1} of the class names is empty, so nobody knows whether the "
            "names behind it move up",
            where=str(path),
            fix="remove the line, or name that class",
        )
    _require_distinct(lines, str(path), UsageError)
    return tuple(lines)


def read_lines(path: Path, *, what: str) -> list[str]:
    """Return the lines of a UTF-8 text file, without a byte-order mark.

    Raises:
        UsageError: It cannot be read, or is no UTF-8 text.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
        if "\0" in text:
            raise ValueError("it holds zero bytes, so it is not UTF-8 text")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(
            f"{what} cannot be read: {reason}",
            where=str(path),
            fix="give a UTF-8 text file (Windows: save as UTF-8, not as Unicode)",
        ) from error
    return [line.rstrip("\r") for line in text.split("\n")]


def agreed(sources: Sequence[KnownClasses]) -> KnownClasses:
    """Return what several sources say about the classes of one model.

    Args:
        sources: The most trusted first; those without names and without a count say nothing.

    Raises:
        InputError: Two of them disagree.
    """
    named = [source for source in sources if source.names]
    counts = [source.count for source in sources if source.count is not None]
    count = counts[0] if counts else None
    for source in named:
        _require_distinct(source.names, source.source, InputError)
    if not named:
        return KnownClasses(count=count)
    first = named[0]
    if count is not None and len(first.names) != count:
        raise InputError(
            f"{len(first.names)} class names for {count} classes: {shortened(first.names)}",
            where=first.source,
            fix="give one name per class, in the order of the head's rows",
        )
    for other in named[1:]:
        _require_same(first, other)
    return KnownClasses(count=len(first.names), names=first.names, source=first.source)


def match(stated: Stated, known: KnownClasses) -> Matched:
    """Find which class of a model each label of a data set means.

    A shard states indices, and with `class_names` what they are called, which may be in another
    order than the model's. Names of folders and of
    lists are looked for among the model's names; where all are whole numbers and none is a name,
    they are indices. Where the model's names are unknown, other names are taken in alphabetical
    order, which `Matched.found` says, if there are as many as the model has classes.

    Raises:
        InputError: A label is no class of the model, or could be two.
    """
    if stated.form == "shard":
        return _match_shard(stated, known)
    names = stated.classes
    if known.names:
        found = _by_name(stated, known)
        if found is not None:
            return found
    if all(is_number(name) for name in names):
        return _by_number(stated, known)
    if known.names:
        raise _unknown(stated, known)
    if known.count is not None and len(names) != known.count:
        raise InputError(
            f"{counted(len(names), 'class', 'classes')} for a model of "
            f"{known.count} classes whose names are unknown: {shortened(names)}",
            where=stated.where,
            fix="list the class names in the order of the head's rows, one per line: --labels "
            "FILE; or give the data set this run was tuned for, with every class (a "
            "folder may be empty)",
        )
    return Matched(labels=stated.index, names=(), found=BY_ORDER[stated.form])


def _match_shard(stated: Stated, known: KnownClasses) -> Matched:
    labels, own = stated.index, stated.classes
    low, high = stated.span
    if known.names and not _are_same(own, known.names) and 0 <= low <= high < len(own):
        by_name = _by_name(stated, known)
        if by_name is not None:
            return by_name
    source = f"`class_names` of {stated.where}"
    together = agreed([known, KnownClasses(names=own, source=source)])
    count = together.count
    if low < 0 or (count is not None and high >= count):
        of = "a model of " if known.count is not None else ""
        raise InputError(
            f"labels {low} to {high} for {of}{count} classes",
            where=stated.where,
            fix="give the data set this run was tuned for; labels count from 0",
        )
    found = BY_INDEX_FROM_1 if low == 1 and not own else BY_INDEX
    return Matched(labels=labels, names=together.names, found=found)


def names_without_labels(known: KnownClasses, own: KnownClasses) -> tuple[str, ...]:
    """Return the names of the classes where a set names them and has no labels.

    Raises:
        InputError: The set names a class that the model does not have.
    """
    if known.names and {*map(normal, own.names)} <= {*map(normal, known.names)}:
        return known.names
    return agreed([known, own]).names


def _are_same(own: Sequence[str], theirs: Sequence[str]) -> bool:
    return [normal(name) for name in own] == [normal(name) for name in theirs]


def _by_name(stated: Stated, known: KnownClasses) -> Matched | None:
    """Match names, exactly or without regard to case, blanks and underscores; None if not all."""
    for found, key in ((BY_NAME, normal), (BY_FOLDED_NAME, _folded)):
        own = [key(name) for name in stated.classes]
        theirs = [key(name) for name in known.names]
        if len(set(own)) < len(own) or len(set(theirs)) < len(theirs):
            continue  # two of them differ in nothing else
        if not set(own) <= set(theirs):
            continue
        index = np.array([theirs.index(name) for name in own], np.int64)
        if stated.form not in ("folders", "shard"):
            _require_one_reading(stated, known, index)
        return Matched(labels=index[stated.index], names=known.names, found=found)
    return None


def _by_number(stated: Stated, known: KnownClasses) -> Matched:
    """Take whole numbers as indices."""
    numbers = [int(name) for name in stated.classes]
    twice = [name for name, number in zip(stated.classes, numbers, strict=True)
             if numbers.count(number) > 1]  # fmt: skip
    if twice:
        raise InputError(
            f"{shortened(twice)} are the same number",
            where=stated.where,
            fix="write each class in one way",
        )
    if known.names:
        _require_one_reading(stated, known, np.array(numbers, np.int64))
    beyond = [name for name, number in zip(stated.classes, numbers, strict=True)
              if known.count is not None and number >= known.count]  # fmt: skip
    from_1 = min(numbers, default=0) == 1
    if beyond:
        raise InputError(
            f"{_NOUNS[stated.form]} {shortened(stated.classes)} are whole numbers, so they are "
            f"indices, and a model of {known.count} classes has no {shortened(beyond)} (only 0 to "
            f"{(known.count or 0) - 1})" + _listed(known),
            where=stated.where,
            fix=("they seem to count from 1: rename them, " if from_1 else "")
            + "count from 0, as the rows of the head; or, where the numbers are names, give "
            "--labels FILE with one per line, in the order of the head's rows",
        )
    return Matched(
        labels=np.array(numbers, np.int64)[stated.index],
        names=known.names,
        found=BY_INDEX_FROM_1 if from_1 else BY_INDEX,
    )


def _require_one_reading(stated: Stated, known: KnownClasses, index: NDArray[np.int64]) -> None:
    """Refuse numbers that are an index of one class and the name of another."""
    for name, chosen in zip(stated.classes, index.tolist(), strict=True):
        if not is_number(name):
            continue
        as_index, as_name = int(name), [normal(own) for own in known.names]
        other = as_name.index(name) if name in as_name else as_index
        if as_index < len(known.names) and (other != chosen or as_index != chosen):
            raise InputError(
                f"{name} may be the index of the class {known.names[as_index]!r} or the name of "
                f"class {other}" + _listed(known),
                where=stated.where,
                fix="put the images into one folder for each class, named after it; or give an "
                ".npz with `labels` and `class_names`",
            )


def _unknown(stated: Stated, known: KnownClasses) -> InputError:
    theirs = {normal(name) for name in known.names} | {_folded(name) for name in known.names}
    strange = [name for name in stated.classes if not {normal(name), _folded(name)} & theirs]
    what = (
        f"{len(strange)} of the {len(stated.classes)} {_NOUNS[stated.form]} "
        f"{'is not a class' if len(strange) == 1 else 'are not classes'} of "
        f"the model: {shortened(strange)}"
        if strange
        else f"the {_NOUNS[stated.form]} differ only in case, blanks or _"
    )
    deeper = ""
    if stated.form == "folders" and len(stated.classes) == 1:
        deeper = f"; where the class folders lie in it, give {Path(stated.where, *stated.classes)}"
    return InputError(
        f"{what}\n  the set's: {shortened(stated.classes)}" + _listed(known),
        where=stated.where,
        fix="name them as the classes of the model, or give the data set that it was tuned for"
        + deeper,
    )


def _listed(known: KnownClasses) -> str:
    return f"\n  the classes, {known.source}: {shortened(known.names)}" if known.names else ""


def _require_same(first: KnownClasses, other: KnownClasses) -> None:
    differing = [
        index
        for index, (one, two) in enumerate(zip(first.names, other.names))  # noqa: B905
        if normal(one) != normal(two)
    ]
    if len(first.names) == len(other.names) and not differing:
        return
    at = f", first at index {differing[0]}" if differing else ""
    raise InputError(
        f"two sources do not agree on the classes{at}\n"
        f"  {first.source}: {shortened(first.names)}\n"
        f"  {other.source}: {shortened(other.names)}",
        where=other.source,
        fix="correct the wrong one, or leave it out; class names stand in the order of the "
        "head's rows",
    )


def _require_distinct(
    names: Sequence[str], where: str, error: type[InputError | UsageError]
) -> None:
    twice = [name for name, count in Counter(map(normal, names)).items() if count > 1]
    if twice:
        places = [index for index, name in enumerate(names) if normal(name) == twice[0]]
        raise error(
            f"two classes have the name {twice[0]!r}: {' and '.join(map(str, places[:2]))}, "
            "counted from 0",
            where=where,
            fix="give every class a name of its own",
        )
    if any(not normal(name) for name in names):
        raise error("a class has an empty name", where=where, fix="name every class")


def _folded(name: str) -> str:
    """Return a name as one that is compared without case, blanks and underscores."""
    return " ".join(normal(name).casefold().replace("_", " ").split())
