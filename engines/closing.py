"""Objects that are closed at the end of a `with` statement."""

from __future__ import annotations

import abc
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self  # typing.Self needs Python 3.11


class Closing(abc.ABC):
    """Closes itself where its `with` statement ends."""

    @abc.abstractmethod
    def close(self) -> None:
        """Free what it holds. Calling it twice is harmless."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
