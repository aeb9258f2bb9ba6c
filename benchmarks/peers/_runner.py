"""An Engine made of a few functions, for runtimes that need no file of their own in `engines`."""

from __future__ import annotations

from collections.abc import Callable

from engines.backends._engine_base import EngineBase, EngineSpec
from engines.contract import Array, Feeds


class Runner(EngineBase):
    """Adapts functions of the caller to the Engine protocol.

    Args:
        spec: With one input of images and one output of logits.
        run: Takes the batch and returns the logits.
        bind: Puts the batch in place; the result runs once and returns when it is done.
        close: Called once, by the first `close`.
    """

    def __init__(
        self,
        spec: EngineSpec,
        *,
        run: Callable[[Array], Array],
        bind: Callable[[Array], Callable[[], None]],
        close: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(spec)
        self._run, self._bind = run, bind
        self._free_runtime = close

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Run once and return the outputs by name."""
        return {self.outputs[0].name: self._run(self._batch(feeds))}

    def bind(self, feeds: Feeds) -> Callable[[], None]:
        """Put `feeds` in place once; the result runs one inference."""
        return self._bind(self._batch(feeds))

    def _free(self) -> None:
        self._free_runtime()

    def _batch(self, feeds: Feeds) -> Array:
        checked, _ = self._check(feeds)
        return checked[self.inputs[0].name]
