"""What timm's training script writes beside the weights: the model's name and its arguments."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from engines.errors import CheckpointError
from fpet_export.model.backbones import _timm_module
from fpet_export.model.facts import Fact, reconcile

_ARGUMENTS = {"gp": "global_pool", "img_size": "img_size", "in_chans": "in_chans"}
"""Options of timm's `train.py` that change the network, and what its models call them."""


def model_of(
    settings: Mapping[str, object], *, where: str
) -> Fact[tuple[str, dict[str, Any]]] | None:
    """Return the name and the arguments that timm's script built the model with.

    Args:
        settings: `arch` and `args` of the file, as far as it has them. A name without the
            script's options says nothing: other scripts write one, too, and not what they changed.
        where: The file.

    Raises:
        CheckpointError: The two disagree, or the options are none of the script.
    """
    arch, args = settings.get("arch"), settings.get("args")
    options = vars(args) if isinstance(args, Namespace) else args
    if not isinstance(arch, str) or not isinstance(options, dict) or "gp" not in options:
        return None
    if not _timm_module.is_known(arch):
        return None
    source = f"arch in {where}"
    claims: list[Fact[object]] = [Fact(arch, source)]
    claims.append(Fact(options.get("model"), f"args.model in {where}"))
    reconcile("the architecture", claims, where=where)
    arguments = {
        theirs: options[ours]
        for ours, theirs in _ARGUMENTS.items()
        if options.get(ours) is not None
    }
    size = options.get("input_size")
    if isinstance(size, list | tuple) and len(size) == 3:  # which the script takes before img_size
        arguments |= {"in_chans": size[0], "img_size": tuple(size[1:])}
    more = options.get("model_kwargs") or {}
    if not isinstance(more, dict):
        raise CheckpointError(
            f"args.model_kwargs is {more!r}, wanted a dictionary",
            where=where,
            fix="save the weights alone, and name the architecture: --arch NAME",
        )
    return Fact((arch, arguments | more), source)
