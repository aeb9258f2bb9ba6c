"""An open package of PyTorch as an engine: on the CPU, or as CUDA graphs on a GPU."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from engines.backends._engine_base import EngineBase, EngineSpec
from engines.contract import Array
from engines.errors import EngineError
from engines.machine import processor

_WARM_CALLS = 3  # PyTorch asks for a few calls on a side stream before a capture
_KEPT = 32  # recorded runs by the shapes of their feeds, as for a plan
cuda: Any = torch.cuda  # partly without types
_FAILURES = (RuntimeError, ValueError, TypeError)
Package = Callable[..., Any]


class TorchEngine(EngineBase):
    """A package on the CPU; implements `engines.contract.Engine`."""

    def __init__(self, spec: EngineSpec, package: Package, *, threads: int) -> None:
        super().__init__(spec)
        self._package: Package | None = package
        self._threads = threads

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once and return the outputs by name; see `engines.contract.Engine`."""
        tensors = self._tensors(feeds)
        with self._failing(), self._threaded():
            found = self._call(tensors)
        return {
            spec.name: np.array(value.numpy())
            for spec, value in zip(self.outputs, found, strict=True)
        }

    def bind(self, feeds: Mapping[str, Array]) -> Callable[[], None]:
        """Put `feeds` in place once; see `engines.contract.Engine`."""
        tensors = self._tensors(feeds)

        def run_once() -> None:
            self._require_open()
            with self._failing(), self._threaded():
                self._call(tensors)

        return run_once

    def describe(self) -> dict[str, str]:
        """Return what a measurement must record about this engine."""
        return {
            **self._facts,
            "provider": "cpu",
            "threads": str(self._threads),
            "device": processor.processor_name(),
        }

    def _free(self) -> None:
        self._package = None

    def _tensors(self, feeds: Mapping[str, Array]) -> list[torch.Tensor]:
        checked, _ = self._check(feeds)
        return [_as_tensor(value) for value in checked.values()]

    def _call(self, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        assert self._package is not None
        with torch.inference_mode():
            return _as_list(self._package(*tensors))

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except _FAILURES as error:
            raise run_error(error, self.name) from error

    @contextlib.contextmanager
    def _threaded(self) -> Iterator[None]:
        """Run with this engine's threads; PyTorch keeps their number for the whole process."""
        before = torch.get_num_threads()
        if before == self._threads:
            yield
            return
        torch.set_num_threads(self._threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)


class Recorded:
    """Memory for feeds of certain shapes, and the run on it as one CUDA graph.

    Attributes:
        inputs: On the device, in the graph's order.
        outputs: On the device, in the graph's order; the next run overwrites them.
    """

    def __init__(self, package: Package, inputs: list[torch.Tensor], *, graph: bool) -> None:
        self.inputs = inputs
        self.outputs: list[torch.Tensor] = []
        self._package = package
        self._graph: torch.cuda.CUDAGraph | None = None
        self._hosts_in = [
            torch.empty(one.shape, dtype=one.dtype, pin_memory=True) for one in inputs
        ]
        stream = torch.cuda.current_stream()
        with exact_float32():
            for _ in range(_WARM_CALLS):
                self.outputs = _as_list(package(*inputs))
            stream.synchronize()
            if graph:
                self._graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(self._graph, stream=stream):
                    self.outputs = _as_list(package(*inputs))
        self._hosts_out = [
            torch.empty(one.shape, dtype=one.dtype, pin_memory=True) for one in self.outputs
        ]

    def launch(self) -> None:
        """Queue one run on the current stream."""
        if self._graph is not None:
            self._graph.replay()
            return
        with exact_float32():
            self.outputs = _as_list(self._package(*self.inputs))

    def fill(self, values: list[Any]) -> None:
        """Queue copies of feeds to the device, through page-locked memory."""
        for value, host, device in zip(values, self._hosts_in, self.inputs, strict=True):
            host.copy_(_as_tensor(value))
            device.copy_(host, non_blocking=True)

    def fetch(self) -> list[Array]:
        """Copy the outputs to the host and return them."""
        for device, host in zip(self.outputs, self._hosts_out, strict=True):
            host.copy_(device, non_blocking=True)
        torch.cuda.current_stream().synchronize()
        return [np.array(host.numpy()) for host in self._hosts_out]


class TorchCudaEngine(EngineBase):
    """A package on a GPU; implements `engines.contract.Engine` and `DeviceClock`.

    The first run with feeds of certain shapes is recorded as a CUDA graph; what follows is one
    launch of it. TF32 is off while a run is recorded, whatever the process has set: the match
    compares float32 scores.
    """

    def __init__(self, spec: EngineSpec, package: Package, *, cuda_graph: bool) -> None:
        super().__init__(spec)
        self._package: Package | None = package
        self._cuda_graph = cuda_graph
        self._device = torch.device("cuda", torch.cuda.current_device())
        self._stream = cuda.Stream(self._device)
        self._recorded: dict[tuple[tuple[int, ...], ...], Recorded] = {}
        self._lock = threading.RLock()  # one stream: one run at a time

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once and return the outputs by name; see `engines.contract.Engine`."""
        checked, _ = self._check(feeds)
        values = list(checked.values())
        key = tuple(tuple(value.shape) for value in values)
        with self._alone():
            recorded = self._recorded.get(key)
            if recorded is None:
                while len(self._recorded) >= _KEPT:  # each holds memory of the device
                    self._recorded.pop(next(iter(self._recorded)))
                recorded = self._recorded[key] = self._record(values)
            recorded.fill(values)
            recorded.launch()
            found = recorded.fetch()
        return {spec.name: value for spec, value in zip(self.outputs, found, strict=True)}

    def bind(self, feeds: Mapping[str, Array]) -> Callable[[], None]:
        """Put `feeds` on the device once; the result replays the run and waits for it."""
        recorded = self._bound(feeds)

        def run_once() -> None:
            self._require_open()
            with self._alone():
                recorded.launch()
                self._stream.synchronize()

        return run_once

    def device_times_ns(self, feeds: Mapping[str, Array], *, runs: int) -> list[int]:
        """Return what the GPU's own clock saw of each run, without copies, in nanoseconds.

        One run in flight; the event before it is recorded on an idle stream.
        """
        recorded = self._bound(feeds)
        found = []
        with self._alone():
            before, after = (cuda.Event(enable_timing=True) for _ in range(2))
            for _ in range(runs):
                self._stream.synchronize()
                before.record(self._stream)
                recorded.launch()
                after.record(self._stream)
                after.synchronize()
                found.append(round(before.elapsed_time(after) * 1e6))
        return found

    def describe(self) -> dict[str, str]:
        """Return what a measurement must record about this engine."""
        return {
            **self._facts,
            "provider": "cuda",
            "device": torch.cuda.get_device_name(self._device),
            "compute_capability": capability_here(),
            "tf32": "off",
            "cuda_graph": "yes" if self._cuda_graph else "no: switched off",
            "host_memory": "page-locked",
        }

    def _free(self) -> None:
        with contextlib.suppress(RuntimeError):  # a device that failed cannot be waited for
            self._stream.synchronize()
        self._recorded.clear()
        self._package = None

    def _bound(self, feeds: Mapping[str, Array]) -> Recorded:
        checked, _ = self._check(feeds)
        values = list(checked.values())
        with self._alone():
            recorded = self._record(values)
            recorded.fill(values)
            self._stream.synchronize()
        return recorded

    def _record(self, values: list[Array]) -> Recorded:
        assert self._package is not None
        inputs = [_as_tensor(value).to(self._device) for value in values]
        return Recorded(self._package, inputs, graph=self._cuda_graph)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Let one thread at a time use the stream, which is the current one meanwhile."""
        with self._lock, torch.inference_mode(), cuda.stream(self._stream):
            try:
                yield
            except _FAILURES as error:
                raise run_error(error, self.name) from error


@contextlib.contextmanager
def exact_float32() -> Iterator[None]:
    """Switch TF32 off, and give the process its own setting back."""
    owners: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [owner.allow_tf32 for owner in owners]
    for owner in owners:
        owner.allow_tf32 = False
    try:
        yield
    finally:
        for owner, value in zip(owners, before, strict=True):
            owner.allow_tf32 = value


def capability_here() -> str:
    """Return the compute capability of the current device, as "9.0"."""
    major, minor = torch.cuda.get_device_capability()
    return f"{major}.{minor}"


def run_error(error: BaseException, where: str) -> EngineError:
    """Return what PyTorch said about a run."""
    lines = str(error).strip().splitlines()
    return EngineError(
        f"PyTorch failed while running: {lines[0] if lines else type(error).__name__}",
        where=where,
        fix="open the graph in ONNX Runtime to see whether the graph is at fault",
    )


def _as_tensor(value: Array) -> torch.Tensor:
    return torch.from_numpy(value if value.flags.writeable else value.copy())


def _as_list(found: Any) -> list[torch.Tensor]:
    return list(found) if isinstance(found, (list, tuple)) else [found]
