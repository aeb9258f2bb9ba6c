"""The steps of a sweep: what each does, in a folder of its own, with the functions of the verbs.

    reference ─────────────────────────────┐
    export ──▶ quantize (not for float32) ──▶ engine ──▶ measure

One export serves all precisions, and all targets that want a graph in the same form; one quantized
graph serves all targets that want the same integers. Engine and measurement belong to one point.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import numbers
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from engines.engine import default_path
from engines.manifest import read_manifest
from engines.targets._lookup import load_target
from fpet_export.reporter import Reporter
from fpet_export.requests import CheckImages, Request, Run
from fpet_export.steps.runs import run_argv
from fpet_export.steps.typing_request import typed_path
from fpet_export.sweep import inputs
from fpet_export.sweep.store import Found, Store
from fpet_export.version import __version__
from fpet_export.workflow.bench import BenchRequest, bench
from fpet_export.workflow.build import BuildRequest, build
from fpet_export.workflow.export import ExportRequest, export
from fpet_export.workflow.quantize import QuantizeRequest, quantize

_UNKEYED = ("command", "out", "onnx", "artefacts", "force", "allow_noise")
"""What does not change a result: where it lies, how it is said, and what is done with noise."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """One step.

    Attributes:
        name: Its folder in the sweep.
        needs: Steps whose results it reads.
    """

    kind: ClassVar[str]
    alone: ClassVar[bool] = False
    """Whether nothing else may run on the machine meanwhile."""

    name: str
    needs: tuple[Step, ...] = ()

    @property
    def settings(self) -> Mapping[str, Any]:
        """Everything that is asked for, besides what its needs were asked for."""
        raise NotImplementedError

    @property
    def asked(self) -> Mapping[str, Any]:
        """The settings and this toolkit's version, as one reads them back from JSON."""
        document = json.dumps({"fpet-export": __version__, **self.settings}, default=str)
        return dict(json.loads(document))

    @property
    def key(self) -> str:
        """SHA-256 of all that was asked for, here and of what it needs."""
        asked = [self.kind, self.asked, [need.key for need in self.needs]]
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()

    def perform(self, folder: Path, store: Store, reporter: Reporter) -> Found:
        """Do it.

        Args:
            folder: Empty; what is left in it is kept.
            store: Where the results of `needs` lie.
            reporter: Hears of it.

        Raises:
            FpetError: What is wrong.
        """
        raise NotImplementedError


def _keyed(request: Request) -> dict[str, Any]:
    fields = dataclasses.asdict(request)
    return {name: _plain(value) for name, value in fields.items() if name not in _UNKEYED}


