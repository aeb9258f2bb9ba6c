"""`deploy`: everything in one go, from a run to engines, a verdict and a page."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from engines import storage
from engines.engine import default_path
from engines.errors import UsageError
from engines.targets._lookup import load_target
from fpet_export.board import transfer
from fpet_export.garbage import collected_later
from fpet_export.reporter import Recorder, Reporter
from fpet_export.requests import BEST, Deploying
from fpet_export.steps import machine_setting, measuring, typing_request
from fpet_export.workflow.deployed import Deployment, latency_path

if TYPE_CHECKING:
    from engines.targets import Target

__all__ = ["DeployRequest", "Deployment", "deploy"]

_FILES = ("report.html", "parity.json", "latency.json", "merge.png")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeployRequest(Deploying):
    """A run to deploy."""


def deploy(request: DeployRequest, reporter: Reporter | None = None) -> Deployment:
    """Run every step for each target; a missed gate stops after its evidence is written.

    Args:
        request: The run, the targets, and how they are measured.
        reporter: Hears of each step; None records them for the page.

    Raises:
        FpetError: What is wrong with the run, a target, the images or the other machine; a
            ParityError names the first stage that drifted.
    """
    reporter = Recorder() if reporter is None else reporter
    targets = [load_target(name) for name in request.targets]
    _refuse(request, targets)
    with reporter.working("loading PyTorch and ONNX"), collected_later():
        from fpet_export.workflow import deploying

    return deploying.deploy(request, reporter, targets)


def _refuse(request: Deploying, targets: Sequence[Target]) -> None:
    """Refuse what can be refused before anything is loaded.

    Raises:
        UsageError: Settings contradict each other, or a file would be overwritten.
        MachineError: Energy is asked for, and this machine has no sensor.
        RemoteError: The other machine cannot be reached.
    """
    measuring.check_peers(request.peers)
    if request.bench or request.precision == BEST:
        machine_setting.refuse(request)
    if request.bench:
        measuring.refuse_few_rounds(request)
        measuring.refuse_energy(request)
    elif request.energy:
        raise UsageError(
            "--energy measures the engines, and --no-bench measures nothing",
            where="--energy",
            fix="leave one of the two out",
        )
    elif request.setting_argv() and request.precision != BEST:
        raise UsageError(
            f"nothing is measured that {' '.join(request.setting_argv())} could be set for",
            where="--no-bench",
            fix="leave one of them out",
        )
    files = [request.out / name for name in _FILES]
    for target in targets:
        graph = request.out / target.file_name / "model.onnx"
        typing_request.refuse_all(graph, request)
        files.append(graph)
        for typed in typing_request.graphs_of(graph, request):
            files.append(default_path(typed, target))
    if request.remote is not None:
        files += [latency_path(request.out, target) for target in targets[1:]]
    for file in files:
        storage.refuse_overwrite(file, force=request.force)
    measuring.refuse_peers(request)
    typing_request.refuse_export(request)
    if request.remote is not None:
        transfer.require_reachable(request)
