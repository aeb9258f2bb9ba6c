"""Synthetic images for a latency measurement: the same pixels for every contender."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from engines.contract import Array
from engines.errors import InputError
from engines.manifest import TensorSpec


def static_batch(inputs: Sequence[TensorSpec]) -> int | None:
    """Return the batch size that the first input fixes, None when it is dynamic."""
    shape = inputs[0].shape if inputs else ()
    return shape[0] if shape and isinstance(shape[0], int) else None


def synthetic_feeds(
    inputs: Sequence[TensorSpec], *, batch: int, seed: int, name: str
) -> dict[str, Array]:
    """Return one batch for the given inputs.

    An image input (4 axes, 3 channels first or last) gets noise around a smooth gradient: integer
    types the raw pixels, others pixels / 255. Any other input gets small normal numbers.

    Args:
        inputs: Inputs of the engine; a name as first extent is the batch.
        batch: Images.
        seed: Seed of the pixels, which do not depend on layout and dtype.
        name: Name of the engine, for the message.

    Raises:
        InputError: An input's batch is fixed to another size, or an extent other than the batch
            is open.
    """
    return {spec.name: _values(spec, batch=batch, seed=seed, name=name) for spec in inputs}


def _values(spec: TensorSpec, *, batch: int, seed: int, name: str) -> Array:
    shape = _concrete(spec, batch=batch, name=name)
    dtype = np.dtype(spec.dtype)
    if len(shape) == 4 and 3 in (shape[1], shape[3]):
        channels_first = shape[1] == 3
        height, width = shape[2:] if channels_first else shape[1:3]
        pixels = _pixels(shape[0], height, width, seed)
        values = pixels.transpose(0, 3, 1, 2) if channels_first else pixels
        scaled = values if dtype.kind in "iu" else values.astype(np.float64) / 255
        return np.ascontiguousarray(scaled.astype(dtype))
    generator = np.random.default_rng(seed)
    return (0.02 * generator.standard_normal(shape)).astype(dtype)


def _concrete(spec: TensorSpec, *, batch: int, name: str) -> tuple[int, ...]:
    fixed = static_batch([spec])
    if len(spec.shape) == 4 and fixed not in (None, batch):
        raise InputError(
            f"batch {batch} was asked for; the input {spec.name!r} has a fixed batch of {fixed}",
            where=name,
            fix=f"use --batch {fixed}, or export again with --batch {batch}",
        )
    shape = (batch if spec.shape and fixed is None else fixed, *spec.shape[1:])
    open_extents = [extent for extent in shape[1:] if not isinstance(extent, int)]
    if open_extents:
        raise InputError(
            f"the input {spec.name!r} has other dynamic extents than its batch: "
            f"{', '.join(map(str, open_extents))}",
            where=name,
            fix="export with a fixed image size",
        )
    return tuple(extent for extent in shape if isinstance(extent, int))


def _pixels(batch: int, height: int, width: int, seed: int) -> Array:
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width]
    phase = generator.uniform(0, 2 * math.pi, size=(batch, 1, 1, 3))
    waves = np.sin(phase + (rows[None, :, :, None] + columns[None, :, :, None]) / 17.0)
    noise = generator.normal(0, 12, size=(batch, height, width, 3))
    return np.asarray(np.clip(127.5 + 90 * waves + noise, 0, 255).astype(np.uint8))
