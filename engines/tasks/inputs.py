"""How the weights of one task become inputs of a graph that many tasks share.

A graph's inputs are assembled from a task's tensors: transposed, multiplied by its scale, put side
by side or under each other, or folded into a weight of the backbone. What has to be done is data
(`TaskInput`, written when the graph is exported), so that a board needs numpy alone and no method
is named here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from engines.errors import InputError
from engines.manifest import Dimension

FloatArray = NDArray[np.floating[Any]]
Source = Callable[[str], FloatArray]
"""The (out, in) or (out,) weight of this name, such as "blocks.3.adapter_mlp.adapter_up"."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Piece:
    """A part of one input: `factor * left` or `factor * left @ right`.

    Attributes:
        part: Part of a task that brings the tensors: a method's name, "refinement" or "head".
            A piece of a part that the task does not have is left out.
        left: Name of the tensor.
        right: Name of the second factor, for an update that is folded into the backbone.
        transposed: Whether the tensor, or the product, is turned to (in, out).
        column: Column of the input at which the piece begins.
        factor: What it is multiplied by.
        scaled: Whether it is multiplied by the task's scale, too.
    """

    part: str
    left: str
    right: str | None = None
    transposed: bool = True
    column: int = 0
    factor: float = 1.0
    scaled: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskInput:
    """One input of a graph and how a task fills it.

    Attributes:
        name: Name of the input.
        shape: Its extents; a name stands for one that differs between tasks.
        dtype: numpy's name.
        pieces: What it is made of.
        stack: Whether the pieces stand under each other ("rows") or side by side ("columns");
            "none" where all of them begin in row 0 at their own column.
        base: Name of the backbone's weight that they are added to; None starts from zeros.
        constant: What the input is called in the graph of a task's own export, where it is a
            constant.
    """

    name: str
    shape: tuple[Dimension, ...]
    dtype: str
    pieces: tuple[Piece, ...]
    stack: Literal["rows", "columns", "none"] = "none"
    base: str | None = None
    constant: str = ""


def assemble(
    wanted: TaskInput,
    source: Source,
    *,
    parts: Sequence[str],
    scale: float,
    base: Mapping[str, FloatArray] | None = None,
) -> FloatArray:
    """Return what one task feeds to one input.

    Sums and products are taken in float64 and rounded once. Where the task has no part for it, the
    input is zero, and one row or column wide if its extent is open: what is then added to the
    network's values is an exact zero. Where the input is larger than the pieces, the rest is zero.

    Args:
        wanted: The input.
        source: Gives the task's tensors.
        parts: The task's parts, see `Piece.part`.
        scale: The scale of its method.
        base: Weights of the backbone by name, for inputs that need one.

    Raises:
        InputError: The pieces do not fit the input's shape, or a value does not fit its type.
    """
    found = [
        (piece.column, _value(piece, source, scale))
        for piece in wanted.pieces
        if piece.part in parts
    ]
    placed = _positions(found, wanted.stack)
    shape = _shape(wanted, placed)
    flat = shape if len(shape) == 2 else (1, *shape)
    result = np.zeros(flat, np.float64)
    if wanted.base is not None:
        assert base is not None, "the caller brings the weights that its inputs name"
        result += base[wanted.base]
    for row, column, value in placed:
        rows, columns = value.shape
        if row + rows > flat[0] or column + columns > flat[1]:
            raise InputError(
                f"the task brings {value.shape} at {(row, column)} for {wanted.name!r}, which is "
                f"{shape}",
                where=wanted.name,
                fix="export the tasks again, together",
            )
        result[row : row + rows, column : column + columns] += value
    with np.errstate(over="ignore"):
        typed = result.astype(wanted.dtype)
    if not np.isfinite(typed).all():
        raise InputError(
            f"{wanted.name!r} holds {np.abs(result).max():.4g}, which {wanted.dtype} cannot",
            where=wanted.name,
            fix="export the tasks for a graph in float32",
        )
    return np.ascontiguousarray(typed.reshape(shape))


def _value(piece: Piece, source: Source, scale: float) -> NDArray[np.float64]:
    value = np.atleast_2d(source(piece.left).astype(np.float64))
    if piece.right is not None:
        value = value @ source(piece.right).astype(np.float64)
    if piece.transposed:
        value = value.T
    factor = piece.factor * (scale if piece.scaled else 1.0)
    return value if factor == 1.0 else value * factor


def _positions(
    found: Sequence[tuple[int, NDArray[np.float64]]], stack: str
) -> list[tuple[int, int, NDArray[np.float64]]]:
    """Return (row, column, value) of every piece."""
    placed, row, column = [], 0, 0
    for at, value in found:
        placed.append((row, column + at, value))
        if stack == "rows":
            row += value.shape[0]
        elif stack == "columns":
            column += value.shape[1]
    return placed


def _shape(
    wanted: TaskInput, placed: Sequence[tuple[int, int, NDArray[np.float64]]]
) -> tuple[int, ...]:
    """Return the input's extents for this task; an open one is as large as the pieces need."""
    ends = [
        max((row + value.shape[0] for row, _, value in placed), default=1),
        max((column + value.shape[1] for _, column, value in placed), default=1),
    ]
    needed = ends if len(wanted.shape) == 2 else ends[1:]
    return tuple(
        extent if isinstance(extent, int) else need
        for extent, need in zip(wanted.shape, needed, strict=True)
    )
