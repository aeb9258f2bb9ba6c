"""TensorRT's timing cache as a file: which kernel was the fastest, so that a rebuild is quick.

Only timings that this toolkit wrote are used: a side file has their hash. Those of another TensorRT
or GPU generation are left as they are and not used.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from engines import storage
from engines.errors import TrustError

_SCHEMA = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Maker:
    """What timings are good for: one TensorRT on one GPU generation."""

    version: str
    compute_capability: str

    def __str__(self) -> str:
        return f"TensorRT {self.version} on compute capability {self.compute_capability}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timings:
    """What to start a build from.

    Attributes:
        content: TensorRT's bytes; empty for a new cache.
        note: What became of the file, for people and for the manifest.
        keep: Whether the file may be written after the build.
    """

    content: bytes
    note: str
    keep: bool


def side_path(cache: Path) -> Path:
    """Return the path of the file that proves a timing cache."""
    return cache.with_name(f"{cache.name}.json")


def read_timings(cache: Path, here: Maker) -> Timings:
    """Read a timing cache, or say why it is not used.

    Raises:
        TrustError: It is not the file that its side file describes, or has none.
    """
    if not cache.exists():
        return Timings(content=b"", note="new", keep=True)
    side = _side(cache)
    content = cache.read_bytes()
    if side.get("size_bytes") != len(content) or side.get("sha256") != storage.sha256_of(cache):
        raise _untrusted(cache, "the file is not the one that its side file describes")
    try:
        made = Maker(version=side["version"], compute_capability=side["compute_capability"])
    except KeyError as error:
        raise _untrusted(cache, f"its side file does not say its {error.args[0]}") from None
    if made != here:
        note = f"ignored and left as it is: it was made by {made}, this is {here}"
        return Timings(content=b"", note=note, keep=False)
    return Timings(content=content, note=f"used, {len(content)} bytes", keep=True)


def write_timings(cache: Path, content: bytes, made: Maker) -> None:
    """Write a timing cache and its side file."""
    with storage.atomic_path(cache) as temporary:
        temporary.write_bytes(content)
        side = {
            "schema": _SCHEMA,
            "sha256": storage.sha256_of(temporary),
            "size_bytes": len(content),
            **dataclasses.asdict(made),
        }
        side_path(temporary).write_text(json.dumps(side, indent=1) + "\n", "utf-8")


def attach(config: Any, timings: Timings) -> tuple[Any, Timings]:
    """Give timings to a build; return TensorRT's cache and what became of the file.

    TensorRT compares the GPU's model too, which a side file does not know.
    """
    timing_cache = config.create_timing_cache(timings.content)
    if timings.content and not config.set_timing_cache(timing_cache, False):
        note = "ignored and left as it is: TensorRT says that it was made on another GPU"
        timings = Timings(content=b"", note=note, keep=False)
        timing_cache = config.create_timing_cache(b"")
    if not timings.content:
        config.set_timing_cache(timing_cache, False)
    return timing_cache, timings


def _side(cache: Path) -> dict[str, Any]:
    try:
        document = json.loads(side_path(cache).read_text("utf-8"))
    except FileNotFoundError:
        raise _untrusted(cache, "it has no file beside it that proves what it is") from None
    except (OSError, ValueError, RecursionError) as error:
        raise _untrusted(cache, f"its side file cannot be read: {error}") from error
    if not isinstance(document, dict) or document.get("schema") != _SCHEMA:
        raise _untrusted(cache, f"its side file is not of the schema {_SCHEMA}")
    return document


def _untrusted(cache: Path, what: str) -> TrustError:
    return TrustError(
        f"the timing cache cannot be trusted: {what}",
        where=str(cache),
        fix="delete both files, or name another file; the build writes a new one",
    )
