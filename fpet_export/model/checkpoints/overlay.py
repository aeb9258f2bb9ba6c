"""A part of a network with timm's names, head included, over a backbone.

BitFit (biases), tuned LayerNorms, a linear probe (the head alone), and partial fine-tuning. The
file says what was tuned by what is in it.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from engines.errors import CheckpointError
from fpet_export.model.checkpoints import Hints, _contents
from fpet_export.model.checkpoints._batch_norm_head import folded_head
from fpet_export.model.checkpoints._dense import dense_edits, network_shapes
from fpet_export.model.checkpoints._overlay import (
    half_layer,
    is_of_head,
    is_overlay,
)
from fpet_export.model.checkpoints._read_tuned import read_tuned
from fpet_export.model.checkpoints._tuned_file import Shapes, Tensors, TunedFile
from fpet_export.model.edits import Edit
from fpet_export.model.vit_spec import VitSpec

_NORMS = tuple(
    f"{norm}.{kind}"
    for norm in ("norm", "norm1", "norm2", "norm_pre")  # fc_norm ends like norm
    for kind in ("weight", "bias")
)
_OF_FPET = (".pth", ".pth.tar")


def recognises(text: str) -> bool:
    """Whether `text` is a file with a head and a part of a network."""
    return is_overlay(Path(text))


def read(text: str, hints: Hints) -> Overlay:
    """Read the file; see `fpet_export.model.checkpoints.Format`."""
    path = Path(text)
    kind = _kind(path) if hints.method != Partial.method else Partial
    if kind is LinearProbe and path.name.lower().endswith(_OF_FPET):
        _require_word(path, hints)
    run = read_tuned(kind, text, hints, "head.weight", "head.1.weight")
    tensors, facts = folded_head(run.found.tensors, path=path)
    lacking = half_layer(tensors)
    if lacking is not None:
        raise CheckpointError(
            f"{lacking} is missing, though the same tensor of other blocks is in the file",
            where=text,
            fix="give the file that the run's training wrote, with all that it tuned",
        )
    found = dataclasses.replace(run.found, tensors=tensors, facts=run.found.facts | facts)
    return dataclasses.replace(run, found=found)


def _kind(path: Path) -> type[Overlay]:
    """Return what was tuned, as the names in the file say."""
    names = [name for name in _contents.tensor_names(path) if not is_of_head(name)]
    if not names:
        return LinearProbe
    if all(name.endswith(_NORMS) for name in names):
        return TunedNorms
    if all(name.endswith(".bias") for name in names):
        return BitFit
    return Partial


def _require_word(path: Path, hints: Hints) -> None:
    """Refuse a head alone that may be half of a run of the authors' code, unless the user says.

    Raises:
        CheckpointError: The user does not.
    """
    if hints.method == LinearProbe.method:
        return
    name = _contents.stem(path)
    raise CheckpointError(
        f"{path.name} holds a head alone: either a linear probe, or a run of the authors' FPET "
        f"code whose {name}.bin, YAML and {name}/params.sh are missing",
        where=str(path),
        fix=f"if the head alone was trained, add --method {LinearProbe.method}; else copy the "
        "run's other files beside it",
    )


class Overlay(TunedFile):
    """Tensors in place of those of the backbone."""

    method = "partial"

    def missing(self, known: Shapes) -> list[str]:
        """Return what the method tunes and the file lacks, of a network's tensors."""
        return []

    def is_tuned(self, name: str) -> bool:
        """Whether a tensor was tuned: all in the file were."""
        return True

    def shapes(self, spec: VitSpec) -> Shapes:
        """Return the shapes of the network's tensors that are in the file."""
        known = network_shapes(spec, len(self.found.tensors["head.weight"]))
        missing = self.missing(known)
        if missing:
            raise CheckpointError(
                f"{missing[0]} is missing; {self.method} tunes it with the others",
                where=str(self.path),
                fix="give the file that the run's training wrote; if that was not tuned, add "
                f"--method {Partial.method}",
            )
        return {name: shape for name, shape in known.items() if name in self.found.tensors}

    def edits(self, spec: VitSpec, tensors: Tensors) -> list[Edit]:
        """Return one edit for each layer."""
        return dense_edits(tensors)


class LinearProbe(Overlay):
    """The head alone."""

    method = "linear-probe"


class TunedNorms(Overlay):
    """LayerNorms and the head."""

    method = "layernorm"

    def missing(self, known: Shapes) -> list[str]:
        """Return the weights and biases, as far as the file has such, of other norms."""
        own = self.found.tensors
        kinds = {name.rpartition(".")[2] for name in own if not is_of_head(name)}
        wanted = [n for n in known if n.endswith(_NORMS) and n.rpartition(".")[2] in kinds]
        return [name for name in wanted if name not in own]


class BitFit(Overlay):
    """Biases and the head.

    Source: Ben Zaken et al. 2022.
    """

    method = "bitfit"

    def missing(self, known: Shapes) -> list[str]:
        """Return the other biases."""
        return [n for n in known if n.endswith(".bias") and n not in self.found.tensors]


class Partial(Overlay):
    """Any other part and the head."""

    method = "partial-fine-tuning"
