"""Fold, freeze and export fine-tuned ViTs with FPET token merging.

`fpet_export.load(run).fold().freeze(batch=1).to_onnx(out)` is the whole pipeline; see
`fpet_export.stages` for each stage. Nothing heavy is imported before `load` is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from fpet_export.stages import Adapted

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def load(run: str | Path, **options: Any) -> Adapted:
    """Read a fine-tuned run; see `fpet_export.stages.load` for the options."""
    from fpet_export.provenance import require_ours

    require_ours()
    from engines.registry import import_or_explain

    adapted: Adapted = import_or_explain("fpet_export.stages").load(run, **options)
    return adapted
