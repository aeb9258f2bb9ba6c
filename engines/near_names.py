"""Names that somebody may have meant: they are proposed, never taken."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

_AT_MOST = 5
_LONG_ENOUGH = 3


def near_names(name: str, names: Iterable[str]) -> list[str]:
    """Return up to five names that `name` may stand for, the likeliest kind only.

    Those that differ in case and punctuation alone ("RTX4090" for "rtx-4090"), else those that
    begin as it does ("jetson-orin-nano"), else those spelled almost as it is.
    """
    wanted = _folded(name)
    folded = {one: _folded(one) for one in names}
    same = [one for one, text in folded.items() if text == wanted]
    if same or not wanted:
        return same[:_AT_MOST]
    if len(wanted) >= _LONG_ENOUGH:
        begun = [one for one, text in folded.items() if text.startswith(wanted)]
        if begun:
            return begun[:_AT_MOST]
    close = difflib.get_close_matches(wanted, dict.fromkeys(folded.values()), n=3)
    return [one for text in close for one, other in folded.items() if other == text][:_AT_MOST]


def did_you_mean(name: str, names: Iterable[str], *, otherwise: str) -> str:
    """Return the question, or `otherwise` where no name is near."""
    near = near_names(name, names)
    return f"did you mean {' or '.join(map(repr, near))}?" if near else otherwise


def _folded(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