def _plain(value: Any) -> Any:
    """Return one form of numbers that are equal: 3 and 3.0 ask for the same."""
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        number = float(value)
        return int(number) if number.is_integer() else number
    return value


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReferenceStep(Step):
    """What a run answers as it was trained, in float32: what every engine of it is compared with.

    Attributes:
        run: The run.
        images: What it is asked about; synthetic ones without `data`.
        halved: Whether every second image calibrates, and the others are asked about.
    """

    kind: ClassVar[str] = "reference"
    run: Run
    images: CheckImages
    halved: bool

    @property
    def settings(self) -> Mapping[str, Any]:
        """The run and the images."""
        of_images = {**_keyed(self.images), "every second image calibrates": self.halved}
        return {**_keyed(self.run), **of_images}

    def perform(self, folder: Path, store: Store, reporter: Reporter) -> Found:
        """Run it over the images, and keep them with the answers."""
        from fpet_export.sweep import answers

        return answers.of_run(self.run, self.images, reporter, folder, halved=self.halved)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportStep(Step):
    """A run's float32 graph, checked as `export` checks it.

    Attributes:
        request: The request, for one of the targets that share the graph.
        form: What these targets have in common; see `engines.form`.
    """

    kind: ClassVar[str] = "export"
    request: ExportRequest
    form: str

    @property
    def settings(self) -> Mapping[str, Any]:
        """The request, for whichever of the targets."""
        return {**_keyed(self.request), "target": self.form}

    def perform(self, folder: Path, store: Store, reporter: Reporter) -> Found:
        """Export it."""
        asked = self.request
        merge = () if asked.merge is None else ("--merge", asked.merge)
        words = _words("export", *run_argv(asked), *merge, "--target", asked.target, "--batch",
                       asked.batch, "-o", store.folder(self.name))  # fmt: skip
        request = dataclasses.replace(asked, out=folder, command=words)
        made_graph = export(request, reporter)
        model = made_graph.manifest.model
        assert model is not None
        return Found(
            facts={
                "graph": made_graph.graph.name,
                "macs": model.macs,
                "tokens": model.tokens[-1],
                "weights": made_graph.manifest.weights,
            },
            inputs=inputs.hashes(_file_of(asked.merge)),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizeStep(Step):
    """The graph of a precision, made of an exported one.

    Attributes:
        request: The request, for one of the targets that share the graph.
        form: What these targets have in common.
    """

    kind: ClassVar[str] = "quantize"
    request: QuantizeRequest
    form: str

    @property
    def settings(self) -> Mapping[str, Any]:
        """The request, for whichever of the targets."""
        return {**_keyed(self.request), "target": self.form}

    def perform(self, folder: Path, store: Store, reporter: Reporter) -> Found:
        """Calibrate, type, and judge it."""
        from fpet_export.sweep import answers

        (source,) = self.needs
        graph = graph_of(source, store)
        asked = self.request
        out = folder / typed_path(graph, asked.precision).name
        words = _words("quantize", graph, "--precision", asked.precision, "-o",
                       store.folder(self.name) / out.name)  # fmt: skip
        request = dataclasses.replace(asked, onnx=graph, out=out, command=words)
        quantized = quantize(request, reporter)
        return Found(
            facts={"graph": quantized.graph.name},
            inputs=answers.calibration_files(request, read_manifest(graph, verify=False)),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineStep(Step):
    """The engine of a point, compared with its graph, and its answers with those of the run."""

    kind: ClassVar[str] = "engine"
    target: str

    @property
    def settings(self) -> Mapping[str, Any]:
        """The target."""
        return {"target": self.target}

    def perform(self, folder: Path, store: Store, reporter: Reporter) -> Found:
        """Build it, and ask it about the images."""
        from fpet_export.sweep import answers

        reference, source = self.needs
        graph = graph_of(source, store)
        out = folder / default_path(graph, load_target(self.target)).name
        words = _words("build", graph, "--target", self.target, "-o",
                       store.folder(self.name) / out.name)  # fmt: skip
        built = build(
            BuildRequest(onnx=graph, target=self.target, out=out, command=words), reporter
        )
        told = answers.of_engine(built.engine, store.folder(reference.name))
        manifest = built.manifest
        return Found(
            facts={
                "engine": built.engine.name,
                "sha256": manifest.sha256,
                "bytes": manifest.total_bytes,
                "answers": told,
            }
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeasureStep(Step):
    """The latency of a point."""

    kind: ClassVar[str] = "measure"
    alone: ClassVar[bool] = True
    request: BenchRequest

    @property
    def settings(self) -> Mapping[str, Any]:
        """The request."""
        return _keyed(self.request)

    def perform(self, folder: Path, store: Store, reporter: Reporter) -> Found:
        """Measure it, and keep every sample."""
        (built,) = self.needs
        engine = engine_of(built, store)
        out = folder / "latency.json"
        against = () if self.request.against is None else ("--against", self.request.against)
        words = _words("bench", engine, *against, "--rounds", self.request.rounds)
        request = dataclasses.replace(self.request, artefacts=(engine,), out=out, command=words)
        (measurement,) = bench(request, reporter).measurements
        result = measurement.result(engine.stem)
        against_plain = result.against
        return Found(
            facts={
                "file": out.name,
                "valid": measurement.valid,
                "p50_ns": result.latency.p50_ns,
                "p90_ns": result.latency.p90_ns,
                "p99_ns": result.latency.p99_ns,
                "images_per_s": result.latency.images_per_s,
                "against_plain": None
                if against_plain is None
                else dataclasses.asdict(against_plain),
                "machine": measurement.environment.board or measurement.environment.cpu,
            }
        )


def graph_of(step: Step, store: Store) -> Path:
    """Return the graph that a step has left."""
    return _left_by(step, store, "graph")


def engine_of(step: Step, store: Store) -> Path:
    """Return the engine that a step has left."""
    return _left_by(step, store, "engine")


def _left_by(step: Step, store: Store, what: str) -> Path:
    record = store.record(step.name)
    assert record is not None, "steps are done in order"
    return store.folder(step.name) / str(record.facts[what])


def _words(*words: object) -> tuple[str, ...]:
    """Return the command that makes the same, for the manifest."""
    return ("fpet-export", *map(str, words))


def _file_of(merge: str | None) -> list[Path]:
    """Return the file that a merge names behind its colon, such as a schedule; most name none."""
    path = Path((merge or "").partition(":")[2] or ".")
    return [path] if path.is_file() else []
