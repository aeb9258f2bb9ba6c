"""Checkpoint formats: one file a format.

An entry offers `recognises(text) -> bool` and `read(text, hints) -> Run`. Reading happens in two
steps, because a run rarely says everything about its backbone: `Run` holds what the run's own
files say, `Run.decode(spec)` turns it into weights once the backbone is known.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import torch

from engines import registry
from engines.errors import CheckpointError, UsageError
from engines.manifest import ModelFacts
from fpet_export.model import checkpoints, cost, methods
from fpet_export.model.backbones import Backbone, Within
from fpet_export.model.backbones._names import HEAD_NAMES
from fpet_export.model.checkpoints import _no_run
from fpet_export.model.edits import Edit, describe
from fpet_export.model.facts import Fact
from fpet_export.model.kept import Extra
from fpet_export.model.merge_plan import NOWHERE, MergePlan, block_of, merge_plan
from fpet_export.model.vit_spec import VitSpec


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hints:
    """What the user says about a run; None leaves the question to the files.

    Attributes:
        merge_block: 0-based block, or "none" for no merging.
        method: Name of a file in `fpet_export/model/methods/`.
        bit: Bits of the stored adapter weights.
        rank: Rank of LoRA or bottleneck width of AdaptFormer.
        scale: The method's scale.
        config: The run's YAML file.
        weights: Which set of weights, in a file that holds several.
        head_weights: A file with the trained head, of a format whose files do not hold it.
        gate: How thresholds of updates are read; see `_peft_gates.GateReading`.
    """

    merge_block: int | Literal["none"] | None = None
    method: str | None = None
    bit: int | None = None
    rank: int | None = None
    scale: float | None = None
    alpha: float | None = None
    channel_shuffle: Literal["on", "off"] | None = None
    qkv_slots: str | None = None
    config: Path | None = None
    weights: str | None = None
    head_weights: Path | None = None
    gate: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A decoded run: dense float32 weights and settings.

    Attributes:
        name: The run's name, usually the data set.
        method: Name of the tuning method, or "none".
        bit: Bits of the stored adapter, or None without a method.
        dim: Rank or bottleneck width, or None.
        scale: The method's scale, or None.
        merge: How tokens merge: "none", or what a merger reads, such as "fpet@6".
        factors: The adapter's weights of each block, by `Layer.name`, where `method` is a file of
            `fpet_export/model/methods/`; else empty.
        changes: What was tuned besides, of formats that say it layer by layer.
        refinement: (R, D) and (D, R) weights of the merger's refinement adapter, or None.
        head: `head.weight` (K, C) and `head.bias` (K), and `head_dist.*` of a distilled model;
            empty while the backbone's own is meant, see `with_head_of`.
        quality: "random" marks weights that are good for speed only.
        files: Files the run was read from, for their hashes.
        facts: Every setting with its source, for `inspect`.
        labels: Class names in the order of the logits, where the files say them.
        warnings: What the user should know about it, in whole sentences.
    """

    name: str
    method: str
    bit: int | None
    dim: int | None
    scale: float | None
    merge: str
    factors: tuple[dict[str, torch.Tensor], ...]
    refinement: tuple[torch.Tensor, torch.Tensor] | None
    head: dict[str, torch.Tensor]
    quality: Literal["trained", "random"]
    files: tuple[Path, ...]
    facts: dict[str, Fact[Any]]
    changes: tuple[Edit, ...] = ()
    labels: Fact[tuple[str, ...]] | None = None
    warnings: tuple[str, ...] = ()

    @property
    def merge_block(self) -> int | None:
        """The 0-based block of a merge of FPET; None without merging, and of other mergers."""
        return block_of(self.merge)

    @property
    def merges_untrained(self) -> bool:
        """Whether tokens merge in a model that was not trained with merging."""
        return self.merge != NOWHERE and self.refinement is None

    def with_head_of(self, backbone: Backbone) -> Checkpoint:
        """Return the run with the head and the labels of its backbone, if it has no head.

        Raises:
            CheckpointError: Neither has one.
        """
        if self.head:
            return self
        head = {name: t for name, t in backbone.weights.items() if name in HEAD_NAMES}
        if "head.weight" not in head:
            raise CheckpointError(
                f"{backbone.source} has no head (head.weight), so it classifies nothing",
                where=self.name,
                fix="give the file of the fine-tuned model (--backbone is for a backbone); or "
                "export what a head reads: --head features, or --head tokens for all patches",
            )
        facts, labels = self.facts, backbone.labels
        if labels is not None:
            more = ", …" if len(labels.value) > 3 else ""
            facts = facts | {"labels": Fact(", ".join(labels.value[:3]) + more, labels.source)}
        return dataclasses.replace(self, head=head, labels=labels, facts=facts)

    @property
    def is_tuned(self) -> bool:
        """Whether adapters were trained; else only the head was."""
        return self.method != "none" or bool(self.changes)

    def describe_tuning(self) -> str:
        """Return what was tuned in one line, such as "lora bit=1 rank=8 s=0.5"."""
        if not self.is_tuned:
            return "no adapters"
        if self.changes:
            return f"{self.method}: {describe(self.changes)}"
        return f"{self.method} bit={self.bit} rank={self.dim} s={self.scale:g}"

    def merged(self, merge: str) -> Checkpoint:
        """Return a run that merges otherwise; a refinement belongs to its own block."""
        refinement = self.refinement if merge == self.merge else None
        return dataclasses.replace(self, merge=merge, refinement=refinement)

    def merge_plan(self, spec: VitSpec) -> MergePlan:
        """Return where tokens merge in a network."""
        return merge_plan(spec, self.merge)

    def macs(
        self, spec: VitSpec, *, last: int | None = None, tile: int = 1, batch: int = 1
    ) -> list[int]:
        """Return the multiply-adds of one image with the adapters of this run; see `cost.macs`."""
        plan, added = self.merge_plan(spec), self._extra(spec)
        return cost.macs(spec, plan, last=last, added=added, tile=tile, batch=batch)

    def edits(self) -> list[Edit]:
        """Return what was tuned, besides the head."""
        found: list[Edit] = []
        if self.factors:
            method, scale = methods.load(self.method), self.scale
            assert scale is not None
            for block, factors in enumerate(self.factors):
                found += method.edits(block, factors, scale=scale)
        return [*found, *self.changes]

    def _extra(self, spec: VitSpec) -> list[Extra]:
        """Return the multiply-adds of what stays beside the patch embedding and in each block."""
        found = [Extra()] * (spec.depth + 1)
        for edit in self.edits():
            found[0 if edit.block is None else edit.block + 1] += edit.extra()
        return found

    def model_facts(
        self,
        spec: VitSpec,
        *,
        tokens: tuple[int, ...],
        ties: Literal["argmax", "reference"],
        macs: int,
    ) -> ModelFacts:
        """Return what a manifest records of the network.

        Args:
            spec: The network.
            tokens: Tokens that leave each block of the graph.
            ties: How equal match scores are broken.
            macs: Multiply-adds of one image.
        """
        return ModelFacts(
            architecture=spec.describe(),
            width=spec.width,
            depth=spec.depth,
            heads=spec.heads,
            hidden=spec.hidden,
            patch=spec.patch,
            grid=spec.grid,
            prefix_tokens=len(spec.prefix),
            classes=spec.classes,
            method=self.method,
            bit=self.bit,
            dim=self.dim,
            scale=self.scale,
            merge=self.merge,
            merges=self.merge_plan(spec).steps,
            ties=ties,
            tokens=tokens,
            macs=macs,
            head=spec.head,
            gated=spec.gated,
            qk_norm=spec.qk_norm,
            attention_norm=spec.attention_norm,
            mlp_norm=spec.mlp_norm,
            rotary=spec.rotary is not None,
            attention_pool=spec.pool == "attention",
        )


