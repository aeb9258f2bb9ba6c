"""Named arrays in one file, in the safetensors layout, with numpy alone.

Eight bytes with the length of a JSON header, the header (name to dtype, shape and offset of the
bytes), the bytes of all arrays one after the other. Reading is strict: a file that was cut off,
or whose arrays overlap, leave gaps or reach past the end, is refused before an array exists.

Source: the safetensors format, https://github.com/huggingface/safetensors.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines import storage
from engines.errors import TrustError

Arrays = dict[str, NDArray[Any]]

_DTYPES = {"F32": "<f4", "F16": "<f2", "U8": "|u1"}
_NAMES = {np.dtype(text): name for name, text in _DTYPES.items()}
_METADATA = "__metadata__"
_LENGTH_BYTES = 8
_LONGEST_HEADER = 1 << 24


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]], facts: Mapping[str, str]) -> None:
    """Write arrays and a few words about them, atomically.

    Args:
        path: The `.safetensors` file.
        arrays: float32, float16 or uint8.
        facts: What the file says about itself.
    """
    header: dict[str, Any] = {_METADATA: dict(facts)}
    pieces, at = [], 0
    for name, array in sorted(arrays.items()):
        piece = np.ascontiguousarray(array).tobytes()
        header[name] = {
            "dtype": _NAMES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [at, at + len(piece)],
        }
        pieces.append(piece)
        at += len(piece)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _LENGTH_BYTES)  # so that the arrays start aligned
    length = len(text).to_bytes(_LENGTH_BYTES, "little")
    storage.write_bytes(path, b"".join([length, text, *pieces]))


def read_arrays(path: Path, content: bytes | None = None) -> tuple[Arrays, dict[str, str]]:
    """Read the arrays of a file and what it says about itself.

    Args:
        path: The `.safetensors` file.
        content: Its bytes, where the caller has read them already.

    Raises:
        TrustError: The file cannot be read or is not whole.
    """
    try:
        if content is None:
            content = path.read_bytes()
        header, start = _header(content)
        facts = header.pop(_METADATA, {})
        if not _are_words(facts):
            raise ValueError("its metadata is not text")
        arrays = {
            name: _array(name, entry, content, start)
            for name, entry in sorted(header.items(), key=lambda item: _begin(*item))
        }
        _refuse_gaps(header, len(content) - start)
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise TrustError(
            f"the file is not a complete set of arrays: {error}",
            where=str(path),
            fix="make it again, or copy it again",
        ) from error
    return arrays, facts


def _header(content: bytes) -> tuple[dict[str, Any], int]:
    length = int.from_bytes(content[:_LENGTH_BYTES], "little")
    start = _LENGTH_BYTES + length
    if len(content) < _LENGTH_BYTES or length > _LONGEST_HEADER or start > len(content):
        raise ValueError(f"its header ends at byte {start}, the file at {len(content)}")
    header = json.loads(content[_LENGTH_BYTES:start])
    if not isinstance(header, dict):
        raise ValueError("its header is not a JSON object")
    return header, start


def _are_words(facts: object) -> bool:
    return isinstance(facts, dict) and all(isinstance(value, str) for value in facts.values())


def _begin(name: str, entry: Any) -> int:
    begin = entry["data_offsets"][0]
    if type(begin) is not int:
        raise ValueError(f"{name} begins at {begin!r}")
    return begin


def _array(name: str, entry: Any, content: bytes, start: int) -> NDArray[Any]:
    shape, (begin, end) = entry["shape"], entry["data_offsets"]
    dtype = np.dtype(_DTYPES[entry["dtype"]])
    extents = [*shape, begin, end]
    if not all(type(extent) is int and extent >= 0 for extent in extents):
        raise ValueError(f"{name} has the extents {extents}")
    if end - begin != math.prod(shape) * dtype.itemsize or start + end > len(content):
        raise ValueError(f"{name} of shape {tuple(shape)} lies at bytes {begin} to {end}")
    return np.frombuffer(content, dtype, math.prod(shape), start + begin).reshape(shape)


def _refuse_gaps(header: Mapping[str, Any], length: int) -> None:
    at = 0
    for begin, end in sorted(tuple(entry["data_offsets"]) for entry in header.values()):
        if begin != at:
            raise ValueError(f"an array begins at byte {begin}, the one before it ends at {at}")
        at = end
    if at != length:
        raise ValueError(f"the arrays end at byte {at}, the file at {length}")
