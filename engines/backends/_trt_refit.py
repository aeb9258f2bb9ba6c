"""New weights for a plan that is open: TensorRT's refitter, behind a check of every answer.

Refitting copies all weights that are given, and takes the place of those before; a plan whose
tasks are inputs (docs/tasks.md) switches by address instead. It serves plans that were built from
one task's own export. Tried with stand-ins for TensorRT only.

Source: NVIDIA TensorRT, "Refitting an Engine".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from engines.engine import Array
from engines.errors import EngineError, InputError, UsageError


def refit_plan(
    make_refitter: Callable[[], Any] | None,
    trt_engine: Any,
    weights: Mapping[str, Array],
    *,
    where: str,
) -> None:
    """Replace constants of a plan.

    Args:
        make_refitter: Makes TensorRT's refitter of this plan.
        trt_engine: The plan; no run of it is under way.
        weights: By the names that the graph's constants had.
        where: Name of the engine, for messages.

    Raises:
        UsageError: The plan was not built to be refitted.
        InputError: It has no such weight, one has another size or type, or others are needed too.
        EngineError: TensorRT failed; the plan is as it was before.
    """
    if make_refitter is None or not getattr(trt_engine, "refittable", False):
        raise UsageError(
            "this plan was not built to be refitted",
            where=where,
            fix="build it with BuildOptions(refittable=True), on a machine with a GPU; or let the "
            "weights be inputs, as `fpet-export tasks` does",
        )
    refitter = make_refitter()
    known = set(refitter.get_all_weights())
    unknown = sorted(set(weights) - known)
    if unknown:
        raise InputError(
            f"the plan has no weights called {', '.join(unknown[:3])}",
            where=where,
            fix="use names of the graph that the plan was built from",
        )
    kept = {name: np.ascontiguousarray(value) for name, value in weights.items()}
    refused = [name for name, value in kept.items() if not refitter.set_named_weights(name, value)]
    if refused:
        raise InputError(
            f"TensorRT does not take the size or type of {', '.join(refused[:3])}",
            where=where,
            fix="give weights of the shape and type of the plan's own",
        )
    missing = sorted(refitter.get_missing_weights())
    if missing:
        raise InputError(
            f"TensorRT merged these weights with others, and needs them too: "
            f"{', '.join(missing[:3])}",
            where=where,
            fix="give the plan's own values of them",
        )
    if not refitter.refit_cuda_engine():
        raise EngineError(
            "TensorRT could not refit the plan",
            where=where,
            fix="open it again; build it again if that stays",
        )
