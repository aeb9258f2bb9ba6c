"""A stand-in for libcudart and libcuda, called through ctypes with the types of NVIDIA's headers.

Its device memory is the host's, but its streams are real queues: what is queued happens when the
stream is waited for and not before, a capture records instead, and a call that a capture forbids
breaks it. So a missing wait, an address of yesterday and a graph that was not recorded again show.
Every object is counted: nothing may be left.
"""

from __future__ import annotations

import ctypes
import dataclasses
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engines.cuda.device import Cuda
from engines.cuda.library import Api, CudaLibrary

GOLDEN: dict[str, dict[str, list[str]]] = json.loads(
    (Path(__file__).parents[2] / "golden" / "cuda_api.json").read_text("utf-8")
)
C_TYPES = {
    "pointer": ctypes.c_void_p,
    "size": ctypes.c_size_t,
    "int": ctypes.c_int,
    "uint": ctypes.c_uint,
    "uint64": ctypes.c_ulonglong,
}
INVALID, FORBIDDEN, BROKEN = 1, 900, 901
NS_OF_ONE_TASK = 1_000_000  # by the device's clock
CAPABILITY = (8, 6)
Task = tuple[Callable[[], object], int]
"""What is done, and how many nanoseconds of the device's clock it takes."""
TEXTS = {2: b"out of memory", 35: b"driver is insufficient", 100: b"no device"}


@dataclasses.dataclass
class Stream:
    """A queue, and what is recorded while it captures."""

    tasks: list[Task] = dataclasses.field(default_factory=list)
    recorded: list[Task] | None = None
    broken: bool = False


class FakeCuda:
    """One device. `fails` maps a function to the code it returns instead of working.

    Attributes:
        api: Whose names it has.
        fails: What is broken.
        calls: Every function called, in order.
        shares_memory: Whether the device is a Jetson's.
        blocks: Device memory by address.
        host_blocks: Page-locked memory of the host.
        streams: By handle.
        events: When they happened, by handle; None before.
        graphs: Recorded tasks, by handle.
        executables: Likewise, instantiated.
        attached: The threads in which the device was made current.
    """

    def __init__(self, api: Api = "runtime", **fails: int) -> None:
        self.api, self.fails = api, fails
        self.calls: list[str] = []
        self.shares_memory = False
        self.blocks: dict[int, Any] = {}
        self.host_blocks: dict[int, Any] = {}
        self.streams: dict[int, Stream] = {}
        self.events: dict[int, int | None] = {}
        self.graphs: dict[int, list[Task]] = {}
        self.executables: dict[int, list[Task]] = {}
        self.attached: list[int] = []
        self._clock_ns = 0
        self._handles = 1 << 40  # past 32 bits: a handle that was cut off is found nowhere
        self._kept: dict[str, Any] = {}

    @property
    def copies(self) -> int:
        """How many copies were queued or recorded."""
        return sum("Memcpy" in name for name in self.calls)

    @property
    def left(self) -> int:
        """How many objects nobody gave back."""
        kinds = (self.blocks, self.host_blocks, self.streams, self.events, self.graphs)
        return sum(map(len, kinds)) + len(self.executables)

    def opened(self) -> Cuda:
        """Return the device as the engines use it."""
        return Cuda(CudaLibrary(self, self.api))

    def enqueue(
        self, stream: int, task: Callable[[], object], takes_ns: int = NS_OF_ONE_TASK
    ) -> int:
        """Queue work, as a runtime does that uses this device."""
        queue = self.streams[stream]
        (queue.tasks if queue.recorded is None else queue.recorded).append((task, takes_ns))
        return 0

    def __getattr__(self, name: str) -> Any:
        if name not in self._kept:
            self._kept[name] = self._exported(name)
        return self._kept[name]

    def _exported(self, name: str) -> Any:
        """Return the C function of this name, with the types of NVIDIA's header."""
        if name == "cudaGetErrorString":
            return ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_int)(self._text)
        if name == "cuGetErrorString":
            types_ = (ctypes.c_int, ctypes.c_int, ctypes.c_void_p)
            return ctypes.CFUNCTYPE(*types_)(lambda code, place: _write(place, self._text(code)))
        types = GOLDEN["13.2"].get(name)
        if types is None or name.startswith("cuda") != (self.api == "runtime"):
            raise AttributeError(name)

        def call(*arguments: Any) -> int:
            self.calls.append(name)
            return self.fails.get(name) or int(ACTIONS[name](self, *arguments) or 0)

        return ctypes.CFUNCTYPE(ctypes.c_int, *(C_TYPES[kind] for kind in types))(call)

    def _text(self, code: int) -> int:
        """Return the address of an error's text."""
        text = self._kept.setdefault(f"text {code}", ctypes.c_char_p(TEXTS.get(code, b"no text")))
        return ctypes.cast(text, ctypes.c_void_p).value or 0

    def new_handle(self) -> int:
        """Return a handle that no other object has."""
        self._handles += 16
        return self._handles

    def forbidden_while_recording(self) -> bool:
        """Break the captures under way; say whether there was one."""
        recording = [stream for stream in self.streams.values() if stream.recorded is not None]
        for stream in recording:
            stream.broken = True
        return bool(recording)

    def finish(self, stream: int) -> None:
        """Do what is queued."""
        queue = self.streams[stream]
        while queue.tasks:
            task, takes_ns = queue.tasks.pop(0)
            self._clock_ns += takes_ns
            task()

    def note_time(self, event: int) -> None:
        """Let an event happen."""
        self.events[event] = self._clock_ns


