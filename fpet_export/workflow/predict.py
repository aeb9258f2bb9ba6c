"""Classes for images: `PredictRequest`, `predict`, `Predictions`."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engines.engine import load_target, open_engine
from engines.errors import UsageError
from engines.imaging.source import collect, open_files
from engines.parity.finite import require_finite
from engines.parity.model_outputs import ModelOutputs
from engines.parity.outputs import engine_outputs, manifest_of
from engines.tasks.open_tasks import open_tasks
from fpet_export.reporter import SILENT, Reporter
from fpet_export.requests import Opening, SkippingBad
from fpet_export.steps import check_images as images
from fpet_export.steps import task_names, usable

if TYPE_CHECKING:
    from engines.contract import Engine
    from engines.imaging.source import ImageSource
    from engines.manifest import Manifest, Preprocessing
    from engines.parity.model_outputs import FloatArray

_AT_ONCE = 64
"""Images in memory; a folder may hold many."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictRequest(Opening, SkippingBad):
    """What classifies which images.

    Attributes:
        artefact: A graph, an engine, or a folder of tasks.
        images: Image files, or folders of them.
        task: Which task of a folder.
        signers: The artefact is opened only if one of these has signed it.
        top: Classes for each image.
    """

    artefact: Path
    images: tuple[Path, ...]
    task: str | None = None
    signers: Path | None = None
    top: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Guess:
    """A class, with its probability from 0 to 1; a class without a name has its index as one."""

    index: int
    name: str
    probability: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prediction:
    """The likeliest classes of one image, best first."""

    image: Path
    classes: tuple[Guess, ...]

    def in_words(self) -> str:
        """Return one line."""
        shares = (f"{one.name} {one.probability:.1%}" for one in self.classes)
        return f"{self.image}: {', '.join(shares)}"

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        classes = [
            {"class": one.index, "name": one.name, "probability": round(one.probability, 6)}
            for one in self.classes
        ]
        return {"image": str(self.image), "classes": classes}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Predictions:
    """What was predicted.

    Attributes:
        predictions: One an image, in their order.
        unreadable: Images that were left out because they cannot be read.
    """

    predictions: tuple[Prediction, ...]
    unreadable: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"predictions": [one.to_json() for one in self.predictions]}


def predict(request: PredictRequest, reporter: Reporter = SILENT) -> Predictions:
    """Classify images with the preprocessing that the artefact's manifest states.

    Raises:
        UsageError: The preprocessing is unknown, or no task of a folder was named.
        InputError: An image cannot be read and may not be left out, or none can be read.
        ParityError: The artefact failed its check, or its logits are not finite.
        TrustError: It is not what its manifest says, or none of the signers has signed it.
    """
    if request.top < 1:
        raise UsageError(f"--top is {request.top}", where="--top", fix="give a number from 1")
    if not request.images:
        raise UsageError(
            "no image was given", where="images", fix="name image files, or folders of them"
        )
    with _opened(request, reporter) as (engine, manifest):
        if manifest.preprocessing is None:
            raise UsageError(
                "this graph was not exported by this toolkit; its preprocessing is unknown",
                where=str(request.artefact),
                fix="predict with a graph from `fpet-export export`",
            )
        if manifest.head != "logits":
            raise UsageError(
                f"this artefact gives {manifest.head}, and only logits name a class",
                where=str(request.artefact),
                fix="export the run with its classifier: leave --head out; or run the artefact "
                "from Python for its numbers: engines.open(path)",
            )
        source = _source(request, manifest.preprocessing, reporter)
        outputs = ModelOutputs.joined(
            [
                engine_outputs(engine, manifest, collect(part).pixels)
                for part in source.parts(_AT_ONCE)
            ]
        )
    names = [str(location.path) for location in source.locations]
    require_finite(outputs, names, of=request.artefact)
    logits = outputs.logits.astype(np.float64)
    if manifest.weights == "random":
        reporter.step("weights", "random: these classes mean nothing", passed=None)
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    return Predictions(
        predictions=tuple(
            Prediction(image=location.path, classes=_best(row, request.top, manifest.labels))
            for location, row in zip(source.locations, shares, strict=True)
        ),
        unreadable=tuple(source.unreadable),
    )


def _best(shares: FloatArray, count: int, labels: Sequence[str]) -> tuple[Guess, ...]:
    """Return the likeliest classes of (K,) probabilities."""
    return tuple(
        Guess(
            index=int(index),
            name=labels[index] if labels else str(index),
            probability=float(shares[index]),
        )
        for index in np.argsort(-shares, kind="stable")[:count]
    )


@contextlib.contextmanager
def _opened(request: PredictRequest, reporter: Reporter) -> Iterator[tuple[Engine, Manifest]]:
    """Open an artefact, or one task of a folder."""
    path, name = request.artefact, request.task
    if name is None and not path.is_dir():
        with open_engine(path, options=request.open_options(signers=request.signers)) as engine:
            manifest = manifest_of(path)
            usable.report(path, manifest, reporter)
            yield engine, manifest
        return
    if request.signers is not None:
        raise UsageError(
            "a folder of tasks has no signature of its own",
            where="--signers",
            fix="send it in an archive that you sign, or sign and name one graph or engine",
        )
    with open_tasks(path, options=request.open_options()) as tasks:
        if name is None:
            raise task_names.no_task(path, tasks.names)
        usable.require_tasks(path, tasks.index, [name], request, reporter)
        handle = tasks.task(name)
        target, runs = tasks.index.target, handle.describe()["artefact"]
        if not runs.endswith(load_target(target).suffix):
            reporter.step("engine", f"no {target} engine is here: {runs} runs", passed=None)
        yield handle, handle.manifest()


def _source(
    request: PredictRequest, preprocessing: Preprocessing, reporter: Reporter
) -> ImageSource:
    """Return the image files that were named, and those below the folders that were.

    Raises:
        InputError: One of them cannot be read and `--skip-bad` is not given, or none can.
    """
    source = images.without_bad(open_files(request.images, preprocessing), request, reporter)
    left_out = source.left_out()
    if left_out:
        text = f"{source.description} · left out: {', '.join(left_out)}"
        reporter.step("images", text, passed=None)
    images.say_remarks(source.remarks(), reporter)
    return source
