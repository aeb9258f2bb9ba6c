"""loralib's `lora_state_dict`: factors without `.weight`, of a Linear or of a MergedLinear.

A MergedLinear updates some thirds of the fused qkv and says nowhere which. Nor is alpha in the
file. Biases that were trained beside the factors replace those of the backbone.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from engines.errors import CheckpointError, UsageError
from fpet_export.model.checkpoints import Hints
from fpet_export.model.checkpoints._contents import TIMM_ANCHOR, is_marked
from fpet_export.model.checkpoints._dense import dense_edits, network_shapes
from fpet_export.model.checkpoints._read_tuned import read_tuned
from fpet_export.model.checkpoints._tuned_file import Shapes, Tensors, TunedFile
from fpet_export.model.edits import Edit, LowRank
from fpet_export.model.facts import Fact
from fpet_export.model.vit_spec import VitSpec

MARK = re.compile(r"\.lora_[AB]$")

_THIRDS = "qkv"


def recognises(text: str) -> bool:
    """Whether `text` is a file with such factors."""
    return is_marked(Path(text), MARK)


def read(text: str, hints: Hints) -> Loralib:
    """Read the file; see `fpet_export.model.checkpoints.Format`.

    Raises:
        CheckpointError: It holds the network, too, which loralib may have merged already.
    """
    run = read_tuned(Loralib, text, hints, "head.weight", "blocks.0.attn.qkv.lora_A")
    if TIMM_ANCHOR in run.found.tensors:
        raise CheckpointError(
            "the file holds the network beside the factors; loralib merges them into it when a "
            "model is put into eval mode, and the file does not say whether it did",
            where=text,
            fix="save the factors, the biases that were trained and the head alone: "
            "torch.save({**loralib.lora_state_dict(model), 'head.weight': model.head.weight, "
            "'head.bias': model.head.bias}, PATH)",
        )
    return run


class Loralib(TunedFile):
    """`alpha / r * B A x` added to what a linear gives.

    Source: Hu et al. 2021, section 4.1; of MergedLinear loralib's `layers.py`.
    """

    method = "loralib"
    says = frozenset({"alpha", "rank", "qkv_slots"})

    def is_tuned(self, name: str) -> bool:
        """Whether a tensor is a factor."""
        return bool(MARK.search(name))

    def settings(self, spec: VitSpec) -> dict[str, Fact[Any]]:
        """Return alpha, the ranks, and which thirds of qkv have factors."""
        alpha = self.asked("alpha", unsaid="add --alpha N, as the training called loralib")
        ranks = sorted({self._rank(layer) for layer in self._layers()})
        found: dict[str, Fact[Any]] = {"alpha": alpha}
        if len(ranks) == 1:
            found["rank"] = self.shown("rank", ranks[0])
        slots = {
            count: self._slots(layer, count)
            for layer in self._layers()
            if (count := self._thirds(spec, layer)) is not None
        }
        for fact in slots.values():
            found["thirds of qkv"] = fact
        if self.hints.qkv_slots is not None and not slots:
            raise UsageError(
                "no layer in this file is a MergedLinear, so no thirds of qkv are chosen",
                where=str(self.path),
                fix="leave --qkv-slots out",
            )
        return found

    def shapes(self, spec: VitSpec) -> Shapes:
        """Return names and shapes of the factors and of the biases beside them."""
        known = network_shapes(spec, len(self.found.tensors["head.weight"]))
        shapes: Shapes = {}
        for layer in self._layers():
            size = known.get(f"{layer}.weight")
            if size is None or len(size) != 2:
                raise CheckpointError(
                    f"{layer} has factors, and is no linear of {spec.describe()}",
                    where=str(self.path),
                    fix="give the backbone the run was trained on: --backbone FILE",
                )
            rank, count = self._rank(layer), self._thirds(spec, layer)
            rows = rank if count is None else rank * count
            out = size[0] if count is None else count * spec.width
            shapes |= {f"{layer}.lora_A": (rows, size[1]), f"{layer}.lora_B": (out, rank)}
        for name in self.found.tensors:
            if name.endswith(".bias") and name in known:
                shapes[name] = known[name]
        return shapes

    def edits(self, spec: VitSpec, tensors: Tensors) -> list[Edit]:
        """Return the biases that were trained, and then the update of each layer."""
        alpha = self.settings(spec)["alpha"].value
        found: list[Edit] = dense_edits(
            {name: t for name, t in tensors.items() if name.endswith(".bias")}
        )
        for layer in self._layers():
            rank, count = self._rank(layer), self._thirds(spec, layer)
            down, up = tensors[f"{layer}.lora_A"], tensors[f"{layer}.lora_B"]
            scale = alpha / rank
            if count is None:
                found.append(LowRank(layer, down=down, up=up, scale=scale))
                continue
            slots = self._slots(layer, count).value
            parts = zip(slots, down.chunk(count), up.chunk(count), strict=True)
            for third, own_down, own_up in parts:
                site = f"{layer.removesuffix('qkv')}{third}"
                found.append(LowRank(site, down=own_down, up=own_up, scale=scale))
        return found

    def _layers(self) -> list[str]:
        """Return the layers with factors, in the order of the file."""
        names = (name.rpartition(".")[0] for name in self.found.tensors if self.is_tuned(name))
        return list(dict.fromkeys(names))

    def _rank(self, layer: str) -> int:
        """Return the rank, which the second factor shows."""
        return self.extent(f"{layer}.lora_B", 1, of=2)

    def _thirds(self, spec: VitSpec, layer: str) -> int | None:
        """Return how many thirds of qkv a MergedLinear updates; None for a Linear."""
        if not layer.endswith(".attn.qkv"):
            return None
        out = self.extent(f"{layer}.lora_B", 0, of=2)
        if out == 3 * spec.width and self.extent(f"{layer}.lora_A", 0, of=2) == self._rank(layer):
            return None
        return max(1, min(3, out // spec.width))

    def _slots(self, layer: str, count: int) -> Fact[str]:
        """Return which thirds are updated: all three, or those that the user names.

        Raises:
            CheckpointError: The file has another number, and nobody says which.
        """
        if count == len(_THIRDS):
            return Fact(_THIRDS, f"{layer}.lora_B has rows for all three")
        said = self.hints.qkv_slots
        if said is None or len(said) != count:
            told = "nothing says which" if said is None else f"--qkv-slots names {said!r}"
            example = {1: "q", 2: "qv"}[count]
            raise CheckpointError(
                f"{layer} is a MergedLinear with {count} of the three thirds q, k and v; {told}",
                where=str(self.path),
                fix=f"name those of the training's enable_lora, for example --qkv-slots {example}",
            )
        return Fact(said, "--qkv-slots")
