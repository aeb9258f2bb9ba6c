"""Which share of its peaks a GPU reaches, and what a kernel costs beside its work."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Constants:
    """What a roofline needs beside the peaks.

    Attributes:
        half_share: Share of the tensor cores' peak that products in half precision reach.
        eight_bit_share: Likewise of INT8 and FP8, of their own peak.
        bandwidth_share: Share of the memory's bandwidth that is reached.
        launch_us: Microseconds of one kernel beside its work: launch, ramp-up and tail, in a CUDA
            graph.
    """

    half_share: float
    eight_bit_share: float
    bandwidth_share: float
    launch_us: float

    def slower(self, factor: float) -> Constants:
        """Return constants with which everything takes `factor` times as long."""
        return Constants(
            half_share=self.half_share / factor,
            eight_bit_share=self.eight_bit_share / factor,
            bandwidth_share=self.bandwidth_share / factor,
            launch_us=self.launch_us * factor,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Calibration:
    """Constants, how far off they may be, and where they come from.

    Attributes:
        constants: In the middle of the range.
        factor: The range is the middle divided by it to the middle times it.
        source: In words.
        measured: Measurements of this very device that they were fitted to; 0 for start values.
    """

    constants: Constants
    factor: float
    source: str
    measured: int = 0


NOMINAL = Constants(half_share=0.6, eight_bit_share=0.35, bandwidth_share=0.75, launch_us=3.0)
"""What the field expects before anything is measured: where a fit begins.

Large products in half precision reach 0.55 to 0.7 of the dense peak; published INT8 ViTs 0.24 to
0.28 of theirs; streaming kernels three quarters of the bandwidth; a kernel in a CUDA graph costs 2
to 3 microseconds on a desktop's GPU.
"""

START = Calibration(
    constants=Constants(half_share=0.51, eight_bit_share=0.39, bandwidth_share=0.88, launch_us=4.2),
    factor=1.6,
    source="published and own latencies of T4, A100, H200 and RTX PRO 6000",
)
"""Fitted by `benchmarks.experiments.prediction`, which also says how far off it is; the share of
the bandwidth has in it what caches save."""

_BOARD_LAUNCHES = 2.0
"""A kernel costs twice as much on a Jetson: 4 to 6 microseconds where a desktop has 2 to 3. An
estimate, with no measurement behind it."""


def start_of(*, is_board: bool) -> Calibration:
    """Return where predictions begin for a board or a card of which nothing was measured."""
    if not is_board:
        return START
    constants = dataclasses.replace(
        START.constants, launch_us=START.constants.launch_us * _BOARD_LAUNCHES
    )
    source = f"{START.source}; no board is among them, launches are estimated"
    return dataclasses.replace(START, constants=constants, source=source)
