"""Memory, streams, events and graphs of one CUDA device, without torch.

Not run on hardware yet. The calls and their C types are those of NVIDIA's headers; that they do
what is meant has been tried on a stand-in with memory, streams and graphs of its own.
"""

from __future__ import annotations

import ctypes
import dataclasses
import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.cuda import library as calls
from engines.cuda.library import CudaLibrary, Loader

Array = NDArray[Any]

_NON_BLOCKING = 1
_HOST_TO_DEVICE, _DEVICE_TO_HOST = 1, 2
_CAPABILITY_MAJOR, _CAPABILITY_MINOR, _INTEGRATED = 75, 76, 18
_PORTABLE, _MAPPED = 1, 2
_PCI = (50, 33, 34)  # attributes: domain, bus, device
_THREAD_LOCAL = 1  # other threads may allocate while this one captures


@dataclasses.dataclass(frozen=True, eq=False)
class DeviceArray:
    """An array in device memory, which it gives back when nobody refers to it any more.

    Attributes:
        shape: Its extents.
        dtype: Its type.
        address: Where it lies.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    address: int

    @property
    def nbytes(self) -> int:
        """Its size."""
        return math.prod(self.shape) * self.dtype.itemsize


class Cuda:
    """The first CUDA device; make it with `open_cuda`.

    With libcuda it uses the device's primary context, which is the one TensorRT uses.
    """

    def __init__(self, library: CudaLibrary) -> None:
        """Take a library whose device is current in this thread."""
        self._call = library
        self._started = threading.local()
        self._started.here = True

    def attach(self) -> None:
        """Make the device current in this thread, too; in the one that opened it, it is."""
        if not hasattr(self._started, "here"):
            _start(self._call)
            self._started.here = True

    def compute_capability(self) -> str:
        """Return the device's compute capability, as "8.6"."""
        return f"{self._attribute(_CAPABILITY_MAJOR)}.{self._attribute(_CAPABILITY_MINOR)}"

    def shares_memory(self) -> bool:
        """Whether the device has no memory of its own: a Jetson's GPU uses the CPU's."""
        return self._attribute(_INTEGRATED) != 0

    def bus_id(self) -> str:
        """Return the device's PCI address (domain, bus, device), as "0000:3b:00.0"."""
        domain, bus, device = (self._attribute(number) for number in _PCI)
        return f"{domain:04x}:{bus:02x}:{device:02x}.0"

    def driver_version(self) -> str:
        """Return the newest CUDA version that the driver serves, as "13.0"."""
        value = ctypes.c_int()
        self._call(calls.DRIVER_VERSION, ctypes.byref(value))
        return f"{value.value // 1000}.{value.value % 1000 // 10}"

    def allocate(self, size_bytes: int) -> int:
        """Reserve device memory and return its address."""
        return self._made(calls.ALLOCATE, max(1, size_bytes))

    def free(self, address: int) -> None:
        """Give device memory back."""
        self._call(calls.FREE, address)

    def allocate_host(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Return a page-locked array of the host.

        The device copies from and to it without a detour, and may read and write it where it
        lies. It is given back with `free_host`, after which nothing may refer to it.
        """
        size_bytes = math.prod(shape) * dtype.itemsize
        address = self._made(calls.ALLOCATE_HOST, size_bytes, _PORTABLE | _MAPPED)
        memory = (ctypes.c_byte * size_bytes).from_address(address)
        return np.ctypeslib.as_array(memory).view(dtype).reshape(shape)

    def free_host(self, values: Array) -> None:
        """Give an array of `allocate_host` back."""
        self._call(calls.FREE_HOST, values.ctypes.data)

    def address_on_device(self, values: Array) -> int:
        """Return where the device finds an array of `allocate_host`."""
        return self._made(calls.ADDRESS_OF_HOST, values.ctypes.data, 0)

    def upload(self, address: int, values: Array, stream: int) -> None:
        """Queue a copy of contiguous `values` to the device."""
        places = (address, values.ctypes.data, values.nbytes)
        self._copy(calls.UPLOAD, *places, direction=_HOST_TO_DEVICE, stream=stream)

    def download(self, values: Array, address: int, stream: int) -> None:
        """Queue a copy from the device into contiguous `values`."""
        places = (values.ctypes.data, address, values.nbytes)
        self._copy(calls.DOWNLOAD, *places, direction=_DEVICE_TO_HOST, stream=stream)

    def create_stream(self) -> int:
        """Return the handle of a stream that does not wait for the default stream."""
        return self._made(calls.CREATE_STREAM, _NON_BLOCKING)

    def destroy_stream(self, stream: int) -> None:
        """Free a stream."""
        self._call(calls.DESTROY_STREAM, stream)

    def synchronize(self, stream: int) -> None:
        """Wait until all that was queued on `stream` is done."""
        self._call(calls.SYNCHRONIZE, stream)

    def elapsed_ns(self, enqueue: Callable[[], None], stream: int) -> int:
        """Return how long the device took for what `enqueue` queues, by its own clock.

        The stream is waited for before and after, so nothing else is counted.
        """
        events: list[int] = []
        try:
            events += [self._made(calls.CREATE_EVENT, 0) for _ in range(2)]
            self.synchronize(stream)
            self._call(calls.RECORD_EVENT, events[0], stream)
            enqueue()
            self._call(calls.RECORD_EVENT, events[1], stream)
            self.synchronize(stream)
            milliseconds = ctypes.c_float()
            self._call(calls.ELAPSED, ctypes.byref(milliseconds), *events)
        finally:
            for event in events:
                self._call(calls.DESTROY_EVENT, event)
        return round(milliseconds.value * 1e6)

    def capture(self, enqueue: Callable[[], None], stream: int) -> int:
        """Record what `enqueue` queues on `stream` instead of doing it; return the graph.

        The graph holds addresses, not what lies there. `enqueue` may not allocate or wait.

        Raises:
            CudaCallError: Something in it cannot be recorded. The stream is usable afterwards.
        """
        self._call(calls.BEGIN_CAPTURE, stream, _THREAD_LOCAL)
        try:
            enqueue()
        except BaseException:
            self._end_capture_after_failure(stream)
            raise
        recorded = ctypes.c_void_p()
        self._call(calls.END_CAPTURE, stream, ctypes.byref(recorded))
        try:
            return self._made(calls.INSTANTIATE, recorded, 0)
        finally:
            self._call(calls.DESTROY_GRAPH, recorded)

    def launch(self, graph: int, stream: int) -> None:
        """Queue everything that a graph of `capture` holds."""
        self._call(calls.LAUNCH, graph, stream)

    def destroy_graph(self, graph: int) -> None:
        """Free a graph of `capture`."""
        self._call(calls.DESTROY_EXECUTABLE, graph)

    def _end_capture_after_failure(self, stream: int) -> None:
        recorded = ctypes.c_void_p()
        try:
            self._call(calls.END_CAPTURE, stream, ctypes.byref(recorded))
        except calls.CudaCallError:
            return  # the capture was broken already, which ended it
        self._call(calls.DESTROY_GRAPH, recorded)

    def _attribute(self, number: int) -> int:
        value = ctypes.c_int()
        self._call(calls.ATTRIBUTE, ctypes.byref(value), number, 0)
        return value.value

    def _made(self, operation: calls.Operation, *arguments: Any) -> int:
        """Return the address or handle that an operation writes to its first argument."""
        place = ctypes.c_void_p()
        self._call(operation, ctypes.byref(place), *arguments)
        return place.value or 0

    def _copy(
        self,
        operation: calls.Operation,
        target: int,
        source: int,
        size_bytes: int,
        *,
        direction: int,
        stream: int,
    ) -> None:
        kind = (direction,) if self._call.api == "runtime" else ()
        self._call(operation, target, source, size_bytes, *kind, stream)


def open_cuda(load: Loader = ctypes.CDLL) -> Cuda:
    """Return the first CUDA device, through the runtime library or else through the driver.

    Args:
        load: Loads a library by name, or raises OSError.

    Raises:
        MissingDependencyError: No library can be loaded, or none of them finds a device; the
            message says what each answered.
    """
    return Cuda(calls.open_library(load, _start))


def _start(library: CudaLibrary) -> None:
    """Make the first device current in this thread."""
    if library.api == "runtime":
        count = ctypes.c_int()
        library(calls.COUNT_DEVICES, ctypes.byref(count))
        library(calls.SET_DEVICE, 0)
        return
    device, context = ctypes.c_int(), ctypes.c_void_p()
    library(calls.INITIALISE, 0)
    library(calls.GET_DEVICE, ctypes.byref(device), 0)
    library(calls.RETAIN_CONTEXT, ctypes.byref(context), device)
    library(calls.SET_CONTEXT, context)
