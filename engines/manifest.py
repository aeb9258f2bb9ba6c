"""The side-car of every artefact: what it is, how it was made, and the hash that proves it.

`NAME.manifest.json` lies beside `NAME.onnx`, `NAME.plan` or `NAME.pt2`. This file alone writes and
reads it.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import json
import platform
import types
import typing
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from engines import precisions, storage
from engines.errors import TrustError, UsageError

SCHEMA = 5

_SEAL = "manifest_sha256"

SHARED = "tasks"
"""`ModelFacts.method` of a graph that takes the weights of a task as inputs."""

Decode = Literal["full", "plain"]
"""How an image file becomes RGB pixels; see `Preprocessing.decode`."""

Cropping = Literal["torchvision", "transformers", "squashed"]
"""How the centre of an image is cut out; see `Preprocessing.cropping`."""

WHITE = (255, 255, 255)
"""The background of transparent pixels unless another one is asked for."""

Head = Literal["logits", "features", "tokens"]
"""What a network ends in: logits of classes; the features that a head reads, pooled and normalised;
or the tokens of all patches after the last norm, for a head of another kind."""

NO_TARGET = "any"
"""`Manifest.target` of a graph that was written for none, such as a plain export."""

Dimension = int | str
"""A static extent, or the name of a dynamic one such as "batch"."""

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """One input or output: name, shape, and dtype in numpy's spelling ("float32", "uint8")."""

    name: str
    shape: tuple[Dimension, ...]
    dtype: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How an image becomes the input tensor.

    Attributes:
        size: (height, width) in pixels of the input.
        interpolation: Pillow's filter name: "bicubic", "bilinear", "lanczos" or "nearest".
        crop: Share of the resized image that the centre crop keeps; 1.0 resizes straight to
            `size` without keeping the aspect ratio, as the authors' runs do.
        cropping: How that crop is cut where it is below 1.0. "torchvision", as timm: the shorter
            side is resized to size / crop, and half a pixel rounds to the even one; "transformers":
            the same, and it rounds down; "squashed": the image is resized to size / crop without
            keeping the aspect ratio first, as transformers' processor of DeiT does.
        decode: "full" turns an image as its EXIF orientation says and lays it on `background`
            where it is transparent; "plain" does neither, as Pillow's `convert("RGB")`, which is
            how the authors' runs were trained. See docs/pixels.md.
        background: Colour (red, green, blue), each 0..255, behind transparent pixels; without
            effect where `decode` is "plain".
        mean: Per channel (RGB), on pixels in 0..1; subtracted before dividing by `std`.
        std: Per channel (RGB).
        layout: "NCHW" or "NHWC" of the input tensor.
        dtype: "float32" (pixels in 0..1, before mean and std) or "uint8" (raw pixels).
        in_graph: Whether mean and std (and 1/255 for uint8) are already part of the graph. The
            caller then feeds plain pixels.
    """

    size: tuple[int, int]
    interpolation: str
    crop: float
    decode: Decode
    background: tuple[int, int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    cropping: Cropping = "torchvision"
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    dtype: Literal["float32", "uint8"] = "float32"
    in_graph: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class MergeStep:
    """What one block does to its tokens, after its attention.

    Attributes:
        block: 0-based.
        before: Tokens that enter, prefix included.
        merged: Of them, tokens that join another one.
        sources: Tokens of which the match says where they went, Na.
        pruned: Of those that enter, tokens that are lost.
        whole: Whether the sizes of the tokens that leave count patches, and so sum to all of them.
    """

    block: int
    before: int
    merged: int
    sources: int
    pruned: int = 0
    whole: bool = True

    @property
    def after(self) -> int:
        """Tokens that leave, prefix included."""
        return self.before - self.merged - self.pruned


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What the network is, for people and for the checks of later stages.

    Attributes:
        architecture: A readable name, such as "vit 768x12, 12 heads, patch 16".
        width: Token width C.
        depth: Number of blocks.
        heads: Attention heads.
        hidden: Inner width of the MLP.
        patch: (height, width) of a patch in pixels.
        grid: (rows, columns) of patches.
        prefix_tokens: Class, distillation and register tokens in front of the patches.
        classes: Number of logits; 0 for a graph whose tasks each bring their own head, and for one
            that gives features or tokens.
        method: Tuning method, "none", or "tasks" for a graph that takes it as inputs.
        bit: Bits of the stored adapter, or None.
        dim: Rank or bottleneck width, or None.
        scale: The method's scale, or None.
        merge: How tokens merge, as `--merge` says it: "none", "fpet@6", "tome:r=8".
        merges: What each block does that merges, in order.
        ties: "argmax" or "reference".
        tokens: Tokens that leave each block.
        macs: Multiply-adds of one image.
        head: What the network gives.
        gated: Whether the MLPs are gated: their first layer is twice as wide.
        qk_norm: Whether queries and keys have a norm.
        attention_norm: Whether a norm stands before the projection of the attention.
        mlp_norm: Whether a norm stands before the second layer of the MLPs.
        rotary: Whether queries and keys are turned by their position.
        attention_pool: Whether the head reads what one query attends to.
    """

    architecture: str
    width: int
    depth: int
    heads: int
    hidden: int
    patch: tuple[int, int]
    grid: tuple[int, int]
    prefix_tokens: int
    classes: int
    method: str
    bit: int | None
    dim: int | None
    scale: float | None
    merge: str
    merges: tuple[MergeStep, ...]
    ties: Literal["argmax", "reference"]
    tokens: tuple[int, ...]
    macs: int
    head: Head = "logits"
    gated: bool = False
    qk_norm: bool = False
    attention_norm: bool = False
    mlp_norm: bool = False
    rotary: bool = False
    attention_pool: bool = False

    @property
    def merged_blocks(self) -> tuple[int, ...]:
        """0-based blocks after whose attention tokens merge; empty without merging."""
        return tuple(step.block for step in self.merges)

    @property
    def joins_once(self) -> bool:
        """Whether one block merges, and each of its sources joins its best partner there."""
        return len(self.merges) == 1 and self.merges[0].merged == self.merges[0].sources

    @property
    def counts_patches(self) -> bool:
        """Whether sizes count patches, so that they sum to all of them."""
        return all(step.whole for step in self.merges)

    def match_role(self, block: int) -> str:
        """Return the role of a block's match among the probes: "match", of several "match.3"."""
        return "match" if len(self.merges) == 1 else f"match.{block}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parent:
    """A file that the artefact was made from.

    Attributes:
        role: "run", "backbone", "graph" or "external weights".
        file: Its name.
        sha256: SHA-256 of its bytes; "" where there is no file.
        verdict: What its own check had come to by then; "" for a file that no check judges.
        failure: The stage that failed and why; "" unless the verdict is "failed".
    """

    role: str
    file: str
    sha256: str
    verdict: Literal["", "passed", "failed", "unchecked"] = ""
    failure: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Form:
    """How a graph was written where targets differ; see `engines.form`.

    Attributes:
        attention_scale: As `engines.targets.Target.attention_scale`.
        last_block: As `engines.targets.Target.last_block`; "" where the head reads every token, so
            that there is no choice.
        integers: As `engines.targets.Target.integers`; "" where nothing is quantized.
        command: The command that exported it, word by word; a typed graph keeps it.
        folder: Where it was typed: its relative paths begin there.
    """

    attention_scale: Literal["split", "folded"]
    last_block: Literal["", "class-token", "all-tokens"]
    integers: Literal["", "pairs", "gemm"] = ""
    command: tuple[str, ...] = ()
    folder: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Companion:
    """A file in the artefact's folder that the artefact refers to: weights too large for it.

    Hash and size are filled in by `write_manifest`.
    """

    file: str
    sha256: str = ""
    size_bytes: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Runtime:
    """What a plan is bound to.

    Attributes:
        flavour: "onnxruntime", "openvino", "tensorrt", "tensorrt_rtx" or "torch".
        version: Its full version.
        compute_capabilities: GPU generations the plan holds code for, as "8.6"; empty on a CPU.
        machine: CPU architecture, as `platform.machine()` gives it.
        settings: Everything else that decided the build, as text.
    """

    flavour: str
    version: str
    compute_capabilities: tuple[str, ...] = ()
    machine: str = dataclasses.field(default_factory=platform.machine)
    settings: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quantization:
    """How a graph was quantized.

    Attributes:
        preset: Name of the policy.
        quantized: Layers that are quantized.
        kept: Layers of the preset that were left in the high precision.
        observers: Rule that chose the ranges, by kind of tensor.
        images: Calibration images.
        table: Name of the calibration table beside the graph.
        table_sha256: Its hash.
        quality: SQNR, agreement and accuracy against the float32 graph; see
            `calibration.accuracy.Quality`. None where nothing was measured.
    """

    preset: str
    quantized: tuple[str, ...]
    kept: tuple[str, ...]
    observers: dict[str, str]
    images: int
    table: str
    table_sha256: str
    quality: dict[str, Any] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskFacts:
    """What a task's file holds.

    Attributes:
        name: The task's name.
        backbone: Fingerprint of the backbone that it belongs to.
        half: In which precision its dense factors are kept.
        factor_error: Largest |difference| that keeping them in float16 makes to a factor, over the
            largest |factor| of its layer; 0 where nothing was rounded.
        logit_error: Largest |logit difference| of the task to its own export in float32, over the
            largest |logit|; None before the check, and where a logit is not finite.
    """

    name: str
    backbone: str
    half: precisions.FactorName
    factor_error: float
    logit_error: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything a later stage needs to know about one artefact.

    Attributes:
        kind: "graph" (ONNX), "engine", or "task" (what a task adds to a shared graph).
        file: Name of the artefact, without its folder.
        sha256: SHA-256 of the artefact's bytes; filled in by `write_manifest`.
        size_bytes: Likewise.
        inputs: In the graph's order.
        outputs: Likewise.
        preprocessing: None for a graph that was not exported by this toolkit.
        labels: Class names; empty when unknown.
        model: None for a graph that was not exported by this toolkit.
        precision: A name of `engines.precisions`.
        opset: ONNX opset of the graph, or of the graph that a plan was built from or that a task
            belongs to.
        target: Target the artefact was made for.
        form: How it was written for that target; None for a graph that was not exported by this
            toolkit.
        runtime: What a plan is bound to; None for a graph.
        operators: Histogram of the graph's operators.
        probes: Role ("match", "size") to the name of an inner tensor, for audits.
        weights: "random" marks an artefact that is good for speed only.
        facts: What was decided about the model and from what, as "value (source)": which weights
            of a file, heads, pool, normalisation.
        batch_range: Smallest and largest value of a dynamic batch dimension; None when every
            extent is static.
        quantization: How it was quantized; None for a graph in floating point.
        task: What a task's file holds; None elsewhere.
        companions: Files that belong to it.
        parents: What it was made from.
        command: The command line, word by word.
        tools: Versions of what made it.
        parity: The parity table, as `engines.parity.rows` stores it; None before the check. What
            follows from it says `engines.verdict`.
        created: UTC, ISO 8601.
        schema: Version of this layout.
    """

    kind: Literal["graph", "engine", "task"]
    file: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    precision: str
    opset: int
    target: str
    weights: Literal["trained", "random", "unknown"]
    preprocessing: Preprocessing | None = None
    labels: tuple[str, ...] = ()
    model: ModelFacts | None = None
    form: Form | None = None
    runtime: Runtime | None = None
    operators: dict[str, int] = dataclasses.field(default_factory=dict)
    probes: dict[str, str] = dataclasses.field(default_factory=dict)
    facts: dict[str, str] = dataclasses.field(default_factory=dict)
    batch_range: tuple[int, int] | None = None
    quantization: Quantization | None = None
    task: TaskFacts | None = None
    companions: tuple[Companion, ...] = ()
    parents: tuple[Parent, ...] = ()
    command: tuple[str, ...] = ()
    tools: dict[str, str] = dataclasses.field(default_factory=dict)
    parity: dict[str, Any] | None = None
    created: str = dataclasses.field(
        default_factory=lambda: dt.datetime.now(dt.timezone.utc).isoformat(timespec="seconds")
    )
    sha256: str = ""
    size_bytes: int = 0
    schema: int = SCHEMA

    @property
    def shows_match(self) -> bool:
        """Whether tokens merge, and the artefact shows where."""
        model = self.model
        return (
            model is not None
            and bool(model.merges)
            and all(model.match_role(block) in self.probes for block in model.merged_blocks)
        )

    @property
    def is_shared(self) -> bool:
        """Whether the artefact takes the weights of a task as inputs."""
        model = self.model
        return self.kind != "task" and model is not None and model.method == SHARED

    @property
    def head(self) -> Head:
        """What it gives: logits, unless it says something else."""
        return "logits" if self.model is None else self.model.head

    @property
    def is_float32(self) -> bool:
        """Whether it is in float32, as exported: neither rounded nor quantized."""
        return self.precision == precisions.FP32

    @property
    def is_quantized(self) -> bool:
        """Whether it stores numbers in 8 bits."""
        return precisions.is_quantized(self.precision)

    @property
    def total_bytes(self) -> int:
        """The size of the artefact with its companions."""
        return self.size_bytes + sum(companion.size_bytes for companion in self.companions)


TASKS_INDEX = "tasks.json"
"""The file that makes a folder one of tasks; `engines.tasks.index` reads it."""
ENDING = ".manifest.json"

EXECUTABLE = (".plan", ".pt2")
"""Endings of engines that are machine code: without a manifest, nothing opens them."""

ENDINGS = (".onnx", *EXECUTABLE)
"""Endings of graphs and engines: an ONNX file, a plan of TensorRT, a package of PyTorch."""


def is_task_folder(path: Path) -> bool:
    """Say whether this is a folder of tasks, or one that was."""
    return (path / TASKS_INDEX).is_file()


def manifest_path(artefact: Path) -> Path:
    """Return the side-car's path: `model.cpu.onnx` has `model.cpu.manifest.json`."""
    return artefact.with_name(artefact.stem + ENDING)


