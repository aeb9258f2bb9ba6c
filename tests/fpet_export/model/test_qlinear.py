"""Code books, records and the bytes on disk."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fpet_export.model import qlinear

HALVES = {
    1: [0.674489737],
    2: [0.377754152, 1.26572037],
    4: [
        *(0.105550282, 0.319036007, 0.540072083, 0.775192022),
        *(1.03400624, 1.33310664, 1.70773757, 2.26549053),
    ],
}


def random_weight(shape: tuple[int, int], seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.03 * torch.randn(shape, generator=generator) + 0.002


@pytest.mark.parametrize("bits", sorted(HALVES))
def test_the_small_books_have_the_published_values(bits: int) -> None:
    half = HALVES[bits]
    expected = [-value for value in reversed(half)] + half

    np.testing.assert_allclose(qlinear.code_book(bits).numpy(), expected, rtol=2e-7)


def test_the_eight_bit_book_stopped_after_500_iterations() -> None:
    book = qlinear.code_book(8).double()

    anchors = {
        0: -2.80951476,
        1: -2.34872484,
        2: -2.05421114,
        3: -1.83094931,
        16: -0.517780662,
        32: -0.0668055490,
        64: -7.177e-5,
    }
    for index, value in anchors.items():
        assert float(book[index]) == pytest.approx(value, rel=2e-4 if index == 64 else 1e-6)
    assert int((book.abs() < 1e-6).sum()) == 98
    assert int((book.abs() < 1e-3).sum()) == 148
    assert float(book.abs().sum()) == pytest.approx(51.58599600, rel=1e-6)
    assert float((book**2).sum()) == pytest.approx(72.6431903, rel=1e-6)
    torch.testing.assert_close(book, -book.flip(0), rtol=0, atol=1e-7)


@pytest.mark.parametrize("bits", qlinear.LOW_BITS)
def test_codes_are_ordered_from_the_most_negative(bits: int) -> None:
    book = qlinear.code_book(bits)

    assert len(book) == 2**bits
    assert (book.diff() >= 0).all()
    assert book[0] < 0 < book[-1]


def test_a_caller_cannot_spoil_the_book() -> None:
    qlinear.code_book(1).zero_()

    assert qlinear.code_book(1)[1] > 0


def test_the_first_weight_sits_in_the_lowest_bits() -> None:
    statistics = struct.pack("<ff", 0.25, 2.0)
    one_bit = bytes([0b00000001, 0b10000000]) + statistics
    high, low = 0.25 + 2 * 0.674489737, 0.25 - 2 * 0.674489737

    weight = qlinear.decode(one_bit, (2, 8), 1)

    expected = [[high] + [low] * 7, [low] * 7 + [high]]
    np.testing.assert_allclose(weight.numpy(), expected, rtol=1e-6)


def test_two_and_four_bit_lanes_are_read_from_the_low_end() -> None:
    statistics = struct.pack("<ff", 0.0, 1.0)
    two = qlinear.decode(bytes([0b11100100]) + statistics, (1, 4), 2)
    four = qlinear.decode(bytes([0xF0]) + statistics, (1, 2), 4)
    eight = qlinear.decode(bytes([0, 255]) + statistics, (1, 2), 8)

    np.testing.assert_array_equal(two[0], qlinear.code_book(2))
    np.testing.assert_array_equal(four[0], qlinear.code_book(4)[[0, 15]])
    np.testing.assert_array_equal(eight[0], qlinear.code_book(8)[[0, 255]])


def test_writing_packs_the_first_weight_into_the_lowest_bits() -> None:
    weight = torch.tensor([[1.0, -1, -1, -1, -1, -1, -1, 1]])

    packed = qlinear.encode(weight, 1)

    assert packed[:1] == bytes([0b10000001])
    mean, std = struct.unpack("<ff", packed[1:])
    assert mean == pytest.approx(-0.5)
    assert std == pytest.approx(float(weight.std()), rel=1e-6)  # unbiased


@pytest.mark.parametrize(
    ("shape", "bits", "size"),
    [((8, 768), 8, 6152), ((32, 768), 1, 3080), ((32, 64), 1, 264), ((8, 768), 2, 1544)],
)
def test_a_record_is_codes_and_two_floats(shape: tuple[int, int], bits: int, size: int) -> None:
    assert qlinear.record_bytes(shape, bits) == size
    assert len(qlinear.encode(random_weight(shape), bits)) == size


@pytest.mark.parametrize("bits", qlinear.LOW_BITS)
def test_decoding_gives_the_fake_quantised_weight_bit_for_bit(bits: int) -> None:
    weight = random_weight((16, 64))

    decoded = qlinear.decode(qlinear.encode(weight, bits), weight.shape, bits)

    torch.testing.assert_close(decoded, qlinear.fake_quantize(weight, bits), rtol=0, atol=0)
    assert decoded.dtype == torch.float32
    assert not torch.equal(decoded, weight)  # negative control: something was lost


def test_encoding_again_keeps_the_bits_and_shrinks_the_deviation() -> None:
    weight = random_weight((64, 64))
    first = qlinear.encode(weight, 1)
    second = qlinear.encode(qlinear.decode(first, weight.shape, 1), 1)

    assert second[:-8] == first[:-8]
    ratio = qlinear.statistics(second)[1] / qlinear.statistics(first)[1]
    assert ratio == pytest.approx(0.6745, abs=0.001)


@pytest.mark.parametrize(("bits", "bound"), [(1, 0.65), (2, 0.4), (4, 0.13), (8, 0.1)])
def test_more_bits_lose_less(bits: int, bound: float) -> None:
    weight = random_weight((64, 64), seed=3)

    error = (qlinear.fake_quantize(weight, bits) - weight).norm() / weight.norm()

    assert float(error) < bound


def test_a_value_on_a_threshold_takes_the_lower_code() -> None:
    weight = torch.tensor([[-1.0, 0.0, 0.0, 1.0, -2.0, 2.0, -3.0, 3.0]])  # mean 0: on the border

    packed = qlinear.encode(weight, 1)

    assert packed[0] == 0b10101000


@given(
    bits=st.sampled_from(qlinear.LOW_BITS),
    rows=st.integers(1, 5),
    bytes_a_row=st.integers(1, 6),
    seed=st.integers(0, 2**31 - 1),
    spread=st.floats(1e-3, 10),
    shift=st.floats(-1, 1),
)
def test_any_weight_survives_the_file(
    bits: int, rows: int, bytes_a_row: int, seed: int, spread: float, shift: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    shape = (rows, bytes_a_row * 8)
    weight = spread * torch.randn(shape, generator=generator) + shift

    packed = qlinear.encode(weight, bits)
    decoded = qlinear.decode(packed, shape, bits)

    assert len(packed) == qlinear.record_bytes(shape, bits)
    torch.testing.assert_close(decoded, qlinear.fake_quantize(weight, bits), rtol=0, atol=0)
    assert len(set(decoded.flatten().tolist())) <= 2**bits


@given(codes=st.binary(min_size=4, max_size=4), bits=st.sampled_from(qlinear.LOW_BITS))
def test_decoding_reads_every_bit_of_every_byte(codes: bytes, bits: int) -> None:
    shape = (1, 32 // bits)
    value = int.from_bytes(codes, "little")
    book = qlinear.code_book(bits)

    decoded = qlinear.decode(codes + struct.pack("<ff", 0.0, 1.0), shape, bits)

    lanes = [(value >> (bits * lane)) % 2**bits for lane in range(shape[1])]
    torch.testing.assert_close(decoded[0], book[lanes], rtol=0, atol=0)
