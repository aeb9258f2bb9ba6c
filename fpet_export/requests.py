"""What a user asks for: groups of settings that the command line and Python share.

Every verb has one request, a frozen dataclass made of these groups. Its fields have the names and
the defaults of the options on the command line; whoever makes one in Python gets the same
refusals. Nothing here is heavy: a request is made before anything is loaded.
"""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from benchmarks.limits import parse_limit
from benchmarks.scenarios.asked import parse_scenarios
from engines import precisions
from engines.contract import OpenOptions
from engines.errors import UsageError
from engines.near_names import did_you_mean
from fpet_export.request_fields import (
    convert_and_check,
    from_one,
    from_zero,
    judged_by,
    one_of,
    require_batch,
    require_colour,
    require_merge,
    require_merge_block,
    require_profile,
    require_share,
    require_sizes,
)

R = TypeVar("R", bound="Request")
_NAMED = re.compile(r"([A-Za-z0-9][\w.-]*)=(.+)")

AUTO = "auto"
"""The cheapest merge that keeps the limits on accuracy."""
BEST = "best"
"""The fastest precision that keeps the limits on accuracy."""
OBSERVERS = ("absmax", "percentile", "entropy", "mse")
"""Rules that find a range, the files of `calibration/observers`."""
SITES = ("input", "q", "k", "v", "probabilities")
"""Kinds of tensors that have a rule each."""


def _require_observers(value: Mapping[str, str], where: str) -> None:
    for kind, rule in value.items():
        for name, known in ((kind, SITES), (rule, OBSERVERS)):
            if name not in known:
                raise UsageError(
                    f"{name!r} is not one of {', '.join(known)}",
                    where=where,
                    fix=did_you_mean(str(name), known, otherwise="choose one of the names above"),
                )


def _require_limits(value: tuple[str, ...], where: str) -> None:
    for text in value:
        parse_limit(text)


