"""The group `[property]` of Gst-nvinfer's configuration: what it must know to run one plan.

The keys and what they do are those of `gst-nvinfer` and `nvdsinfer` in
github.com/NVIDIA/DeepStream, release 9.1; all keys used here are in releases 6.4 to 9.1 alike.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from engines import precisions
from engines.commands import command, graph_of
from engines.engine import load_target
from engines.errors import InputError, UsageError
from engines.manifest import NO_TARGET, Manifest, Preprocessing, TensorSpec
from fpet_export.deepstream import releases

PLAN = "model.plan"
LABELS = "labels.txt"
PARSER = "classifier_parser.cpp"
LIBRARY = "libclassifier_parser.so"
FUNCTION = "NvDsInferParseFpetLogits"

LARGEST_BATCH = 1024
"""NVDSINFER_MAX_BATCH_SIZE in nvdsinfer_context.h."""

_FILTERS = {"nearest": 0, "bilinear": 1, "bicubic": 2, "lanczos": 4}
"""`scaling-filter` on the GPU (nvbufsurftransform.h), by Pillow's name; 3 averages areas."""
_MODES: Mapping[str, int] = {precisions.FP32: 0, precisions.INT8: 1, precisions.FP16: 2}
_OUTPUTS = ("float32", "float16", "int32", "int8")
"""Types that nvdsinfer has a name for in every release."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inference:
    """How nvinfer runs a plan.

    Attributes:
        gpu: Number of the GPU.
        detector: `gie-unique-id` of the detector whose objects are classified; None classifies
            whole frames.
        names_classes: Whether a class is named for each picture; else the outputs are attached as
            they are, and the application reads them.
    """

    gpu: int = 0
    detector: int | None = None
    names_classes: bool = True


def properties(manifest: Manifest, how: Inference) -> dict[str, str]:
    """Return the keys of `[property]` and their values, for a plan that `require_servable` passed.

    Args:
        manifest: Of the plan.
        how: How nvinfer runs it.
    """
    preprocessing = _preprocessing(manifest)
    height, width = preprocessing.size
    found = {
        "gpu-id": how.gpu,
        "gie-unique-id": 1 if how.detector is None else how.detector + 1,
        "process-mode": 1 if how.detector is None else 2,
        **({} if how.detector is None else {"operate-on-gie-id": how.detector}),
        "model-engine-file": PLAN,
        "batch-size": batch_size(manifest),
        **({"network-mode": mode} if (mode := _MODES.get(manifest.precision)) is not None else {}),
        "network-type": 1 if how.names_classes else 100,
        "infer-dims": f"3;{height};{width}",
        "network-input-order": 0 if preprocessing.layout == "NCHW" else 1,
        "model-color-format": 0,
        **_normalisation(preprocessing),
        "maintain-aspect-ratio": 0,
        "scaling-filter": _FILTERS[preprocessing.interpolation],
        "scaling-compute-hw": 1,
        "output-tensor-meta": 0 if how.names_classes else 1,
    }
    if how.names_classes:
        found |= {
            **({"labelfile-path": LABELS} if manifest.labels else {}),
            "classifier-threshold": 0,
            "custom-lib-path": LIBRARY,
            "parse-classifier-func-name": FUNCTION,
        }
    return {key: str(value) for key, value in found.items()}


def config_text(manifest: Manifest, how: Inference) -> str:
    """Return the text of the configuration, as GLib's key files have it."""
    runtime = manifest.runtime
    built = "" if runtime is None else f", built by TensorRT {runtime.version}"
    lines = [
        "# Written by `fpet-export deepstream`; README.md says how to run it.",
        f"# {PLAN}: {manifest.precision}{built}, SHA-256 {manifest.sha256}",
        "[property]",
        *(f"{key}={value}" for key, value in properties(manifest, how).items()),
    ]
    return "\n".join(lines) + "\n"


def labels_text(manifest: Manifest) -> str:
    """Return the text of the label file: all classes of the one output in one line."""
    return ";".join(manifest.labels) + "\n"


def batch_size(manifest: Manifest) -> int:
    """Return the largest batch of a plan, which is the one that nvinfer has to ask for.

    Raises:
        InputError: The batch is dynamic and its range is not known, or nvinfer has no such batch.
    """
    extent = manifest.inputs[0].shape[0]
    if isinstance(extent, str):
        if manifest.batch_range is None:
            raise InputError(
                "the batch is dynamic, and the manifest does not say how large it may be",
                where=manifest.file,
                fix="build the plan with --batch 1:4:8",
            )
        extent = manifest.batch_range[1]
    if extent > LARGEST_BATCH:
        raise InputError(
            f"the batch is {extent}, and nvinfer takes {LARGEST_BATCH} at most",
            where=manifest.file,
            fix=f"export or build it for at most {LARGEST_BATCH}",
        )
    return extent


