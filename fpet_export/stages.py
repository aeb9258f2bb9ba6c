"""The stages in order, as the Python API: `load(run).fold().freeze(batch=1).to_onnx(out)`.

Each stage is an immutable object that holds a model and everything known about it, and whose
methods make the next stage. Nothing is done twice and nothing behind the caller's back.
"""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from engines import precisions, storage
from engines.engine import load_target
from engines.errors import CheckpointError, UsageError
from engines.imaging import images as engine_images
from engines.imaging.class_names import KnownClasses
from engines.imaging.images import PixelArray
from engines.manifest import (
    Companion,
    Decode,
    Form,
    Head,
    Manifest,
    Parent,
    Preprocessing,
    TensorSpec,
    write_manifest,
)
from engines.onnx_header import read_onnx_header
from engines.parity.model_outputs import ModelOutputs
from engines.targets import Target
from fpet_export.graph.freeze import FrozenVit, input_shape, preprocessing_for, typed
from fpet_export.graph.options import FreezeOptions, with_opset
from fpet_export.model import adapt, backbones, checkpoints, cost, reference
from fpet_export.model import fold as folding
from fpet_export.model.backbones import Backbone, BackboneOptions, Within
from fpet_export.model.checkpoints import Checkpoint, Hints, _agreement
from fpet_export.model.facts import Fact
from fpet_export.model.merge_plan import NOWHERE, MergePlan, merge_plan, settled
from fpet_export.model.mergers import PUBLISHED
from fpet_export.model.pixels import plain_input, prepared_pixels, with_decoding
from fpet_export.model.vit import Vit
from fpet_export.version import __version__

