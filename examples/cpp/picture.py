"""Prepare an image as the run was: python picture.py PLAN IMAGE PICTURE.ppm.

The pixels are those that `fpet-export predict` gives to the engine. Needs numpy, Pillow and
fpet-export, no GPU.
"""

from __future__ import annotations

import sys
from pathlib import Path

from engines.errors import FpetError, InputError
from engines.imaging.images import read_files
from engines.manifest import read_manifest


def picture(plan: Path, image: Path) -> bytes:
    """Return an image as a binary PPM of the network's size.

    Raises:
        TrustError: The plan is not what its manifest says.
        InputError: The preprocessing is unknown, or the image cannot be read.
    """
    preprocessing = read_manifest(plan).preprocessing
    if preprocessing is None:
        raise InputError(
            "its preprocessing is unknown",
            where=str(plan),
            fix="use a plan of a graph from `fpet-export export`",
        )
    pixels = read_files([image], preprocessing).pixels[0]
    height, width, _ = pixels.shape
    header = f"P6\n{width} {height}\n255\n".encode()
    return header + bytes(pixels.tobytes())


if __name__ == "__main__":
    try:
        Path(sys.argv[3]).write_bytes(picture(Path(sys.argv[1]), Path(sys.argv[2])))
    except FpetError as error:
        sys.exit(f"error: {error}")
