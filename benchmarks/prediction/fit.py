"""Find the constants of a roofline from measured latencies.

Few measurements do not tell every constant: a batch of 1 says little about the share of the peak, a
batch of 64 little about launches. So the fit stays near where it starts as far as the measurements
do not say otherwise (least squares of logarithms, with the start as one more observation of each).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence

from benchmarks.network import Network
from benchmarks.prediction.constants import Calibration, Constants, start_of
from benchmarks.prediction.hardware import Hardware
from benchmarks.prediction.roofline import Ideal, ideal_of
from engines.plurals import counted

_NAMES = tuple(field.name for field in dataclasses.fields(Constants))
_SHARES = _NAMES[:-1]
ACROSS_DEVICES, ON_ONE_DEVICE = 0.3, 0.05
"""How far rows lie from a perfect model, as logarithms: software differs by a third, and repeating
a measurement moves it by a twentieth."""
_START_SPREAD = 0.2  # likewise of a constant from its start
_STEPS = (0.32, 0.08, 0.02, 0.005)  # of a logarithm, from coarse to fine
_LARGEST_SHARE = 1.0
_NARROWEST = 1.1
"""No range is narrower: a day, a driver and a temperature move a latency by so much."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One measured latency.

    Attributes:
        network: What was timed.
        hardware: On what.
        precision: In what.
        batch: Images of one run.
        measured_ms: Median of one run.
        group: Rows of one group (a device with its software) count as much as another group's.
    """

    network: Network
    hardware: Hardware
    precision: str
    batch: int
    measured_ms: float
    group: str = ""

    def ideal(self) -> Ideal:
        """Return what it would take at the peaks."""
        return ideal_of(self.network, self.hardware, precision=self.precision, batch=self.batch)


def fit(rows: Sequence[Row], start: Constants, *, spread: float = ACROSS_DEVICES) -> Constants:
    """Return the constants that suit the rows best.

    Args:
        rows: At least one.
        start: Where to begin, and where to stay as far as the rows do not tell.
        spread: How far rows lie from a perfect model, as a logarithm.
    """
    sizes: dict[str, int] = {}
    for row in rows:
        sizes[row.group] = sizes.get(row.group, 0) + 1
    ideals = [row.ideal() for row in rows]
    largest = max(sizes.values())
    weights = [largest / sizes[row.group] for row in rows]

    def loss(constants: Constants) -> float:
        errors = zip(_errors(rows, ideals, constants), weights, strict=True)
        missed = sum(weight * (error / spread) ** 2 for error, weight in errors)
        moved = (
            math.log(getattr(constants, name) / getattr(start, name)) / _START_SPREAD
            for name in _NAMES
        )
        return missed + sum(one**2 for one in moved)

    found, best = start, loss(start)
    for step in _STEPS:
        improved = True
        while improved:
            improved = False
            for candidate in _neighbours(found, step):
                value = loss(candidate)
                if value < best - 1e-9:
                    found, best, improved = candidate, value, True
    return found


def errors(rows: Sequence[Row], constants: Constants) -> list[float]:
    """Return the logarithm of predicted over measured, for each row."""
    return _errors(rows, [row.ideal() for row in rows], constants)


def _errors(rows: Sequence[Row], ideals: Sequence[Ideal], constants: Constants) -> list[float]:
    return [
        math.log(ideal.total_ms(constants) / row.measured_ms)
        for row, ideal in zip(rows, ideals, strict=True)
    ]


def _neighbours(constants: Constants, step: float) -> Iterable[Constants]:
    for name in _NAMES:
        for sign in (1, -1):
            value = getattr(constants, name) * math.exp(sign * step)
            if name not in _SHARES or value <= _LARGEST_SHARE:
                yield dataclasses.replace(constants, **{name: value})


def width_of(apart: Sequence[float]) -> float:
    """Return the factor of a range that holds nine of ten predictions.

    Args:
        apart: Logarithms of predicted over measured, of rows that no fit saw.
    """
    if not apart:
        return _NARROWEST
    ordered = sorted(map(abs, apart))
    nine_of_ten = ordered[min(math.ceil(0.9 * len(ordered)), len(ordered)) - 1]
    return max(math.exp(nine_of_ten), _NARROWEST)


def calibrate(rows: Sequence[Row]) -> Calibration:
    """Return constants for one device in one mode, fitted to what was measured there.

    The range is as wide as the rows lie off, or as one of them is predicted from the others.

    Args:
        rows: Of this device, at least one.
    """
    assert rows, "without measurements `start_of` says what is known"
    start = start_of(is_board=rows[0].hardware.is_board)
    apart = []
    for index, row in enumerate(rows):
        others = [*rows[:index], *rows[index + 1 :]]
        known = fit(others, start.constants, spread=ON_ONE_DEVICE) if others else start.constants
        apart += errors([row], known)
    return Calibration(
        constants=fit(rows, start.constants, spread=ON_ONE_DEVICE),
        factor=width_of(apart),
        source=f"{counted(len(rows), 'measurement')} on {rows[0].hardware.name}",
        measured=len(rows),
    )
