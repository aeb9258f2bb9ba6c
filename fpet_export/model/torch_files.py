"""Files of tensors, read without running what is in them."""

from __future__ import annotations

import argparse
import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engines.errors import CheckpointError

_SAFETENSORS_START = re.compile(rb".{8}\s*\{", re.DOTALL)
"""A safetensors file: the length of its header in 8 bytes, then the header, which is JSON."""

_REBUILD_ARRAY = np.zeros(0).__reduce__()[0]
_OF_ARRAYS: list[Any] = [
    *((_REBUILD_ARRAY, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
    np.ndarray,
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("float16", "float32", "float64")),
]
"""What the pickle of an array of floating numbers calls; numpy 2 has another name for the first."""

_DOS_FOLDER = 0x10
"""The attribute of a folder among the external attributes of a zip archive's member."""

_DEEPEST = 6
"""How many dictionaries deep an array may lie."""


def read_content(path: Path, *, mapped: bool = False) -> object:
    """Return what a file of PyTorch or of safetensors holds, whatever its name ends with.

    A pickle is read with `weights_only=True` after its archive's checksums were verified. Beside
    tensors and plain Python values it may hold an `argparse.Namespace`, as training scripts save,
    and arrays of numpy with floating numbers, which are returned as tensors.

    Args:
        path: The file.
        mapped: For a look at what is in it: tensors of an archive stay on disk, unverified.

    Raises:
        CheckpointError: The file is absent, damaged, of another kind, or wants to run code.
    """
    if path.is_dir():
        raise CheckpointError(
            f"this is a folder{_holds(path)}", where=str(path), fix="name the file in it"
        )
    if not path.is_file():
        raise CheckpointError("there is no such file", where=str(path), fix="check the path")
    return _read_safetensors(path) if is_safetensors(path) else _read_pickle(path, mapped=mapped)


def is_safetensors(path: Path) -> bool:
    """Whether the file is written as safetensors; where its bytes do not tell, its ending does."""
    with path.open("rb") as file:
        start = file.read(64)
    if start.startswith((b"PK\x03\x04", b"\x80")):
        return False
    return bool(_SAFETENSORS_START.match(start)) or path.suffix.lower() == ".safetensors"


def _holds(folder: Path) -> str:
    files = sorted(path.name for path in folder.iterdir() if path.is_file())
    return f" that holds {', '.join(files[:6])}" if files else " without files"


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"this is not a whole safetensors file: {error}",
            where=str(path),
            fix="fetch the file again",
        ) from error


def _read_pickle(path: Path, *, mapped: bool) -> object:
    mapped = mapped and _is_archive(path)  # torch can map nothing else
    if not mapped:
        verify_archive(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about kinds of tensors refused below
            with torch.serialization.safe_globals([argparse.Namespace, *_OF_ARRAYS]):
                content: object = torch.load(
                    path, map_location="cpu", weights_only=True, mmap=mapped
                )
    except pickle.UnpicklingError as error:
        # torch's own first line advises to switch the protection off: never repeat it.
        wanted = re.search(r"\bGLOBAL:? ?(?:GLOBAL )?([\w.]+)", str(error), re.IGNORECASE)
        raise CheckpointError(
            f"the pickle wants to run code ({wanted[1]}); only tensors are read"
            if wanted
            else "this pickle is damaged or holds more than tensors; only tensors are read",
            where=str(path),
            fix="load it in the environment that made it and save plain tensors: "
            "torch.save(model.state_dict(), path)",
        ) from error
    # A damaged pickle stream raises almost any exception inside torch's own unpickler.
    except Exception as error:
        raise CheckpointError(
            f"this is not a whole PyTorch file: {_first_line(error)}",
            where=str(path),
            fix="fetch the file again",
        ) from error
    return _as_tensors(content)


def _as_tensors(content: object, depth: int = 0) -> object:
    """Return what a pickle holds, with tensors in place of the arrays in its dictionaries."""
    if isinstance(content, np.ndarray):
        return torch.from_numpy(content.astype(content.dtype.newbyteorder("=")))
    if not isinstance(content, dict) or depth > _DEEPEST:
        return content
    for key, value in content.items():
        content[key] = _as_tensors(value, depth + 1)
    return content


def verify_archive(path: Path) -> None:
    """Check the checksums of a zip archive, which torch and numpy do not or do too late.

    Raises:
        CheckpointError: A member is damaged.
    """
    if not _is_archive(path):
        return  # the format of before PyTorch 1.6, or no checkpoint at all: torch.load decides
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip() or _marked_as_folder(archive)
    # A damaged header sends zipfile into any of its decompressors and parsers.
    except Exception as error:
        raise CheckpointError(
            f"the archive is damaged: {_first_line(error)}",
            where=str(path),
            fix="fetch the file again",
        ) from error
    if damaged is not None:
        raise CheckpointError(
            f"the archive is damaged: {damaged}", where=str(path), fix="fetch the file again"
        )


def _is_archive(path: Path) -> bool:
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile as error:  # a byte of its end says that there are more disks
        raise CheckpointError(
            f"the archive is damaged: {_first_line(error)}",
            where=str(path),
            fix="fetch the file again",
        ) from error


def _marked_as_folder(archive: zipfile.ZipFile) -> str | None:
    """Return a member with bytes that the archive marks as a folder.

    PyTorch's reader fills nothing in for one: its tensor would be what lay in memory.
    """
    for member in archive.infolist():
        if member.file_size and (member.external_attr & _DOS_FOLDER or member.is_dir()):
            return member.filename
    return None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