def require_servable(artefact: Path, manifest: Manifest, how: Inference) -> None:
    """Refuse what nvinfer cannot run, or would run and give other answers.

    Raises:
        UsageError: It is no plan of TensorRT 10.
        InputError: Its inputs, its outputs, its batch or its class names do not suit nvinfer.
    """
    _require_plan(artefact, manifest)
    if manifest.is_shared or len(manifest.inputs) != 1:
        names = ", ".join(one.name for one in manifest.inputs)
        raise InputError(
            f"it takes {len(manifest.inputs)} inputs ({names}), and nvinfer fills one, the images",
            where=str(artefact),
            fix="export the task by itself (`fpet-export export RUN`) and build that",
        )
    preprocessing = manifest.preprocessing
    if preprocessing is None:
        raise InputError(
            "this graph was not exported by this toolkit; its preprocessing is unknown",
            where=str(artefact),
            fix="use a plan of a graph from `fpet-export export`",
        )
    _require_input(artefact, manifest.inputs[0], preprocessing)
    for output in manifest.outputs:
        _require_output(artefact, output)
    batch_size(manifest)
    if how.names_classes:
        _require_logits(artefact, manifest)
    spread = {*preprocessing.std}
    if not preprocessing.in_graph and len(spread) > 1:
        raise InputError(
            f"the graph expects pixels over a std of {preprocessing.std}, one a channel, and "
            "net-scale-factor is one for all channels",
            where=str(artefact),
            fix="export the run again: `fpet-export export` puts mean and std into the graph",
        )


def _require_plan(artefact: Path, manifest: Manifest) -> None:
    runtime = manifest.runtime
    if manifest.kind == "graph":
        raise UsageError(
            "this is a graph: nvinfer would build it itself, with TF32 and without the types that "
            "keep the token match exact",
            where=str(artefact),
            fix=f"build its plan where DeepStream runs, and give that: "
            f"{command('build', artefact, '--target', _target(manifest))}",
        )
    if runtime is None or runtime.flavour != "tensorrt":
        flavour = "unknown" if runtime is None else runtime.flavour
        graph = graph_of(artefact, manifest)
        raise UsageError(
            f"DeepStream runs plans of TensorRT, and this is an engine of {flavour}",
            where=str(artefact),
            fix="build its graph for TensorRT where DeepStream runs"
            + ("" if graph is None else f": {command('build', graph, '--target', 'tensorrt')}"),
        )
    major, minor = releases.version_of(runtime)
    if major != releases.TENSORRT_MAJOR:
        raise UsageError(
            f"the plan was built by TensorRT {major}.{minor}, and DeepStream up to "
            f"{releases.LATEST} is made for TensorRT {releases.TENSORRT_MAJOR}",
            where=str(artefact),
            fix="build it with the TensorRT of your DeepStream (docs/deepstream.md has a table)",
        )


def _require_input(artefact: Path, spec: TensorSpec, preprocessing: Preprocessing) -> None:
    height, width = preprocessing.size
    wanted = (height, width, 3) if preprocessing.layout == "NHWC" else (3, height, width)
    if spec.dtype != "float32" or preprocessing.dtype != "float32":
        raise InputError(
            f"{spec.name!r} takes {spec.dtype}, and nvinfer writes float32 into it, beyond its end",
            where=str(artefact),
            fix="export with --input float32, type with --io fp32, and build again",
        )
    if spec.shape[1:] != wanted:
        raise InputError(
            f"{spec.name!r} has the shape {list(spec.shape)}, wanted a batch of {list(wanted)}",
            where=str(artefact),
            fix="export the run again",
        )


def _require_output(artefact: Path, spec: TensorSpec) -> None:
    if spec.dtype not in _OUTPUTS:
        raise InputError(
            f"{spec.name!r} is {spec.dtype}, and nvinfer has no name for that type",
            where=str(artefact),
            fix="type the graph with --io fp32, and build again",
        )
    if len(spec.shape) < 2 or not all(isinstance(extent, int) for extent in spec.shape[1:]):
        raise InputError(
            f"{spec.name!r} has the shape {list(spec.shape)}, and nvinfer takes outputs whose "
            "first dimension is the batch and whose others are known",
            where=str(artefact),
            fix="export the run again",
        )


def _require_logits(artefact: Path, manifest: Manifest) -> None:
    logits = manifest.outputs[0]
    if logits.dtype != "float32" or len(logits.shape) != 2:
        raise InputError(
            f"{logits.name!r} is {logits.dtype} {list(logits.shape)}, wanted float32 [batch, "
            "classes]",
            where=str(artefact),
            fix="type the graph with --io fp32 and build again, or add --tensors and read the "
            "output in your application",
        )
    classes = logits.shape[1]
    if manifest.labels and len(manifest.labels) != classes:
        raise InputError(
            f"{len(manifest.labels)} class names for {classes} classes",
            where=str(artefact),
            fix="export the run again with --labels",
        )
    for name in manifest.labels:
        if ";" in name or len(name.splitlines()) > 1 or "\0" in name:
            raise InputError(
                f"the class name {name!r} has a semicolon or a line break, which separate names in "
                "nvinfer's label file",
                where=str(artefact),
                fix="export the run again with --labels and names without them",
            )


def _target(manifest: Manifest) -> str:
    """Return the target to build a graph for: its own where that is one of TensorRT."""
    if manifest.target == NO_TARGET or load_target(manifest.target).module != "tensorrt":
        return "tensorrt"
    return manifest.target


def _normalisation(preprocessing: Preprocessing) -> dict[str, str]:
    """Return scale and offsets of y = scale * (x - offset) for pixels x of 0..255."""
    if preprocessing.in_graph:
        return {"net-scale-factor": repr(1 / 255)}
    offsets = ";".join(repr(255 * mean) for mean in preprocessing.mean)
    return {"net-scale-factor": repr(1 / (255 * preprocessing.std[0])), "offsets": offsets}


def _preprocessing(manifest: Manifest) -> Preprocessing:
    assert manifest.preprocessing is not None  # `require_servable` saw it
    return manifest.preprocessing
