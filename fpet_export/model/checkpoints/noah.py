"""NOAH (ZhangYuanhan-AI/NOAH): a whole ViT with adapters behind its MLPs and LoRA at qkv.

`checkpoint.pth` with `model`. All blocks hold tensors of one width, of which a retrained network
uses the first so many: how many is in the YAML of the training, under RETRAIN.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from engines.errors import CheckpointError
from fpet_export.model.bottleneck import Bottleneck
from fpet_export.model.checkpoints import Hints
from fpet_export.model.checkpoints._contents import TIMM_ANCHOR, is_marked
from fpet_export.model.checkpoints._read_tuned import read_tuned
from fpet_export.model.checkpoints._tuned_file import Shapes, Tensors, TunedFile
from fpet_export.model.edits import Branch, Edit, LowRank
from fpet_export.model.facts import Fact
from fpet_export.model.vit_spec import VitSpec

MARK = re.compile(r"\.adapter\.ln[12]\.(weight|bias)$|\.attn\.LoRA_[ab]\.weight$")

_PROMPTS = re.compile(r"(^|\.)(visual_prompt_token(_pos_embed)?|prefix_tokens_(key|value))$")
_FIELDS = {
    "ADAPTER_DIM": re.compile(r"\.adapter\.ln[12]\."),
    "LORA_DIM": re.compile(r"\.LoRA_[ab]\."),
    "VISUAL_PROMPT_DIM": re.compile(r"visual_prompt_token"),
    "PREFIX_DIM": re.compile(r"prefix_tokens_"),
}
"""Lists under RETRAIN, and the names of the tensors of which they count what is used."""


def recognises(text: str) -> bool:
    """Whether `text` is a file with such tensors."""
    return is_marked(Path(text), MARK)


def read(text: str, hints: Hints) -> Noah:
    """Read the file; see `fpet_export.model.checkpoints.Format`."""
    return read_tuned(Noah, text, hints, TIMM_ANCHOR)


class Noah(TunedFile):
    """`y + up(quick_gelu(down y + b_d)) + b_u` behind the MLP, `y + B A x` at qkv.

    Source: Zhang et al. 2022, section 3; `adapter_super.py` of its repository.
    """

    method = "noah"
    says = frozenset({"config"})
    brings_backbone = True

    def is_tuned(self, name: str) -> bool:
        """Whether a tensor is one of an adapter, of LoRA, or a prompt."""
        return bool(MARK.search(name) or _PROMPTS.search(name))

    def settings(self, spec: VitSpec) -> dict[str, Fact[Any]]:
        """Return how many of its hidden units each block uses."""
        source = "" if self.config_path is None else f"RETRAIN in {self.config_path.name}"
        found: dict[str, Fact[Any]] = {}
        for field, called in (("ADAPTER_DIM", "adapter widths"), ("LORA_DIM", "LoRA ranks")):
            if self._has(field):
                found[called] = Fact(" ".join(map(str, self._used(field, spec))), source)
        return found

    def shapes(self, spec: VitSpec) -> Shapes:
        """Return names and shapes of the tensors.

        Raises:
            CheckpointError: Prompts or prefixes are used, which are not read.
        """
        shapes: Shapes = {}
        for field in ("VISUAL_PROMPT_DIM", "PREFIX_DIM"):
            if self._has(field) and any(self._used(field, spec)):
                raise CheckpointError(
                    f"the network uses prompts ({field} under RETRAIN), which are not read yet",
                    where=str(self.path),
                    fix="give a run with adapters and LoRA alone",
                )
        shapes |= {n: tuple(t.shape) for n, t in self.found.tensors.items() if _PROMPTS.search(n)}
        for block in range(spec.depth):
            path = f"blocks.{block}"
            if self._has("ADAPTER_DIM"):
                units = self.extent("blocks.0.adapter.ln1.weight", 0, of=2)
                shapes |= {
                    f"{path}.adapter.ln1.weight": (units, spec.width),
                    f"{path}.adapter.ln1.bias": (units,),
                    f"{path}.adapter.ln2.weight": (spec.width, units),
                    f"{path}.adapter.ln2.bias": (spec.width,),
                }
            if self._has("LORA_DIM"):
                rank = self.extent("blocks.0.attn.LoRA_a.weight", 0, of=2)
                shapes |= {
                    f"{path}.attn.LoRA_a.weight": (rank, spec.width),
                    f"{path}.attn.LoRA_b.weight": (3 * spec.width, rank),
                }
        return shapes

    def edits(self, spec: VitSpec, tensors: Tensors) -> list[Edit]:
        """Return what each block uses."""
        found: list[Edit] = []
        for block, rank in enumerate(self._used("LORA_DIM", spec)):
            path = f"blocks.{block}.attn"
            if rank:
                down = tensors[f"{path}.LoRA_a.weight"][:rank]
                up = tensors[f"{path}.LoRA_b.weight"][:, :rank]
                found.append(LowRank(f"{path}.qkv", down=down, up=up))
        for block, units in enumerate(self._used("ADAPTER_DIM", spec)):
            path = f"blocks.{block}.adapter"
            if units:
                module = Bottleneck(
                    tensors[f"{path}.ln1.weight"][:units],
                    tensors[f"{path}.ln2.weight"][:, :units],
                    scale=1.0,
                    down_bias=tensors[f"{path}.ln1.bias"][:units],
                    up_bias=tensors[f"{path}.ln2.bias"],
                    activation="quick_gelu",
                    reads="mlp",
                )
                found.append(Branch(block=block, name="adapter", module=module))
        return found

    def _has(self, field: str) -> bool:
        """Whether the file has tensors that a list under RETRAIN is about."""
        return any(_FIELDS[field].search(name) for name in self.found.tensors)

    def _used(self, field: str, spec: VitSpec) -> list[int]:
        """Return how many units each block uses; none where the file has no such tensors.

        Raises:
            CheckpointError: There is no YAML, or it does not say it for every block.
        """
        if not self._has(field):
            return [0] * spec.depth
        if self.config_path is None:
            raise CheckpointError(
                "nothing says how many of its hidden units each block uses",
                where=str(self.path),
                fix="give the YAML of the training, which has RETRAIN in it: --config FILE",
            )
        section = self.config.get("RETRAIN")
        said = section.get(field) if isinstance(section, dict) else None
        most = self._most(field)
        numbers: list[Any] = said if isinstance(said, list) else []
        right = all(type(one) is int and 0 <= one <= most for one in numbers)
        if len(numbers) != spec.depth or not right:
            raise CheckpointError(
                f"{field} under RETRAIN is {said!r}, wanted {spec.depth} numbers from 0 to {most}",
                where=str(self.config_path),
                fix="give the YAML of this run: --config FILE",
            )
        return numbers

    def _most(self, field: str) -> int:
        """Return how many units a block has."""
        if field == "ADAPTER_DIM":
            return self.extent("blocks.0.adapter.ln1.weight", 0, of=2)
        if field == "LORA_DIM":
            return self.extent("blocks.0.attn.LoRA_a.weight", 0, of=2)
        own = (t for n, t in self.found.tensors.items() if _FIELDS[field].search(n))
        return max((t.shape[1] for t in own if t.ndim == 3), default=0)