def _require_scenarios(value: tuple[str, ...], where: str) -> None:
    try:
        parse_scenarios(value)
    except UsageError as error:
        raise UsageError(error.what, where=where, fix=error.fix) from error


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """What all requests have: strings become paths and lists become tuples, values are checked.

    Attributes:
        command: The command line that is recorded in manifests, word by word.

    Raises:
        UsageError: A value is none of the choices, or out of its range.
    """

    command: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Convert and check every field; see the class."""
        convert_and_check(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunFacts(Request):
    """What describes a run where its files do not; None asks the files.

    Attributes:
        backbone: A file, "timm:NAME" or "random:NAME:SEED".
        merge_block: 0-based block after whose attention tokens merge, or "none".
        method: "lora" or "adaptformer".
        bit: Bits of the stored adapter: 1, 2, 4, 8 or 32.
        rank: Rank of LoRA or bottleneck width of AdaptFormer.
        scale: The method's scale.
        alpha: LoRA's alpha, where a file holds its factors alone.
        channel_shuffle: Whether Consolidator was trained with it.
        qkv_slots: Which of q, k and v loralib's MergedLinear updates.
        config: The run's YAML.
        heads: Attention heads of the backbone.
        image: Input height and width in pixels: of a grid that is not square, or another size, to
            which positions are resampled.
        pool: What the head reads: the class token, or the mean over the patches.
        arch: timm's name of the architecture, of weights beside which nothing says it.
        weights: Which set of a file that holds several: "raw", "ema", "teacher" or "student".
        head_weights: A file with the trained head, of a run whose own files do not hold it.
        gate: How thresholds of TS-PEFT are read: "norm=relative,bias=without,…".
        normalisation: Mean and std: "none", "imagenet", "half", "clip" or "M,M,M/S,S,S".
        decode: "full" obeys EXIF orientation and transparency, "plain" drops both.
        background: RGB behind transparent pixels, 0 to 255; None takes white.
        head: What the network gives: "logits"; "features", which a head would read; or "tokens",
            those of all patches. The latter two need no classifier. None gives logits.
    """

    backbone: str | None = None
    merge_block: int | str | None = judged_by(require_merge_block)
    method: str | None = None
    bit: int | None = None
    rank: int | None = None
    scale: float | None = None
    alpha: float | None = None
    channel_shuffle: Literal["on", "off"] | None = one_of("on", "off")
    qkv_slots: Literal["q", "k", "v", "qk", "qv", "kv"] | None = one_of(
        "q", "k", "v", "qk", "qv", "kv"
    )
    config: Path | None = None
    heads: int | None = None
    image: tuple[int, int] | None = None
    pool: Literal["token", "avg"] | None = one_of("token", "avg")
    arch: str | None = None
    weights: str | None = None
    head_weights: Path | None = None
    gate: str | None = None
    normalisation: str | None = None
    decode: Literal["full", "plain"] | None = one_of("full", "plain")
    background: tuple[int, int, int] | None = judged_by(require_colour)
    head: Literal["logits", "features", "tokens"] | None = one_of("logits", "features", "tokens")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run(RunFacts):
    """A run: a folder, DIR/NAME, a file or "random:NAME:SEED", and what describes it."""

    run: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class GraphInput(Request):
    """What a graph takes.

    Attributes:
        batch: Images per inference, or the lowest and highest number of a dynamic batch.
        input: float32 pixels in 0..1 NCHW, or raw bytes; "uint8" is "uint8-nhwc".
        opset: ONNX opset; None takes the target's.
    """

    batch: int | tuple[int, int] = judged_by(require_batch, 1)
    input: Literal["float32", "uint8", "uint8-nchw", "uint8-nhwc"] = one_of(
        "float32", "uint8", "uint8-nchw", "uint8-nhwc", default="float32"
    )
    opset: int | None = from_one(None)

    @property
    def input_kind(self) -> Literal["float32", "uint8-nchw", "uint8-nhwc"]:
        """`input` with its short form spelled out."""
        return "uint8-nhwc" if self.input == "uint8" else self.input


@dataclasses.dataclass(frozen=True, kw_only=True)
class Graph(GraphInput):
    """How a run becomes a static graph.

    Attributes:
        ties: "argmax" keeps every token; "reference" drops tied ones as the published rule does.
        last_block: What the last block computes; None is the target's choice.
    """

    ties: Literal["argmax", "reference"] = one_of("argmax", "reference", default="argmax")
    last_block: Literal["class-token", "all-tokens"] | None = one_of("class-token", "all-tokens")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SkippingBad(Request):
    """Whether images that cannot be read are left out and listed; else they are an error."""

    skip_bad: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckImages(SkippingBad):
    """The images of a check.

    Attributes:
        data: A folder, list, CSV or `.npz` (docs/data.md); None makes a synthetic set.
        labels: Text file with one class name a line, in the order of the head's rows.
        limit: Images to check, at most; None takes as many as the gates need.
    """

    data: Path | None = None
    labels: Path | None = None
    limit: int | None = from_one(None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskImages(SkippingBad):
    """The images of a check of several tasks: "SET" for all, or "TASK=SET" for one.

    Attributes:
        data: Sets of images.
        labels: Files with class names.
        limit: Images to check per task, at most.
    """

    data: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    limit: int = from_one(128)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quantization(Request):
    """How a graph is typed, besides its precision.

    Attributes:
        io: Pixels and logits: float32, the graph's own type, or raw pixels.
        preset: What INT8 and FP8 quantize: the linears of the blocks, or their attention too.
        keep: Layers or blocks that stay in half precision, as "blocks/0" or "blocks/11/fc2".
        half: The type of what INT8 and FP8 leave alone.
        calibration: Images to find ranges on; None takes half of the images to check on.
        images: Calibration images; None takes up to 128.
        table: Calibration tables to start from, merged.
        observer: Rule by kind of tensor, as {"input": "percentile"}.
        equalise: Move outlier channels and means between layers first, which is exact.
        max_drop: Percentage points of accuracy to lose at most.
        min_sqnr: Smallest signal to noise of the logits, in decibels.
        min_agreement: Smallest share of images with the same class, 0 to 1.
    """

    io: precisions.InputOutput = dataclasses.field(
        default=precisions.FP32, metadata={"choices": get_args(precisions.InputOutput)}
    )
    preset: Literal["vit-linear", "vit-attention"] = one_of(
        "vit-linear", "vit-attention", default="vit-linear"
    )
    keep: tuple[str, ...] = ()
    half: precisions.HalfName = dataclasses.field(
        default=precisions.FP16, metadata={"choices": precisions.HALVES}
    )
    calibration: Path | None = None
    images: int | None = from_one(None)
    table: tuple[Path, ...] = ()
    observer: Mapping[str, str] = dataclasses.field(
        default_factory=dict, metadata={"require": _require_observers}
    )
    equalise: bool = True
    max_drop: float | None = from_zero(None)
    min_sqnr: float | None = None
    min_agreement: float | None = judged_by(require_share)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Precision(Quantization):
    """The precision of a deployment: a name of `engines.precisions`, or "best"."""

    precision: precisions.Name | Literal["best"] = dataclasses.field(
        default=precisions.FP32, metadata={"choices": (*precisions.PRECISIONS, BEST)}
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rounds(Request):
    """How many rounds a measurement has at least."""

    rounds: int = from_one(40)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Duration(Rounds):
    """How long engines are measured.

    Attributes:
        threads: CPU threads; None takes the physical cores.
        seconds: At least.
        allow_noise: Keep a noisy measurement, marked as such, instead of an error.
    """

    threads: int | None = from_one(None)
    seconds: float = from_zero(3.0)
    allow_noise: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class MachineSetting(Request):
    """What a board is set to while it measures; it is restored after that.

    Attributes:
        power_mode: Name of a power mode, as `nvpmodel` says it; None leaves it.
        clocks: "lock" holds them at the upper limits of the power mode, "keep" leaves them.
    """

    power_mode: str | None = None
    clocks: Literal["lock", "keep"] = one_of("lock", "keep", default="keep")

    def setting_argv(self) -> list[str]:
        """Return the same as words for another command line."""
        argv = [] if self.power_mode is None else ["--power-mode", self.power_mode]
        return [*argv, *([] if self.clocks == "keep" else ["--clocks", self.clocks])]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measuring(Duration, MachineSetting):
    """How long engines are measured, and beside what.

    Attributes:
        peers: Names of `benchmarks/peers`, or "all".
        energy: Measure what an image costs, too; refused where no sensor tells.
    """

    peers: tuple[str, ...] = ()
    energy: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Writing(Request):
    """Whether files that exist are replaced."""

    force: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Typing(Precision, CheckImages, Rounds, Writing):
    """How a graph is typed, the images it is judged on, and the rounds in which "best" measures."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exporting(Run, Graph, Typing):
    """A run to export, and what to leave of it.

    Attributes:
        out: The folder to write.
        target: Where the graphs will run; several with commas between them.
        merge: How tokens merge, whatever the run was trained with: "fpet@N" after the attention of
            block N, "tome:r=N" by ToMe in every block, "diffrate:FILE" by a schedule, "none"
            nowhere, "auto" as cheaply as `max_drop` and `min_agreement` allow on the images of
            `data`; None leaves it to the run.
    """

    out: Path
    target: str = "cpu"
    merge: str | None = judged_by(require_merge)

    @property
    def targets(self) -> tuple[str, ...]:
        """The names in `target`, each once."""
        return tuple(dict.fromkeys(name.strip() for name in self.target.split(",") if name.strip()))