def _write(place: int, value: float, kind: Any = ctypes.c_void_p) -> int:
    kind.from_address(place).value = value
    return 0


def _count(device: FakeCuda, place: int) -> None:
    _write(place, 1, ctypes.c_int)


def _set_device(device: FakeCuda, *_: int) -> None:
    device.attached.append(threading.get_ident())


def _nothing(device: FakeCuda, *_: int) -> None:
    pass


def _get_device(device: FakeCuda, place: int, number: int) -> None:
    _write(place, number, ctypes.c_int)


def _retain(device: FakeCuda, place: int, _: int) -> None:
    _write(place, device.new_handle())


def _attribute(device: FakeCuda, place: int, number: int, _: int) -> None:
    known = {75: CAPABILITY[0], 76: CAPABILITY[1], 18: int(device.shares_memory)}
    known |= {50: 0, 33: 0x3B, 34: 0}  # PCI domain, bus and device
    _write(place, known[number], ctypes.c_int)


def _version(device: FakeCuda, place: int) -> None:
    _write(place, 13000, ctypes.c_int)


def _allocate(device: FakeCuda, place: int, size: int, *flags: int) -> int:
    if device.forbidden_while_recording():
        return FORBIDDEN
    block = ctypes.create_string_buffer(b"\xff" * size, size)  # NaN, whatever the float
    address = ctypes.addressof(block)
    (device.host_blocks if flags else device.blocks)[address] = block
    _write(place, address)
    return 0


def _free(device: FakeCuda, address: int) -> int:
    if device.forbidden_while_recording():
        return FORBIDDEN
    blocks = device.blocks if address in device.blocks else device.host_blocks
    return INVALID if blocks.pop(address, None) is None else 0


def _address_of_host(device: FakeCuda, place: int, address: int, _: int) -> int:
    if address not in device.host_blocks:
        return INVALID
    _write(place, address)
    return 0


def _copy(device: FakeCuda, target: int, source: int, size: int, *others: int) -> int:
    return device.enqueue(others[-1], lambda: ctypes.memmove(target, source, size))


def _create_stream(device: FakeCuda, place: int, _: int) -> None:
    handle = device.new_handle()
    device.streams[handle] = Stream()
    _write(place, handle)


def _destroy_stream(device: FakeCuda, stream: int) -> int:
    return INVALID if device.streams.pop(stream, None) is None else 0


def _synchronize(device: FakeCuda, stream: int) -> int:
    if device.forbidden_while_recording():
        return FORBIDDEN
    device.finish(stream)
    return 0


