"""The low-bit linear layer of FPET and Binary Adapter checkpoints: code books and records.

A weight is standardised, every entry is replaced by the nearest value of a fixed code book, and
the file keeps the code indices, the mean and the standard deviation. The code book is an
L1-optimal scalar quantiser of the standard normal distribution (Jie et al., "Revisiting the
Parameter Efficiency of Adapters from the Perspective of Precision Redundancy", ICCV 2023).

A record on disk is `packed codes | mean (float32) | std (float32)`, little endian, without any
header: the order in which modules were traversed is the only schema.
"""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Sequence

import torch

LOW_BITS = (1, 2, 4, 8)
"""Bit widths that are stored as records; a 32-bit adapter is an ordinary tensor."""

_ITERATIONS = 500
"""The published count. It is part of the format: the 8-bit book has not converged by then."""

_STATISTICS = struct.Struct("<ff")
_STD_EPSILON = 1e-5  # added when standardising, not when decoding; as in the training code


@functools.cache
def _book_and_thresholds(bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return codes (2^bits,) float32 and the cell borders (2^bits - 1,) float32."""
    codes = torch.zeros(2**bits, dtype=torch.float64)
    thresholds = torch.zeros(2**bits - 1, dtype=torch.float64)
    for _ in range(_ITERATIONS):
        thresholds = (codes[:-1] + codes[1:]) / 2
        cumulative = torch.cat(
            [
                torch.zeros(1, dtype=torch.float64),
                torch.special.ndtr(thresholds),
                torch.ones(1, dtype=torch.float64),
            ]
        )
        codes = torch.special.ndtri((cumulative[:-1] + cumulative[1:]) / 2)
    return codes.float(), thresholds.float()


def code_book(bits: int) -> torch.Tensor:
    """Return the (2^bits,) float32 code values, most negative first.

    Source: the median-of-cell fixed-point iteration of Jie et al. 2023, stopped after exactly
    500 steps from an all-zero start.
    """
    return _book_and_thresholds(bits)[0].clone()


def record_bytes(shape: Sequence[int], bits: int) -> int:
    """Return the size of one record: packed codes and two float32 statistics."""
    return math.prod(shape) * bits // 8 + _STATISTICS.size


def _standardise(weight: torch.Tensor, bits: int) -> tuple[torch.Tensor, float, float]:
    """Return code indices of `weight` (its shape, int64), its mean and unbiased deviation."""
    mean, std = weight.mean(), weight.std()
    _, thresholds = _book_and_thresholds(bits)
    standard = (weight - mean) / (std + _STD_EPSILON)
    # right=False: a value on a threshold takes the lower code.
    codes = torch.bucketize(standard, thresholds, right=False)
    return codes, float(mean), float(std)


def fake_quantize(weight: torch.Tensor, bits: int) -> torch.Tensor:
    """Return `weight` with every entry on its code value; same shape, float32.

    Bit for bit what `decode(encode(weight))` gives, which is what an evaluation uses.
    """
    codes, mean, std = _standardise(weight.detach().float(), bits)
    return code_book(bits)[codes] * std + mean


def encode(weight: torch.Tensor, bits: int) -> bytes:
    """Return the record of one trained (latent, float32) weight.

    Never encode a decoded weight again: the deviation shrinks by the code book's RMS in each
    cycle (1 bit: by 0.6745), which is how a re-saved checkpoint silently changes.
    """
    codes, mean, std = _standardise(weight.detach().float(), bits)
    per_byte = 8 // bits
    lanes = codes.flatten().reshape(-1, per_byte)
    shifts = torch.arange(per_byte) * bits  # the first weight sits in the low bits
    packed = (lanes << shifts).sum(dim=1).to(torch.uint8)
    return bytes(packed.tolist()) + _STATISTICS.pack(mean, std)


def statistics(record: bytes) -> tuple[float, float]:
    """Return the (mean, std) stored at the end of `record`."""
    mean, std = _STATISTICS.unpack(record[-_STATISTICS.size :])
    return mean, std


def decode(record: bytes, shape: Sequence[int], bits: int) -> torch.Tensor:
    """Return the dense float32 weight of `shape` stored in `record`.

    Args:
        record: Exactly `record_bytes(shape, bits)` bytes.
        shape: (out, in) of the linear layer; codes are row-major.
        bits: 1, 2, 4 or 8.
    """
    mean, std = statistics(record)
    packed = torch.frombuffer(bytearray(record[: -_STATISTICS.size]), dtype=torch.uint8)
    shifts = torch.arange(8 // bits, dtype=torch.uint8) * bits
    codes = (packed[:, None] >> shifts) & (2**bits - 1)
    return (code_book(bits)[codes.flatten().long()] * std + mean).reshape(*shape)
