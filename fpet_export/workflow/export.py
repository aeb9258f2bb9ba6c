"""`export`: a run becomes a checked ONNX graph."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engines import storage
from engines.errors import UsageError
from engines.manifest import Manifest, manifest_path, read_manifest
from engines.parity.rows import ParityTable
from engines.targets._lookup import load_target
from fpet_export.garbage import collected_later
from fpet_export.reporter import SILENT, Reporter
from fpet_export.requests import Exporting
from fpet_export.steps import next_commands, parity_report, typing_request

_TASKS = "its tasks are already exported; {inspect} lists them"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportRequest(Exporting):
    """A run to export for one target."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exported:
    """What an export left.

    Attributes:
        graph: The graph to build an engine from.
        parity: Every stage against the float64 reference.
        manifest: Manifest of the graph.
        next: Commands to type next.
    """

    graph: Path
    parity: ParityTable
    manifest: Manifest
    next: Sequence[str]

    def to_json(self) -> dict[str, Any]:
        """Return the same as plain values."""
        return {
            "onnx": str(self.graph),
            "parity": self.parity.to_json(),
            "manifest": dataclasses.asdict(self.manifest),
        }


def export(request: ExportRequest, reporter: Reporter = SILENT) -> Exported:
    """Read, fold, freeze, write ONNX, and judge every stage.

    Leaves `model.onnx`, its manifest and `parity.json` in the folder; with a precision a typed
    graph beside them.

    Raises:
        FpetError: What is wrong with the run, the target or the images; a ParityError names the
            first stage that drifted, after all evidence is written.
    """
    path = request.out / "model.onnx"
    table_path = request.out / "parity.json"
    for file in (path, manifest_path(path), table_path):
        storage.refuse_overwrite(file, force=request.force)
    if len(request.targets) > 1:
        raise UsageError(
            f"export writes one graph, for one target, and {request.target!r} names several",
            where="--target",
            fix="export for each target into a folder of its own; deploy makes engines for several",
        )
    typing_request.refuse_all(path, request)
    typing_request.refuse_export(request)
    with reporter.working("loading PyTorch and ONNX"), collected_later():
        from fpet_export.steps import exporting as steps

    started, request = steps.start(request, reporter, instead=_TASKS)
    exported = steps.export(started, request, reporter, path=path, target=request.target)
    typed = steps.type_graph(started, request, reporter, exported, request.target)
    table = started.table(typed.rows)
    parity_report.show_table(table, reporter)
    storage.write_text(table_path, json.dumps(table.to_json(), indent=1) + "\n")
    parity_report.require(table)
    graph = read_manifest(path, verify=False)  # compared with its bytes by its check
    return Exported(
        graph=typed.path,
        parity=table,
        manifest=graph if typed.path == path else read_manifest(typed.path, verify=False),
        next=(
            next_commands.build_or_bundle(typed.path, load_target(request.target)),
            *next_commands.show_merge(path, graph, next_commands.first_image(request.data)),
        ),
    )
