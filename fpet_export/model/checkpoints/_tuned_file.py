"""One file of tensors that the code of a tuning method saved, read strictly.

A format is a class that says which tensors its file has and which edits they mean. What all of
them share is here: the head, names and shapes compared before anything is read, values that must
be finite, and what the user has to say because no such file holds it.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch

from engines.errors import CheckpointError
from engines.plurals import counted
from fpet_export.model import state_dicts
from fpet_export.model.backbones import Backbone, Within
from fpet_export.model.backbones._names import HEAD_NAMES, compare_shapes, some
from fpet_export.model.checkpoints import Checkpoint, Hints, _contents, _untrained
from fpet_export.model.checkpoints._dense import network_shapes
from fpet_export.model.edits import Edit
from fpet_export.model.facts import Fact, reconcile
from fpet_export.model.merge_plan import at_block
from fpet_export.model.vit_spec import VitSpec

Shapes = dict[str, tuple[int, ...]]
Tensors = Mapping[str, torch.Tensor]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TunedFile(abc.ABC):
    """What such a file says; see `fpet_export.model.checkpoints.Run`.

    Attributes:
        path: The file.
        found: The tensors in it.
        hints: What the user says.
        config: The fields of the run's YAML, for formats that have one.
        config_path: Where it lies; None where there is none.
        checksums: A list of checksums that was verified, or None.
        method: What the method is called.
        says: Fields of `Hints` that mean something for it.
        brings_backbone: Whether the file holds the whole network.
        anchor: A tensor that such a network has; see `state_dicts.read`.
        warnings: What a user of it should know.
    """

    path: Path
    found: state_dicts.StateDict
    hints: Hints
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    config_path: Path | None = None
    checksums: Path | None = None

    method: ClassVar[str]
    says: ClassVar[frozenset[str]] = frozenset()
    brings_backbone: ClassVar[bool] = False
    anchor: ClassVar[str] = _contents.TIMM_ANCHOR
    warnings: ClassVar[tuple[str, ...]] = ()

    @abc.abstractmethod
    def is_tuned(self, name: str) -> bool:
        """Whether a tensor belongs to the method, not to the network."""

    @abc.abstractmethod
    def shapes(self, spec: VitSpec) -> Shapes:
        """Return names and shapes of the method's tensors on a network."""

    @abc.abstractmethod
    def edits(self, spec: VitSpec, tensors: Tensors) -> list[Edit]:
        """Return what the tensors mean, once all of them are known to be there."""

    def settings(self, spec: VitSpec) -> dict[str, Fact[Any]]:
        """Return what else the run was trained with, each with its source."""
        return {}

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return _contents.stem(self.path)

    @property
    def backbone(self) -> Within | None:
        """The rest of the file, where it holds the whole network."""
        if not self.brings_backbone:
            return None
        return Within(path=self.path, anchor=self.anchor, select=self.network)

    @property
    def architecture(self) -> Fact[str] | None:
        """None: no such file names it."""
        return None

    @property
    def pool(self) -> Fact[str] | None:
        """None: the method's code says nothing that the backbone's file could contradict."""
        return None

    @property
    def normalisation(self) -> Fact[str] | None:
        """None: these methods are trained on any data set, with its own mean and std."""
        return None

    @property
    def weights(self) -> frozenset[str]:
        """What `--weights` may call the set of weights that was read."""
        return self.found.names

    def head_width(self, depth: int, width: int) -> tuple[int, str] | None:
        """Return None: no tensor reveals it."""
        return None

    def network(self, tensors: Tensors) -> dict[str, torch.Tensor]:
        """Return the network's own tensors in the file, by timm's names."""
        return {name: tensor for name, tensor in tensors.items() if not self.is_tuned(name)}

    def check(self, backbone: Backbone) -> None:
        """Refuse a backbone beside a file that holds its own."""
        own = self.path.resolve()
        if self.brings_backbone and own not in [path.resolve() for path in backbone.files]:
            raise CheckpointError(
                f"{self.path.name} holds the network that was tuned; {backbone.source} was given "
                "beside it",
                where=str(self.path),
                fix="leave --backbone out",
            )

    def decode(self, spec: VitSpec) -> Checkpoint:
        """Return the run on its backbone; see `fpet_export.model.checkpoints.Run`."""
        tensors = self._checked(spec)
        head = {name: tensors[name] for name in HEAD_NAMES if name in tensors}
        settings = self.settings(spec)
        merge = _untrained.merge_block(self.hints, spec, what="the file")
        scale = settings.get("scale")
        facts: dict[str, Fact[Any]] = {
            "method": Fact(self.method, f"the tensors in {self.path.name}"),
            **settings,
            **self.found.facts,
            "merge block": merge,
            "classes": Fact(len(head["head.weight"]), "the shape of head.weight"),
        }
        edits = tuple(self.edits(spec, tensors))
        files = (self.path, self.config_path, self.checksums)
        return Checkpoint(
            name=self.name,
            method=self.method if edits else "none",  # a linear probe is the head alone
            bit=None,
            dim=None,
            scale=None if scale is None else float(scale.value),
            merge=at_block(merge.value),
            factors=(),
            refinement=None,
            head=head,
            quality="trained",
            files=tuple(path for path in files if path is not None),
            facts=facts,
            changes=edits,
            warnings=self.warnings,
        )

    def extent(self, name: str, axis: int, *, of: int) -> int:
        """Return one extent of a tensor, from which the shapes of others follow.

        Raises:
            CheckpointError: The tensor is not there, is empty, or has not `of` dimensions.
        """
        tensor = self.found.tensors.get(name)
        if tensor is None or tensor.ndim != of or not tensor.numel():
            found = "missing" if tensor is None else f"of shape {tuple(tensor.shape)}"
            raise CheckpointError(
                f"{name} is {found}, wanted {counted(of, 'dimension')}",
                where=str(self.path),
                fix="give the file that the run's training wrote; the head (head.weight, "
                "head.bias) must be in it, too",
            )
        return tensor.shape[axis]

    def require_class_token(self, spec: VitSpec, why: str) -> None:
        """Refuse a network with other tokens in front of the patches than the class token.

        Raises:
            CheckpointError: It has others, or none.
        """
        if spec.prefix != ("cls",):
            raise CheckpointError(
                f"the tokens in front of the patches are {' '.join(spec.prefix) or 'none'}, wanted "
                f"the class token alone, {why}",
                where=str(self.path),
                fix="give the backbone the run was trained on: --backbone FILE",
            )

    def shown(self, field: str, value: int) -> Fact[int]:
        """Return a number that the tensors show.

        Raises:
            CheckpointError: The YAML or the user says another one.
        """
        own: Fact[Any] = Fact(value, f"the tensors in {self.path.name}")
        fact = reconcile(field, [own, *self._claims(field)], where=str(self.path))
        assert fact is not None
        return fact

    def asked(self, field: str, *, unsaid: str) -> Fact[float]:
        """Return a number that the YAML or the user says.

        Args:
            field: Of the YAML, and of `Hints`.
            unsaid: What to do when nobody says it.

        Raises:
            CheckpointError: Nobody says it, two say different things, or it is not finite.
        """
        fact = reconcile(field, self._claims(field), where=str(self.path))
        if fact is None:
            raise CheckpointError(
                f"nothing says the {field} of this {self.method} run; its file does not hold it",
                where=str(self.path),
                fix=unsaid,
            )
        if not math.isfinite(fact.value):
            raise CheckpointError(
                f"{field} is {fact.value}, wanted a number", where=fact.source, fix="correct it"
            )
        return Fact(float(fact.value), fact.source)

    def _claims(self, field: str) -> list[Fact[Any]]:
        """Return what the YAML and the user say.

        Raises:
            CheckpointError: It is no number in the YAML.
        """
        claims: list[Fact[Any]] = []
        said = self.config.get(field)
        if said is not None and self.config_path is not None:
            if type(said) not in (int, float):
                raise CheckpointError(
                    f"{field} is {said!r}, wanted a number",
                    where=str(self.config_path),
                    fix="correct it",
                )
            claims.append(Fact(said, self.config_path.name))
        hint = getattr(self.hints, field)
        if hint is not None:
            claims.append(Fact(hint, f"--{field}"))
        return claims

    def _checked(self, spec: VitSpec) -> dict[str, torch.Tensor]:
        """Return what was tuned in float32, after names, shapes and values were checked."""
        inside = self.brings_backbone
        found = {
            name: tensor
            for name, tensor in self.found.tensors.items()
            if self.is_tuned(name) or name in HEAD_NAMES or not inside
        }
        classes = self.extent("head.weight", 0, of=2)
        network = network_shapes(spec, classes)
        wanted = {name: network[name] for name in HEAD_NAMES if name in network}
        wanted |= self.shapes(spec)
        problems = compare_shapes({name: tuple(t.shape) for name, t in found.items()}, wanted)
        if problems:
            raise CheckpointError(
                f"the tensors are not those of {self.method} on {spec.describe()}: {problems}",
                where=str(self.path),
                fix="give the whole file that the run's training wrote"
                if inside
                else "give the backbone the run was trained on (--backbone FILE), and the whole "
                "file that its training wrote",
            )
        floats = {name: tensor.float() for name, tensor in found.items()}
        broken = sorted(name for name, tensor in floats.items() if not tensor.isfinite().all())
        if broken:
            raise CheckpointError(
                f"{counted(len(broken), 'tensor')} with NaN or infinity: {some(broken)}",
                where=str(self.path),
                fix="the file is damaged, or its values are beyond float32; fetch it again",
            )
        return floats


def block_diagonal(blocks: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the matrix of a map in groups: each block below and right of the one before."""
    found: torch.Tensor = torch.block_diag(*blocks)  # type: ignore[no-untyped-call]
    return found
