"""The images of a check: which files can be read, and which class of the model each label means."""

from __future__ import annotations

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
from engines.imaging.files import shortened
from engines.imaging.source import collect, no_such_set, open_source
from engines.imaging.synthetic import synthetic_set
from fpet_export.reporter import Reporter
from fpet_export.requests import CheckImages, Quantization, SkippingBad, TaskImages, named

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


def require_inputs(request: CheckImages | TaskImages) -> None:
    """Refuse what can be refused before a model is loaded.

    Raises:
        InputError: What `--data` or `--calibration` names is not there.
        UsageError: The class names of `--labels` cannot be read.
    """
    if isinstance(request, TaskImages):
        sets = [Path(named(text)[1]) for text in request.data]
        files = [Path(named(text)[1]) for text in request.labels]
    else:
        calibration = request.calibration if isinstance(request, Quantization) else None
        sets = [path for path in (request.data, calibration) if path is not None]
        files = [] if request.labels is None else [request.labels]
    for path in sets:
        if not path.exists():
            raise no_such_set(path)
    for file in files:
        labels_of_file(file)


def known_classes(
    count: int | None,
    file: Path | None,
    manifests: Sequence[Manifest] = (),
    *,
    run: KnownClasses | None = None,
) -> KnownClasses:
    """Return what is known about the classes of a model.

    Args:
        count: Its logits; None where nobody knows, 0 where there are none.
        file: File of `--labels`.
        manifests: Manifests of artefacts of the model, whose labels count too.
        run: What the files of the run say.

    Raises:
        InputError: Two of them disagree.
        UsageError: The file cannot be read, or does not have one name a class.
    """
    own = labels_of_file(file)
    if own.names and count == 0:
        raise UsageError(
            "what this network gives names no classes",
            where=own.source,
            fix="leave --labels out; class names belong to logits",
        )
    if own.names and count is not None and len(own.names) != count:
        raise UsageError(
            f"{len(own.names)} class names for {count} classes",
            where=own.source,
            fix="give one name per class, in the order of the head's rows",
        )
    stated = [
        KnownClasses(names=manifest.labels, source=f"the labels of {manifest.file}")
        for manifest in manifests
    ]
    return agreed([KnownClasses(count=count), own, *([run] if run else []), *stated])


def checked(
    source: ImageSource,
    known: KnownClasses,
    request: SkippingBad,
    reporter: Reporter,
    *,
    name: str = "images",
) -> ImageSource:
    """Return a source whose images can all be read and whose labels are classes of the model.

    Args:
        source: Images of `--data`, as many as are looked at.
        known: About the model.
        request: Whether unreadable images are left out; and a limit on the accuracy, if it has one.
        reporter: Hears what the images are, how labels were found, what was left out, and what is
            done with orientation, transparency and depth.
        name: Name of the step.

    Raises:
        InputError: Labels are no classes of the model, images cannot be read, or `--max-drop` would
            rest on labels that nobody stated, or on none.
    """
    matched = source.matched(known)
    found = matched.labels_found
    limited = isinstance(request, Quantization) and request.max_drop is not None
    if limited and found is None:
        raise InputError(
            "--max-drop needs images whose classes are known, and these have no labels",
            where=source.description,
            fix="give images in folders named as their classes, a list or a table: --data DATA; or "
            "limit what needs no labels: --min-agreement 99",
        )
    if limited and found == BY_INDEX_FROM_1:
        raise InputError(
            "--max-drop needs to know which class each label is, and the indices begin at 1: where "
            "1 means the first class, every image would be judged by its neighbour's",
            where=source.description,
            fix="name them as the classes of the model, or count from 0 with images of class 0",
        )
    if not is_sure(found) and limited:
        raise InputError(
            f"--max-drop needs to know which class each label is; they are known only {found}",
            where=source.description,
            fix="list the class names in the order of the head's rows, one per line: --labels FILE",
        )
    readable = without_bad(matched, request, reporter)
    parts = [readable.description]
    if known.count == 0 and source.stated is not None:
        parts.append("labels not used: what the network gives names no classes")
    if found is not None:
        parts.append(f"labels {found}")
    left_out = readable.left_out()
    if left_out:
        parts.append(f"left out: {', '.join(left_out)}")
    stated = readable.stated
    if stated is not None and stated.empty:
        parts.append(f"there is no image of {shortened(stated.empty, 4)}")
    is_whole = not left_out and (stated is None or not stated.empty)
    reporter.step(name, " · ".join(parts), passed=True if is_whole and is_sure(found) else None)
    say_remarks(readable.remarks(), reporter, name=name)
    if found == BY_INDEX_FROM_1:
        reporter.warn(
            "labels",
            "the indices begin at 1: where 1 means the first class, every image is counted for the "
            "class behind its own; rename the classes from 0, or name them: --labels FILE",
            labels=found,
        )
    if not is_sure(found):
        reporter.step(
            "labels",
            f"nothing says which class is which: accuracy is {found} and may be wrong; state the "
            "names in the order of the head's rows: --labels FILE",
            passed=None,
        )
    return readable


def say_remarks(remarks: Sequence[Remark], reporter: Reporter, *, name: str = "images") -> None:
    """Warn of images whose orientation, transparency or depth is not that of a photograph."""
    for remark in remarks:
        reporter.warn(name, remark.in_words(), **remark.to_json())


def without_bad(source: ImageSource, request: SkippingBad, reporter: Reporter) -> ImageSource:
    """Return a source without the images that cannot be read, where `--skip-bad` allows it.

    Raises:
        InputError: There are some, and it does not.
    """
    before = len(source.unreadable)
    readable = source.readable(skip_bad=request.skip_bad)
    reporter.unreadable(readable.unreadable[before:])
    return readable


def check_set(
    request: CheckImages,
    preprocessing: Preprocessing,
    known: KnownClasses,
    reporter: Reporter,
    *,
    default: int,
    name: str = "images",
) -> ImageSet:
    """Return the user's images, or `default` synthetic ones where none were given.

    Raises:
        InputError: See `checked`.
    """
    if request.data is None:
        least = default if request.limit is None else min(default, request.limit)
        return synthetic_set(preprocessing.size, least)
    source = open_source(request.data, preprocessing, limit=request.limit)
    return collect(checked(source, known, request, reporter, name=name))
