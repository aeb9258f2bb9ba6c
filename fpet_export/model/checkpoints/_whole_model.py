"""A model that was tuned as a whole: its file is its own backbone, head included, no adapters."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engines.errors import CheckpointError, UsageError
from fpet_export.model.backbones import Backbone
from fpet_export.model.checkpoints import Checkpoint, Hints, _side_files, _untrained
from fpet_export.model.facts import Fact
from fpet_export.model.merge_plan import at_block
from fpet_export.model.vit_spec import VitSpec

_OF_ADAPTERS = ("method", "bit", "rank", "scale", "alpha", "channel_shuffle", "config")
"""What `Hints` says of adapters, and a whole model has none."""

_BESIDE = ("config.json", "preprocessor_config.json")


def whole_model(
    name: str,
    source: Path,
    hints: Hints,
    weights: Path,
    *,
    parts: Sequence[Path] = (),
    passed_over: Sequence[Path] = (),
) -> WholeModel:
    """Return the run of a whole model; of its files only the hashes are read, if some are listed.

    Args:
        name: The run's name.
        source: What `--backbone` would be called with: the file, or the folder.
        hints: What the user says about it.
        weights: The file of its weights.
        parts: The files that it lists, where it is an index.
        passed_over: Files that hold weights, too, and that this format looks at later.

    Raises:
        UsageError: The user describes adapters.
        TrustError: A file is not what the list of checksums beside it says.
    """
    for field in _OF_ADAPTERS:
        if getattr(hints, field) is not None:
            option = field.replace("_", "-")
            raise UsageError(
                f"--{option} describes adapters, and this is a whole model without any",
                where=str(source),
                fix=f"leave --{option} out; for a run with adapters, give its own files",
            )
    folder = weights.parent
    beside = [folder / name for name in _BESIDE if (folder / name).is_file()]
    sums = _side_files.verify_checksums(folder, [weights, *parts], beside)
    facts: dict[str, Fact[Any]] = {}
    if passed_over:
        others = ", ".join(path.name for path in passed_over)
        facts["weights file"] = Fact(weights.name, f"it is taken before {others}")
    return WholeModel(
        name=name, source=source, hints=hints, files=(sums,) if sums else (), facts=facts
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class WholeModel:
    """A run without adapters; see `fpet_export.model.checkpoints.Run`.

    Attributes:
        name: The run's name.
        source: The file or folder that holds it.
        hints: What the user says about it.
        files: Files that were read beside those of the backbone: a list of checksums.
        facts: Which of several files was taken.
    """

    name: str
    source: Path
    hints: Hints
    files: tuple[Path, ...]
    facts: dict[str, Fact[Any]]

    @property
    def backbone(self) -> str:
        """The model itself."""
        return str(self.source)

    @property
    def architecture(self) -> None:
        """None: what lies beside the weights is read with them."""

    @property
    def pool(self) -> None:
        """None, likewise."""

    @property
    def normalisation(self) -> None:
        """None, likewise."""

    @property
    def weights(self) -> frozenset[str]:
        """None: the set is chosen when the weights are read."""
        return frozenset()

    def head_width(self, depth: int, width: int) -> None:
        """Return None: no other file reveals it."""

    def check(self, backbone: Backbone) -> None:
        """Refuse a backbone that is given beside it."""
        own = self.source.resolve()
        if not any(own in (path.resolve(), path.resolve().parent) for path in backbone.files):
            raise CheckpointError(
                f"this run is a whole model and brings its own backbone; {backbone.source} was "
                "given beside it",
                where=str(self.source),
                fix="leave --backbone out",
            )

    def decode(self, spec: VitSpec) -> Checkpoint:
        """Return a run without adapters, whose head is the backbone's."""
        merge = _untrained.merge_block(self.hints, spec, what="a whole model")
        facts = self.facts | {
            "method": Fact("none", "a whole model without adapters"),
            "merge block": merge,
        }
        if spec.classes:
            facts["classes"] = Fact(spec.classes, "the shape of the head")
        return Checkpoint(
            name=self.name,
            method="none",
            bit=None,
            dim=None,
            scale=None,
            merge=at_block(merge.value),
            factors=(),
            refinement=None,
            head={},
            quality="trained",
            files=self.files,
            facts=facts,
        )
