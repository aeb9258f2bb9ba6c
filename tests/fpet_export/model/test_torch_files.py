"""Tensor files are read without running what is in them."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from engines.errors import CheckpointError
from fpet_export.model import state_dicts
from fpet_export.model.torch_files import read_content

TENSORS = {"head.weight": torch.arange(6.0).reshape(2, 3), "head.bias": torch.zeros(2)}


class Canary:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.path}",)


def assert_tensors(found: dict[str, torch.Tensor]) -> None:
    assert set(found) == set(TENSORS)
    for name, tensor in TENSORS.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0)


@pytest.mark.parametrize("wrapper", [None, "model", "state_dict", "model_ema", "state_dict_ema"])
@pytest.mark.parametrize("zipped", [True, False])
def test_plain_tensors_are_read(wrapper: str | None, zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / "run.pth"
    content = TENSORS if wrapper is None else {wrapper: TENSORS, "epoch": 3}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)

    assert_tensors(state_dicts.read(path, ["head.weight"]).tensors)


def test_safetensors_are_read(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "run.safetensors"
    save_file(TENSORS, path)

    assert_tensors(state_dicts.read(path, ["head.weight"]).tensors)


@pytest.mark.parametrize("way", ["torch", "torch, old format", "pickle"])
def test_a_pickle_with_code_is_refused_and_never_run(way: str, tmp_path: Path) -> None:
    path, canary = tmp_path / "run.pth", tmp_path / "canary"
    content = TENSORS | {"extra": Canary(canary)}
    if way == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=way == "torch")

    with pytest.raises(CheckpointError, match="only tensors are read") as caught:
        state_dicts.read(path, ["head.weight"])
    assert "weights_only" not in str(caught.value)  # torch advises to switch the protection off
    if way != "pickle":
        assert "wants to run code (posix.system)" in str(caught.value)

    assert not canary.exists()
    pickle.loads(pickle.dumps(Canary(canary)))  # negative control: it would have run
    assert canary.exists()


@pytest.mark.parametrize(
    "content", [[1, 2], {}, {"a": 1}, {1: torch.ones(2)}, torch.ones(2), {"model": {}}], ids=str
)
def test_what_is_no_dictionary_of_tensors_is_refused(content: object, tmp_path: Path) -> None:
    path = tmp_path / "run.pth"
    torch.save(content, path)

    with pytest.raises(CheckpointError, match="wanted a dictionary of tensors"):
        state_dicts.read(path, ["head.weight"])


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04", b"\x80\x02", bytes(1000)])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_what_is_no_tensor_file_is_refused(content: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"run{suffix}"
    path.write_bytes(content)

    with pytest.raises(CheckpointError, match="whole"):
        state_dicts.read(path, ["head.weight"])


def test_a_flipped_bit_in_a_member_is_found_by_its_checksum(tmp_path: Path) -> None:
    path = tmp_path / "run.pth"
    torch.save({"head.weight": torch.full((64, 64), 1.5)}, path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))

    assert torch.load(path)["head.weight"].ne(1.5).any()  # torch itself does not notice
    with pytest.raises(CheckpointError, match="archive is damaged"):
        state_dicts.read(path, ["head.weight"])


def test_a_member_that_does_not_unpack_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "run.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("run/data.pkl", bytes(range(256)) * 8)
    content = bytearray(path.read_bytes())
    content[60:80] = b"\xff" * 20
    path.write_bytes(bytes(content))

    with pytest.raises(CheckpointError, match="archive is damaged"):
        state_dicts.read(path, ["head.weight"])


def test_an_end_that_speaks_of_other_disks_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "run.pth"
    torch.save({"head.weight": torch.ones(3)}, path)
    content = bytearray(path.read_bytes())
    content[content.rfind(b"PK\x06\x07") + 16] ^= 0xFF  # of how many disks the archive is
    path.write_bytes(bytes(content))

    with pytest.raises(CheckpointError, match="archive is damaged"):
        state_dicts.read(path, ["head.weight"])


def test_an_absent_file_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        state_dicts.read(tmp_path / "run.pth", ["head.weight"])


@pytest.mark.parametrize(
    "odd",
    [
        torch.ones(2, dtype=torch.complex64),
        torch.ones(2, device="meta"),
        torch.eye(2).to_sparse(),
    ],
    ids=["complex", "meta", "sparse"],
)
def test_a_tensor_that_is_not_plain_is_refused(odd: torch.Tensor, tmp_path: Path) -> None:
    path = tmp_path / "run.pth"
    torch.save(TENSORS | {"odd": odd}, path)

    with pytest.raises(CheckpointError, match="odd is not a plain tensor"):
        state_dicts.read(path, ["head.weight"])


def test_a_tensor_that_the_archive_marks_as_a_folder_is_refused(tmp_path: Path) -> None:
    """PyTorch reads it without an error, and gives what lay in memory."""
    path = tmp_path / "model.pth"
    torch.save({"head.weight": torch.ones(300)}, path)
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\x01\x02", content.rindex(b"/data.pkl"))
    while b"/data/0" not in content[entry : entry + 70]:
        entry = content.index(b"PK\x01\x02", entry + 4)
    content[entry + 38] |= 0x10  # the first byte of the external attributes
    path.write_bytes(content)

    with pytest.raises(CheckpointError, match="data/0"):
        read_content(path)
