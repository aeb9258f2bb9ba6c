"""Fold, freeze and export fine-tuned ViTs with FPET token merging.

`fpet_export.load(run).fold().freeze(batch=1).to_onnx(out)` is the pipeline, stage by stage; see
`fpet_export.stages`. The other functions do what the command line's verbs do, with the same names,
defaults and refusals; each takes the fields of its request as keywords, and a `reporter` that hears
of the steps (`fpet_export.reporter`). Nothing heavy is imported before one of them is called.

The other packages' pages share `engines.lazy_names`. This one cannot: a foreign `engines` may come
first on the path, so that is looked at before anything is imported from there.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fpet_export.provenance import require_ours
from fpet_export.version import __version__ as __version__

if TYPE_CHECKING:
    from fpet_export.calls import (
        bench,
        build,
        bundle,
        check,
        compare,
        deploy,
        diagnose,
        estimate,
        export,
        export_tasks,
        inspect,
        load,
        predict,
        quantize,
        report,
        show,
        sign,
        sweep_runs,
        targets,
        verify,
        write_deepstream,
        write_triton,
    )

__all__ = [
    "__version__",
    "bench",
    "build",
    "bundle",
    "check",
    "compare",
    "deploy",
    "diagnose",
    "estimate",
    "export",
    "export_tasks",
    "inspect",
    "load",
    "predict",
    "quantize",
    "report",
    "show",
    "sign",
    "sweep_runs",
    "targets",
    "verify",
    "write_deepstream",
    "write_triton",
]


def __getattr__(name: str) -> Any:
    """Import the calls when the first of them is used (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    require_ours()
    return getattr(importlib.import_module("fpet_export.calls"), name)
