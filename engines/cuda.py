"""Device memory and streams of one CUDA device, through ctypes.

A board has no torch, and a machine with only a driver has no CUDA runtime library. So the calls
that an engine needs exist here twice: through `libcudart` (first choice) and through the driver's
`libcuda` with the device's primary context, which is the context TensorRT uses. Only functions
whose signature never changed are called.

Not run on hardware yet: the driver half, and everything after the first call that needs a device.
"""

from __future__ import annotations

import ctypes
import dataclasses
import math
import threading
from collections.abc import Callable, Iterable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from engines.errors import EngineError, MissingDependencyError

Array = NDArray[Any]
Loader = Callable[[str], Any]

_RUNTIME_LIBRARIES = (
    "libcudart.so",
    "libcudart.so.13",
    "libcudart.so.12",
    "/usr/local/cuda/lib64/libcudart.so",
    "cudart64_13.dll",
    "cudart64_12.dll",
)
_DRIVER_LIBRARIES = ("libcuda.so.1", "nvcuda.dll")
_NON_BLOCKING = 1
_HOST_TO_DEVICE, _DEVICE_TO_HOST = 1, 2
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76
_OUT_OF_MEMORY = 2


class _CudaCallError(Exception):
    """A call returned something other than success; only this file sees it."""

    def __init__(self, function: str, code: int, text: str) -> None:
        super().__init__(f"{function} returned {code} ({text})")
        self.code = code


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


