"""An Engine made of a few functions, for runtimes that need no file of their own in `engines`."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from engines.engine import Array, Feeds
from engines.feeds import check_feeds
from engines.manifest import TensorSpec

if TYPE_CHECKING:
    from typing_extensions import Self  # typing.Self needs Python 3.11


class Runner:
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
        self.name, self.inputs, self.outputs = name, inputs, outputs
        self._run, self._bind, self._facts = run, bind, facts
        self._close: Callable[[], None] | None = close

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Run once and return the outputs by name."""
        return {self.outputs[0].name: self._run(self._batch(feeds))}

    def bind(self, feeds: Feeds) -> Callable[[], None]:
        """Put `feeds` in place once; the result runs one inference."""
        return self._bind(self._batch(feeds))

    def describe(self) -> dict[str, str]:
        """Return what a measurement must record."""
        return dict(self._facts)

    def close(self) -> None:
        """Free what the runtime holds."""
        close, self._close = self._close, None
        if close is not None:
            close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _batch(self, feeds: Feeds) -> Array:
        checked, _ = check_feeds(self.inputs, feeds, where=self.name)
        return checked[self.inputs[0].name]