_AT_ONCE = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adapted:
    """The model as it was trained: backbone, head, adapters, merger.

    Attributes:
        model: Its eval-mode forward pass; the reference of every comparison.
        checkpoint: The decoded run.
        backbone: The backbone it was tuned on.
        preprocessing: How an image becomes the input, mean and std not yet in the graph.
        normalisation: The mean and std in it by name, and where they come from.
    """

    model: Vit
    checkpoint: Checkpoint
    backbone: Backbone
    preprocessing: Preprocessing
    normalisation: Fact[str]

    def fold(self) -> Folded:
        """Fold what is linear into the backbone; this stage keeps its weights."""
        model, stay = folding.fold(self.model)
        return Folded(model=model, stay=tuple(stay), source=self)

    def outputs(
        self,
        pixels: PixelArray,
        *,
        dtype: torch.dtype = torch.float64,
        progress: Callable[[int], None] | None = None,
    ) -> ModelOutputs:
        """Classify (I, height, width, 3) pixels; float64 unless another `dtype` is asked for."""
        return _outputs(self.model, self.preprocessing, pixels, dtype, progress)

    evidence = outputs  # its first name, which scripts call

    @property
    def quality(self) -> Literal["trained", "random"]:
        """Say "random" when any weight is random, which is good for speed only."""
        both = (self.backbone.quality, self.checkpoint.quality)
        return "random" if "random" in both else "trained"

    def facts(self) -> dict[str, Fact[Any]]:
        """Return everything that was decided about run and backbone, and from what."""
        of_backbone = {f"backbone {name}": fact for name, fact in self.backbone.facts.items()}
        return self.checkpoint.facts | of_backbone | {"normalisation": self.normalisation}

    @property
    def known_classes(self) -> KnownClasses:
        """What the run's files say about its classes."""
        count, labels = self.model.spec.classes, self.checkpoint.labels
        if labels is None or not count:
            return KnownClasses(count=count)
        return KnownClasses(count=count, names=labels.value, source=labels.source)

    def merged(self, merge: str, source: str = "the caller") -> Adapted:
        """Return the run with its tokens merged otherwise, or nowhere; this one stays as it is.

        Args:
            merge: As `--merge` takes it: "none", "fpet@6", "tome:r=8", "diffrate:FILE".
            source: Who says so, for the manifest.

        Raises:
            UsageError: The network cannot merge so.
            InputError: A file that it names cannot be read.
        """
        checkpoint, spec = self.checkpoint.merged(settled(merge)), self.model.spec
        checkpoint.merge_plan(spec)  # refuses what the network lacks
        facts = {name: fact for name, fact in checkpoint.facts.items() if name != "merge block"}
        facts["merge"] = Fact(checkpoint.merge, source)
        changed = dataclasses.replace(checkpoint, facts=facts)
        model = adapt.adapt(self.backbone, changed, spec.head)
        return dataclasses.replace(self, model=model, checkpoint=changed)

    def merge_plan(self) -> MergePlan:
        """Return where tokens merge, and how many leave each block."""
        return self.checkpoint.merge_plan(self.model.spec)

    def macs(self) -> list[int]:
        """Return the multiply-adds of one image: patch embedding, each block, head."""
        return self.checkpoint.macs(self.model.spec)

    def extra_macs(self) -> int:
        """Return the multiply-adds of one image in what a fine-tune left beside the layers."""
        return sum(self.macs()) - sum(cost.macs(self.model.spec, self.merge_plan()))

    def macs_without_merging(self) -> int:
        """Return the multiply-adds of one image through the plain backbone."""
        spec = self.model.spec
        return sum(cost.macs(spec, merge_plan(spec, NOWHERE)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Folded:
    """The model after folding.

    Attributes:
        model: Its forward pass; still with the trained match.
        stay: Adapter layers that cannot fold, such as "blocks.0.adapter_mlp".
        source: The stage before.
    """

    model: Vit
    stay: tuple[str, ...]
    source: Adapted

    def outputs(
        self, pixels: PixelArray, *, progress: Callable[[int], None] | None = None
    ) -> ModelOutputs:
        """Classify (I, height, width, 3) pixels in float64, so that only the fold can differ."""
        return _outputs(self.model, self.source.preprocessing, pixels, torch.float64, progress)

    evidence = outputs  # its first name, which scripts call

    def freeze(
        self,
        *,
        batch: int | tuple[int, int] = 1,
        target: str | Target = "cpu",
        input: Literal["float32", "uint8-nchw", "uint8-nhwc"] = "float32",
        ties: Literal["argmax", "reference"] = "argmax",
        attention_scale: Literal["split", "folded"] | None = None,
        last_block: Literal["class-token", "all-tokens"] | None = None,
        opset: int | None = None,
        updates: Literal["folded", "low-rank"] = "folded",
        attention: Literal["primitive", "fused"] = "primitive",
    ) -> Frozen:
        """Make shapes and constants static.

        Args:
            batch: Images per inference, or the (smallest, largest) of a dynamic batch.
            target: Decides what is left None, and the opset.
            input: What the graph takes; see `FreezeOptions.input`.
            ties: See `FreezeOptions.ties`.
            attention_scale: Overrides the target's.
            last_block: Overrides the target's.
            opset: Overrides the target's.
            updates: See `FreezeOptions.updates`.
            attention: See `FreezeOptions.attention`; a graph needs "primitive".

        Raises:
            UsageError: `ties="reference"` is asked for a distilled model, whose authors' code
                merges the distillation token away; the target or this toolkit lacks the opset; or
                a value is none of those that are named.
        """
        resolved = target if isinstance(target, Target) else load_target(target)
        if opset is not None:
            resolved = with_opset(resolved, opset)
        spec = self.model.spec
        plan = self.source.merge_plan()
        if ties == "reference" and plan.merger != PUBLISHED:
            raise UsageError(
                f"{plan.asked} has no published rule that ties would break",
                where="--ties reference",
                fix="leave it out: it is about runs of the FPET authors' code",
            )
        if ties == "reference" and plan.merges and "dist" in spec.prefix:
            raise UsageError(
                "the published code treats the distillation token of this backbone as a patch; "
                "that is not reproduced",
                where="--ties reference",
                fix="use --ties argmax, which protects every prefix token",
            )
        if ties == "reference" and self.model.merges and spec.head == "tokens":
            raise UsageError(
                "the published rule loses tokens whose scores tie, and the tokens of all patches "
                "are asked for",
                where="--ties reference",
                fix="use --ties argmax, which keeps every token",
            )
        options = FreezeOptions(
            batch=batch,
            input=input,
            attention_scale=attention_scale or resolved.attention_scale,
            last_block=last_block or resolved.last_block,
            ties=ties,
            updates=updates,
            attention=attention,
        )
        before = self.source.preprocessing
        module = FrozenVit(self.model, options, before.mean, before.std).eval()
        module.requires_grad_(False)
        return Frozen(module=module, target=resolved, source=self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Frozen:
    """The module that is exported.

    Attributes:
        module: Pixels in, logits or features out; also runs in PyTorch.
        target: What it was written for.
        source: The stage before.
    """

    module: FrozenVit
    target: Target
    source: Folded

    @property
    def preprocessing(self) -> Preprocessing:
        """What is left to do outside the graph."""
        return preprocessing_for(self.source.source.preprocessing, self.module.options)

    def outputs(
        self, pixels: PixelArray, *, progress: Callable[[int], None] | None = None
    ) -> ModelOutputs:
        """Classify (I, height, width, 3) pixels in PyTorch."""
        rows: list[dict[str, np.ndarray]] = []
        with torch.inference_mode():
            inputs = engine_images.to_input(pixels, self.preprocessing)
            for start in range(0, len(inputs), _AT_ONCE):
                chunk = torch.from_numpy(inputs[start : start + _AT_ONCE])
                found = self.module.trace(chunk)
                rows.append({name: tensor.numpy() for name, tensor in found.items()})
                if progress is not None:
                    progress(len(chunk))
        whole = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
        return ModelOutputs(
            logits=whole["logits"],
            match=whole.get("match"),
            size=whole.get("size"),
            head=self.module.spec.head,
        )

    evidence = outputs  # its first name, which scripts call

    def typed(self, dtype: torch.dtype) -> FrozenVit:
        """Return the module in another floating type, with the match kept in float32."""
        return typed(self.module, dtype)

    def macs(self) -> int:
        """Return the multiply-adds of one image."""
        checkpoint = self.source.source.checkpoint
        return sum(checkpoint.macs(self.module.spec, last=self.module.tokens[-1]))

    def to_onnx(
        self,
        path: Path | str,
        *,
        force: bool = False,
        labels: Sequence[str] = (),
        command: Sequence[str] = (),
    ) -> Path:
        """Write the graph and its manifest; return the graph's path.

        Args:
            path: The `.onnx` file, or a folder for `model.onnx`.
            force: Replace a file that exists.
            labels: Class names, one a logit.
            command: The command line to record.

        Raises:
            UsageError: The file exists, the labels are not one a logit, or the module was frozen
                with fused attention.
            ExportError: The graph is not what was planned.
        """
        from fpet_export.graph import to_onnx

        target = Path(path)
        target = target if target.suffix == ".onnx" else target / "model.onnx"
        storage.refuse_overwrite(target, force=force)
        classes = self.module.spec.classes
        if labels and len(labels) != classes:
            raise UsageError(
                f"{len(labels)} class names for {classes} classes",
                where="--labels",
                fix="give one name per class, in the order of the head's rows",
            )
        with storage.atomic_path(target) as temporary:
            operators = to_onnx.to_onnx(self.module, temporary, opset=self.target.opset)
            manifest = self.manifest(temporary, operators, labels=labels, command=command)
            write_manifest(temporary, manifest)
        return target

    def manifest(
        self,
        path: Path,
        operators: dict[str, int],
        *,
        labels: Sequence[str] = (),
        command: Sequence[str] = (),
    ) -> Manifest:
        """Return what is known about a graph that was written to `path`, without its hash."""
        spec, options = self.module.spec, self.module.options
        run = self.source.source
        batch = options.batch
        rows: int | str = batch if isinstance(batch, int) else "batch"
        shape = (rows, *input_shape(spec, options, 1)[1:])
        model = run.checkpoint.model_facts(
            spec, tokens=self.module.tokens, ties=options.ties, macs=self.macs()
        )
        probes = {model.match_role(block): model.match_role(block) for block in model.merged_blocks}
        if probes and "Log" in operators:
            probes["size"] = "size"
        return Manifest(
            kind="graph",
            file=path.name,
            inputs=(TensorSpec(name="images", shape=shape, dtype=self.preprocessing.dtype),),
            outputs=(TensorSpec(name=spec.head, shape=(rows, *spec.output), dtype="float32"),),
            precision=precisions.FP32,
            opset=self.target.opset,
            target=self.target.name,
            weights=run.quality,
            batch_range=None if isinstance(batch, int) else batch,
            preprocessing=self.preprocessing,
            labels=tuple(labels),
            model=model,
            form=Form(
                attention_scale=options.attention_scale,
                last_block="" if spec.read_tokens is None else options.last_block,
                command=tuple(command),
                folder=str(Path.cwd()) if command else "",
            ),
            operators=operators,
            companions=companions_of(path),
            probes=probes,
            facts={name: str(fact) for name, fact in run.facts().items()},
            parents=parents_of(run),
            command=tuple(command),
            tools=tool_versions(),
        )


def load(
    run: str | Path,
    *,
    backbone: str | Path | Backbone | None = None,
    method: str | None = None,
    bit: int | None = None,
    rank: int | None = None,
    scale: float | None = None,
    alpha: float | None = None,
    channel_shuffle: Literal["on", "off"] | None = None,
    qkv_slots: Literal["q", "k", "v", "qk", "qv", "kv"] | None = None,
    merge_block: int | Literal["none"] | None = None,
    config: Path | None = None,
    heads: int | None = None,
    image: tuple[int, int] | None = None,
    pool: Literal["token", "avg"] | None = None,
    arch: str | None = None,
    weights: str | None = None,
    head_weights: Path | None = None,
    gate: str | None = None,
    normalisation: str | None = None,
    decode: Decode | None = None,
    background: tuple[int, int, int] | None = None,
    head: Head | None = None,
) -> Adapted:
    """Read a fine-tuned run and rebuild the model that was trained.

    Args:
        run: A folder, `DIR/NAME`, a file of tensors, or `random:NAME:SEED`.
        backbone: `.npz`, `.safetensors`, `.pth` or `.bin` file, folder of a Hugging Face model,
            `timm:NAME` or `random:NAME:SEED`; or one that was read already, whose weights all its
            runs then share.
        method: Tuning method, where the files do not say.
        bit: Bits of the stored adapter, likewise.
        rank: Rank of LoRA or bottleneck width of AdaptFormer, likewise.
        scale: The method's scale, likewise.
        alpha: LoRA's alpha, where a file holds its factors alone.
        channel_shuffle: Whether Consolidator was trained with it, which its files do not say.
        qkv_slots: Which of q, k and v loralib's MergedLinear updates, which its files do not say.
        merge_block: 0-based block after whose attention tokens merge, or "none", likewise.
        config: The run's YAML.
        heads: Attention heads of a backbone whose file does not say.
        image: (height, width) of a backbone whose patch grid is not square, or of other images, to
            which its positions are resampled.
        pool: What the head reads, the class token or the mean over patches, likewise.
        arch: timm's name of the architecture of weights beside which no `config.json` says it.
        weights: Which set of weights ("raw", "ema", "teacher", "student"), in a file of several.
        head_weights: A file with the trained head, of a run whose own files do not hold it.
        gate: How the thresholds of TS-PEFT are read, where the paper leaves it open:
            "norm=relative|absolute,bias=with|without,fused=whole|thirds,epsilon=E,suffix=TEXT".
        normalisation: "none", "imagenet", "half", "clip" or "M,M,M/S,S,S": mean and std of pixels
            in 0..1, where neither the run's format nor a file beside the backbone says them.
        decode: How image files become pixels, see `Preprocessing.decode`; by default what the
            run's format says ("plain" for the authors'), else "full".
        background: (red, green, blue) behind transparent pixels; white by default.
        head: "logits", which None means, or "features" or "tokens", which need no classifier; see
            `VitSpec.head`.

    Raises:
        CheckpointError: The run cannot be read, contradicts itself or leaves a fact open.
        UsageError: `weights` chooses where there is no choice, `normalisation`, `decode`, `head` or
            `background` is none, or the background would have no effect.
    """
    hints = Hints(
        merge_block=merge_block,
        method=method,
        bit=bit,
        rank=rank,
        scale=scale,
        alpha=alpha,
        channel_shuffle=channel_shuffle,
        qkv_slots=qkv_slots,
        config=config,
        weights=weights,
        head_weights=None if head_weights is None else Path(head_weights),
        gate=gate,
    )
    if head not in (None, *get_args(Head)):
        known = " or ".join(map(repr, get_args(Head)))
        raise UsageError(f"head is {head!r}", where="head", fix=f"give {known}")
    found = checkpoints.read(str(run), hints)
    own = found.backbone
    within = own if isinstance(own, Within) and backbone is None else None
    brought = own.path if isinstance(own, Within) else own
    source = brought if backbone is None else backbone
    if source is None:
        named = f" (its YAML names {found.architecture.value})" if found.architecture else ""
        raise CheckpointError(
            f"the run does not bring its backbone{named}",
            where=str(run),
            fix="add --backbone FILE with the weights it was tuned on, for the authors' runs "
            "imagenet21k/ViT-B_16.npz",
        )
    if isinstance(source, Backbone):
        base = source
    else:
        network = _agreement.network_of(found.architecture, where=str(run))
        options = BackboneOptions(
            heads=heads,
            image=image,
            pool=pool,
            arch=arch,
            weights=weights,
            head_width=found.head_width,
            run_pool=found.pool,
            run_network=network,
            own_pixels=found.normalisation is not None,
            within=within,
            head=head or "logits",
        )
        base = backbones.read(str(source), options)
    if weights is not None and weights not in found.weights | base.names:
        raise UsageError(
            f"{weights!r} chooses among sets of weights, and no file here holds several",
            where="--weights",
            fix="leave it out",
        )
    found.check(base)
    checkpoint = found.decode(base.spec)
    head = head or "logits"
    if head == "logits":
        checkpoint = checkpoint.with_head_of(base)
    preprocessing, fact = prepared_pixels(found, base, checkpoint, normalisation)
    preprocessing, facts = with_decoding(preprocessing, checkpoint.facts, decode, background)
    return Adapted(
        model=adapt.adapt(base, checkpoint, head),
        checkpoint=dataclasses.replace(checkpoint, facts=facts),
        backbone=base,
        preprocessing=dataclasses.replace(preprocessing, in_graph=False),
        normalisation=fact,
    )


def companions_of(graph: Path) -> tuple[Companion, ...]:
    """Return the files that hold weights of `graph`, for its manifest."""
    return tuple(Companion(file=name) for name in read_onnx_header(graph).external_files)


def tool_versions() -> dict[str, str]:
    """Return the versions of what makes a graph."""
    from importlib import metadata

    names = ("torch", "onnx", "onnxscript", "onnx-graphsurgeon", "numpy")
    versions = {"fpet-export": __version__, "python": platform.python_version()}
    return versions | {name: metadata.version(name) for name in names}


def _outputs(
    model: Vit,
    preprocessing: Preprocessing,
    pixels: PixelArray,
    dtype: torch.dtype,
    progress: Callable[[int], None] | None,
) -> ModelOutputs:
    inputs = plain_input(pixels, preprocessing)
    return reference.run(
        model, inputs, preprocessing.mean, preprocessing.std, dtype=dtype, progress=progress
    )


def parents_of(run: Adapted) -> tuple[Parent, ...]:
    """Return the files that a run and its backbone were read from, with their hashes."""
    parents = [
        Parent(role=role, file=path.name, sha256=storage.sha256_of(path))
        for role, files in (("run", run.checkpoint.files), ("backbone", run.backbone.files))
        for path in files
    ]
    if not run.backbone.files:
        parents.append(Parent(role="backbone", file=run.backbone.source, sha256=""))
    return tuple(parents)