class Run(Protocol):
    """What the files of a run say, before its backbone is known."""

    @property
    def name(self) -> str:
        """The run's name."""

    @property
    def backbone(self) -> str | Within | None:
        """The backbone, as `--backbone` would name it, where the run brings its own; else None."""

    @property
    def architecture(self) -> Fact[str] | None:
        """Timm's name of the backbone's architecture, where the run's files name one."""

    @property
    def pool(self) -> Fact[str] | None:
        """What the run's own code reads, as `VitSpec.pool` has it, where the format says so."""

    @property
    def normalisation(self) -> Fact[str] | None:
        """What the run's own code does to the pixels, where the format says so."""

    @property
    def weights(self) -> frozenset[str]:
        """What `--weights` may call the set of weights that was read."""

    def head_width(self, depth: int, width: int) -> tuple[int, str] | None:
        """Return the width of one attention head and the file that reveals it, if one does."""

    def decode(self, spec: VitSpec) -> Checkpoint:
        """Decode every weight, strictly, for a backbone of this shape."""

    def check(self, backbone: Backbone) -> None:
        """Refuse a backbone that cannot be the one of this run."""


class Format(Protocol):
    """What a file in `fpet_export/model/checkpoints/` offers.

    One that is told from names of tensors which no other format has states them as `MARK`, a
    pattern; those that have none leave such files alone, and name fields of `Hints` that only they
    have a use for as `SAYS`.
    """

    def recognises(self, text: str) -> bool:
        """Whether `text` names a run of this format."""

    def read(self, text: str, hints: Hints) -> Run:
        """Read the run's files, strictly."""


def read(text: str, hints: Hints | None = None) -> Run:
    """Read the run that `text` names.

    Args:
        text: A folder, `DIR/NAME`, a file of tensors, or `random:NAME:SEED`.
        hints: What the user says about it.

    Raises:
        CheckpointError: No format, or more than one, recognises it; or it is not whole.
    """
    formats = {
        name: cast(Format, registry.load(checkpoints, name))
        for name in registry.available(checkpoints)
    }
    found = [name for name, entry in formats.items() if entry.recognises(text)]
    if len(found) == 1:
        hints = hints or Hints()
        if not hasattr(formats[found[0]], "MARK"):
            says: Collection[str] = getattr(formats[found[0]], "SAYS", frozenset())
            _refuse_hints_of_others(text, hints, says)
        return formats[found[0]].read(text, hints)
    if found:
        names = ", ".join(found)
        raise CheckpointError(
            f"recognised by more than one format: {names}", where=text, fix="name one file"
        )
    what, fix = _no_run.explain(Path(text))
    raise CheckpointError(what, where=text, fix=fix)


def _refuse_hints_of_others(text: str, hints: Hints, says: Collection[str]) -> None:
    """Refuse what only formats with a mark have a use for; those check it themselves."""
    for field in ("alpha", "channel_shuffle", "qkv_slots", "head_weights", "gate"):
        if getattr(hints, field) is not None and field not in says:
            option = f"--{field.replace('_', '-')}"
            raise UsageError(
                f"{option} means nothing for this run", where=text, fix=f"leave {option} out"
            )