@dataclasses.dataclass(frozen=True, kw_only=True)
class AllowFailed(Request):
    """Whether an artefact may be used whose check failed; what is made of it failed, too."""

    force_failed: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class AllowForm(Request):
    """Whether a graph may be used that was exported for a target of another form."""

    force_form: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Opening(AllowFailed):
    """How an artefact is opened.

    Attributes:
        provider: What ONNX Runtime runs a graph on; None takes the CPU, or what it was built for.
        no_cuda_graph: Launch a plan's kernels one by one, not as one CUDA graph.
        zero_copy: Let the GPU use the host's memory in place of copies.
    """

    provider: Literal["cpu", "cuda", "tensorrt"] | None = one_of("cpu", "cuda", "tensorrt")
    no_cuda_graph: bool = False
    zero_copy: bool = False

    def open_options(self, *, signers: Path | None = None) -> OpenOptions:
        """Return the same for `engines.open`."""
        return OpenOptions(
            provider=self.provider,
            cuda_graph=not self.no_cuda_graph,
            zero_copy=self.zero_copy,
            signers=signers,
            allow_failed=self.force_failed,
        )

    def running_argv(self) -> list[str]:
        """Return the same as words for another command line."""
        argv = [] if self.provider is None else ["--provider", self.provider]
        argv += ["--no-cuda-graph"] if self.no_cuda_graph else []
        return [*argv, *(["--zero-copy"] if self.zero_copy else [])]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured(Measuring, Opening):
    """How a measurement is taken, to the last detail.

    Attributes:
        seed: Seed of the order of contenders and of the bootstrap.
        peak: Measure this CPU's GEMM peak, too.
        scenario: What each contender is measured under alone, after the rounds: "stream:30" images
            a second, "offline", "cold", "soak:10" minutes.
    """

    seed: int = 0
    peak: bool = False
    scenario: tuple[str, ...] = judged_by(_require_scenarios, default=())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Elsewhere(Request):
    """Another machine that does the work, through ssh.

    Attributes:
        remote: Its name, as for ssh; None works here.
        remote_dir: Folder there; None is one below ~/.cache/fpet-export.
        ssh_config: Instead of ~/.ssh/config.
        keep_remote: Leave the folder there.
    """

    remote: str | None = None
    remote_dir: str | None = None
    ssh_config: Path | None = None
    keep_remote: bool = False

    def remote_argv(self) -> str:
        """Return the same machine for another command, as quoted words; "" for this one."""
        if self.remote is None:
            return ""
        found = ["--remote", self.remote]
        if self.remote_dir is not None:
            found += ["--remote-dir", self.remote_dir]
        if self.ssh_config is not None:
            found += ["--ssh-config", str(self.ssh_config)]
        return shlex.join(found)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchRequest(Measured, CheckImages, Elsewhere, Writing):
    """Artefacts to measure in the same rounds.

    Attributes:
        artefacts: Graphs or engines; a folder of tasks stands for its tasks.
        task: Which tasks of the folder; None takes all.
        against: The baseline: "plain", a contender, a peer or a file; None is the first contender.
        plain: The graph that "plain" builds; None writes it, which needs torch.
        batches: Batch sizes to measure at; None is the one that the artefacts fix, or their
            smallest.
        reference: What the classes are compared with; None takes the float32 graph that the first
            artefact was made from, where it lies beside it.
        html: Page to write.
        badge: SVG to write: the first contender but the plain model in one line.
        budget: Limits that are not to be missed, as "p99=12ms", "energy=90mJ", "memory=1.5GB".
        baseline: Measurement of before to compare with; it needs `max_regress`.
        max_regress: By how many per cent a median may be slower than in `baseline`.
        out: JSON to write.
    """

    artefacts: tuple[Path, ...]
    task: tuple[str, ...] | None = None
    against: str | None = None
    plain: Path | None = None
    batches: tuple[int, ...] | None = judged_by(require_sizes)
    reference: Path | None = None
    html: Path | None = None
    badge: Path | None = None
    budget: tuple[str, ...] = judged_by(_require_limits, default=())
    baseline: Path | None = None
    max_regress: float | None = from_zero(None)
    out: Path | None = None

    def __post_init__(self) -> None:
        """Check every field, and put each batch size once, rising."""
        super().__post_init__()
        if self.batches is not None:
            object.__setattr__(self, "batches", tuple(sorted(set(self.batches))))