def refuse_shared_side_car(artefact: Path) -> None:
    """Refuse an output whose side-car is that of another file: `model.plan` beside `model.onnx`.

    Raises:
        UsageError: It is, and writing it would leave that file without a manifest.
    """
    path = manifest_path(artefact)
    try:
        other = json.loads(path.read_text())["file"]
    except (OSError, ValueError, KeyError, TypeError):
        return  # there is none, or none that describes a file
    if isinstance(other, str) and other != artefact.name and artefact.with_name(other).exists():
        raise UsageError(
            f"{artefact.name} and {other}, which exists, would share one manifest, {path.name}",
            where=str(artefact),
            fix="choose an output whose name differs before its ending, as "
            f"{artefact.stem}-2{artefact.suffix}",
        )


def write_manifest(artefact: Path, manifest: Manifest) -> Manifest:
    """Hash `artefact` and its companions, write the side-car, return the completed manifest."""
    complete = dataclasses.replace(
        manifest,
        file=artefact.name,
        sha256=storage.sha256_of(artefact),
        size_bytes=artefact.stat().st_size,
        companions=tuple(_hashed(artefact, companion.file) for companion in manifest.companions),
    )
    storage.write_text(manifest_path(artefact), _sealed(dataclasses.asdict(complete)))
    return complete


