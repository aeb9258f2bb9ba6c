"""How long a network takes on a GPU, from its peaks and the share of them that is reached.

Of each product the longer of two times counts: the tensor cores' and the memory's. The tensor cores
compute whole tiles, and whole waves of tiles over all multiprocessors; this is why a few tokens
less may save nothing, and why one image does not fill a large GPU.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.network import Network
from benchmarks.prediction.constants import Calibration, Constants
from benchmarks.prediction.hardware import Hardware
from benchmarks.prediction.work import Product, parts_of
from engines.targets import TENSOR_CORE_TILE, tiled_rows

FloatArray = NDArray[np.float64]
Bound = Literal["compute", "weights", "activations", "launches"]
_SMALL_TILE = TENSOR_CORE_TILE // 2
_QUERIES_AT_ONCE = 64
"""Queries that one thread block of a fused attention takes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PartTime:
    """Where the time of one part goes, with the constants in the middle of the range.

    Attributes:
        name: "patches", "block 3", "head".
        compute_ms: Of products that the tensor cores bound.
        weights_ms: Of products that the traffic of their weights bounds.
        activations_ms: Of everything that other traffic bounds.
        launches_ms: Of its kernels beside their work.
    """

    name: str
    compute_ms: float
    weights_ms: float
    activations_ms: float
    launches_ms: float

    @property
    def total_ms(self) -> float:
        """All of it."""
        return self.compute_ms + self.weights_ms + self.activations_ms + self.launches_ms

    @property
    def bound(self) -> Bound:
        """What takes most of its time."""
        return bound_of([self])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a network would take: a range, never a measurement.

    Attributes:
        low_ms: Lower end, milliseconds of one run of the batch.
        high_ms: Upper end.
        parts: Where the time in the middle goes.
    """

    low_ms: float
    high_ms: float
    parts: tuple[PartTime, ...]

    @property
    def middle_ms(self) -> float:
        """The middle of the range, as ratios go."""
        return sum(part.total_ms for part in self.parts)

    @property
    def bound(self) -> Bound:
        """What takes most of the time."""
        return bound_of(self.parts)


def predict(
    network: Network, hardware: Hardware, calibration: Calibration, *, precision: str, batch: int
) -> Prediction:
    """Return what a network would take.

    Args:
        network: It.
        hardware: Peaks of the GPU in this precision.
        calibration: See there.
        precision: "fp16", "bf16", "int8" or "fp8".
        batch: Images of one run.
    """
    ideal = ideal_of(network, hardware, precision=precision, batch=batch)
    middle, factor = ideal.total_ms(calibration.constants), calibration.factor
    return Prediction(
        low_ms=middle / factor,
        high_ms=middle * factor,
        parts=ideal.parts(calibration.constants),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ideal:
    """What the kernels of a network would take at the peaks, an entry a kernel that has work.

    Attributes:
        names: Of the parts.
        part: (n,) index of the part that an entry belongs to.
        computing_s: (n,) seconds of the tensor cores.
        eight_bit: (n,) whether they compute with 8 bits.
        moving_s: (n,) seconds of the memory.
        of_weights: (n,) whether most of what it moves are weights.
        kernels: (parts,) kernels that are launched.
    """

    names: tuple[str, ...]
    part: NDArray[np.intp]
    computing_s: FloatArray
    eight_bit: NDArray[np.bool_]
    moving_s: FloatArray
    of_weights: NDArray[np.bool_]
    kernels: FloatArray

    def bounds_s(self, constants: Constants) -> tuple[FloatArray, FloatArray]:
        """Return the seconds (n,) that the tensor cores and the memory need for each entry."""
        share = np.where(self.eight_bit, constants.eight_bit_share, constants.half_share)
        return self.computing_s / share, self.moving_s / constants.bandwidth_share

    def total_ms(self, constants: Constants) -> float:
        """Return what the whole network takes."""
        work_s = float(np.maximum(*self.bounds_s(constants)).sum())
        return work_s * 1e3 + float(self.kernels.sum()) * constants.launch_us * 1e-3

    def parts(self, constants: Constants) -> tuple[PartTime, ...]:
        """Return where the time of each part goes."""
        computing, moving = self.bounds_s(constants)
        is_computing = computing >= moving

        def of(mine: NDArray[np.bool_], seconds: FloatArray) -> FloatArray:
            count = len(self.names)
            sums = np.bincount(self.part, weights=seconds * mine, minlength=count)
            return sums.astype(np.float64) * 1e3

        compute = of(is_computing, computing)
        weights = of(~is_computing & self.of_weights, moving)
        activations = of(~is_computing & ~self.of_weights, moving)
        launches = self.kernels * constants.launch_us * 1e-3
        return tuple(
            PartTime(
                name=name,
                compute_ms=float(compute[index]),
                weights_ms=float(weights[index]),
                activations_ms=float(activations[index]),
                launches_ms=float(launches[index]),
            )
            for index, name in enumerate(self.names)
        )


def ideal_of(network: Network, hardware: Hardware, *, precision: str, batch: int) -> Ideal:
    """Return what a run of a batch would take at the peaks of a GPU."""
    parts = parts_of(network, precision=precision, batch=batch)
    entries = []
    for index, part in enumerate(parts):
        entries.append((index, 0.0, False, part.moved_bytes / hardware.bytes_per_s, False))
        for product in part.products:
            macs = padded_macs(product, hardware.multiprocessors)
            entries.append(
                (
                    index,
                    macs / hardware.macs_per_s(eight_bit=product.eight_bit),
                    product.eight_bit,
                    (product.weight_bytes + product.activation_bytes) / hardware.bytes_per_s,
                    product.weight_bytes >= product.activation_bytes,
                )
            )
    part_of, computing, eight_bit, moving, of_weights = zip(*entries, strict=True)
    return Ideal(
        names=tuple(part.name for part in parts),
        part=np.array(part_of, np.intp),
        computing_s=np.array(computing),
        eight_bit=np.array(eight_bit, np.bool_),
        moving_s=np.array(moving),
        of_weights=np.array(of_weights, np.bool_),
        kernels=np.array([part.kernels for part in parts], np.float64),
    )


def bound_of(parts: Sequence[PartTime]) -> Bound:
    """Return what takes most of the time of all parts."""
    sums: dict[Bound, float] = {
        "compute": sum(part.compute_ms for part in parts),
        "weights": sum(part.weights_ms for part in parts),
        "activations": sum(part.activations_ms for part in parts),
        "launches": sum(part.launches_ms for part in parts),
    }
    return max(sums, key=lambda name: sums[name])


def padded_macs(product: Product, multiprocessors: int) -> int:
    """Return the multiply-adds of a product in whole waves of whole tiles.

    Those that no token needs, and those of multiprocessors that idle, take as long as the others.

    Args:
        product: It.
        multiprocessors: Of the GPU; each computes one tile at a time.
    """
    if product.is_attention:  # scores of all keys stay with their queries
        tiles = product.count * (tiled_rows(product.rows, _QUERIES_AT_ONCE) // _QUERIES_AT_ONCE)
        each = _QUERIES_AT_ONCE * product.inner * product.columns
        return tiled_rows(tiles, multiprocessors) * each
    return min(
        _in_tiles(product, side, multiprocessors) for side in (TENSOR_CORE_TILE, _SMALL_TILE)
    )


def _in_tiles(product: Product, side: int, multiprocessors: int) -> int:
    tiles = (tiled_rows(product.rows, side) // side) * (tiled_rows(product.columns, side) // side)
    return tiled_rows(tiles * product.count, multiprocessors) * side * side * product.inner
