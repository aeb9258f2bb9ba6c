"""What `--merge` asks for; judged before anything heavy is imported."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TypeVar

from engines.errors import UsageError
from fpet_export.requests import AUTO, Exporting

E = TypeVar("E", bound=Exporting)


def stated(request: E) -> E:
    """Return the request with "fpet@N" and "none" as the merge block that they mean.

    Raises:
        UsageError: `--merge` and `--merge-block` are both given, or "auto" has nothing to keep or
            no images to keep it on.
    """
    if request.merge is None:
        return request
    if request.merge_block is not None:
        raise UsageError(
            f"--merge {request.merge} and --merge-block {request.merge_block} both say where "
            "tokens merge",
            where="--merge",
            fix="leave one of them out",
        )
    if request.merge == AUTO:
        _refuse_unlimited(request)
        return request
    block = request.merge.removeprefix("fpet@")
    return dataclasses.replace(
        request, merge=None, merge_block="none" if block == "none" else int(block)
    )


def table_path(request: Exporting) -> Path:
    """Return where "auto" leaves all that it tried."""
    return request.out / "merge.json"


def _refuse_unlimited(request: Exporting) -> None:
    if request.max_drop is None and request.min_agreement is None:
        raise UsageError(
            "--merge auto has no limit to keep, and without one it would merge in the first block",
            where="--merge auto",
            fix="add --max-drop 1.0 (percentage points, for images with labels) or "
            "--min-agreement 98 (per cent of the same classes)",
        )
    if request.data is None:
        raise UsageError(
            "--merge auto judges merges by what they answer on images",
            where="--merge auto",
            fix="add --data DATA with images that the network was not trained on",
        )
