"""A folder of Hugging Face PEFT: LoRA, rsLoRA or DoRA on a ViT.

`adapter_config.json` and `adapter_model.safetensors` (or `.bin`). The adapter names its layers as
the model did that it was trained on; whichever layout fits all of them is taken. Everything is
strict: the layers that have an adapter are exactly those that the configuration names, each with
all of its tensors, and no tensor is left over.

Source of the layout: PEFT 0.21; Hu et al. 2021 (LoRA), Kalajdzievski 2023 (rsLoRA), Liu et al.
2024 (DoRA).
"""

from __future__ import annotations

import dataclasses
import re
from collections import defaultdict
from collections.abc import Collection, Mapping
from pathlib import Path

import torch

from engines.errors import CheckpointError, UsageError
from fpet_export.model import module_names
from fpet_export.model.backbones import Backbone
from fpet_export.model.backbones._hf_names import name_of, unread
from fpet_export.model.backbones._names import HEAD_NAMES
from fpet_export.model.checkpoints import Checkpoint, Hints, _untrained
from fpet_export.model.checkpoints._peft_config import NAME, PeftConfig, read_config
from fpet_export.model.checkpoints._peft_gates import GateReading
from fpet_export.model.checkpoints._peft_tensors import (
    OF_ADAPTER,
    file_name,
    parts_of,
    read_tensors,
)
from fpet_export.model.edits import Dense, LowRank, Magnitude, SiteEdit
from fpet_export.model.facts import Fact
from fpet_export.model.merge_plan import at_block
from fpet_export.model.vit_spec import VitSpec

SAYS = frozenset({"gate"})
"""What only this format has a use for."""

_FILES = ("adapter_model.safetensors", "adapter_model.bin")
_SAID_HERE = ("method", "bit", "rank", "scale", "alpha", "channel_shuffle", "config")
"""What `Hints` says of runs whose files say less."""

_TRANSPARENT = ("", "_orig_mod.", "module.")
"""What PyTorch puts in front of names: nothing, torch.compile, and DataParallel."""

_DEFAULT = "default"
"""PEFT's name of the adapter that lies in the folder itself; others have folders in it."""


def recognises(text: str) -> bool:
    """Whether `text` is a folder with an adapter in it, or in folders of their own."""
    return bool(_adapters(Path(text)))