def _hashed(artefact: Path, name: str) -> Companion:
    """Return a companion with its hash; it lies beside the artefact, or will."""
    path = artefact.parent / name
    if not path.exists():
        path = storage.home_of(artefact) / name
    return Companion(file=name, sha256=storage.sha256_of(path), size_bytes=path.stat().st_size)


def read_manifest(artefact: Path, *, verify: bool = True) -> Manifest:
    """Read the side-car of `artefact` and check that it describes these very bytes.

    Raises:
        TrustError: There is no side-car, it is not ours or not whole, a byte of it was changed, or
            the size or hash of the artefact or of a companion is another.
    """
    path = manifest_path(artefact)
    fix = "make the artefact again, or copy it together with its manifest"
    try:
        text = path.read_text("utf-8")
        document = json.loads(text)
    except FileNotFoundError:
        raise TrustError("the manifest is missing", where=str(path), fix=fix) from None
    except (OSError, ValueError, RecursionError) as error:
        raise TrustError(
            f"the manifest cannot be read: {error}", where=str(path), fix=fix
        ) from error
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        found = document.get("schema") if isinstance(document, dict) else type(document).__name__
        raise TrustError(
            f"the manifest has schema {found!r}, this version reads {SCHEMA}",
            where=str(path),
            fix=fix,
        )
    document.pop(_SEAL, None)
    try:
        manifest = from_json(Manifest, document)
        if _sealed(document) != text:
            raise ValueError("it does not match its own hash")
    except (TypeError, ValueError) as error:
        raise TrustError(f"the manifest is damaged: {error}", where=str(path), fix=fix) from error
    if verify:
        _verify(artefact, manifest, fix)
    return manifest