def _create_event(device: FakeCuda, place: int, _: int) -> None:
    handle = device.new_handle()
    device.events[handle] = None
    _write(place, handle)


def _destroy_event(device: FakeCuda, event: int) -> None:
    del device.events[event]


def _record(device: FakeCuda, event: int, stream: int) -> int:
    return device.enqueue(stream, lambda: device.note_time(event), takes_ns=0)


def _elapsed(device: FakeCuda, place: int, start: int, end: int) -> int:
    before, after = device.events[start], device.events[end]
    if before is None or after is None:
        return INVALID
    _write(place, (after - before) / 1e6, ctypes.c_float)
    return 0


def _begin_capture(device: FakeCuda, stream: int, mode: int) -> int:
    device.streams[stream].recorded, device.streams[stream].broken = [], False
    return 0 if mode == 1 else INVALID


def _end_capture(device: FakeCuda, stream: int, place: int) -> int:
    queue = device.streams[stream]
    recorded, queue.recorded = queue.recorded, None
    if queue.broken or recorded is None:
        return BROKEN
    handle = device.new_handle()
    device.graphs[handle] = recorded
    _write(place, handle)
    return 0


def _instantiate(device: FakeCuda, place: int, graph: int, _: int) -> None:
    handle = device.new_handle()
    device.executables[handle] = list(device.graphs[graph])
    _write(place, handle)


def _destroy_graph(device: FakeCuda, graph: int) -> None:
    del device.graphs[graph]


def _destroy_executable(device: FakeCuda, executable: int) -> None:
    del device.executables[executable]


def _launch(device: FakeCuda, executable: int, stream: int) -> None:
    for task, takes_ns in device.executables[executable]:
        device.enqueue(stream, task, takes_ns)


_BOTH: dict[Callable[..., int | None], tuple[str, ...]] = {
    _attribute: ("cudaDeviceGetAttribute", "cuDeviceGetAttribute"),
    _version: ("cudaDriverGetVersion", "cuDriverGetVersion"),
    _allocate: ("cudaMalloc", "cuMemAlloc_v2", "cudaHostAlloc", "cuMemHostAlloc"),
    _free: ("cudaFree", "cuMemFree_v2", "cudaFreeHost", "cuMemFreeHost"),
    _address_of_host: ("cudaHostGetDevicePointer", "cuMemHostGetDevicePointer_v2"),
    _copy: ("cudaMemcpyAsync", "cuMemcpyHtoDAsync_v2", "cuMemcpyDtoHAsync_v2"),
    _create_stream: ("cudaStreamCreateWithFlags", "cuStreamCreate"),
    _destroy_stream: ("cudaStreamDestroy", "cuStreamDestroy_v2"),
    _synchronize: ("cudaStreamSynchronize", "cuStreamSynchronize"),
    _create_event: ("cudaEventCreateWithFlags", "cuEventCreate"),
    _destroy_event: ("cudaEventDestroy", "cuEventDestroy_v2"),
    _record: ("cudaEventRecord", "cuEventRecord"),
    _elapsed: ("cudaEventElapsedTime", "cuEventElapsedTime"),
    _begin_capture: ("cudaStreamBeginCapture", "cuStreamBeginCapture_v2"),
    _end_capture: ("cudaStreamEndCapture", "cuStreamEndCapture"),
    _instantiate: ("cudaGraphInstantiateWithFlags", "cuGraphInstantiateWithFlags"),
    _destroy_graph: ("cudaGraphDestroy", "cuGraphDestroy"),
    _launch: ("cudaGraphLaunch", "cuGraphLaunch"),
    _destroy_executable: ("cudaGraphExecDestroy", "cuGraphExecDestroy"),
    _count: ("cudaGetDeviceCount",),
    _set_device: ("cudaSetDevice", "cuCtxSetCurrent"),
    _nothing: ("cuInit",),
    _get_device: ("cuDeviceGet",),
    _retain: ("cuDevicePrimaryCtxRetain",),
}
ACTIONS = {name: action for action, names in _BOTH.items() for name in names}
