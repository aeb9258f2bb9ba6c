"""A number and its noun, in the right form."""

from __future__ import annotations


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Return "1 image" or "2 images".

    Args:
        number: How many.
        noun: For one.
        plural: For none or several; by default the noun with an s.
    """
    return f"{number} {noun if number == 1 else plural or noun + 's'}"