def _sealed(document: dict[str, Any]) -> str:
    """Return the text of a manifest with its own hash: else a changed label went unnoticed."""
    own = hashlib.sha256(json.dumps(document, allow_nan=False).encode()).hexdigest()
    return json.dumps({**document, _SEAL: own}, indent=1, allow_nan=False) + "\n"


def _verify(artefact: Path, manifest: Manifest, fix: str) -> None:
    if manifest.file != artefact.name:
        raise TrustError(
            f"the manifest describes {manifest.file!r}, not {artefact.name!r}",
            where=str(manifest_path(artefact)),
            fix=fix,
        )
    own = Companion(file=manifest.file, sha256=manifest.sha256, size_bytes=manifest.size_bytes)
    _verify_file(artefact, own, fix)
    for wanted in manifest.companions:
        if artefact.parent.resolve() not in (artefact.parent / wanted.file).resolve().parents:
            raise TrustError(
                f"the manifest names a file outside its folder: {wanted.file!r}",
                where=str(manifest_path(artefact)),
                fix=fix,
            )
        _verify_file(artefact.parent / wanted.file, wanted, fix)


def _verify_file(path: Path, wanted: Companion, fix: str) -> None:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise TrustError(
            f"the file cannot be read: {error.strerror}", where=str(path), fix=fix
        ) from error
    if size != wanted.size_bytes:
        raise TrustError(
            f"the file has {size} bytes, its manifest says {wanted.size_bytes}",
            where=str(path),
            fix=fix,
        )
    found = storage.sha256_of(path)
    if found != wanted.sha256:
        raise TrustError(
            f"SHA-256 is {found[:16]}…, the manifest says {wanted.sha256[:16]}…",
            where=str(path),
            fix=fix,
        )