@dataclasses.dataclass
class Cuda:
    """The first CUDA device; make it with `open_cuda`.

    Attributes:
        library: The loaded library, or a stand-in with the same functions.
        api: Which of the two sets of names it has.
    """

    library: Any
    api: Literal["runtime", "driver"]
    _started: threading.local = dataclasses.field(
        default_factory=threading.local, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        """Remember the thread that opens the device."""
        self._started.here = True

    def attach(self) -> None:
        """Make the device current in this thread, too; in the one that opened it, it is."""
        if not hasattr(self._started, "here"):
            self.start()
            self._started.here = True

    def start(self) -> None:
        """Make the first device current in this thread."""
        if self.api == "runtime":
            count = ctypes.c_int()
            self._call("cudaGetDeviceCount", ctypes.byref(count))
            self._call("cudaSetDevice", 0)
            return
        self._call("cuInit", 0)
        device, context = ctypes.c_int(), ctypes.c_void_p()
        self._call("cuDeviceGet", ctypes.byref(device), 0)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self._call("cuCtxSetCurrent", context)

    def compute_capability(self) -> str:
        """Return the device's compute capability, as "8.6"."""
        function = "cudaDeviceGetAttribute" if self.api == "runtime" else "cuDeviceGetAttribute"
        values = []
        for attribute in (_CAPABILITY_MAJOR, _CAPABILITY_MINOR):
            value = ctypes.c_int()
            self._checked(function, ctypes.byref(value), attribute, 0)
            values.append(value.value)
        return f"{values[0]}.{values[1]}"

    def driver_version(self) -> str:
        """Return the newest CUDA version that the driver serves, as "13.0"."""
        value = ctypes.c_int()
        function = "cudaDriverGetVersion" if self.api == "runtime" else "cuDriverGetVersion"
        self._checked(function, ctypes.byref(value))
        return f"{value.value // 1000}.{value.value % 1000 // 10}"

    def allocate(self, size_bytes: int) -> int:
        """Reserve device memory and return its address."""
        address = ctypes.c_void_p()
        function = "cudaMalloc" if self.api == "runtime" else "cuMemAlloc_v2"
        size = ctypes.c_size_t(max(1, size_bytes))
        self._checked(function, ctypes.byref(address), size)
        return address.value or 0

    def free(self, address: int) -> None:
        """Give device memory back."""
        function = "cudaFree" if self.api == "runtime" else "cuMemFree_v2"
        self._checked(function, ctypes.c_void_p(address))

    def upload(self, address: int, values: Array, stream: int) -> None:
        """Queue a copy of contiguous `values` to the device."""
        target, source = ctypes.c_void_p(address), ctypes.c_void_p(values.ctypes.data)
        self._copy("cuMemcpyHtoDAsync_v2", target, source, values.nbytes, _HOST_TO_DEVICE, stream)

    def download(self, values: Array, address: int, stream: int) -> None:
        """Queue a copy from the device into contiguous `values`."""
        target, source = ctypes.c_void_p(values.ctypes.data), ctypes.c_void_p(address)
        self._copy("cuMemcpyDtoHAsync_v2", target, source, values.nbytes, _DEVICE_TO_HOST, stream)

    def create_stream(self) -> int:
        """Return the handle of a stream that does not wait for the default stream."""
        stream = ctypes.c_void_p()
        function = "cudaStreamCreateWithFlags" if self.api == "runtime" else "cuStreamCreate"
        self._checked(function, ctypes.byref(stream), _NON_BLOCKING)
        return stream.value or 0

    def destroy_stream(self, stream: int) -> None:
        """Free a stream."""
        function = "cudaStreamDestroy" if self.api == "runtime" else "cuStreamDestroy_v2"
        self._checked(function, ctypes.c_void_p(stream))

    def synchronize(self, stream: int) -> None:
        """Wait until all that was queued on `stream` is done."""
        function = "cudaStreamSynchronize" if self.api == "runtime" else "cuStreamSynchronize"
        self._checked(function, ctypes.c_void_p(stream))

    def _copy(
        self,
        driver_function: str,
        target: ctypes.c_void_p,
        source: ctypes.c_void_p,
        size_bytes: int,
        direction: int,
        stream: int,
    ) -> None:
        size, queue = ctypes.c_size_t(size_bytes), ctypes.c_void_p(stream)
        if self.api == "runtime":
            self._checked("cudaMemcpyAsync", target, source, size, direction, queue)
        else:
            self._checked(driver_function, target, source, size, queue)

    def _checked(self, function: str, *arguments: Any) -> None:
        try:
            self._call(function, *arguments)
        except _CudaCallError as error:
            fix = "check the driver and the device with nvidia-smi"
            if error.code == _OUT_OF_MEMORY:
                fix = "use a smaller batch, or close other programs that hold device memory"
            raise EngineError(f"CUDA failed: {error}", where="cuda:0", fix=fix) from error

    def _call(self, function: str, *arguments: Any) -> None:
        code = int(getattr(self.library, function)(*arguments))
        if code:
            raise _CudaCallError(function, code, self._error_text(code))

    def _error_text(self, code: int) -> str:
        if self.api == "runtime":
            describe = self.library.cudaGetErrorString
            describe.restype = ctypes.c_char_p
            text = describe(code)
        else:
            place = ctypes.c_char_p()
            self.library.cuGetErrorString(code, ctypes.byref(place))
            text = place.value
        return text.decode() if text else "unknown error"


def open_cuda(load: Loader = ctypes.CDLL) -> Cuda:
    """Return the first CUDA device, through the runtime library or else through the driver.

    Args:
        load: Loads a library by name, or raises OSError.

    Raises:
        MissingDependencyError: No library can be loaded, or none of them finds a device; the
            message says what each answered.
    """
    answers = []
    libraries: tuple[tuple[Literal["runtime", "driver"], Iterable[str]], ...] = (
        ("runtime", _RUNTIME_LIBRARIES),
        ("driver", _DRIVER_LIBRARIES),
    )
    for api, names in libraries:
        library = _first_library(names, load)
        if library is None:
            answers.append(f"no {'libcudart' if api == 'runtime' else 'libcuda.so.1 (the driver)'}")
            continue
        cuda = Cuda(library, api)
        try:
            cuda.start()
        except _CudaCallError as error:
            answers.append(str(error))
        else:
            return cuda
    raise MissingDependencyError(
        f"there is no usable CUDA device: {'; '.join(answers)}",
        where="cuda:0",
        fix="install the NVIDIA driver, or run this where nvidia-smi lists a GPU",
    )


def _first_library(names: Iterable[str], load: Loader) -> Any | None:
    for name in names:
        try:
            return load(name)
        except OSError:
            continue
    return None
