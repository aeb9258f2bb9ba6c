"""What verbs take for single tasks: `--data pets=val/` for one, `--data val/` for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from engines.errors import UsageError
from fpet_export.reporter import Reporter
from fpet_export.requests import CheckImages, TaskImages, named
from fpet_export.steps import check_images, next_commands

if TYPE_CHECKING:
    from engines.imaging.class_names import KnownClasses
    from engines.imaging.images import ImageSet
    from engines.manifest import Manifest, Preprocessing


def by_task(
    texts: Sequence[str], tasks: Sequence[str], option: str, *, kind: str = "task"
) -> dict[str, Path]:
    """Return the path of every task: its own, else that of all.

    Args:
        texts: As they were typed.
        tasks: The names of all tasks.
        option: Where they were typed.
        kind: What has these names, for the message.

    Raises:
        UsageError: A path is given for a task that is not there.
    """
    found: dict[str, Path] = {}
    for text in texts:
        name, path = named(text)
        if name is not None and name not in tasks:
            raise UsageError(
                f"{name!r} is not one of the {kind}s {', '.join(tasks)}",
                where=option,
                fix=f"{option} NAME=PATH for one {kind}, or {option} PATH for all",
            )
        for task in tasks if name is None else [name]:
            if name is not None or task not in found:
                found[task] = Path(path)
    return found


def predict_first(folder: Path, tasks: Sequence[str], request: TaskImages) -> list[str]:
    """Return the command that classifies an image of the first task, where one is known."""
    image = next_commands.first_image(by_task(request.data, tasks, "--data").get(tasks[0]))
    return next_commands.predict(folder, image, task=tasks[0])


def images_by_task(
    request: TaskImages,
    preprocessing: Mapping[str, Preprocessing],
    known: Mapping[str, KnownClasses],
    reporter: Reporter,
    *,
    default: int,
) -> dict[str, ImageSet]:
    """Return the images of every task, by `--data` and `--limit`.

    Args:
        request: Which images and class names.
        preprocessing: What each task takes.
        known: What is known about each task's classes.
        reporter: Hears what the images of each are.
        default: How many synthetic images a task gets for which none are given.

    Raises:
        InputError: See `_images.checked`.
    """
    sets = by_task(request.data, list(preprocessing), "--data")
    found = {}
    for name, own in preprocessing.items():
        single = CheckImages(data=sets.get(name), limit=request.limit, skip_bad=request.skip_bad)
        found[name] = check_images.check_set(
            single, own, known[name], reporter, default=default, name=name
        )
    return found


def known_by_task(
    request: TaskImages,
    counts: Mapping[str, int | None],
    manifests: Mapping[str, Manifest] | None = None,
) -> dict[str, KnownClasses]:
    """Return what is known about the classes of every task, by `--labels` and its manifest.

    Args:
        request: Which images and class names.
        counts: Logits of each task.
        manifests: Manifests of the tasks, where they are exported already.

    Raises:
        InputError: Two sources disagree.
        UsageError: A file cannot be read, or does not have one name a class.
    """
    files = by_task(request.labels, list(counts), "--labels")
    found = {}
    for name, count in counts.items():
        own = [manifests[name]] if manifests and name in manifests else []
        try:
            found[name] = check_images.known_classes(count, files.get(name), own)
        except UsageError as error:
            what = f"{error.what} of {name!r}" if len(counts) > 1 else error.what
            raise UsageError(what, where=error.where, fix=error.fix) from error
    return found
