"""How many images a check against the float64 model needs.

A float64 pass is the slowest part of an export, so it runs on no more images than the gates use:

- Arithmetic. A wrong weight, scale, bias or order moves the logits of every image by far more than
  the gate allows, and a correct graph stays a hundred times below it: one image tells them apart.
  Agreement follows from it, because only images whose answer is clear are counted there.
- Matches. Each token of set A chooses one of set B. A fault that strikes one choice in k is missed
  by N choices with a chance of (1 - 1/k)^N; to see it with 95 % certainty N must be 3 k (the "rule
  of three"). For one choice in a hundred that is 300 choices: four images of 197 tokens.
- Kinds of images. Synthetic images are all alike, a user's are not: flat ones bring ties. A fault
  that touches one image in ten is seen with 95 % certainty on 30 images; 32 fill their chunks.

The fold changes weights only, before any image is seen: two images tell whether it is right.
"""

from __future__ import annotations

import math

DEFAULT_IMAGES = 8
"""Synthetic images where nothing says how many a network needs."""
CHOICES = 300
LEAST, MOST = 4, 8
"""Synthetic images; the upper bound is for tiny networks, in which an image has few choices."""
OWN_IMAGES = 32
"""Of a user's images."""
FOLD_IMAGES = 2
LIMITED_IMAGES = 128
"""Of a user's images where a limit on accuracy is judged on them, too: one image is 0.8 points."""


def synthetic_images(merged_tokens: int) -> int:
    """Return the number of synthetic images for a network in which so many tokens merge."""
    if merged_tokens < 1:
        return LEAST
    return min(max(LEAST, math.ceil(CHOICES / merged_tokens)), MOST)


def own_images(limit: int | None, *, judges_accuracy: bool) -> int:
    """Return the number of a user's images, at most.

    Args:
        limit: What the user said; None where nothing.
        judges_accuracy: Whether precisions are chosen or limited by what they answer on them.
    """
    if limit is not None:
        return limit
    return LIMITED_IMAGES if judges_accuracy else OWN_IMAGES
