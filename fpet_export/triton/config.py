"""The text of `config.pbtxt`: what Triton Inference Server must know to serve one artefact.

The message is `ModelConfig` of `model_config.proto` (triton-inference-server/common); the rules of
batching are those of the page model_configuration.md in the server's user guide.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from engines.errors import InputError
from engines.manifest import Dimension, Manifest, TensorSpec

LABELS = "labels.txt"

Backend = Literal["tensorrt", "onnxruntime", "python"]

_PLATFORMS: dict[Backend, str] = {"tensorrt": "tensorrt_plan", "onnxruntime": "onnxruntime_onnx"}
_FILES: dict[Backend, str] = {
    "tensorrt": "model.plan",
    "onnxruntime": "model.onnx",
    "python": "model.py",
}
_TYPES = {
    "bool": "TYPE_BOOL", "uint8": "TYPE_UINT8", "int8": "TYPE_INT8", "int32": "TYPE_INT32",
    "int64": "TYPE_INT64", "float16": "TYPE_FP16", "float32": "TYPE_FP32",
}  # fmt: skip
_ONLY: dict[Backend, dict[str, str]] = {
    "tensorrt": {"bfloat16": "TYPE_BF16"},
    "onnxruntime": {"float64": "TYPE_FP64", "int16": "TYPE_INT16", "uint16": "TYPE_UINT16"},
    "python": {},
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Serving:
    """How one model is served.

    Attributes:
        name: Name of the model, and of its folder in the repository.
        backend: Who runs it.
        on_gpu: Whether the instances run on GPUs or on the CPU.
        instances: On each GPU, or on the CPU; what runs at the same time.
        gpus: Numbers of the GPUs; empty for all that the server sees.
        queue_delay_us: How long a request may wait for others to share a batch; None for not at
            all.
        parameters: Passed to a model of the python backend.
    """

    name: str
    backend: Backend
    on_gpu: bool
    instances: int = 1
    gpus: tuple[int, ...] = ()
    queue_delay_us: int | None = None
    parameters: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def file(self) -> str:
        """The name that the backend looks for in a version's folder."""
        return _FILES[self.backend]


def model_config(manifest: Manifest, serving: Serving) -> str:
    """Return the text of `config.pbtxt`.

    Args:
        manifest: Manifest of the artefact.
        serving: How to serve it.

    Raises:
        InputError: Triton cannot serve it: it needs larger batches than one request, its range of
            batches is not known, or a tensor has a type that the backend lacks.
    """
    largest = max_batch_size(manifest)
    platform = _PLATFORMS.get(serving.backend)
    lines = [
        *_origin(manifest),
        f"name: {_text(serving.name)}",
        *([] if platform is None else [f"platform: {_text(platform)}"]),
        f"backend: {_text(serving.backend)}",
        f"default_model_filename: {_text(serving.file)}",
        f"max_batch_size: {largest}",
    ]
    for kind, specs in (("input", manifest.inputs), ("output", manifest.outputs)):
        for spec in specs:
            labels = LABELS if kind == "output" and _has_labels(spec, manifest) else None
            lines += _tensor(kind, spec, serving.backend, is_batched=largest > 0, labels=labels)
    if largest > 1:
        delay = serving.queue_delay_us
        inner = [] if delay is None else [f"  max_queue_delay_microseconds: {delay}"]
        lines += ["dynamic_batching {", *inner, "}"]
    lines += _instances(serving)
    for key, value in serving.parameters.items():
        lines += [f"parameters {{ key: {_text(key)} value {{ string_value: {_text(value)} }} }}"]
    lines += ["version_policy { latest { num_versions: 1 } }"]
    return "\n".join(lines) + "\n"


def max_batch_size(manifest: Manifest) -> int:
    """Return the largest batch that Triton may form of single requests; 0 where it may form none.

    Triton batches along a first dimension that every input and output has. Where the batch is
    static, the tensors have all their dimensions in the configuration, and a request is one batch.

    Raises:
        InputError: See `model_config`.
    """
    firsts = {spec.shape[:1] for spec in (*manifest.inputs, *manifest.outputs)}
    if len(firsts) > 1 or not all(isinstance(extent, str) for first in firsts for extent in first):
        return 0
    if manifest.batch_range is None:
        raise InputError(
            "the batch is dynamic, and the manifest does not say how large it may be",
            where=manifest.file,
            fix="export with --batch dyn:1-8",
        )
    low, high = manifest.batch_range
    if low > 1:
        raise InputError(
            f"the smallest batch is {low}, and Triton sends single requests too",
            where=manifest.file,
            fix=f"build with --batch 1:{low}:{high}",
        )
    return high


def labels_of(manifest: Manifest) -> tuple[str, ...]:
    """Return the class names for the label file; empty where no output has one value a class."""
    has_output = any(_has_labels(spec, manifest) for spec in manifest.outputs)
    return manifest.labels if has_output else ()


def _origin(manifest: Manifest) -> Iterator[str]:
    yield "# Written by `fpet-export triton`."
    yield f"# {_one_line(manifest.file)}: {manifest.precision}, SHA-256 {manifest.sha256}"
    runtime = manifest.runtime
    if runtime is not None:
        capabilities = ", ".join(runtime.compute_capabilities)
        where = f", compute capability {capabilities}" if capabilities else ""
        yield f"# Built by {runtime.flavour} {runtime.version}{where}: serve it with the same."


def _tensor(
    kind: str, spec: TensorSpec, backend: Backend, *, is_batched: bool, labels: str | None
) -> Iterator[str]:
    types = _TYPES | _ONLY[backend]
    if spec.dtype not in types:
        raise InputError(
            f"{spec.name!r} is {spec.dtype}, which Triton's {backend} backend does not have",
            where="the manifest's inputs and outputs",
            fix="cast inputs and outputs to float16 or float32 in the graph",
        )
    dims = spec.shape[1:] if is_batched else spec.shape
    yield f"{kind} {{"
    yield f"  name: {_text(spec.name)}"
    yield f"  data_type: {types[spec.dtype]}"
    yield f"  dims: {_dims(dims or (1,))}"
    if not dims:  # an empty shape is not allowed, so the client sees one more dimension
        yield "  reshape { shape: [ ] }"
    if labels is not None:
        yield f"  label_filename: {_text(labels)}"
    yield "}"


def _has_labels(spec: TensorSpec, manifest: Manifest) -> bool:
    return bool(manifest.labels) and spec.shape[-1:] == (len(manifest.labels),)


def _instances(serving: Serving) -> Iterator[str]:
    yield "instance_group {"
    yield f"  count: {serving.instances}"
    yield f"  kind: {'KIND_GPU' if serving.on_gpu else 'KIND_CPU'}"
    if serving.gpus:
        yield f"  gpus: {_dims(serving.gpus)}"
    yield "}"


def _dims(values: Sequence[Dimension]) -> str:
    return f"[ {', '.join(str(one) if isinstance(one, int) else '-1' for one in values)} ]"


def _text(value: str) -> str:
    """Quote a string as protobuf's text format has it: octal escapes of UTF-8 bytes."""
    plain = range(0x20, 0x7F)
    escaped = (
        chr(byte) if byte in plain and byte not in b'"\\' else f"\\{byte:03o}"
        for byte in value.encode("utf-8")
    )
    return f'"{"".join(escaped)}"'


def _one_line(text: str) -> str:
    return " ".join(text.split())
