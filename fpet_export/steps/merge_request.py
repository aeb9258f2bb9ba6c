"""What `--merge` asks for; judged before anything heavy is imported."""

from __future__ import annotations

from pathlib import Path

from engines.errors import UsageError
from fpet_export.requests import AUTO, Exporting


def files_of(request: Exporting) -> tuple[Path, Path]:
    """Return where a search leaves the table and the picture of all that it tried."""
    return request.out / "merge-choice.json", request.out / "merge-choice.png"


def refuse_unlimited(request: Exporting) -> None:
    """Refuse a search that has nothing to keep, or no images to keep it on.

    Raises:
        UsageError: It has not.
    """
    if request.merge != AUTO:
        return
    if request.head not in (None, "logits"):
        raise UsageError(
            f"--merge auto judges merges by classes, and {request.head} name none",
            where="--merge auto",
            fix="let it choose for the logits first, then export with the block it chose: --merge "
            "fpet@N",
        )
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
