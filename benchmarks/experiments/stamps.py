"""Labelled pictures from the stamps of a drawing program: photographs and drawings by kind.

A stamp lies on transparent ground and may have any size. Here it is laid on white, padded to a
square and resized, so that a folder of kinds becomes an ordinary data set for a classifier.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from engines.errors import InputError
from engines.imaging.decoding import decode
from engines.manifest import Preprocessing
from engines.registry import import_or_explain

KINDS = ("animals", "food", "household", "plants", "seasonal", "sports", "town", "vehicles")
LARGEST_KIND = 80
"""Pictures that a kind gives at most: with all 146 animals they would be a third of the set."""

HALVES = ("train", "test")
SIDE = 224
WHITE = (255, 255, 255)
_COPIES = ("_mirror", "_flip")
"""In the names of pictures that repeat another one."""

Split = dict[str, list[str]]


def deal(names: Iterable[str]) -> Split:
    """Divide pictures into two halves, every kind evenly.

    The order inside a kind is that of a hash of the name, so it depends on no generator and not
    on the other names. Pictures that resemble each other may end up in different halves.

    Args:
        names: Paths "KIND/.../NAME.png" inside the stamps; kinds that are not in `KINDS` and
            copies are left out.

    Returns:
        Sorted paths by half.
    """
    dealt: list[str] = []
    by_kind: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for name in names:
        kind = name.partition("/")[0]
        if kind in by_kind and not any(copy in name for copy in _COPIES):
            by_kind[kind].append(name)
    for members in by_kind.values():
        dealt += sorted(members, key=_shuffled)[:LARGEST_KIND]
    return {half: sorted(dealt[start :: len(HALVES)]) for start, half in enumerate(HALVES)}


def _shuffled(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def list_stamps(folder: Path) -> list[str]:
    """Return the paths of all PNG files below `folder`, relative to it and sorted."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))


def read_split(path: Path) -> Split:
    """Read a list that `deal` made.

    Raises:
        InputError: It cannot be read, or lists no two halves.
    """
    try:
        split: Any = json.loads(path.read_text())
        if sorted(split) != sorted(HALVES) or not all(split.values()):
            raise ValueError(f"it lists {sorted(split)}, wanted {sorted(HALVES)}")
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"the list of pictures cannot be read: {error}",
            where=str(path),
            fix="take the file as the repository has it",
        ) from error
    return dict(split)


def file_name(name: str) -> str:
    """Return KIND/NAME.png for KIND/FOLDER/.../NAME.png, with the folders in the file's name."""
    kind, _, rest = name.partition("/")
    return f"{kind}/{rest.replace('/', '-')}"


def squared(path: Path) -> Any:
    """Return a stamp as a Pillow image: on white, padded to a square, `SIDE` pixels a side.

    Raises:
        InputError: It is no whole image.
        MissingDependencyError: Pillow is not installed.
    """
    pil = import_or_explain("PIL.Image")
    ground = Preprocessing(
        size=(SIDE, SIDE), interpolation="bicubic", crop=1.0, decode="full", background=WHITE,
        mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0),
    )  # fmt: skip
    image = decode(path, ground).image
    side = max(image.size)
    square = pil.new("RGB", (side, side), WHITE)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square.resize((SIDE, SIDE), pil.Resampling.BICUBIC)


def write_pictures(stamps: Path, split: Mapping[str, list[str]], folder: Path) -> str:
    """Write HALF/KIND/NAME.png for every picture of a list.

    Args:
        stamps: The folder with the kinds.
        split: As `deal` returns it.
        folder: Folder of the data set.

    Returns:
        `pixels_digest` of what was written.

    Raises:
        InputError: A picture is missing or broken.
    """
    for half, names in split.items():
        for name in names:
            target = folder / half / file_name(name)
            target.parent.mkdir(parents=True, exist_ok=True)
            squared(stamps / name).save(target)
    return pixels_digest(folder, split)


def pixels_digest(folder: Path, split: Mapping[str, list[str]]) -> str:
    """Return the SHA-256 of all pixels and names, in the order of the list.

    Of pixels and not of files: another zlib writes other files with the same pixels.
    """
    pil = import_or_explain("PIL.Image")
    digest = hashlib.sha256()
    for half in sorted(split):
        for name in split[half]:
            with pil.open(folder / half / file_name(name)) as image:
                pixels = np.asarray(image.convert("RGB"))
            digest.update(f"{half}/{file_name(name)}\0".encode())
            digest.update(pixels.tobytes())
    return digest.hexdigest()
