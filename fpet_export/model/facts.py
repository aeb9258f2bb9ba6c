"""A fact about a checkpoint together with where it was found."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Generic, TypeVar

from engines.errors import CheckpointError

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Fact(Generic[T]):
    """A value and its source, such as `Fact(6, "params.sh")`."""

    value: T
    source: str

    def __str__(self) -> str:
        return f"{self.value} ({self.source})"


def reconcile(name: str, claims: Sequence[Fact[T]], *, where: str) -> Fact[T] | None:
    """Return the first claim when all agree, None when there are none.

    Raises:
        CheckpointError: Two sources contradict each other.
    """
    for claim in claims[1:]:
        if claim.value != claims[0].value:
            raise CheckpointError(
                f"{name} is {claims[0].value!r} according to {claims[0].source}, "
                f"but {claim.value!r} according to {claim.source}",
                where=where,
                fix=_fix(claims[0], claim),
            )
    return claims[0] if claims else None


def _fix(first: Fact[T], other: Fact[T]) -> str:
    for given, found in ((first, other), (other, first)):
        if given.source.startswith("--"):
            return f"leave {given.source} out, or correct {found.source} if that is wrong"
    return (
        "find out which run these files belong to; they do not go together, or correct "
        f"{other.source}"
    )
