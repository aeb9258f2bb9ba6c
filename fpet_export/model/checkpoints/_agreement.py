"""Whether a backbone can be the one that a run was tuned on."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

import torch

from engines.errors import CheckpointError
from fpet_export.model.backbones import Backbone
from fpet_export.model.backbones._names import some
from fpet_export.model.backbones.random_weights import spec_if_known
from fpet_export.model.facts import Fact
from fpet_export.model.vit_spec import VitSpec

_COMPARED = ("width", "depth", "heads", "hidden", "patch", "image", "prefix")


def same_network(said: Fact[str] | None, backbone: Backbone, *, where: str) -> None:
    """Refuse a backbone of another architecture than the run's files name.

    A name that timm does not know says nothing that could be compared.

    Raises:
        CheckpointError: It is another one.
    """
    spec = None if said is None else spec_if_known(said.value, where=where)
    if said is None or spec is None:
        return
    for field in _COMPARED:
        wanted, found = getattr(spec, field), getattr(backbone.spec, field)
        if wanted != found:
            raise CheckpointError(
                f"the run's backbone is {said.value} according to {said.source}, with {field} "
                f"{_words(wanted)}; {backbone.source} has {field} {_words(found)}",
                where=where,
                fix="give the backbone the run was tuned on (--backbone FILE), or correct the "
                f"field backbone in {said.source}",
            )


def _words(value: object) -> str:
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)


def same_pool(said: Fact[str], backbone: Backbone, *, where: str) -> None:
    """Refuse a trained backbone, read for another run, whose head reads something else.

    Raises:
        CheckpointError: It does, and not because the user says so.
    """
    found = backbone.facts.get("pool")
    if backbone.quality == "random" or found is None or found.source == "--pool":
        return
    if found.value not in (said.value, "class+dist"):
        raise CheckpointError(
            f"the head reads {found.value} according to {found.source}, but {said.value} "
            f"according to {said.source}",
            where=where,
            fix='say what it reads when the backbone is read: pool="token" or pool="avg"',
        )


def same_weights(own: Mapping[str, torch.Tensor], backbone: Backbone, *, path: Path) -> None:
    """Refuse a run whose file holds a backbone too, unless it is the given one, bit for bit.

    Args:
        own: The tensors in the run's file that training with adapters does not change.
        backbone: The given one.
        path: The run's file.

    Raises:
        CheckpointError: They differ, so the whole model was trained, or on another backbone.
    """
    given = backbone.weights
    other = sorted(
        name
        for name, tensor in own.items()
        if name not in given or not torch.equal(tensor.float(), given[name])
    )
    if not other:
        return
    raise CheckpointError(
        f"{path.name} holds a whole model, and {len(other)} of its {len(own)} backbone tensors are "
        f"not those of {backbone.source}: {some(other)}. Whole fine-tuned models are not read yet",
        where=str(path),
        fix="if it was tuned with adapters alone, its own backbone is the right one: write it to a "
        f"file, and give that as --backbone: {_cut(path)}",
    )


def _cut(path: Path) -> str:
    """Return a command that writes the backbone in a run's file into one of its own."""
    out = path.with_name(path.name.partition(".")[0] + "-backbone.safetensors")
    program = (
        "from fpet_export.model import state_dicts; from pathlib import Path; "
        "from safetensors.torch import save_file; "
        f"t = state_dicts.read(Path({str(path)!r}), ['head.weight']).tensors; "
        "save_file({k: v.contiguous() for k, v in t.items() "
        f"if 'adapter_' not in k and not k.startswith('head')}}, {str(out)!r})"
    )
    return f"python -c {shlex.quote(program)}"


def network_of(said: Fact[str] | None, *, where: str) -> Fact[VitSpec] | None:
    """Return the network that the run's files name, where timm knows the name."""
    spec = None if said is None else spec_if_known(said.value, where=where)
    return None if said is None or spec is None else Fact(spec, said.source)
