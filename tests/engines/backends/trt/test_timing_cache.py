"""Timing caches as files: what is used, what is left alone, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engines.backends._trt.timing_cache import Maker, read_timings, side_path, write_timings
from engines.errors import TrustError

HERE = Maker(version="10.3.0", compute_capability="8.7")
CONTENT = b"timings" * 9


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    path = tmp_path / "orin.cache"
    write_timings(path, CONTENT, HERE)
    return path


def test_a_cache_that_is_not_there_is_new(tmp_path: Path) -> None:
    timings = read_timings(tmp_path / "none.cache", HERE)

    assert (timings.content, timings.note, timings.keep) == (b"", "new", True)


def test_what_was_written_is_used(cache: Path) -> None:
    timings = read_timings(cache, HERE)

    assert (timings.content, timings.keep) == (CONTENT, True)
    assert timings.note == "used, 63 bytes"
    assert sorted(path.name for path in cache.parent.iterdir()) == [
        "orin.cache", "orin.cache.json",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "made",
    [
        Maker(version="10.7.0", compute_capability="8.7"),
        Maker(version="10.3.0", compute_capability="8.6"),
    ],
)
def test_a_cache_of_elsewhere_is_ignored_in_a_sentence_and_kept(
    made: Maker, tmp_path: Path
) -> None:
    cache = tmp_path / "other.cache"
    write_timings(cache, CONTENT, made)

    timings = read_timings(cache, HERE)

    assert (timings.content, timings.keep) == (b"", False)
    assert timings.note == f"ignored and left as it is: it was made by {made}, this is {HERE}"
    assert cache.read_bytes() == CONTENT


def spoil_bytes(cache: Path) -> None:
    cache.write_bytes(CONTENT[:-1] + b"!")


def cut(cache: Path) -> None:
    cache.write_bytes(CONTENT[:-1])


def drop_side(cache: Path) -> None:
    side_path(cache).unlink()


def spoil_side(cache: Path) -> None:
    side_path(cache).write_text("{")


def other_schema(cache: Path) -> None:
    side_path(cache).write_text(json.dumps({"schema": 9}))


def no_version(cache: Path) -> None:
    document: dict[str, Any] = json.loads(side_path(cache).read_text())
    del document["version"]
    side_path(cache).write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (spoil_bytes, "not the one that its side file describes"),
        (cut, "not the one that its side file describes"),
        (drop_side, "no file beside it that proves what it is"),
        (spoil_side, "side file cannot be read"),
        (other_schema, "not of the schema 1"),
        (no_version, "does not say its version"),
    ],
)
def test_a_cache_that_is_not_proven_is_refused(spoil: Any, words: str, cache: Path) -> None:
    spoil(cache)

    with pytest.raises(TrustError, match=words) as caught:
        read_timings(cache, HERE)

    assert caught.value.where == str(cache)
    assert "delete both files" in caught.value.fix
