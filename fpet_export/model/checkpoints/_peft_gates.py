"""TS-PEFT in a folder of PEFT: a threshold for every adapted module, and what it is compared with.

The code of TS-PEFT is not public. What the paper leaves open is stated by the user, and where he
does not, the reading of the paper that is nearest to its formula is taken and named.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from engines.errors import CheckpointError, UsageError
from fpet_export.model.edits import GatedLowRank, LowRank, SiteEdit
from fpet_export.model.facts import Fact
from fpet_export.model.gates import NormRule

_SUFFIX = ".ts_threshold"
_THIRDS = ("q", "k", "v")
_CHOICES = {
    "norm": ("relative", "absolute"),
    "bias": ("with", "without"),
    "fused": ("whole", "thirds"),
}
_DEFAULTS = {
    "norm": "relative",
    "bias": "with",
    "fused": "thirds",
    "epsilon": "0",
    "suffix": _SUFFIX,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class GateReading:
    """How thresholds are read: `--gate norm=…,bias=…,fused=…,epsilon=…,suffix=…`.

    Attributes:
        said: What the user says.
        norm: Whether lengths of updates are relative to those of the layer's output.
        bias: Whether that output has the bias in it.
        fused: Whether one threshold of a fused qkv is compared with all of an update ("whole"), or
            with the parts of q, k and v one by one.
        epsilon: Added to the length of the output.
        suffix: What stands behind a module's name in that of its threshold.
    """

    said: frozenset[str]
    norm: Any
    bias: Any
    fused: str
    epsilon: float
    suffix: str

    @staticmethod
    def of(text: str | None) -> GateReading:
        """Return what an option says.

        Raises:
            UsageError: It says something else.
        """
        said: dict[str, str] = {}
        for part in (text or "").split(",") if text is not None else ():
            name, _, value = part.partition("=")
            known = _CHOICES.get(name, (value,))
            if name not in _DEFAULTS or name in said or not value or value not in known:
                listed = ", ".join(f"{n}={'|'.join(v)}" for n, v in _CHOICES.items())
                raise UsageError(
                    f"{part!r} is none of {listed}, epsilon=NUMBER and suffix=TEXT, or comes twice",
                    where="--gate",
                    fix="say for example --gate norm=relative,bias=without",
                )
            said[name] = value
        values = _DEFAULTS | said
        try:
            epsilon = float(values["epsilon"])
        except ValueError:
            epsilon = math.nan
        if not 0 <= epsilon < math.inf:
            raise UsageError(
                f"epsilon is {values['epsilon']!r}, wanted a number from 0",
                where="--gate",
                fix="say for example --gate epsilon=1e-6",
            )
        return GateReading(
            said=frozenset(said),
            norm=values["norm"],
            bias=values["bias"],
            fused=values["fused"],
            epsilon=epsilon,
            suffix=values["suffix"],
        )

    def facts(self) -> dict[str, Fact[Any]]:
        """Return every choice with its source."""
        return {
            f"gate {name}": Fact(
                getattr(self, name),
                "--gate" if name in self.said else "the paper's formula; --gate says otherwise",
            )
            for name in ("norm", "bias", "fused", "epsilon")
        }

    def thresholds(
        self, tensors: Mapping[str, torch.Tensor], *, where: Path
    ) -> dict[str, tuple[float, ...]]:
        """Return the thresholds in a file, by module: one, or three of a fused qkv.

        Raises:
            CheckpointError: A threshold is not one number or three.
        """
        found: dict[str, tuple[float, ...]] = {}
        for name, tensor in tensors.items():
            if not name.endswith(self.suffix):
                continue
            if tensor.numel() not in (1, 3) or tensor.ndim > 1:
                raise CheckpointError(
                    f"{name} has shape {tuple(tensor.shape)}, wanted one number, or three of a "
                    "fused qkv",
                    where=str(where),
                    fix="save one threshold for each adapted module",
                )
            found[name.removesuffix(self.suffix)] = tuple(map(float, tensor.flatten()))
        return found

    def gated(
        self, edits: list[SiteEdit], thresholds: tuple[float, ...], *, module: str, where: Path
    ) -> list[SiteEdit]:
        """Return the edits of a module with a gate for its update.

        Raises:
            CheckpointError: The update has a part that no paper gates, or three thresholds are
                those of a layer with one output.
        """
        found: list[SiteEdit] = []
        for edit in edits:
            if not isinstance(edit, LowRank):
                found.append(edit)
                continue
            fused = edit.site.endswith(".attn.qkv")
            if not edit.site.startswith("blocks.") or (len(thresholds) == 3 and not fused):
                what = "three thresholds" if edit.site.startswith("blocks.") else "a threshold"
                raise CheckpointError(
                    f"{module} has {what}; one is read of a linear layer in a block, three of a "
                    "fused qkv",
                    where=str(where),
                    fix="gate the layers of the blocks alone",
                )
            if not fused or (len(thresholds) == 1 and self.fused == "whole"):
                found.append(self._gate(edit, edit.site, slice(None), thresholds[0]))
                continue
            width, rest = divmod(len(edit.up), 3)
            if rest:
                raise CheckpointError(
                    f"{module} is a fused qkv, and its update has {len(edit.up)} rows, which are "
                    "not three times as many",
                    where=str(where),
                    fix="the file is damaged, or of another layer; copy the folder again",
                )
            every = thresholds * 3 if len(thresholds) == 1 else thresholds
            for index, third in enumerate(_THIRDS):
                site = edit.site.removesuffix("qkv") + third
                rows = slice(index * width, (index + 1) * width)
                found.append(self._gate(edit, site, rows, every[index]))
        return found

    def _gate(self, edit: LowRank, site: str, rows: slice, threshold: float) -> GatedLowRank:
        rule = NormRule(threshold=threshold, norm=self.norm, bias=self.bias, epsilon=self.epsilon)
        bias = None if edit.bias is None else edit.bias[rows]
        return GatedLowRank(
            site, down=edit.down, up=edit.up[rows], scale=edit.scale, bias=bias, rule=rule
        )