def read(text: str, hints: Hints) -> PeftRun:
    """Read configuration and tensors; see `fpet_export.model.checkpoints.Format`.

    Raises:
        CheckpointError: The folder holds several adapters, is not whole, or is of another method.
        UsageError: The user states what the configuration says.
    """
    folder, named = _choose(Path(text), hints)
    for field in _SAID_HERE:
        if getattr(hints, field) is not None:
            raise UsageError(
                f"--{field} describes a run of the authors' code; {NAME} says it here",
                where=str(folder),
                fix=f"leave --{field} out",
            )
    config = read_config(folder / NAME)
    path = next((folder / name for name in _FILES if (folder / name).is_file()), None)
    if path is None:
        raise CheckpointError(
            f"beside {NAME} lies neither {' nor '.join(_FILES)}",
            where=str(folder),
            fix="copy the whole folder that PEFT saved",
        )
    reading = GateReading.of(hints.gate)
    tensors = read_tensors(path, thresholds=reading.suffix)
    thresholds = reading.thresholds(tensors, where=path)
    if hints.gate is not None and not thresholds:
        raise UsageError(
            f"--gate is about thresholds, and no name in {path.name} ends with {reading.suffix}",
            where=str(folder),
            fix="leave --gate out, or say how their names end: --gate suffix=.NAME",
        )
    if thresholds and config.dora:
        raise CheckpointError(
            "the adapter is DoRA with thresholds (TS-PEFT); what of it they gate is not known",
            where=str(folder),
            fix="only thresholds of plain LoRA are read",
        )
    tensors = {name: t for name, t in tensors.items() if not name.endswith(reading.suffix)}
    return PeftRun(
        folder=folder,
        config=config,
        path=path,
        tensors=tensors,
        thresholds=thresholds,
        hints=hints,
        names=named,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PeftRun:
    """What the folder says; see `fpet_export.model.checkpoints.Run`.

    Attributes:
        folder: Where the adapter lies.
        config: Its configuration.
        path: The file of its tensors.
        tensors: By their names without PEFT's prefix.
        thresholds: Those of TS-PEFT, by module; empty of other runs.
        hints: What the user says.
        names: What `--weights` may call this adapter.
    """

    folder: Path
    config: PeftConfig
    path: Path
    tensors: dict[str, torch.Tensor]
    thresholds: dict[str, tuple[float, ...]]
    hints: Hints
    names: frozenset[str]

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.resolve().name

    @property
    def backbone(self) -> str | None:
        """The base model that the configuration names.

        Raises:
            CheckpointError: It is no path on this machine: a name on a hub.
        """
        base = self.config.base
        if not base:
            return None
        for path in (Path(base), self.folder / base):
            if path.exists():
                return str(path)
        raise CheckpointError(
            f"{NAME} names the base model {base!r}, which is no path on this machine",
            where=str(self.folder),
            fix="fetch it, and give its folder or file: --backbone FOLDER",
        )

    @property
    def architecture(self) -> None:
        """None: what the file calls the base model is a name on a hub, not an architecture."""

    @property
    def pool(self) -> None:
        """None: the base model says it."""

    @property
    def normalisation(self) -> None:
        """None: the base model's preprocessing is the adapter's."""

    @property
    def weights(self) -> frozenset[str]:
        """What `--weights` may call this adapter, in a folder of several."""
        return self.names

    def head_width(self, depth: int, width: int) -> None:
        """Return None: the tensors do not show it."""

    def check(self, backbone: Backbone) -> None:
        """Fit every backbone whose layers have the names and shapes."""

    def decode(self, spec: VitSpec) -> Checkpoint:
        """Turn the tensors into edits of the backbone's layers."""
        left_out = sorted(name for name in self.tensors if _is_left_out(name, spec))
        if left_out:
            read = {name: t for name, t in self.tensors.items() if name not in left_out}
            decoded = dataclasses.replace(self, tensors=read).decode(spec)
            fact = Fact(", ".join(left_out), "no classifier reads it")
            return dataclasses.replace(decoded, facts=decoded.facts | {"left out": fact})
        sites, wrapper = self._layout(spec)
        grouped, whole = self._sorted(sites)
        edits: list[SiteEdit] = []
        self._require_thresholds(grouped)
        reading = GateReading.of(self.hints.gate)
        for module, parts in grouped.items():
            found = self._edits_of(module, sites[module], parts)
            if self.thresholds:
                tau = self.thresholds[module]
                found = reading.gated(found, tau, module=module, where=self.path)
            edits += found
        head: dict[str, torch.Tensor] = {}
        own = {sites[module] for module, parts in whole.items() if "weight" in parts}
        # One of two heads is an edit of the base model's, which has the other one.
        brings_head = "head" in own and (spec.pool != "class+dist" or "head_dist" in own)
        for module, parts in whole.items():
            site = sites[module]
            if brings_head and f"{site}.weight" in HEAD_NAMES:
                head |= {f"{site}.{name}": tensor for name, tensor in parts.items()}
            else:
                edits.append(Dense(site, weight=parts.get("weight"), bias=parts.get("bias")))
        self._require_saved(sites, spec, whole)
        self._require_biases(sites, spec, grouped, whole)
        facts = self.config.facts()
        method = self.config.title()
        if self.thresholds:
            method = f"ts-{method}"
            facts |= {"method": Fact(method, f"thresholds in {self.path.name}"), **reading.facts()}
        if wrapper:
            facts["prefix"] = Fact(wrapper, f"of every name in {self.path.name}")
        facts["merge block"] = _untrained.merge_block(self.hints, spec, what="a PEFT adapter")
        return Checkpoint(
            name=self.name,
            method=method,
            bit=None,
            dim=None,
            scale=None,
            merge=at_block(facts["merge block"].value),
            factors=(),
            changes=tuple(edits),
            refinement=None,
            head=head,
            quality="trained",
            files=(self.config.path, self.path),
            facts=facts,
        )

    def _require_thresholds(self, adapted: Collection[str]) -> None:
        """Refuse thresholds that are not those of exactly the modules with an adapter."""
        odd = sorted(set(self.thresholds) ^ set(adapted))
        if self.thresholds and odd:
            what = "a threshold and no adapter" if odd[0] in self.thresholds else "no threshold"
            raise CheckpointError(
                f"{odd[0]} has {what}, and other modules have both",
                where=str(self.path),
                fix="save one threshold for each adapted module",
            )

    def _layout(self, spec: VitSpec) -> tuple[Mapping[str, str], str]:
        """Return the names of layers by which file and configuration mean the same layers.

        The second result is what PyTorch put in front of every name, such as "_orig_mod.", or "".
        The names of a user's own module are not taken off: what else that computes is unknown.

        Raises:
            CheckpointError: There is no such layout.
        """
        wanted = {parts_of(name)[0] for name in self.tensors}
        layouts = [
            (wrapper, {wrapper + path: site for path, site in sites.items()})
            for wrapper in _TRANSPARENT
            for sites in module_names.layouts(spec)
        ]
        missing = [sorted(wanted - set(sites)) for _, sites in layouts]
        fewest = min(missing, key=len)
        halves = [name for name in fewest if name.rpartition(".")[2] in module_names.HALVES]
        if halves and spec.gated:
            raise CheckpointError(
                f"{halves[0]} is half of the first layer of a gated MLP, and adapters of halves "
                "are not read",
                where=str(self.path),
                fix="merge the adapter with PEFT (merge_and_unload), save the whole model, and "
                "export that",
            )
        if fewest:
            more = f", and of {len(fewest) - 1} more" if len(fewest) > 1 else ""
            raise CheckpointError(
                f"the adapter has tensors of {fewest[0]}{more}, which {spec.describe()} has not",
                where=str(self.path),
                fix="give the base model it was trained on: --backbone FILE; or, if that is a part "
                "of a module of your own, merge the adapter with PEFT (merge_and_unload), save the "
                "ViT with its head, and export that",
            )
        adapted = {module for module, part in map(parts_of, self.tensors) if part in OF_ADAPTER}
        fitting = [layout for layout, odd in zip(layouts, missing, strict=True) if not odd]
        odd = [self._against_targets(sites, adapted) for _, sites in fitting]
        best = min(range(len(fitting)), key=lambda index: len(odd[index]))
        if odd[best]:
            module = odd[best][0]
            what = "has an adapter" if module in adapted else "has no adapter"
            raise CheckpointError(
                f"{module} {what} in {self.path.name}, against target_modules in {NAME}",
                where=str(self.folder),
                fix="configuration and tensors belong to two adapters, or the file is cut off; "
                "copy the folder again",
            )
        wrapper, chosen = fitting[best]
        return chosen, wrapper

    def _against_targets(self, sites: Mapping[str, str], adapted: set[str]) -> list[str]:
        """Return the layers that have an adapter where the configuration names none, or none."""
        linear = module_names.linear_sites(sites)
        return sorted({module for module in linear if self.config.adapts(module)} ^ adapted)

    def _sorted(
        self, sites: Mapping[str, str]
    ) -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, dict[str, torch.Tensor]]]:
        """Return the tensors by module: of adapters, and those that replace the module's own."""
        grouped: dict[str, dict[str, torch.Tensor]] = defaultdict(dict)
        whole: dict[str, dict[str, torch.Tensor]] = defaultdict(dict)
        for name, tensor in self.tensors.items():
            module, part = parts_of(name)
            into = whole if part in ("weight", "own bias") else grouped
            part = "bias" if part == "own bias" else part
            if part in into[module]:
                raise CheckpointError(
                    f"{module} has two tensors for its {part}",
                    where=str(self.path),
                    fix="save the adapter with PEFT's save_pretrained",
                )
            into[module][part] = tensor
        for module in sites:
            if module in grouped and module in whole:
                # With bias="all" an adapted layer's own bias has the plain name in some versions.
                extra = whole[module]
                if set(extra) != {"bias"} or "bias" in grouped[module]:
                    raise CheckpointError(
                        f"{module} has an adapter and weights of its own",
                        where=str(self.path),
                        fix="save the adapter with PEFT's save_pretrained",
                    )
                grouped[module] |= whole.pop(module)
        return dict(grouped), dict(whole)

    def _edits_of(
        self, module: str, site: str, parts: Mapping[str, torch.Tensor]
    ) -> list[SiteEdit]:
        """Return what one module's tensors do, in the order in which they act."""
        wanted = {"down", "up"}
        wanted |= {"norm"} if self.config.dora else set()
        wanted |= {"up bias"} if self.config.lora_bias else set()
        allowed = wanted | ({"bias"} if self.config.bias != "none" else set())
        if not wanted <= set(parts) <= allowed:
            odd = sorted(wanted - set(parts)) or sorted(set(parts) - allowed)
            verb = "lacks" if wanted - set(parts) else "has"
            raise CheckpointError(
                f"{module} {verb} the tensor {file_name(odd[0])}, against what {NAME} says",
                where=str(self.path),
                fix="save the adapter with PEFT's save_pretrained, or copy the folder again",
            )
        down, up = (parts[name].flatten(1) for name in ("down", "up"))
        rank = self.config.rank_of(module)
        if len(down) != rank or up.shape[1] != rank:
            raise CheckpointError(
                f"{module} has rank {len(down)} and {up.shape[1]}, wanted {rank} as {NAME} says",
                where=str(self.path),
                fix="configuration and tensors belong to two adapters; copy the folder again",
            )
        edits: list[SiteEdit] = []
        if "bias" in parts:
            edits.append(Dense(site, bias=parts["bias"]))
        scale = self.config.scale_of(module)
        edits.append(LowRank(site, down=down, up=up, scale=scale, bias=parts.get("up bias")))
        if "norm" in parts:
            edits.append(Magnitude(site, norm=parts["norm"].flatten()))
        return edits

    def _require_saved(
        self,
        sites: Mapping[str, str],
        spec: VitSpec,
        whole: Mapping[str, Mapping[str, torch.Tensor]],
    ) -> None:
        """Refuse a module to save whose weights are not there, and weights of any other.

        Raises:
            CheckpointError: There is one.
        """
        for saved in self.config.saved:
            due = [module for module in sites if _is_below(module, saved)]
            for module in due:
                parts = whole.get(module, {})
                if "weight" not in parts:
                    raise self._lacks(module, saved, "weight")
                if "bias" not in parts and module_names.has_bias(sites[module], spec):
                    raise self._lacks(module, saved, "bias")
            if not due and saved not in self.config.always_saved:
                raise CheckpointError(
                    f"modules_to_save in {NAME} names {saved}, but {self.path.name} has no "
                    "weights of it",
                    where=str(self.folder),
                    fix="save the adapter with PEFT's save_pretrained, or copy the folder again",
                )
        for module, parts in whole.items():
            named = any(_is_below(module, saved) for saved in self.config.saved)
            if not named and not (self.config.bias == "all" and set(parts) == {"bias"}):
                raise CheckpointError(
                    f"{module} has a {' and a '.join(sorted(parts))} of its own, but {NAME} names "
                    "it nowhere",
                    where=str(self.path),
                    fix="configuration and tensors belong to two adapters; copy the folder again",
                )

    def _lacks(self, module: str, saved: str, part: str) -> CheckpointError:
        return CheckpointError(
            f"{self.path.name} has no {part} of {module}, but modules_to_save in {NAME} names "
            f"{saved}",
            where=str(self.folder),
            fix="the file is cut off; copy the folder again",
        )

    def _require_biases(
        self,
        sites: Mapping[str, str],
        spec: VitSpec,
        grouped: Mapping[str, Mapping[str, torch.Tensor]],
        whole: Mapping[str, Mapping[str, torch.Tensor]],
    ) -> None:
        """Refuse trained biases of which one is missing.

        Raises:
            CheckpointError: It is.
        """
        if self.config.bias == "none":
            return
        trained = sites if self.config.bias == "all" else grouped
        for module in trained:
            if not module_names.has_bias(sites[module], spec):
                continue
            if "bias" not in grouped.get(module, {}) and "bias" not in whole.get(module, {}):
                raise CheckpointError(
                    f"{module} has no bias in {self.path.name}, but bias in {NAME} is "
                    f"{self.config.bias!r}",
                    where=str(self.folder),
                    fix="the file is cut off; copy the folder again",
                )


