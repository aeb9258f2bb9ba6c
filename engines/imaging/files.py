"""Which files below a folder are images, of which class folder, and what is left out and why.

Every file is seen: nothing is left out without being counted with its reason. Needs no Pillow,
except to ask whether formats can be read that need a part of their own.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import os
import re
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from engines.errors import InputError, MissingDependencyError

SUFFIXES = (
    ".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm",
    ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp",
)  # fmt: skip
"""Endings of image files, in lower case; a file's own may be in any case."""

_SYSTEM = frozenset(
    {
        "__macosx", "@eadir", "__pycache__", "$recycle.bin", "system volume information",
        "lost+found", "#recycle", "#snapshot", "thumbs.db", "ehthumbs.db", "desktop.ini",
        "icon\r",
    }
)  # fmt: skip
"""Names of what operating systems and disk stations leave in folders, in lower case."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Skipped:
    """Files that were left out for one reason.

    Attributes:
        reason: Why, as words behind the number one.
        plural: The same behind a larger number.
        count: How many.
        details: Endings or names, in order; empty where the reason says it all.
        are_images: Whether they are images by their names.
    """

    reason: str
    plural: str
    count: int
    details: tuple[str, ...] = ()
    are_images: bool = False

    def in_words(self) -> str:
        """Return for example "2 not images (.json, .txt)"."""
        text = f"{self.count} {self.reason if self.count == 1 else self.plural}"
        return f"{text} ({shortened(self.details, 4)})" if self.details else text


@dataclasses.dataclass(frozen=True, kw_only=True)
class Listing:
    """The images below a folder.

    Attributes:
        files: In order of their folders, then of their names.
        classes: For each file the name of its class folder; empty where there are none.
        folders: The class folders, also those without an image: whole numbers as such, other
            names as text.
        skipped: What was left out.
    """

    files: tuple[Path, ...]
    classes: tuple[str, ...]
    folders: tuple[str, ...]
    skipped: tuple[Skipped, ...]


def list_images(folder: Path, *, with_classes: bool = True) -> Listing:
    """List every image below a folder.

    The folders of the first level are classes where one of them holds an image; what is nested
    deeper belongs to them. Files of the system and hidden ones are never classes nor images.

    Args:
        folder: What to look through.
        with_classes: False takes all images alike, whichever folder they lie in.

    Raises:
        InputError: A folder cannot be read, two folders have one name, or there is no image.
        MissingDependencyError: All images are of a format that needs a package.
    """
    left_out = _LeftOut()
    top, subfolders = _entries(folder, left_out)
    found = {entry.name: list(_below(entry, left_out)) for entry in subfolders}
    is_labelled = with_classes and any(found.values())
    own = [entry for entry in top if left_out.takes(entry)]
    if is_labelled:
        for _ in own:
            left_out.add("beside the class folders, without a label", is_image=True)
        names = ordered(_class_name(name, folder) for name in found)
        by_class = {_class_name(name, folder): files for name, files in found.items()}
        if len(by_class) < len(found):
            raise InputError(
                "two class folders have the same name, written in two ways",
                where=str(folder),
                fix="rename one of them, or move its images to the other",
            )
        pairs = [(file, name) for name in names for file in by_class[name]]
        files, classes = [file for file, _ in pairs], tuple(name for _, name in pairs)
    else:
        names, classes = (), ()
        files = [*own, *(file for name in sorted(found) for file in found[name])]
    if not files:
        left_out.refuse(folder)
    return Listing(files=tuple(files), classes=classes, folders=names, skipped=left_out.all())


def list_shards(folder: Path) -> tuple[list[Path], tuple[Skipped, ...]]:
    """Return the `.npz` shards in a folder, and what lies beside them; both empty without shards.

    Raises:
        InputError: The folder cannot be read, or holds shards and images.
    """
    left_out = _LeftOut()
    files, folders = _entries(folder, left_out)
    shards = [file for file in files if file.suffix.lower() == ".npz"]
    if not shards:
        return [], ()
    images = [file.name for file in files if file.suffix.lower() in SUFFIXES]
    if images:
        raise InputError(
            f"there are shards and images in this folder: {shortened(images, 2)} beside "
            f"{shards[0].name}",
            where=str(folder),
            fix="name one shard, or put the images into a folder of their own",
        )
    for file in files:
        if file not in shards:
            left_out.add("not a shard", "not shards", detail=file.suffix.lower() or "no ending")
    for entry in folders:
        left_out.add("folder beside the shards", "folders beside the shards", detail=entry.name)
    return shards, left_out.all()


def require_opener(file: Path) -> None:
    """Refuse a file that was named, where its format needs what is not installed.

    Raises:
        MissingDependencyError: It does.
    """
    package = _needed_for(file.suffix.lower())
    if package is not None:
        raise _missing(package, str(file))


def ordered(names: Iterable[str]) -> tuple[str, ...]:
    """Return distinct names in order: by value where all are whole numbers, else as text."""
    found = sorted(set(names))
    if all(is_number(name) for name in found):
        found.sort(key=int)
    return tuple(found)


def is_number(name: str) -> bool:
    """Whether a name is a whole number in plain digits."""
    return re.fullmatch(r"[0-9]+", name) is not None


def normal(name: str) -> str:
    """Return a name without blanks around it, in the one form of its accents.

    A Mac stores "é" as two characters, others as one; both are the same name.
    """
    return unicodedata.normalize("NFC", name).strip()


def shortened(names: Mapping[str, object] | tuple[str, ...] | list[str], most: int = 8) -> str:
    """Return names as a list in words, with what was cut off counted."""
    every = list(names)
    if len(every) <= most + 1:
        return ", ".join(every)
    return f"{', '.join(every[: most - 1])}, … {every[-1]} ({len(every)} in all)"


@dataclasses.dataclass
class _Pile:
    """Files of one reason."""

    is_image: bool
    plural: str
    count: int = 0
    details: set[str] = dataclasses.field(default_factory=set)


class _LeftOut:
    """Counts what is left out, by reason."""

    def __init__(self) -> None:
        self._piles: dict[str, _Pile] = {}
        self._packages: dict[str, str | None] = {}
        self._missing: str | None = None

    def add(
        self, reason: str, plural: str | None = None, *, detail: str = "", is_image: bool = False
    ) -> None:
        """Count one more file."""
        pile = self._piles.setdefault(reason, _Pile(is_image, plural or reason))
        pile.count += 1
        if detail:
            pile.details.add(detail)

    def takes(self, file: Path) -> bool:
        """Whether a file is an image that can be read; if not, it is counted."""
        suffix = file.suffix.lower()
        if suffix not in SUFFIXES:
            self.add("not an image", "not images", detail=suffix or "no ending")
            return False
        if suffix not in self._packages:
            self._packages[suffix] = _needed_for(suffix)
        package = self._packages[suffix]
        if package is not None:
            self.add(f"needs {package}", f"need {package}", detail=suffix, is_image=True)
            self._missing = package
        return package is None

    def all(self) -> tuple[Skipped, ...]:
        return tuple(
            Skipped(
                reason=reason,
                plural=pile.plural,
                count=pile.count,
                details=tuple(sorted(pile.details)),
                are_images=pile.is_image,
            )
            for reason, pile in self._piles.items()
        )

    def refuse(self, folder: Path) -> None:
        """Say why there is no image."""
        if self._missing is not None:
            raise _missing(self._missing, str(folder))
        skipped = "; ".join(one.in_words() for one in self.all())
        raise InputError(
            "there is no image in this folder" + (f", only {skipped}" if skipped else ""),
            where=str(folder),
            fix=f"give a folder of images ({', '.join(SUFFIXES)}), or one sub-folder a class",
        )


def _below(folder: Path, left_out: _LeftOut, above: frozenset[str] = frozenset()) -> Iterator[Path]:
    """Yield the images below a folder; a link that leads back into a folder above is not taken."""
    real = os.path.realpath(folder)
    if real in above:
        left_out.add("link to a folder above it", "links to folders above them")
        return
    files, folders = _entries(folder, left_out)
    for file in files:
        if left_out.takes(file):
            yield file
    for entry in folders:
        yield from _below(entry, left_out, above | {real})


def _entries(folder: Path, left_out: _LeftOut) -> tuple[list[Path], list[Path]]:
    """Return the files and the folders in a folder, less what systems hide there, in order."""
    try:
        every = sorted(folder.iterdir())
    except OSError as error:
        raise InputError(
            f"the folder cannot be read: {error.strerror}",
            where=str(folder),
            fix="check that it exists and that you may read it",
        ) from error
    files, folders = [], []
    for entry in every:
        if entry.name.startswith(".") or entry.name.lower() in _SYSTEM:
            left_out.add("hidden or of the system", detail=entry.name.strip())
        elif entry.is_dir():
            folders.append(entry)
        else:
            files.append(entry)
    return files, folders


def _class_name(name: str, folder: Path) -> str:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise InputError(
            f"the name of the class folder {name!r} is not UTF-8",
            where=str(folder),
            fix="rename it",
        ) from None
    return normal(name)


def _missing(package: str, where: str) -> MissingDependencyError:
    wanted = "'pillow>=11.3'" if package.startswith("Pillow") else package
    return MissingDependencyError(
        f"reading these images needs {package}, which is not installed",
        where=where,
        fix=f"python3 -m pip install {wanted}, or convert the images to PNG or JPEG",
    )


def _needed_for(suffix: str) -> str | None:
    """Return what must be installed to read a format, or None where it can be read.

    Where there is no Pillow at all, reading the first image says so.
    """
    needs = _NEEDS.get(suffix)
    if needs is None or importlib.util.find_spec("PIL") is None:
        return None
    return needs()


def _heif() -> str | None:
    """Let Pillow read HEIF where pillow-heif is installed."""
    if importlib.util.find_spec("pillow_heif") is None:
        return "pillow-heif"
    importlib.import_module("pillow_heif").register_heif_opener()
    return None


def _avif() -> str | None:
    features = importlib.import_module("PIL.features")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an older Pillow does not know the name
        return None if features.check("avif") else "Pillow 11.3 or newer"


_NEEDS: Mapping[str, Callable[[], str | None]] = {".heic": _heif, ".heif": _heif, ".avif": _avif}
