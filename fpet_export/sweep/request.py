"""What a sweep is asked for: `SweepRequest`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from engines import precisions
from engines.errors import UsageError
from engines.near_names import did_you_mean
from fpet_export.request_fields import (
    from_one,
    judged_by,
    one_of,
    require_merge,
    require_sizes,
)
from fpet_export.requests import (
    AUTO,
    Duration,
    Quantization,
    RunFacts,
    TaskImages,
    Writing,
)


def _require_merges(value: tuple[str, ...], where: str) -> None:
    for merge in value:
        require_merge(merge, where)
        if merge == AUTO:
            raise UsageError(
                "a sweep computes the merges that are named, and 'auto' names none",
                where=where,
                fix="name them, as none,fpet@4,fpet@6; or let one be searched: "
                "fpet-export export RUN --merge auto --max-drop 1.0 --data DATA -o OUT",
            )


def _require_precisions(value: tuple[str, ...], where: str) -> None:
    for name in value:
        if name not in precisions.PRECISIONS:
            known = tuple(precisions.PRECISIONS)
            raise UsageError(
                f"{name!r} is not one of {', '.join(known)}",
                where=where,
                fix=did_you_mean(name, known, otherwise="choose among the names above"),
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepRequest(RunFacts, Quantization, TaskImages, Duration, Writing):
    """A grid to compute: every run with every merge, batch, precision and target.

    `limit` counts the images that every engine classifies. What says how a graph is quantized holds
    for the precisions that take it.

    Attributes:
        runs: Runs, each as RUN or NAME=RUN.
        out: The folder of the sweep; one that holds a part of the results is completed.
        targets: Where the engines run.
        precisions: Names of `engines.precisions`.
        batches: Images per inference.
        merges: As `--merge` of `export` has them; none leaves each run as it was trained.
        against: "plain" measures every engine in the same rounds as the same network without
            merging.
        bench: Measure latencies; else points are compared by their multiply-adds.
        workers: Processes on this machine; None takes as many as it has cores, at most four.
        scheduler: Address of a dask scheduler, as "tcp://HOST:8786", in place of these.
        retry_failed: Compute once more what failed the last time.
    """

    runs: tuple[str, ...]
    out: Path
    targets: tuple[str, ...] = ("cpu",)
    precisions: tuple[str, ...] = judged_by(_require_precisions, (precisions.FP32,))
    batches: tuple[int, ...] = judged_by(require_sizes, (1,))
    merges: tuple[str, ...] = judged_by(_require_merges, ())
    against: Literal["plain"] | None = one_of("plain")
    bench: bool = True
    workers: int | None = from_one(None)
    scheduler: str | None = None
    retry_failed: bool = False

    def __post_init__(self) -> None:
        """Check every field, and put what is listed twice once."""
        super().__post_init__()
        for name in ("runs", "targets", "precisions", "batches", "merges"):
            object.__setattr__(self, name, tuple(dict.fromkeys(getattr(self, name))))
        for name in ("runs", "targets", "precisions"):
            if not getattr(self, name):
                raise UsageError("nothing is listed", where=name, fix="name one or more")
        if self.workers is not None and self.scheduler is not None:
            raise UsageError(
                "workers are counted on this machine, and a scheduler brings its own",
                where="--workers",
                fix="leave out --workers or --scheduler",
            )