def from_json(kind: type[T], value: Any) -> T:
    """Build a `kind` (dataclass, tuple, dict, Literal, Optional or scalar) from parsed JSON.

    Raises:
        TypeError: A value has another type, or a key is unknown or missing.
    """
    return typing.cast(T, _parse(kind, value, at=""))


def _parse(kind: Any, value: Any, *, at: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind):
        return _parse_dataclass(typing.cast(type, kind), value, at=at)
    if origin in (Union, types.UnionType):
        for candidate in arguments:
            try:
                return _parse(candidate, value, at=at)
            except TypeError:
                continue
    elif origin is Literal:
        if value in arguments:
            return value
    elif origin is tuple and isinstance(value, list):
        if arguments[-1] is Ellipsis:
            return tuple(_parse(arguments[0], item, at=at) for item in value)
        if len(arguments) == len(value):
            pairs = zip(arguments, value, strict=True)
            return tuple(_parse(wanted, item, at=at) for wanted, item in pairs)
    elif origin is dict and isinstance(value, dict):
        return {
            str(key): _parse(arguments[1], item, at=f"{at}.{key}") for key, item in value.items()
        }
    elif kind is float and type(value) in (int, float):
        return float(value)
    elif isinstance(kind, type) and type(value) is kind:
        return value
    elif kind is type(None) and value is None:
        return None
    raise TypeError(f"{at.lstrip('.') or 'document'} is {value!r}, wanted {kind}")


def _parse_dataclass(kind: type, value: Any, *, at: str) -> Any:
    if not isinstance(value, dict):
        raise TypeError(f"{at.lstrip('.') or 'document'} is {value!r}, wanted an object")
    hints = get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    unknown = sorted(set(value) - set(fields))
    missing = sorted(
        name
        for name, field in fields.items()
        if name not in value
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    )
    if unknown or missing:
        raise TypeError(f"{at.lstrip('.') or 'document'}: unknown {unknown}, missing {missing}")
    return kind(
        **{name: _parse(hints[name], item, at=f"{at}.{name}") for name, item in value.items()}
    )