@dataclasses.dataclass(frozen=True, kw_only=True)
class BuildRequest(AllowFailed, AllowForm, Elsewhere, Writing):
    """A graph to build an engine from.

    Attributes:
        onnx: The graph, or a folder of tasks.
        target: Where it will run; None is what the graph was exported for.
        out: File to write; None is beside the graph.
        sm: GPU generations to build for, as "8.6" (rtx).
        optimization_level: Effort of TensorRT or PyTorch, 0 to 5.
        workspace_mb: Limit of scratch memory in MiB; None is the target's.
        batch: Smallest, tuned and largest batch of a graph with a dynamic one.
        timing_cache: Timings of kernels to start from and to keep.
    """

    onnx: Path
    target: str | None = None
    out: Path | None = None
    sm: tuple[str, ...] | None = None
    optimization_level: int | None = dataclasses.field(default=None, metadata={"choices": range(6)})
    workspace_mb: int | None = dataclasses.field(default=None, metadata={"least": 1})
    batch: tuple[int, int, int] | None = judged_by(require_profile)
    timing_cache: Path | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Deploying(Exporting, Measuring, Elsewhere):
    """A run to export, build, check and measure, here or on another machine.

    Attributes:
        bench: Measure the engines that run against the plain ViT.
    """

    bench: bool = True


def made(kind: type[R], given: Mapping[str, Any]) -> R:
    """Return a request of what was given by name, such as a parsed command line.

    Names that the request does not have are left out; one that is missing takes its default.
    """
    names = {field.name for field in dataclasses.fields(kind)}
    return kind(**{name: value for name, value in given.items() if name in names})


def named(text: str) -> tuple[str | None, str]:
    """Take `NAME=REST` apart; a path that exists is no name."""
    found = _NAMED.fullmatch(text)
    if found is None or Path(text).exists():
        return None, text
    return found[1], found[2]
