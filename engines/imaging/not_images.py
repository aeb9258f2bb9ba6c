"""Files that end like images, or are given as some, and are something else."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Found:
    """What a file is, and what to do about it."""

    what: str
    fix: str


_HEIF = rb"....ftyp(heic|heix|hevc|hevx|heim|heis|mif1|msf1)"
_KINDS = (
    (rb"", Found("the file is empty", "fetch it again, or leave it out")),
    (rb"%PDF", Found("this is a PDF document", "render its pages to PNG first: pdftoppm -png")),
    (
        rb"(\xef\xbb\xbf)?\s*(<\?xml.*)?(<!--.*)?(<!DOCTYPE svg.*)?<svg",
        Found(
            "this is an SVG drawing, which has no pixels", "render it to PNG first: rsvg-convert"
        ),
    ),
    (
        rb"\s*<(!doctype html|html)",
        Found("this is a web page, as a failed download leaves it", "download the image again"),
    ),
    (
        rb"version https://git-lfs",
        Found("this is a Git LFS pointer, not the image itself", "fetch it: git lfs pull"),
    ),
    (
        _HEIF,
        Found(
            "this is a HEIC photograph, which Pillow does not read",
            "python3 -m pip install pillow-heif, or convert it to JPEG",
        ),
    ),
)
_HEAD = 1024


def what_it_is(path: Path) -> Found | None:
    """Return what a file that no decoder opens is, None where nobody knows."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return None
    for pattern, found in _KINDS:
        if not pattern:
            if not head:
                return found
        elif re.match(pattern, head, re.DOTALL | re.IGNORECASE):
            return found
    return None
