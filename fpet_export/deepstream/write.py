"""A folder for DeepStream: `DeepstreamRequest`, `write`, what it wrote."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from engines import storage
from engines.errors import InputError, UsageError
from engines.imaging.preparation import resizing_in_words
from engines.manifest import (
    Manifest,
    Preprocessing,
    is_task_folder,
    manifest_path,
    write_manifest,
)
from fpet_export.deepstream import nvinfer, releases
from fpet_export.deepstream.crop import Box, seen
from fpet_export.deepstream.guide import CONFIG, Guide
from fpet_export.deepstream.nvinfer import LABELS, PARSER, PLAN, Inference
from fpet_export.deepstream.parser import parser_source
from fpet_export.reporter import SILENT, Reporter
from fpet_export.request_fields import judged_by
from fpet_export.requests import AllowFailed, Writing
from fpet_export.steps import trust, usable

README = "README.md"


def _require_frame(value: tuple[int, ...], where: str) -> None:
    if len(value) != 2 or any(not isinstance(one, int) or one < 2 for one in value):
        raise UsageError(
            f"{value!r} is not a width and a height in pixels",
            where=where,
            fix="give those of the video, such as 1920x1080",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeepstreamRequest(AllowFailed, Writing):
    """Which plan DeepStream runs, and on what.

    Attributes:
        engine: A plan of TensorRT.
        out: The folder to write.
        gpu: Number of the GPU.
        frame: (width, height) of the video; a crop depends on it.
        uncropped: Let the network see all of a frame or an object although the preprocessing
            crops.
        objects_of: `gie-unique-id` of a detector: classify its objects, not whole frames.
        tensors: Attach the outputs as they are, and name no class.
    """

    engine: Path
    out: Path
    gpu: int = dataclasses.field(default=0, metadata={"least": 0})
    frame: tuple[int, int] | None = judged_by(_require_frame)
    uncropped: bool = False
    objects_of: int | None = dataclasses.field(default=None, metadata={"least": 1})
    tensors: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeepstreamWritten:
    """A folder for DeepStream.

    Attributes:
        folder: The folder.
        properties: Keys and values of nvinfer's configuration.
        crop: Part of each frame that the pipeline cuts out; None cuts nothing.
        releases: DeepStream releases that have the plan's TensorRT.
        not_equal: In which points answers may differ from those of `predict`.
    """

    folder: Path
    properties: dict[str, str]
    crop: Box | None
    releases: tuple[str, ...]
    not_equal: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "folder": str(self.folder),
            "config": str(self.folder / CONFIG),
            "properties": self.properties,
            "crop": self.crop and dataclasses.asdict(self.crop),
            "deepstream": list(self.releases),
            "not_equal": list(self.not_equal),
        }


def write(request: DeepstreamRequest, reporter: Reporter = SILENT) -> DeepstreamWritten:
    """Check a plan, then write its configuration, its parser and how to run them.

    Raises:
        UsageError: It is no plan of TensorRT 10, or what the network is to see is not said.
        InputError: nvinfer cannot run it, or would give other answers.
        ParityError: Its check failed.
        TrustError: It is not what its manifest says.
    """
    artefact = request.engine
    if is_task_folder(artefact):
        raise UsageError(
            "tasks share a graph that takes their weights as inputs, and nvinfer fills one input, "
            "the images",
            where=str(artefact),
            fix="export the task by itself (`fpet-export export RUN`), build that, and give its "
            "plan",
        )
    manifest = trust.check(artefact, reporter)
    if not isinstance(manifest, Manifest):
        raise UsageError("this is a bundle", where=str(artefact), fix="give the plan itself")
    usable.require(artefact, manifest, request, reporter)
    how = Inference(
        gpu=request.gpu,
        detector=request.objects_of,
        names_classes=manifest.head == "logits" and not request.tensors,
    )
    nvinfer.require_servable(artefact, manifest, how)
    preprocessing, runtime = manifest.preprocessing, manifest.runtime
    assert preprocessing is not None and runtime is not None  # `require_servable` saw them
    box = _box(request, preprocessing)
    fitting = releases.fitting(runtime)
    guide = Guide(manifest=manifest, how=how, frame=request.frame, box=box, releases=fitting)
    if manifest.weights == "random":
        reporter.step("weights", "random, good for speed only", passed=None)
    _write(request, manifest, how, guide)
    what = "frames" if how.detector is None else f"objects of the detector {how.detector}"
    batch = nvinfer.batch_size(manifest)
    answer = "the likeliest class" if how.names_classes else "the outputs as they are"
    reporter.step("deepstream", f"{what}, batches up to {batch}: {answer}")
    if box is not None:
        reporter.step("crop", f"src-crop={box.in_words()} of each frame, as the run was prepared")
    elif preprocessing.crop < 1.0:
        told = f"none, and the run was prepared with {resizing_in_words(preprocessing)}"
        reporter.step("crop", told, passed=None)
    which = " or ".join(fitting) or f"none up to {releases.LATEST} that we know"
    told = f"TensorRT {runtime.version} on its GPU: DeepStream {which}"
    reporter.step("needs", told, passed=None)
    reporter.step("commands", f"{README} has them, and what is not equal to predict")
    return DeepstreamWritten(
        folder=request.out,
        properties=nvinfer.properties(manifest, how),
        crop=box,
        releases=fitting,
        not_equal=guide.not_equal(),
    )


def _box(request: DeepstreamRequest, preprocessing: Preprocessing) -> Box | None:
    """Return what the pipeline has to cut out of each frame; None where nothing.

    Raises:
        UsageError: The preprocessing crops, and the request leaves open what nvinfer sees; or it
            contradicts itself.
        InputError: The frame is too small for the part that is kept.
    """
    if preprocessing.crop >= 1.0:
        if request.uncropped:
            raise UsageError(
                "the preprocessing of this run crops nothing",
                where="--uncropped",
                fix="leave it out",
            )
        return None
    told = f"the run was prepared with {resizing_in_words(preprocessing)}"
    whole = "add --uncropped where the network may see all of it, which gives other answers"
    if request.objects_of is not None:
        if not request.uncropped:
            raise UsageError(
                f"{told}, and nvinfer scales all of an object to the network's size",
                where="--objects-of",
                fix=whole,
            )
        return None
    if request.frame is None:
        if not request.uncropped:
            raise UsageError(
                f"{told}, and nvinfer scales whole frames; what has to be cut out before it "
                "depends on the size of the video",
                where="--frame",
                fix=f"name it, as --frame 1920x1080; or {whole}",
            )
        return None
    if request.uncropped:
        raise UsageError(
            "--frame says where to crop, and --uncropped not to",
            where="--uncropped",
            fix="leave one of them out",
        )
    box = seen(request.frame, preprocessing)
    if min(box.width, box.height) < 16:  # what video converters of a Jetson can scale
        raise InputError(
            f"a frame of {request.frame[0]}x{request.frame[1]} leaves {box.width}x{box.height} "
            "after the crop, wanted 16x16 at least",
            where="--frame",
            fix="give the width and the height of the video in pixels",
        )
    return box


def _write(request: DeepstreamRequest, manifest: Manifest, how: Inference, guide: Guide) -> None:
    """Write all files, each whole or not at all, the configuration last."""
    folder, plan = request.out, request.out / PLAN
    texts = {}
    if how.names_classes:
        texts[PARSER] = parser_source(manifest)
        if manifest.labels:
            texts[LABELS] = nvinfer.labels_text(manifest)
    texts |= {README: guide.text(), CONFIG: nvinfer.config_text(manifest, how)}
    for path in (plan, manifest_path(plan), *(folder / name for name in texts)):
        storage.refuse_overwrite(path, force=request.force)
    with storage.atomic_path(plan) as temporary:
        storage.copy_unchanged(request.engine, temporary, sha256=manifest.sha256)
        write_manifest(temporary, dataclasses.replace(manifest, file=plan.name))
    for name, text in texts.items():
        storage.write_text(folder / name, text)
