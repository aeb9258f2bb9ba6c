"""How a folder of tasks is written."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

from engines.engine import load_target
from engines.precisions import FP32, FactorName
from engines.targets import Target


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskOptions:
    """How a folder of tasks is written.

    Attributes:
        target: What the shared graphs are written for; it decides their form, see docs/tasks.md.
        precision: FP16 types the graphs, and what tasks feed to them, in half precision; the
            match stays float32.
        half: FP16 keeps dense adapter factors in half precision; heads stay float32, and what a
            run stores in fewer bits stays as it is.
        batch: See `FreezeOptions.batch`.
        input: See `FreezeOptions.input`.
        opset: Overrides the target's.
        force: Replace a folder of tasks that exists.
        labels: Class names by task.
        command: The command line to record.
    """

    target: str | Target = "cpu"
    precision: FactorName = FP32
    half: FactorName = FP32
    batch: int | tuple[int, int] = 1
    input: Literal["float32", "uint8-nchw", "uint8-nhwc"] = "float32"
    opset: int | None = None
    force: bool = False
    labels: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    command: Sequence[str] = ()

    @property
    def resolved(self) -> Target:
        """The target itself."""
        return self.target if isinstance(self.target, Target) else load_target(self.target)