def _adapters(path: Path) -> dict[str, Path]:
    """Return the folders of adapters by the names that PEFT has for them."""
    found = {_DEFAULT: path} if (path / NAME).is_file() else {}
    if path.is_dir():
        found |= {config.parent.name: config.parent for config in sorted(path.glob(f"*/{NAME}"))}
    return found


def _choose(path: Path, hints: Hints) -> tuple[Path, frozenset[str]]:
    found = _adapters(path)
    if len(found) == 1:
        return next(iter(found.values())), frozenset()
    if hints.weights in found:
        return found[hints.weights], frozenset(found)
    names = " or ".join(f"--weights {name}" for name in found)
    raise CheckpointError(
        f"this folder holds {len(found)} adapters: {', '.join(found)}",
        where=str(path),
        fix=f"say which: {names}",
    )


def _is_left_out(name: str, spec: VitSpec) -> bool:
    """Whether a tensor belongs to what this network does not read.

    That is CLIP's last norm, and SigLIP's attention pooling, whose layers are called as those of
    the blocks, except where the pooling is what the network gives.
    """
    if not spec.final_norm and name_of(name) in ("norm.weight", "norm.bias"):
        return True
    return spec.pool != "attention" and unread(name) is not None


def _is_below(module: str, saved: str) -> bool:
    """Whether a module is one that `modules_to_save` names, or is in one.

    PEFT compares the ends of names: "classifier" names DeiT's "cls_classifier", too.
    """
    return re.match(rf".*{re.escape(saved)}($|\.)", module) is not None
