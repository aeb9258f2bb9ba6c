"""The points of a sweep, and the steps that they share."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from engines import precisions
from engines.targets import Target
from engines.targets._lookup import load_target
from engines.tasks.index import check_names
from fpet_export.requests import CheckImages, Quantization, Request, Run, made, named
from fpet_export.steps.runs import run_of
from fpet_export.sweep.request import SweepRequest
from fpet_export.sweep.steps import (
    EngineStep,
    ExportStep,
    MeasureStep,
    QuantizeStep,
    ReferenceStep,
    Step,
)
from fpet_export.tasks.by_task import by_task
from fpet_export.workflow.bench import BenchRequest
from fpet_export.workflow.export import ExportRequest
from fpet_export.workflow.quantize import QuantizeRequest

TRAINED = "trained"
"""What the merge of a run is called that is left as it was trained."""

S = TypeVar("S", bound=Step)
_SCHEME = re.compile(r"(?:random|timm):")
_OF_QUANTIZATION = {field.name for field in dataclasses.fields(Quantization)} - {
    field.name for field in dataclasses.fields(Request)
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    """One point of the grid.

    Attributes:
        name: Of its file.
        run: Name of the run.
        target: Where its engine runs.
        precision: Of its graph.
        batch: Images per inference.
        merge: As `--merge` has it, or `TRAINED`.
        steps: The steps behind it, in order; the reference first, the measurement last if there is
            one.
    """

    name: str
    run: str
    target: str
    precision: str
    batch: int
    merge: str
    steps: tuple[Step, ...]

    def coordinates(self) -> dict[str, Any]:
        """Return where in the grid it lies."""
        names = ("run", "merge", "batch", "precision", "target")
        return {name: getattr(self, name) for name in names}

    def step(self, kind: type[Step]) -> Step | None:
        """Return its step of a kind; None where it has none."""
        return next((step for step in self.steps if isinstance(step, kind)), None)


def names_of(request: SweepRequest) -> dict[str, str]:
    """Return the runs of a request by their names, with paths that hold in every folder.

    Raises:
        UsageError: A name is no name of a file, or stands for two runs.
    """
    given = [named(text) for text in request.runs]
    pairs = [(name or _name_of(run), run) for name, run in given]
    check_names((name for name, _ in pairs), kind="run")
    return {name: _absolute(run) for name, run in pairs}


def points_of(request: SweepRequest) -> tuple[Point, ...]:
    """Return every point of a grid, with the steps that make it; equal steps are one object.

    Raises:
        UsageError: A run's name, or a run that images are given for, is none.
        UnknownNameError: There is no such target.
    """
    grid = _Grid(request)
    return tuple(
        grid.point(run, target, precision, batch, merge)
        for run, merge, batch, precision, target in itertools.product(
            grid.runs,
            request.merges or (None,),
            request.batches,
            request.precisions,
            [load_target(name) for name in request.targets],
        )
    )


def steps_of(points: Iterable[Point]) -> list[Step]:
    """Return the steps behind points, each once, what others need first."""
    return list({step.name: step for point in points for step in point.steps}.values())


def quantization_of(request: SweepRequest, precision: str) -> dict[str, Any]:
    """Return what is said about quantization, as far as a precision takes it."""
    if precision in precisions.QUANTIZED:
        return {name: getattr(request, name) for name in _OF_QUANTIZATION}
    usual = {name: getattr(Quantization(), name) for name in _OF_QUANTIZATION}
    return {**usual, "io": request.io} if precision in precisions.HALVES else usual


def images_of(request: SweepRequest, run: str, runs: Sequence[str]) -> CheckImages:
    """Return the images of one run: its own, else those of all.

    Raises:
        UsageError: Images are given for a run that is not there.
    """
    sets = {
        name: by_task(texts, runs, f"--{name}", kind="run").get(run)
        for name, texts in (("data", request.data), ("labels", request.labels))
    }
    found = {name: None if path is None else path.absolute() for name, path in sets.items()}
    return CheckImages(
        data=found["data"], labels=found["labels"], limit=request.limit, skip_bad=request.skip_bad
    )


def export_request(
    request: SweepRequest,
    run: Run,
    images: CheckImages,
    *,
    target: str,
    batch: int,
    merge: str | None,
) -> ExportRequest:
    """Return the request that exports one float32 graph."""
    given = {
        **vars(request), **vars(run), **vars(images),
        **quantization_of(request, precisions.FP32), "precision": precisions.FP32,
        "target": target, "batch": batch, "merge": merge, "limit": None, "force": False,
    }  # fmt: skip
    return made(ExportRequest, given)


class _Grid:
    """Makes the steps of points, each of them once."""

    def __init__(self, request: SweepRequest) -> None:
        self.runs = names_of(request)
        self._request = _with_absolute_paths(request)
        self._images = {name: images_of(request, name, tuple(self.runs)) for name in self.runs}
        self._steps: dict[str, Step] = {}

    def point(
        self, run: str, target: Target, precision: str, batch: int, merge: str | None
    ) -> Point:
        """Return one point with its steps."""
        label = merge or TRAINED
        name = _slug(run, label, f"b{batch}", precision, target.file_name)
        reference = self._reference(run)
        graph: Step = self._export(run, merge, batch, target, reference)
        steps: list[Step] = [reference, graph]
        if precision != precisions.FP32:
            graph = self._quantize(run, label, batch, precision, target, graph)
            steps.append(graph)
        engine = self._one(
            EngineStep(name=f"engine/{name}", needs=(reference, graph), target=target.name)
        )
        steps.append(engine)
        if self._request.bench:
            steps.append(
                self._one(
                    MeasureStep(
                        name=f"measure/{name}",
                        needs=(engine,),
                        request=_bench_request(self._request),
                    )
                )
            )
        return Point(
            name=name, run=run, target=target.name, precision=precision, batch=batch, merge=label,
            steps=tuple(steps),
        )  # fmt: skip

    def _one(self, step: S) -> S:
        """Return the step of this name that is there already, or this one."""
        found = self._steps.setdefault(step.name, step)
        assert type(found) is type(step)
        return found

    def _reference(self, run: str) -> ReferenceStep:
        request, images = self._request, self._images[run]
        calibrates = any(name in precisions.QUANTIZED for name in request.precisions)
        is_own = request.calibration is not None or bool(request.table)
        return self._one(
            ReferenceStep(
                name=f"reference/{_slug(run)}",
                run=run_of(self.runs[run], request),
                images=images,
                halved=calibrates and images.data is not None and not is_own,
            )
        )

    def _export(
        self, run: str, merge: str | None, batch: int, target: Target, reference: Step
    ) -> ExportStep:
        form = f"opset{target.opset}-{target.attention_scale}-{target.last_block}"
        return self._one(
            ExportStep(
                name=f"export/{_slug(run, merge or TRAINED, f'b{batch}', form)}",
                needs=(reference,),
                form=form,
                request=export_request(
                    self._request,
                    run_of(self.runs[run], self._request),
                    self._images[run],
                    target=target.name,
                    batch=batch,
                    merge=merge,
                ),
            )
        )

    def _quantize(
        self, run: str, merge: str, batch: int, precision: str, target: Target, export: Step
    ) -> QuantizeStep:
        form = f"{export.name.rpartition(',')[2]}-{target.integers}-{target.int8_weights}"
        return self._one(
            QuantizeStep(
                name=f"quantize/{_slug(run, merge, f'b{batch}', precision, form)}",
                needs=(export,),
                form=form,
                request=_quantize_request(self._request, self._images[run], precision, target.name),
            )
        )


def _quantize_request(
    request: SweepRequest, images: CheckImages, precision: str, target: str
) -> QuantizeRequest:
    given = {
        **vars(request), **vars(images), **quantization_of(request, precision),
        "precision": precision, "target": target, "limit": request.limit, "onnx": request.out,
        "out": None, "force": False, "rounds": 1,
    }  # fmt: skip
    return made(QuantizeRequest, given)


def _bench_request(request: SweepRequest) -> BenchRequest:
    return BenchRequest(
        artefacts=(request.out,),
        against=request.against,
        threads=request.threads,
        rounds=request.rounds,
        seconds=request.seconds,
        allow_noise=request.allow_noise,
    )


def _with_absolute_paths(request: SweepRequest) -> SweepRequest:
    """Return a request that means the same files in the folder of any worker."""

    def absolute(path: Path | None) -> Path | None:
        return None if path is None else path.absolute()

    return dataclasses.replace(
        request,
        out=request.out.absolute(),
        backbone=None if request.backbone is None else _absolute(request.backbone),
        config=absolute(request.config),
        calibration=absolute(request.calibration),
        table=tuple(path.absolute() for path in request.table),
    )


def _absolute(text: str) -> str:
    return text if _SCHEME.match(text) else str(Path(text).absolute())


def _name_of(run: str) -> str:
    if _SCHEME.match(run):
        return "-".join(run.split(":")[1:])
    path = Path(run).absolute()
    return path.name if path.is_dir() else path.name.partition(".")[0]


def _slug(*parts: str) -> str:
    """Return a file name made of texts; one that had to be changed gets a hash of it."""
    found = []
    for text in parts:
        safe = re.sub(r"[^\w.@=+-]", "_", text)
        digest = hashlib.sha256(text.encode()).hexdigest()[:6]
        found.append(safe if safe == text else f"{safe}-{digest}")
    return ",".join(found)
