"""Arrays in a file: what safetensors reads and writes, and nothing that is not whole."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from engines.errors import TrustError
from engines.tensor_file import read_arrays, write_arrays


def some_arrays() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {
        "b.codes": generator.integers(0, 256, (3, 5), dtype=np.uint8),
        "a": generator.normal(size=(2, 3)).astype(np.float32),
        "half": generator.normal(size=7).astype(np.float16),
        "empty": np.zeros((0, 4), np.float32),
    }


def test_the_safetensors_package_reads_what_is_written(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_arrays(path, some_arrays(), {"task": "cifar"})

    theirs, (ours, facts) = load_file(path), read_arrays(path)
    assert facts == {"task": "cifar"}
    for name, array in some_arrays().items():
        np.testing.assert_array_equal(theirs[name], array)
        np.testing.assert_array_equal(ours[name], array)
        assert ours[name].dtype == array.dtype


def test_what_the_safetensors_package_writes_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file(some_arrays(), path, metadata={"by": "them"})

    arrays, facts = read_arrays(path)
    assert facts == {"by": "them"}
    assert {name: array.tolist() for name, array in arrays.items()} == {
        name: array.tolist() for name, array in some_arrays().items()
    }


def written(tmp_path: Path) -> bytes:
    path = tmp_path / "x.safetensors"
    write_arrays(path, some_arrays(), {"task": "cifar"})
    return path.read_bytes()


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    content = written(tmp_path)
    for length in range(len(content)):
        with pytest.raises(TrustError, match="not a complete set of arrays"):
            read_arrays(tmp_path / "x", content[:length])
    with pytest.raises(TrustError, match="not a complete set of arrays"):
        read_arrays(tmp_path / "x", content + b"\0")


@given(st.binary(max_size=200))
def test_no_bytes_crash_the_reader(content: bytes) -> None:
    with contextlib.suppress(TrustError):
        read_arrays(Path("x"), content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": "F8"}, "F8"),
        ({"shape": [2, 4]}, "lies at bytes"),
        ({"shape": [-2, -3]}, "has the extents"),
        ({"shape": [2, True]}, "has the extents"),
        ({"data_offsets": [4, 28]}, "not a complete set"),
        ({"data_offsets": [0.0, 24]}, "begins at 0.0"),
        ({"data_offsets": [0, 10**30]}, "lies at bytes"),
        ({"data_offsets": [0]}, "not a complete set"),
        ({"shape": None}, "not a complete set"),
    ],
)
def test_a_header_that_lies_is_refused(change: dict[str, Any], message: str) -> None:
    entry = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]} | change
    header = json.dumps({"a": entry}).encode()
    content = len(header).to_bytes(8, "little") + header + bytes(24)
    with pytest.raises(TrustError, match=message):
        read_arrays(Path("x"), content)


def test_overlapping_arrays_and_gaps_are_refused() -> None:
    for second in ([12, 24], [20, 32]):
        header = json.dumps(
            {
                "a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]},
                "b": {"dtype": "F32", "shape": [3], "data_offsets": second},
            }
        ).encode()
        content = len(header).to_bytes(8, "little") + header + bytes(second[1])
        with pytest.raises(TrustError, match="the one before it ends at 16"):
            read_arrays(Path("x"), content)
