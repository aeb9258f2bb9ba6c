"""An Engine made of a few functions, for runtimes that need no file of their own in `engines`."""

from __future__ import annotations

from collections.abc import Callable

from engines.backends._engine_base import EngineBase
from engines.contract import Array, Feeds
from engines.manifest import TensorSpec


class Runner(EngineBase):
    """Adapts functions of the caller to the Engine protocol.

    Args:
        name: For tables.
        inputs: One image input.
        outputs: One output of logits.
        run: Takes the batch and returns the logits.
        bind: Puts the batch in place; the result runs once and returns when it is done.
        facts: What `describe` returns.
        close: Called once, by the first `close`.
    """

    def __init__(
        self,
        *,
        name: str,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        run: Callable[[Array], Array],
        bind: Callable[[Array], Callable[[], None]],
        facts: dict[str, str],
        close: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(name=name, inputs=inputs, outputs=outputs)
        self._run, self._bind, self._facts = run, bind, facts
        self._free_runtime = close

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Run once and return the outputs by name."""
        return {self.outputs[0].name: self._run(self._batch(feeds))}

    def bind(self, feeds: Feeds) -> Callable[[], None]:
        """Put `feeds` in place once; the result runs one inference."""
        return self._bind(self._batch(feeds))

    def describe(self) -> dict[str, str]:
        """Return what a measurement must record."""
        return dict(self._facts)

    def _free(self) -> None:
        self._free_runtime()

    def _batch(self, feeds: Feeds) -> Array:
        checked, _ = self._check(feeds)
        return checked[self.inputs[0].name]
