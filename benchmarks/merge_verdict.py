"""Whether merging tokens pays on a device: at the batch sizes that were measured, and from which.

Merging pays where the merged artefact is shown to be faster than the plain model, the same network
without merging: the whole interval of the ratio lies below 1 by more than the practical margin. It
does not where that is not shown and the interval leaves no room for a gain worth having; where it
does, or where noise has spoiled the measurement, it is not known. All of it is said.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from benchmarks.conditions.devices import gpu_name, runs_on_gpu
from benchmarks.paired_statistics import Comparison
from engines import precisions

if TYPE_CHECKING:
    from benchmarks.measurement import ContenderResult, Measurement


WORTH_HAVING = 0.05
"""A gain that an interval around 1 must exclude before merging is said not to pay."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AtBatch:
    """One batch size.

    Attributes:
        batch: Images of one run.
        pays: Whether merging pays there; None where noise has spoiled the measurement, or the
            interval holds both a gain and none.
        ratio: Latency over that of the plain model; None in a spoiled measurement.
        low: Lower end of its interval; None likewise.
        high: Upper end; None likewise.
        reason: Why it is not known; "" where it is.
    """

    batch: int
    pays: bool | None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    reason: str = ""

    def figures(self) -> str:
        """Return the ratio with its interval, "0.92 [0.91, 0.93]"."""
        assert self.ratio is not None
        digits = 2 if self.high - self.low >= 0.015 else 3  # type: ignore[operator]
        low, high = f"{self.low:.{digits}f}", f"{self.high:.{digits}f}"
        return f"{self.ratio:.{digits}f} [{low}, {high}]"


@dataclasses.dataclass(frozen=True, kw_only=True)
class MergeVerdict:
    """What was found for one merged contender.

    Attributes:
        contender: Its name.
        device: What it ran on.
        what: What the contender does that the plain model does not: "Merging", or "Merging with
            INT8" beside a plain model of another precision.
        batches: In rising order.
        named: Whether the sentence begins with the contender's name, because there are several.
    """

    contender: str
    device: str
    what: str
    batches: tuple[AtBatch, ...]
    named: bool = False

    @property
    def pays(self) -> bool | None:
        """Whether merging pays at every batch; None where one is not known and none says no."""
        if any(one.pays is False for one in self.batches):
            return False
        return None if any(one.pays is None for one in self.batches) else True

    @property
    def pays_from(self) -> int | None:
        """The smallest batch from which merging pays at all that were measured; None where none."""
        found = None
        for one in reversed(self.batches):
            if not one.pays:
                break
            found = one.batch
        return found

    def sentence(self) -> str:
        """Return it in words, without a full stop."""
        name = f"{self.contender}: " if self.named else ""
        unknown = [one for one in self.batches if one.pays is None]
        text = self._known([one for one in self.batches if one.pays is not None])
        left = "; ".join(_unknown(unknown))
        if not text:
            return f"{name}Whether merging pays on {self.device} is {left}"
        return f"{name}{text}{'; ' if left else ''}{left}"

    def _known(self, known: Sequence[AtBatch]) -> str:
        yes, no = [one for one in known if one.pays], [one for one in known if not one.pays]
        if not no:
            return f"{self.what} pays {_at(yes)} on {self.device}: {_of_plain(yes)}" if yes else ""
        said = f"{self.what} does not pay {_at(no)} on {self.device}"
        if not yes:
            return f"{said}: {_of_plain(no)}"
        start = self.pays_from
        if start is not None:
            (first,) = (one for one in yes if one.batch == start)
            earlier = [one for one in yes if one.batch < start]
            middle = f"it pays {_at(earlier)}, and " if earlier else "it pays "
            return f"{said}; {middle}from batch {start}: {_of_plain([first])}"
        return f"{said}: {_of_plain(no)}; it pays {_at(yes)}: {_of_plain(yes)}"


def merge_verdicts(measurements: Sequence[Measurement]) -> tuple[MergeVerdict, ...]:
    """Return what measurements of the same contenders, each at one batch, say about merging.

    Only contenders whose tokens merge and that were compared with the plain model are judged.
    """
    ordered = sorted(measurements, key=lambda one: one.batch)
    names = list(dict.fromkeys(name for one in ordered for name in _judged(one)))
    return tuple(_verdict(ordered, name, named=len(names) > 1) for name in names)


def to_json(verdicts: Sequence[MergeVerdict]) -> list[dict[str, object]]:
    """Return verdicts as what `json.dumps` takes, each with its sentence."""
    return [
        {
            **dataclasses.asdict(one),
            "pays": one.pays,
            "pays_from": one.pays_from,
            "sentence": one.sentence(),
        }
        for one in verdicts
    ]


def _judged(measurement: Measurement) -> list[str]:
    return [
        result.name
        for result in measurement.contenders
        if result.against is not None
        and result.against.baseline == measurement.plain
        and result.artefact is not None
        and result.artefact.merges
    ]


def _verdict(ordered: Sequence[Measurement], name: str, *, named: bool) -> MergeVerdict:
    part = [one for one in ordered if name in _judged(one)]
    result = part[0].result(name)
    return MergeVerdict(
        contender=name,
        device=_device(part[0], result),
        what=_what(part[0], result),
        batches=tuple(_at_batch(one, one.result(name).against) for one in part),
        named=named,
    )


def _at_batch(measurement: Measurement, against: Comparison | None) -> AtBatch:
    assert against is not None
    if not measurement.valid:
        reason = "; ".join(found.what for found in measurement.spoiled_by)
        return AtBatch(batch=measurement.batch, pays=None, reason=reason)
    is_open = against.verdict == "no difference shown" and against.low < 1 - WORTH_HAVING
    return AtBatch(
        batch=measurement.batch,
        pays=None if is_open else against.verdict == "faster",
        ratio=against.ratio,
        low=against.low,
        high=against.high,
        reason="the interval holds both a gain and none" if is_open else "",
    )


def _device(measurement: Measurement, result: ContenderResult) -> str:
    runtime = result.runtime
    if runs_on_gpu(runtime):
        return gpu_name(
            measurement.environment, measurement.gpu, runtime.get("device", "an unnamed GPU")
        )
    return measurement.environment.board or measurement.environment.cpu


def _what(measurement: Measurement, result: ContenderResult) -> str:
    assert measurement.plain is not None and result.artefact is not None
    plain = measurement.result(measurement.plain).artefact
    own = result.artefact.precision
    is_other = precisions.is_quantized(own) and (plain is None or plain.precision != own)
    return f"Merging with {own.upper()}" if is_other else "Merging"


def _unknown(found: Sequence[AtBatch]) -> Iterator[str]:
    spoiled = [one for one in found if one.ratio is None]
    wide = [one for one in found if one.ratio is not None]
    if spoiled:
        yield f"not known {_at(spoiled)}, where the measurement is not valid"
    if wide:
        yield f"not known {_at(wide)}: {_of_plain(wide)} allows both, more rounds would tell"


def _at(found: Sequence[AtBatch]) -> str:
    sizes = [str(one.batch) for one in found]
    return f"at batch {_listed(sizes)}"


def _of_plain(found: Sequence[AtBatch]) -> str:
    return f"{_listed([one.figures() for one in found])} of plain"


def _listed(words: Sequence[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last
