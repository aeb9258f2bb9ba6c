"""Prompts of KMnP/vpt alone: `prompt_epN.pth`, a dictionary of numpy arrays.

The training saves neither its backbone nor its head; both are given beside the file.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from engines.errors import CheckpointError
from fpet_export.model.checkpoints import Checkpoint, Hints, _prompts
from fpet_export.model.checkpoints._contents import is_marked
from fpet_export.model.checkpoints._read_tuned import read_tuned
from fpet_export.model.checkpoints._tuned_file import Shapes, Tensors, TunedFile
from fpet_export.model.edits import Edit
from fpet_export.model.vit_spec import VitSpec

_SHALLOW, _DEEP = "shallow_prompt", "deep_prompt"

MARK = re.compile(rf"^({_SHALLOW}|{_DEEP})$")


def recognises(text: str) -> bool:
    """Whether `text` is a file with such arrays."""
    return is_marked(Path(text), MARK)


def read(text: str, hints: Hints) -> VptPrompts:
    """Read the file and the head beside it; see `fpet_export.model.checkpoints.Format`.

    Raises:
        CheckpointError: No head is given.
    """
    run = read_tuned(VptPrompts, text, hints, _SHALLOW)
    if hints.head_weights is None:
        raise CheckpointError(
            "the file holds prompts and no head: the training of VPT does not save it",
            where=text,
            fix="give the file of the trained head: --head-weights FILE; a whole state_dict() of "
            "the model, which holds both, is read, too",
        )
    tensors = run.found.tensors | _prompts.read_head(hints.head_weights)
    found = dataclasses.replace(run.found, tensors=tensors)
    return dataclasses.replace(run, found=found)


class VptPrompts(TunedFile):
    """Constant tokens between the class token and the patches, in the first or in every block.

    Source: Jia et al. 2022, eq. 4 to 8.
    """

    method = "vpt"
    says = frozenset({"head_weights"})

    def is_tuned(self, name: str) -> bool:
        """Whether a tensor is one of prompts."""
        return bool(MARK.search(name))

    def shapes(self, spec: VitSpec) -> Shapes:
        """Return names and shapes of the prompts.

        Raises:
            CheckpointError: The backbone is none that VPT's code has.
        """
        _prompts.require_place(spec, where=str(self.path))
        deep = _DEEP if _DEEP in self.found.tensors else None
        return _prompts.shapes(spec, _SHALLOW, deep, self.extent(_SHALLOW, 1, of=3))

    def edits(self, spec: VitSpec, tensors: Tensors) -> list[Edit]:
        """Return the prompts."""
        return _prompts.edits(tensors[_SHALLOW], tensors.get(_DEEP))

    def decode(self, spec: VitSpec) -> Checkpoint:
        """Return the run; the head's file is one of its files."""
        checkpoint = super().decode(spec)
        assert self.hints.head_weights is not None
        return dataclasses.replace(checkpoint, files=(*checkpoint.files, self.hints.head_weights))
