"""The file of one task: exact for low-bit layers, strict when read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from engines.errors import ExportError, TrustError
from engines.tasks.delta import pack, read_delta, unpack, write_delta
from engines.tensor_file import read_arrays, write_arrays
from fpet_export.model import qlinear


def write(path: Path, **changes: object) -> None:
    request: dict[str, object] = {
        "task": "cifar",
        "backbone": "ab" * 32,
        "blocks": {"down": [np.full((2, 3), index, np.float32) for index in range(2)]},
        "single": {"head.weight": np.ones((4, 3), np.float32)},
        "bits": 32,
    }
    write_delta(path, **(request | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("bits", qlinear.LOW_BITS)
@pytest.mark.parametrize("shape", [(8, 16), (3, 5)])
def test_packing_gives_back_what_the_authors_decoder_gives(
    bits: int, shape: tuple[int, int]
) -> None:
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(bits)) * 0.1 + 0.02
    weight = qlinear.fake_quantize(drawn, bits).numpy()

    codes, levels = pack(weight, bits)
    assert len(codes) == -(-weight.size * bits // 8)
    assert levels.shape == (2**bits,)
    np.testing.assert_array_equal(unpack(codes, levels, shape), weight)


def test_the_first_weight_sits_in_the_lowest_bits() -> None:
    weight = np.array([[1, -1, -1, -1, -1, -1, -1, -1]], np.float32)
    codes, levels = pack(weight, 1)
    assert codes.tolist() == [1]
    assert levels.tolist() == [-1, 1]


def test_the_codes_are_those_of_the_record(tmp_path: Path) -> None:
    drawn = torch.randn((16, 8), generator=torch.Generator().manual_seed(1))
    record = qlinear.encode(drawn, 2)
    codes, _ = pack(qlinear.decode(record, (16, 8), 2).numpy(), 2)
    assert codes.tobytes() == record[:-8]


def test_a_weight_of_too_many_values_is_not_packed() -> None:
    with pytest.raises(ExportError, match="takes 3 values, 1 bits hold 2"):
        pack(np.array([0, 1, 2], np.float32), 1)


def test_every_block_has_its_own_weight(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    write(path)
    delta = read_delta(path)
    assert (delta.task, delta.backbone) == ("cifar", "ab" * 32)
    assert delta.weight("blocks.1.down").tolist() == [[1, 1, 1], [1, 1, 1]]
    with pytest.raises(TrustError, match="holds what its graph does not take: head"):
        delta.require_all_used()
    delta.weight("head.weight")
    delta.require_all_used()


@pytest.mark.parametrize("name", ["blocks.2.down", "blocks.0.up", "head.bias", "blocks.x.down"])
def test_a_weight_that_is_not_there_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "t.safetensors"
    write(path)
    with pytest.raises(TrustError, match="does not hold"):
        read_delta(path).weight(name)


def test_float16_is_refused_where_it_overflows(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="7e\\+04, which float16 cannot"):
        write(
            tmp_path / "t",
            blocks={"down": [np.full((1, 1), 7e4, np.float32)]},
            factor_precision="fp16",
        )


def test_codes_of_another_length_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    write(path, blocks={"down": [np.array([[0, 1, 1, 0]], np.float32)]}, bits=1)
    arrays, facts = read_arrays(path)
    write_arrays(path, arrays, facts | {"down": "4,4"})
    with pytest.raises(TrustError, match="1 bytes of codes for 16 weights"):
        read_delta(path).weight("blocks.0.down")
    write_arrays(path, arrays | {"down.levels": np.zeros((1, 3), np.float32)}, facts)
    with pytest.raises(TrustError, match="3 levels"):
        read_delta(path).weight("blocks.0.down")


def test_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    write_arrays(path, {}, {"format": "something else"})
    with pytest.raises(TrustError, match="its format is 'something else'"):
        read_delta(path)
