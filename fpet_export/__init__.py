"""Fold, freeze and export fine-tuned ViTs with FPET token merging.

`fpet_export.load(run).fold().freeze(batch=1).to_onnx(out)` is the pipeline, stage by stage; see
`fpet_export.stages`. The other functions do what the command line's verbs do, with the same names,
defaults and refusals; each takes the fields of its request as keywords, and a `reporter` that hears
of the steps (`fpet_export.reporter`). Nothing heavy is imported before one of them is called.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fpet_export.provenance import require_ours
from fpet_export.version import __version__ as __version__

if TYPE_CHECKING:
    from fpet_export.calls import (
        bench as bench,
    )
    from fpet_export.calls import (
        build as build,
    )
    from fpet_export.calls import (
        bundle as bundle,
    )
    from fpet_export.calls import (
        check as check,
    )
    from fpet_export.calls import (
        compare as compare,
    )
    from fpet_export.calls import (
        deploy as deploy,
    )
    from fpet_export.calls import (
        diagnose as diagnose,
    )
    from fpet_export.calls import (
        export as export,
    )
    from fpet_export.calls import (
        export_tasks as export_tasks,
    )
    from fpet_export.calls import (
        inspect as inspect,
    )
    from fpet_export.calls import (
        load as load,
    )
    from fpet_export.calls import (
        predict as predict,
    )
    from fpet_export.calls import (
        quantize as quantize,
    )
    from fpet_export.calls import (
        show as show,
    )
    from fpet_export.calls import (
        sign as sign,
    )
    from fpet_export.calls import (
        targets as targets,
    )
    from fpet_export.calls import (
        verify as verify,
    )
    from fpet_export.calls import (
        write_triton as write_triton,
    )

_CALLS = (
    "bench",
    "build",
    "bundle",
    "check",
    "compare",
    "deploy",
    "diagnose",
    "export",
    "export_tasks",
    "inspect",
    "load",
    "predict",
    "quantize",
    "show",
    "sign",
    "targets",
    "verify",
    "write_triton",
)
__all__ = ["__version__", *_CALLS]


def __getattr__(name: str) -> Any:
    """Import the calls when the first of them is used (PEP 562)."""
    if name not in _CALLS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    require_ours()  # before any other package of ours is imported
    return getattr(importlib.import_module("fpet_export.calls"), name)
