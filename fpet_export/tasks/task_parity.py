"""How the tasks of a folder compare: each with its model, and with its own export."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from engines.parity.rows import ParityTable, StageParity, joined, judge
from fpet_export.steps.float64_reference import REFERENCE

PARITY_FILE = "parity.json"
OWN_EXPORT = "task's own export in float32"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskParity:
    """One task, compared twice.

    Attributes:
        name: The task.
        model: Its row against its adapted model in float64, as a table.
        export: Its row against the graph that exporting it by itself gives, likewise.
    """

    name: str
    model: ParityTable
    export: ParityTable

    @property
    def reference(self) -> StageParity:
        """Against its adapted model in float64."""
        return self.model.rows[0]

    @property
    def single(self) -> StageParity:
        """Against the graph that exporting it by itself gives."""
        return self.export.rows[0]


def tables(found: Sequence[TaskParity]) -> tuple[ParityTable, ParityTable]:
    """Return the tasks as two tables: against float64, and against their own exports."""
    return (
        joined([one.model for one in found], reference=REFERENCE),
        joined([one.export for one in found], reference=OWN_EXPORT),
    )


def tables_json(found: Sequence[TaskParity]) -> dict[str, Any]:
    """Return both tables as plain JSON values."""
    reference, single = tables(found)
    return {"reference": reference.to_json(), "single": single.to_json()}


def require(found: Sequence[TaskParity]) -> None:
    """Raise a ParityError that names the first task which drifted, if one did."""
    for table in tables(found):
        judge(table, fix=f"the tables above and {PARITY_FILE} show every task; report this")
