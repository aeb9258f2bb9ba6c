"""What the engines of all backends share: their name and tensors, the check of feeds, the end."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping

from engines.backends._feeds import check_feeds
from engines.closing import Closing
from engines.contract import Array
from engines.errors import EngineError
from engines.manifest import TensorSpec


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineSpec:
    """What an engine of any runtime is opened with.

    Attributes:
        name: A short name for tables.
        inputs: In the graph's order.
        outputs: Likewise.
        batch_range: Smallest and largest dynamic batch; None allows any from 1.
        facts: What a measurement must record and is known before the engine runs.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batch_range: tuple[int, int] | None = None
    facts: Mapping[str, str] = dataclasses.field(default_factory=dict)


class EngineBase(Closing):
    """The part of `engines.contract.Engine` that does not depend on a runtime.

    Attributes:
        name: A short name for tables.
        inputs: In the graph's order.
        outputs: Likewise.
    """

    def __init__(self, spec: EngineSpec) -> None:
        """Keep what an engine is opened with."""
        self.name = spec.name
        self.inputs = spec.inputs
        self.outputs = spec.outputs
        self._batch_range = spec.batch_range
        self._facts = spec.facts
        self._closed = False

    def close(self) -> None:
        """Free what the engine holds. Calling it twice is harmless."""
        if not self._closed:
            self._closed = True
            self._free()

    def place(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        """Return the feeds as they are: a runtime on the CPU reads them where they lie."""
        return feeds

    def describe(self) -> dict[str, str]:
        """Return what a measurement must record about this engine."""
        return dict(self._facts)

    @abc.abstractmethod
    def _free(self) -> None:
        """Free what the runtime holds; called once."""

    def _require_open(self) -> None:
        if self._closed:
            raise EngineError(
                "the engine is closed", where=self.name, fix="run it inside its `with` statement"
            )

    def _check(self, feeds: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, int]]:
        """Return the feeds in the graph's order and every dynamic extent; see `check_feeds`."""
        self._require_open()
        return check_feeds(self.inputs, feeds, where=self.name, batch_range=self._batch_range)
