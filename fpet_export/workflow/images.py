"""The images of a check: which files can be read, and which class of the model each label means."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from engines.errors import InputError, UsageError
from engines.imaging.class_names import (
    BY_INDEX_FROM_1,
    KnownClasses,
    agreed,
    is_sure,
    read_class_names,
)
from fpet_export.cli.verbs import Outcome
from fpet_export.console import Console

if TYPE_CHECKING:
    from engines.imaging.images import ImageSet
    from engines.imaging.source import ImageSource
    from engines.imaging.traits import Remark
    from engines.manifest import Manifest, Preprocessing


def labels_of_file(path: Path | None) -> KnownClasses:
    """Return the class names of `--labels`, which may be left out.

    Raises:
        UsageError: They cannot be read.
    """
    if path is None:
        return KnownClasses()
    return KnownClasses(names=read_class_names(path), source=f"--labels {path}")


def require_inputs(options: argparse.Namespace) -> None:
    """Refuse what can be refused before a model is loaded.

    Raises:
        InputError: What `--data` or `--calibration` names is not there.
        UsageError: The class names of `--labels` cannot be read.
    """
    from engines.imaging.source import no_such_set
    from fpet_export.tasks import arguments

    for name in ("data", "calibration"):
        given = getattr(options, name, None)
        texts = given if isinstance(given, list) else [] if given is None else [str(given)]
        for text in texts:
            path = Path(arguments.named(text)[1] if isinstance(given, list) else text)
            if not path.exists():
                raise no_such_set(path)
    files = options.labels if isinstance(options.labels, list) else [options.labels]
    for file in files:
        labels_of_file(Path(arguments.named(file)[1]) if isinstance(file, str) else file)


def known_classes(
    count: int | None, file: Path | None, manifests: Sequence[Manifest] = ()
) -> KnownClasses:
    """Return what is known about the classes of a model.

    Args:
        count: Its logits; None where nobody knows.
        file: Of `--labels`.
        manifests: Of artefacts of the model, whose labels count too.

    Raises:
        InputError: Two of them disagree.
        UsageError: The file cannot be read, or does not have one name a class.
    """
    own = labels_of_file(file)
    if own.names and count is not None and len(own.names) != count:
        raise UsageError(
            f"{len(own.names)} class names for {count} classes",
            where=own.source,
            fix="give one name a class, in the order of the head's rows",
        )
    stated = [
        KnownClasses(names=manifest.labels, source=f"the labels of {manifest.file}")
        for manifest in manifests
    ]
    return agreed([KnownClasses(count=count), own, *stated])


def checked(
    source: ImageSource,
    known: KnownClasses,
    options: argparse.Namespace,
    console: Console,
    *,
    name: str = "images",
) -> ImageSource:
    """Return a source whose images can all be read and whose labels are classes of the model.

    Args:
        source: Of `--data`, as many as are looked at.
        known: About the model.
        options: `--skip-bad`, and `--max-drop` where the verb has it.
        console: Hears what the images are, how labels were found, what was left out, and what is
            done with orientation, transparency and depth.
        name: Of the step.

    Raises:
        InputError: Labels are no classes of the model, images cannot be read, or `--max-drop` would
            rest on labels that nobody stated.
    """
    matched = source.matched(known)
    found = matched.labels_found
    if not is_sure(found) and getattr(options, "max_drop", None) is not None:
        raise InputError(
            f"--max-drop needs to know which class each label is; they are known only {found}",
            where=str(options.data),
            fix="say the class names in the order of the head's rows, one a line: --labels FILE",
        )
    readable = without_bad(matched, options)
    parts = [readable.description]
    if found is not None:
        parts.append(f"labels {found}")
    left_out = readable.left_out()
    if left_out:
        parts.append(f"left out: {', '.join(left_out)}")
    stated = readable.stated
    if stated is not None and stated.empty:
        from engines.imaging.files import shortened

        parts.append(f"no image of {shortened(stated.empty, 4)}")
    is_whole = not left_out and (stated is None or not stated.empty)
    console.step(name, " · ".join(parts), passed=True if is_whole and is_sure(found) else None)
    say_remarks(readable.remarks(), console, name=name)
    if found == BY_INDEX_FROM_1:
        console.warn(
            "labels",
            "the indices begin at 1: where 1 means the first class, every image is counted for the "
            "class behind its own; rename the classes from 0, or name them: --labels FILE",
            labels=found,
        )
    if not is_sure(found):
        console.step(
            "labels",
            f"nothing says which class is which: accuracy is {found} and may be wrong; state the "
            "names in the order of the head's rows: --labels FILE",
            passed=None,
        )
    return readable


def say_remarks(remarks: Sequence[Remark], console: Console, *, name: str = "images") -> None:
    """Warn of images whose orientation, transparency or depth is not that of a photograph."""
    for remark in remarks:
        console.warn(name, remark.in_words(), **remark.to_json())


def without_bad(source: ImageSource, options: argparse.Namespace) -> ImageSource:
    """Return a source without the images that cannot be read, where `--skip-bad` allows it.

    Raises:
        InputError: There are some, and it does not.
    """
    before = len(source.unreadable)
    readable = source.readable(skip_bad=options.skip_bad)
    note_bad(options, readable.unreadable[before:])
    return readable


def note_bad(options: argparse.Namespace, names: Sequence[str]) -> None:
    """Remember images that were left out, for `with_bad`."""
    known = getattr(options, "unreadable", ())
    options.unreadable = (*known, *(name for name in names if name not in known))


def with_bad(outcome: Outcome, options: argparse.Namespace, console: Console) -> Outcome:
    """List the images that a verb left out, in words and in its document.

    The exit code becomes that of an `InputError`, unless the verb has one already.
    """
    names = getattr(options, "unreadable", ())
    if not names:
        return outcome
    for name in names:
        console.line(f" ! unreadable {name}")
    return dataclasses.replace(
        outcome,
        document={**outcome.document, "unreadable": list(names)},
        exit_code=outcome.exit_code or InputError.exit_code,
    )


def check_set(
    options: argparse.Namespace,
    preprocessing: Preprocessing,
    known: KnownClasses,
    console: Console,
    *,
    default: int,
    name: str = "images",
) -> ImageSet:
    """Return the user's images, or `default` synthetic ones where none were given.

    Raises:
        InputError: See `checked`.
    """
    from engines.imaging.source import collect, open_source
    from engines.imaging.synthetic import synthetic_set

    if options.data is None:
        return synthetic_set(preprocessing.size, min(default, options.limit))
    source = open_source(options.data, preprocessing, limit=options.limit)
    return collect(checked(source, known, options, console, name=name))
