"""ADePT and DePT on a ViT: soft prompts, and an offset of every patch.

Both are methods of language models, whose published files hold no ViT. This is a format of our own
for runs that carry them over: `adept.prompt` (P, C) with `adept.A` (C, R), `adept.a` (R),
`adept.B` (R, C) and `adept.b` (C), or `dept.prompt` with `dept.A` (patches, R) and `dept.B` (R, C);
and the head. The prompts stand between the class token and the patches, as VPT's shallow ones do;
the class token has no offset.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from fpet_export.model.bottleneck import Bottleneck
from fpet_export.model.checkpoints import Hints, _contents, _prompts
from fpet_export.model.checkpoints._read_tuned import read_tuned
from fpet_export.model.checkpoints._tuned_file import Shapes, Tensors, TunedFile
from fpet_export.model.edits import Branch, Edit, PositionShift
from fpet_export.model.facts import Fact
from fpet_export.model.vit_spec import VitSpec

MARK = re.compile(r"^(adept\.(prompt|[AaBb])|dept\.(prompt|[AB]))$")


def recognises(text: str) -> bool:
    """Whether `text` is a file with such tensors."""
    return _contents.is_marked(Path(text), MARK)


def read(text: str, hints: Hints) -> TunedFile:
    """Read the file; see `fpet_export.model.checkpoints.Format`."""
    names = _contents.tensor_names(Path(text))
    if any(name.startswith("adept.") for name in names):
        return read_tuned(Adept, text, hints, "head.weight")
    return read_tuned(Dept, text, hints, "head.weight")


class Adept(TunedFile):
    """`e + relu(e A + a) B + b` for every patch e, before its position is added.

    Source: Tang et al. 2025, eq. 5 to 7.
    """

    method = "adept"
    says = frozenset({"rank"})

    def is_tuned(self, name: str) -> bool:
        """Whether a tensor is one of the method."""
        return bool(MARK.search(name))

    def settings(self, spec: VitSpec) -> dict[str, Fact[Any]]:
        """Return the width of the offset's bottleneck, and the number of prompts."""
        source = f"the tensors in {self.path.name}"
        prompts = self.extent(f"{self.method}.prompt", 0, of=2)
        return {"rank": self.shown("rank", self._rank()), "prompts": Fact(prompts, source)}

    def shapes(self, spec: VitSpec) -> Shapes:
        """Return names and shapes of the tensors."""
        _prompts.require_place(spec, where=str(self.path))
        rank, width = self._rank(), spec.width
        return {
            "adept.prompt": (self.extent("adept.prompt", 0, of=2), width),
            "adept.A": (width, rank),
            "adept.a": (rank,),
            "adept.B": (rank, width),
            "adept.b": (width,),
        }

    def edits(self, spec: VitSpec, tensors: Tensors) -> list[Edit]:
        """Return the offset of the patches, and the prompts."""
        offset = Bottleneck(
            tensors["adept.A"].T.contiguous(),
            tensors["adept.B"].T.contiguous(),
            scale=1.0,
            down_bias=tensors["adept.a"],
            up_bias=tensors["adept.b"],
        )
        prompts = _prompts.edits(tensors["adept.prompt"][None], None)
        return [Branch(block=None, name="adept", module=offset), *prompts]

    def _rank(self) -> int:
        return self.extent(f"{self.method}.A", 1, of=2)


class Dept(Adept):
    """`e + scale * (A B)[i]` for the patch e at position i: it folds into the positions.

    Source: Shi and Lipani 2024, section 2.3.
    """

    method = "dept"
    says = frozenset({"rank", "scale"})

    def settings(self, spec: VitSpec) -> dict[str, Fact[Any]]:
        """Return the rank and the scale of the offset, and the number of prompts."""
        scale = self.asked("scale", unsaid="add --scale S, by which the training multiplied A B")
        return super().settings(spec) | {"scale": scale}

    def shapes(self, spec: VitSpec) -> Shapes:
        """Return names and shapes of the tensors."""
        _prompts.require_place(spec, where=str(self.path))
        rank = self._rank()
        return {
            "dept.prompt": (self.extent("dept.prompt", 0, of=2), spec.width),
            "dept.A": (spec.patches, rank),
            "dept.B": (rank, spec.width),
        }

    def edits(self, spec: VitSpec, tensors: Tensors) -> list[Edit]:
        """Return what is added to the positions, and the prompts."""
        scale = self.settings(spec)["scale"].value
        offset = scale * tensors["dept.A"].double() @ tensors["dept.B"].double()
        prompts = _prompts.edits(tensors["dept.prompt"][None], None)
        return [PositionShift(tensor=offset), *prompts]
