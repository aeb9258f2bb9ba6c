"""TensorRT's log: the only place where it says why it refused, and which kernels it chose."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from types import ModuleType
from typing import Any, Protocol

from engines.fusion.kernels import Kernel, Tensor

_LAYER = re.compile(r"^Name: (.*?), LayerType: (\w+)(.*)$", re.MULTILINE)
_FIELD = re.compile(r", (Inputs|Constants|Outputs): \[( \{.*?\})\](?=, [A-Z]\w+: |$)")
_TENSOR = re.compile(r"\{ Name: (.*?), Dimensions: \[([-\d,]*)\].*?Datatype: (\w+)")
_NODE = re.compile(r"\[ONNX Layer: (.*?)\](?=[\x1e\x1f]?(?:\[|$))")
_NOT_KERNELS = frozenset({"signal", "wait", "noop"})
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

    def listen(self) -> Listener:
        """Return what keeps the latest messages from now on, until it is told to `stop`."""

    def stop(self, listener: Listener) -> None:
        """Let a listener hear no more. Stopping one twice is harmless."""


Listener = list[Message] | deque[Message]

_LATEST = 100  # messages that an open engine keeps; they repeat in every run that fails

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
            self._listeners: list[Listener] = []

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
                self.stop(messages)

        def listen(self) -> Listener:
            listener: deque[Message] = deque(maxlen=_LATEST)
            self._listeners.append(listener)
            return listener

        def stop(self, listener: Listener) -> None:
            self._listeners = [kept for kept in self._listeners if kept is not listener]

    return LogRecorder


def complaints(messages: Iterable[Message]) -> str:
    """Return every error and warning as one text, errors first, each once.

    Source lines of TensorRT are removed; nothing else is, because the line that explains a refusal
    is often not the first.
    """
    ordered = sorted(
        (message for message in messages if message.severity in _INTERESTING),
        key=lambda message: _INTERESTING.index(message.severity),
    )
    texts = list(dict.fromkeys(_without_source(message.text) for message in ordered))
    return "; ".join(texts) or "TensorRT gave no reason"


def _without_source(text: str) -> str:
    text = re.sub(r" In \S+ at /\S+:\d+", "", " ".join(text.split()))
    return re.sub(r"^\w+\.cpp:\d+: ", "", text)


def kernels_of(messages: Sequence[Message]) -> tuple[Kernel, ...]:
    """Read the final layers from a verbose log of a build with detailed profiling verbosity.

    TensorRT-RTX prints them while it builds, one line each: `Name: …, LayerType: …, Inputs: [ { …
    }], Constants: […], Outputs: […], TacticName: …, StreamId: …, Metadata: [ONNX Layer: …]…`.
    Whether enterprise TensorRT prints them in the same form has not been tried on hardware; where
    it does not, there are none. Pseudo-layers that only order streams are left out.
    """
    return tuple(
        _kernel(name, kind, rest)
        for message in messages
        for name, kind, rest in _LAYER.findall(message.text)
        if is_kernel(kind)
    )


def is_kernel(kind: str) -> bool:
    """Whether a layer of this type runs something on the GPU."""
    return kind.lower() not in _NOT_KERNELS


def nodes_of(metadata: str) -> tuple[str, ...]:
    """Return the ONNX node names in a layer's metadata, in their order."""
    return tuple(dict.fromkeys(_NODE.findall(metadata)))


def _kernel(name: str, kind: str, rest: str) -> Kernel:
    fields = {field: _tensors(text) for field, text in _FIELD.findall(rest)}
    return Kernel(
        name=name,
        kind=kind,
        inputs=fields.get("Inputs", ()),
        outputs=fields.get("Outputs", ()),
        constants=fields.get("Constants", ()),
        nodes=nodes_of(rest.partition(", Metadata: ")[2]),
    )


def _tensors(text: str) -> tuple[Tensor, ...]:
    return tuple(
        Tensor(name=name, dtype=dtype, shape=tuple(map(int, filter(None, extents.split(",")))))
        for name, extents, dtype in _TENSOR.findall(text)
    )
