from __future__ import annotations

import errno
import hashlib
from pathlib import Path

import pytest

from engines import storage
from engines.errors import MachineError, UsageError


def test_sha256_of_matches_hashlib(tmp_path: Path) -> None:
    content = bytes(range(256)) * 9000  # more than two chunks
    (tmp_path / "a.bin").write_bytes(content)

    assert storage.sha256_of(tmp_path / "a.bin") == hashlib.sha256(content).hexdigest()


def test_a_written_file_appears_whole_and_alone(tmp_path: Path) -> None:
    storage.write_bytes(tmp_path / "new" / "a.bin", b"whole")

    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.bin"]
    assert (tmp_path / "new" / "a.bin").read_bytes() == b"whole"


def test_files_that_belong_together_appear_together(tmp_path: Path) -> None:
    with storage.atomic_path(tmp_path / "a.onnx") as temporary:
        temporary.write_bytes(b"graph")
        temporary.with_name("a.onnx.data").write_bytes(b"weights")
        assert not any(path.is_file() for path in tmp_path.iterdir())

    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        "a.onnx": b"graph",
        "a.onnx.data": b"weights",
    }


@pytest.mark.parametrize("interruption", [ValueError, KeyboardInterrupt])
def test_an_exception_leaves_the_old_file(
    tmp_path: Path, interruption: type[BaseException]
) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    with pytest.raises(interruption), storage.atomic_path(path) as temporary:
        temporary.write_bytes(b"half")
        raise interruption

    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_told_and_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    with (
        pytest.raises(MachineError, match="No space left on device"),
        storage.atomic_path(path),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")

    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"old"


def test_an_unwritable_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(MachineError, match=r"cannot write a\.bin"):
        storage.write_bytes(tmp_path / "file" / "a.bin", b"")


def test_overwriting_needs_force(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    with pytest.raises(UsageError, match="exists already") as caught:
        storage.refuse_overwrite(path, force=False)

    assert "--force" in caught.value.fix
    storage.refuse_overwrite(path, force=True)
    storage.refuse_overwrite(tmp_path / "other", force=False)
