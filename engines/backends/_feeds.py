"""Check what a caller feeds to an engine, once, before any runtime sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from engines.contract import Array
from engines.cuda.device import DeviceArray
from engines.errors import InputError
from engines.manifest import Dimension, TensorSpec


def check_feeds(
    inputs: Sequence[TensorSpec],
    feeds: Mapping[str, Array],
    *,
    where: str,
    batch_range: tuple[int, int] | None = None,
) -> tuple[dict[str, Array], dict[str, int]]:
    """Return the feeds in the graph's order and contiguous, and the value of every dynamic extent.

    Args:
        inputs: What the engine takes.
        feeds: Name to array.
        where: Name of the engine, for messages.
        batch_range: Smallest and largest value of the batch, the first extent of the first input,
            where it is dynamic; None allows any from 1. Other dynamic extents may be any from 1.

    Raises:
        InputError: Feeds are missing, unexpected, misshapen or of another dtype; all of them are
            named.
    """
    wanted = {spec.name: spec for spec in inputs}
    problems = [f"{name!r} is missing" for name in wanted if name not in feeds]
    problems += [f"{name!r} is unexpected" for name in feeds if name not in wanted]
    extents: dict[str, int] = {}
    ranges = {inputs[0].shape[0]: batch_range} if inputs and inputs[0].shape and batch_range else {}
    for name, spec in wanted.items():
        if name in feeds:
            problems += _problems_of(spec, _as_array(feeds[name]), extents, ranges)
    if problems:
        raise InputError(
            f"the engine cannot take these feeds: {'; '.join(problems)}",
            where=where,
            fix="feed " + ", ".join(f"{spec.name} {_written(spec)}" for spec in inputs),
        )
    return {name: _as_array(feeds[name]) for name in wanted}, extents


def _as_array(value: Any) -> Any:
    """Return a feed as a contiguous array; one that lies on a device stays there."""
    return value if isinstance(value, DeviceArray) else np.asarray(value, order="C")


def resolved(spec: TensorSpec, extents: Mapping[str, int]) -> tuple[int, ...] | None:
    """Return the static shape of `spec` under `extents`; None when an extent is not known."""
    shape = tuple(
        extent if isinstance(extent, int) else extents.get(extent, -1) for extent in spec.shape
    )
    return None if -1 in shape else shape


def _problems_of(
    spec: TensorSpec,
    value: Array,
    extents: dict[str, int],
    ranges: Mapping[Dimension, tuple[int, int]],
) -> list[str]:
    problems = []
    if value.dtype.name != spec.dtype or not value.dtype.isnative:
        problems.append(f"{spec.name!r} has dtype {value.dtype}, wanted {spec.dtype}")
    fits = len(value.shape) == len(spec.shape) and all(
        isinstance(extent, str) or extent == found
        for extent, found in zip(spec.shape, value.shape, strict=True)
    )
    if not fits:
        found = _shape_text(value.shape)
        return [*problems, f"{spec.name!r} has shape {found}, wanted {_shape_text(spec.shape)}"]
    for extent, size in zip(spec.shape, value.shape, strict=True):
        if isinstance(extent, int):
            continue
        low, high = ranges.get(extent, (1, None))
        if size < low or (high is not None and size > high):
            wanted = f"{low} to {high}" if high is not None else f"at least {low}"
            problems.append(f"{spec.name!r} has {extent} = {size}, wanted {wanted}")
        elif extents.setdefault(extent, size) != size:
            problems.append(
                f"{spec.name!r} has {extent} = {size}, another feed has {extents[extent]}"
            )
    return problems


def _written(spec: TensorSpec) -> str:
    return f"{spec.dtype} {_shape_text(spec.shape)}"


def _shape_text(shape: Sequence[int | str]) -> str:
    return f"({', '.join(map(str, shape))})"
