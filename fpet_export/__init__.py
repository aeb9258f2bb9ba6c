"""Fold, freeze and export fine-tuned ViTs with FPET token merging.

`fpet_export.load(run).fold().freeze(batch=1).to_onnx(out)` is the pipeline, stage by stage; see
`fpet_export.stages`. The other functions do what the command line's verbs do, with the same names,
defaults and refusals; each takes the fields of its request as keywords, and a `reporter` that hears
of the steps (`fpet_export.reporter`). Nothing heavy is imported before one of them is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fpet_export.version import __version__ as __version__

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from fpet_export.reporter import Reporter
    from fpet_export.stages import Adapted
    from fpet_export.tasks.build import BuiltTasks
    from fpet_export.workflow.bench import Benched
    from fpet_export.workflow.build import Built
    from fpet_export.workflow.deploy import Deployment
    from fpet_export.workflow.export import Exported
    from fpet_export.workflow.quantize import Quantized

__all__ = ["__version__", "bench", "build", "deploy", "export", "load", "quantize"]


def bench(*artefacts: str | Path, reporter: Reporter | None = None, **settings: Any) -> Benched:
    """Measure graphs, engines or the tasks of a folder, paired and interleaved.

    Args:
        artefacts: Graphs or engines, or a folder of tasks.
        reporter: Hears of the steps; None is silent.
        settings: Fields of `fpet_export.workflow.bench.BenchRequest`, such as `against="plain"`.

    Raises:
        FpetError: See `fpet_export.workflow.bench.bench`.
    """
    from fpet_export.workflow.bench import BenchRequest, bench

    request = BenchRequest(artefacts=_paths(artefacts), **settings)
    if any(path.is_dir() for path in request.artefacts):
        from fpet_export.tasks.bench import bench as bench_tasks

        return bench_tasks(request, _or_silent(reporter))
    return bench(request, _or_silent(reporter))


def build(
    graph: str | Path, *, reporter: Reporter | None = None, **settings: Any
) -> Built | BuiltTasks:
    """Build an engine of a graph, or the engines of a folder of tasks, and compare.

    Args:
        graph: A graph, or a folder of tasks.
        reporter: Hears of the steps; None is silent.
        settings: Fields of `fpet_export.workflow.build.BuildRequest`, such as `target="rtx"`.

    Raises:
        FpetError: See `fpet_export.workflow.build.build`.
    """
    from fpet_export.workflow.build import BuildRequest, build

    (path,) = _paths((graph,))
    request = BuildRequest(onnx=path, **settings)
    if path.is_dir():
        from fpet_export.tasks.build import build as build_tasks

        return build_tasks(request, _or_silent(reporter))
    return build(request, _or_silent(reporter))


def deploy(
    run: str | Path, out: str | Path, *, reporter: Reporter | None = None, **settings: Any
) -> Deployment:
    """Export a run, prove parity, build engines, measure them and write one HTML page.

    Args:
        run: A folder, DIR/NAME, NAME.pth or "random:NAME:SEED".
        out: The folder to write.
        reporter: Hears of the steps; None is silent.
        settings: Fields of `fpet_export.workflow.deploy.DeployRequest`, such as `target="cpu,rtx"`.

    Raises:
        FpetError: See `fpet_export.workflow.deploy.deploy`.
    """
    from fpet_export.workflow.deploy import DeployRequest, deploy

    (folder,) = _paths((out,))
    return deploy(DeployRequest(run=str(run), out=folder, **settings), reporter)


def export(
    run: str | Path, out: str | Path, *, reporter: Reporter | None = None, **settings: Any
) -> Exported:
    """Turn a fine-tuned run into a checked ONNX graph.

    Args:
        run: A folder, DIR/NAME, NAME.pth or "random:NAME:SEED".
        out: The folder to write.
        reporter: Hears of the steps; None is silent.
        settings: Fields of `fpet_export.workflow.export.ExportRequest`, such as `backbone=FILE`.

    Raises:
        FpetError: See `fpet_export.workflow.export.export`.
    """
    from fpet_export.workflow.export import ExportRequest, export

    (folder,) = _paths((out,))
    return export(ExportRequest(run=str(run), out=folder, **settings), _or_silent(reporter))


def load(run: str | Path, **options: Any) -> Adapted:
    """Read a fine-tuned run; see `fpet_export.stages.load` for the options."""
    from fpet_export.provenance import require_ours

    require_ours()
    from engines.registry import import_or_explain

    adapted: Adapted = import_or_explain("fpet_export.stages").load(run, **options)
    return adapted


def quantize(
    graph: str | Path, precision: str, *, reporter: Reporter | None = None, **settings: Any
) -> Quantized:
    """Write a typed graph of an exported one, within limits on accuracy.

    Args:
        graph: An exported float32 graph.
        precision: "fp16", "bf16", "int8", "fp8" or "best".
        reporter: Hears of the steps; None is silent.
        settings: Fields of `fpet_export.workflow.quantize.QuantizeRequest`, such as
            `calibration=DIR`.

    Raises:
        FpetError: See `fpet_export.workflow.quantize.quantize`.
    """
    from fpet_export.workflow.quantize import QuantizeRequest, quantize

    (path,) = _paths((graph,))
    wanted: Any = precision
    return quantize(QuantizeRequest(onnx=path, precision=wanted, **settings), _or_silent(reporter))


def _paths(given: Sequence[str | Path]) -> tuple[Path, ...]:
    """Return paths; whose packages are found is looked at before any of them is used."""
    from pathlib import Path

    from fpet_export.provenance import require_ours

    require_ours()
    return tuple(Path(one) for one in given)


def _or_silent(reporter: Reporter | None) -> Reporter:
    from fpet_export.reporter import SILENT

    return SILENT if reporter is None else reporter
