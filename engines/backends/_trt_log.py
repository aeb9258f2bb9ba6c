"""TensorRT's log: the only place where it says why it refused, and which kernels it chose."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import re
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any, Protocol

_LAYER = re.compile(r"^Name: (.*?), LayerType: (\w+)", re.MULTILINE)
_FUSED_ATTENTION = "_gemm_mha_v2"
_NOT_KERNELS = frozenset({"signal", "wait"})
_INTERESTING = ("INTERNAL_ERROR", "ERROR", "WARNING")


@dataclasses.dataclass(frozen=True)
class Message:
    """One line of the log; `severity` is the name of TensorRT's enum member."""

    severity: str
    text: str


class Recorder(Protocol):
    """A logger that hands out what it hears."""

    def recording(self) -> contextlib.AbstractContextManager[list[Message]]:
        """Collect the messages that arrive while the context is open."""


_RECORDERS: dict[str, Recorder] = {}


def recorder(trt: ModuleType) -> Recorder:
    """Return the one logger of this TensorRT module.

    TensorRT keeps the first logger it meets for as long as any of its objects lives and ignores
    a second one, so there is one in a process.
    """
    if trt.__name__ not in _RECORDERS:
        _RECORDERS[trt.__name__] = _recorder_class(trt)()
    return _RECORDERS[trt.__name__]


def _recorder_class(trt: Any) -> Any:
    class LogRecorder(trt.ILogger):  # type: ignore[misc]  # the base is only known at run time
        """Keeps errors, warnings and the list of final layers; drops the other chatter."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self._listeners: list[list[Message]] = []

        def log(self, severity: Any, text: str) -> None:
            name = getattr(severity, "name", str(severity))
            if name in _INTERESTING or "LayerType: " in text:
                for listener in self._listeners:
                    listener.append(Message(name, text))

        @contextlib.contextmanager
        def recording(self) -> Iterator[list[Message]]:
            messages: list[Message] = []
            self._listeners.append(messages)
            try:
                yield messages
            finally:
                self._listeners = [kept for kept in self._listeners if kept is not messages]

    return LogRecorder


def complaints(messages: Sequence[Message], *, limit: int = 6) -> str:
    """Return errors and warnings as one text, errors first, source lines of TensorRT removed."""
    ordered = sorted(
        (message for message in messages if message.severity in _INTERESTING),
        key=lambda message: _INTERESTING.index(message.severity),
    )
    texts = list(dict.fromkeys(_without_source(message.text) for message in ordered))
    more = f"; and {len(texts) - limit} more" if len(texts) > limit else ""
    return ("; ".join(texts[:limit]) + more) or "TensorRT gave no reason"


def _without_source(text: str) -> str:
    text = re.sub(r" In \S+ at /\S+:\d+", "", " ".join(text.split()))
    return re.sub(r"^\w+\.cpp:\d+: ", "", text)


@dataclasses.dataclass(frozen=True)
class KernelList:
    """The layers of a finished engine, without the pseudo-layers that only order streams.

    Attributes:
        names: One name a kernel, in order.
        types: TensorRT's layer type of each ("gemm", "kgen", …).
    """

    names: tuple[str, ...]
    types: tuple[str, ...]

    @property
    def fused_attentions(self) -> int:
        """Kernels that do scores, softmax and mixing in one."""
        return sum(_FUSED_ATTENTION in name for name in self.names)

    def as_settings(self) -> dict[str, str]:
        """Return the counts as a manifest stores them; empty when the log listed nothing."""
        if not self.names:
            return {}
        histogram = sorted(collections.Counter(self.types).items())
        return {
            "kernels": str(len(self.names)),
            "fused_attentions": str(self.fused_attentions),
            "kernel_types": ", ".join(f"{kind} {count}" for kind, count in histogram),
        }


def kernel_list(messages: Sequence[Message]) -> KernelList:
    """Read the final layers from a verbose log of a build with detailed profiling verbosity.

    TensorRT-RTX prints them while it builds. Whether enterprise TensorRT prints them in the same
    form has not been tried on hardware; where it does not, the list is empty.
    """
    found = [
        (name, kind)
        for message in messages
        for name, kind in _LAYER.findall(message.text)
        if kind not in _NOT_KERNELS
    ]
    return KernelList(tuple(name for name, _ in found), tuple(kind for _, kind in found))
