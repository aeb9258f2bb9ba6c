from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
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


# What was hashed before


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files whose bytes are read for a hash; every size counts as large."""
    read: list[str] = []
    real = storage._digest

    def digest(file: BinaryIO) -> str:
        read.append(Path(file.name).name)
        return real(file)

    monkeypatch.setattr(storage, "_REMEMBERED_BYTES", 0)
    monkeypatch.setattr(storage, "_known", {})
    monkeypatch.setattr(storage, "_digest", digest)
    return read


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_a_file_is_read_for_its_hash_once(tmp_path: Path, hashed: list[str]) -> None:
    path = tmp_path / "a.bin"
    with storage.atomic_path(path) as temporary:
        temporary.write_bytes(b"first")
        assert storage.sha256_of(temporary) == sha256(b"first")
    assert storage.sha256_of(path) == sha256(b"first")
    assert storage.sha256_of(tmp_path / "." / "a.bin") == sha256(b"first")
    assert hashed == ["a.bin"]


def _overwrite(path: Path) -> None:
    with path.open("rb+") as file:
        file.write(b"OTHER")


def _overwrite_and_set_the_time_back(path: Path) -> None:
    before = path.stat()
    _overwrite(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns


def _replace(path: Path) -> None:
    other = path.with_name("b.bin")
    other.write_bytes(b"OTHER")
    other.replace(path)


def _replace_atomically(path: Path) -> None:
    storage.write_bytes(path, b"OTHER")


def _map(path: Path) -> None:
    np.memmap(path, np.uint8, "r+")[:] = np.frombuffer(b"OTHER", np.uint8)


@pytest.mark.parametrize(
    "change", [_overwrite, _overwrite_and_set_the_time_back, _replace, _replace_atomically, _map]
)
def test_a_file_that_changed_is_hashed_again(
    change: Callable[[Path], None], tmp_path: Path, hashed: list[str]
) -> None:
    """At once and with as many bytes: only the time of the change says so."""
    path = tmp_path / "a.bin"
    storage.write_bytes(path, b"first")
    assert storage.sha256_of(path) == sha256(b"first")
    change(path)
    assert storage.sha256_of(path) == sha256(b"OTHER")
    assert len(hashed) == 2


def test_what_changes_while_it_is_hashed_is_not_remembered(
    tmp_path: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"first")
    real = storage._digest

    def changing(file: BinaryIO) -> str:
        found = real(file)
        _overwrite(path)
        return found

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(storage, "_digest", changing)
        storage.sha256_of(path)
    assert storage.sha256_of(path) == sha256(b"OTHER")


def test_what_changed_before_its_rename_is_hashed_again(tmp_path: Path, hashed: list[str]) -> None:
    path = tmp_path / "a.bin"
    with storage.atomic_path(path) as temporary:
        temporary.write_bytes(b"first")
        storage.sha256_of(temporary)
        _overwrite_and_set_the_time_back(temporary)
    assert storage.sha256_of(path) == sha256(b"OTHER")


@pytest.mark.parametrize("changed_ns", [1_700_000_000_000_000_000, 2**62])
def test_without_a_fine_time_of_the_past_nothing_is_remembered(changed_ns: int) -> None:
    """Whole seconds hide a change within one; a clock ahead of ours says nothing of ours."""
    stamp = storage._Stamp(1, 2, 3, modified_ns=4, changed_ns=changed_ns)
    assert not storage._settle(stamp)


def test_a_small_file_is_hashed_each_time(
    tmp_path: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "_REMEMBERED_BYTES", 6)
    (tmp_path / "a.bin").write_bytes(b"small")
    storage.sha256_of(tmp_path / "a.bin")
    storage.sha256_of(tmp_path / "a.bin")
    assert len(hashed) == 2
