"""The calls into CUDA that an engine needs, their C types, and the library that has them.

A board has no torch, and a machine with only a driver has no CUDA runtime library. So each call
is named twice: in `libcudart` (first choice) and in the driver's `libcuda`. Only functions whose
signature has been the same since CUDA 11.4 are here; `tests/golden/cuda_api.json` holds those of
CUDA 11.8, 12.9 and 13.2, read from NVIDIA's headers, to compare with.
"""

from __future__ import annotations

import ctypes
import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, Literal

from engines.errors import EngineError, FpetError, MissingDependencyError

Api = Literal["runtime", "driver"]
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
_OUT_OF_MEMORY = 2

_POINTER = ctypes.c_void_p  # or a handle, or an address on the device: 64 bits all
_INT, _UINT, _UINT64, _SIZE = ctypes.c_int, ctypes.c_uint, ctypes.c_ulonglong, ctypes.c_size_t


@dataclasses.dataclass(frozen=True)
class Call:
    """A C function that returns 0 or an error.

    Attributes:
        name: As the library exports it.
        arguments: Their types.
    """

    name: str
    arguments: tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class Operation:
    """What both libraries can do.

    Attributes:
        runtime: In libcudart.
        driver: In libcuda.
    """

    runtime: Call
    driver: Call

    def of(self, api: Api) -> Call:
        """Return the call of one of them."""
        return self.runtime if api == "runtime" else self.driver


def _same(runtime: str, driver: str, *arguments: Any) -> Operation:
    """Name an operation that takes the same in both."""
    return Operation(Call(runtime, arguments), Call(driver, arguments))


COUNT_DEVICES = Call("cudaGetDeviceCount", (_POINTER,))
SET_DEVICE = Call("cudaSetDevice", (_INT,))
INITIALISE = Call("cuInit", (_UINT,))
GET_DEVICE = Call("cuDeviceGet", (_POINTER, _INT))
RETAIN_CONTEXT = Call("cuDevicePrimaryCtxRetain", (_POINTER, _INT))
SET_CONTEXT = Call("cuCtxSetCurrent", (_POINTER,))
ATTRIBUTE = _same("cudaDeviceGetAttribute", "cuDeviceGetAttribute", _POINTER, _INT, _INT)
DRIVER_VERSION = _same("cudaDriverGetVersion", "cuDriverGetVersion", _POINTER)
ALLOCATE = _same("cudaMalloc", "cuMemAlloc_v2", _POINTER, _SIZE)
FREE = _same("cudaFree", "cuMemFree_v2", _POINTER)
ALLOCATE_HOST = _same("cudaHostAlloc", "cuMemHostAlloc", _POINTER, _SIZE, _UINT)
FREE_HOST = _same("cudaFreeHost", "cuMemFreeHost", _POINTER)
ADDRESS_OF_HOST = _same(
    "cudaHostGetDevicePointer", "cuMemHostGetDevicePointer_v2", _POINTER, _POINTER, _UINT
)
_COPY = Call("cudaMemcpyAsync", (_POINTER, _POINTER, _SIZE, _INT, _POINTER))
UPLOAD = Operation(_COPY, Call("cuMemcpyHtoDAsync_v2", (_POINTER, _POINTER, _SIZE, _POINTER)))
DOWNLOAD = Operation(_COPY, Call("cuMemcpyDtoHAsync_v2", (_POINTER, _POINTER, _SIZE, _POINTER)))
CREATE_STREAM = _same("cudaStreamCreateWithFlags", "cuStreamCreate", _POINTER, _UINT)
DESTROY_STREAM = _same("cudaStreamDestroy", "cuStreamDestroy_v2", _POINTER)
SYNCHRONIZE = _same("cudaStreamSynchronize", "cuStreamSynchronize", _POINTER)
CREATE_EVENT = _same("cudaEventCreateWithFlags", "cuEventCreate", _POINTER, _UINT)
DESTROY_EVENT = _same("cudaEventDestroy", "cuEventDestroy_v2", _POINTER)
RECORD_EVENT = _same("cudaEventRecord", "cuEventRecord", _POINTER, _POINTER)
ELAPSED = _same("cudaEventElapsedTime", "cuEventElapsedTime", _POINTER, _POINTER, _POINTER)
BEGIN_CAPTURE = _same("cudaStreamBeginCapture", "cuStreamBeginCapture_v2", _POINTER, _INT)
END_CAPTURE = _same("cudaStreamEndCapture", "cuStreamEndCapture", _POINTER, _POINTER)
INSTANTIATE = _same(
    "cudaGraphInstantiateWithFlags", "cuGraphInstantiateWithFlags", _POINTER, _POINTER, _UINT64
)
DESTROY_GRAPH = _same("cudaGraphDestroy", "cuGraphDestroy", _POINTER)
LAUNCH = _same("cudaGraphLaunch", "cuGraphLaunch", _POINTER, _POINTER)
DESTROY_EXECUTABLE = _same("cudaGraphExecDestroy", "cuGraphExecDestroy", _POINTER)


class CudaCallError(EngineError):
    """A call returned something other than success.

    Attributes:
        code: What it returned.
    """

    def __init__(self, function: str, code: int, text: str) -> None:
        fix = "check the driver and the device with nvidia-smi"
        if code == _OUT_OF_MEMORY:
            fix = "use a smaller batch, or close other programs that hold device memory"
        super().__init__(
            f"CUDA failed: {function} returned {code} ({text})", where="cuda:0", fix=fix
        )
        self.code = code


class CudaLibrary:
    """A loaded library, called with declared types and checked.

    Attributes:
        api: Which of the two it is.
    """

    def __init__(self, library: Any, api: Api) -> None:
        self.api = api
        self._library = library
        self._functions: dict[str, Any] = {}

    def __call__(self, what: Operation | Call, *arguments: Any) -> None:
        """Do it.

        Raises:
            CudaCallError: It returned an error.
            MissingDependencyError: The library is too old to have it.
        """
        call = what.of(self.api) if isinstance(what, Operation) else what
        code = int(self._function(call)(*arguments))
        if code:
            raise CudaCallError(call.name, code, self._text(code))

    def _function(self, call: Call) -> Any:
        if call.name not in self._functions:
            try:
                function = getattr(self._library, call.name)
            except AttributeError as error:
                raise MissingDependencyError(
                    f"this CUDA has no {call.name}",
                    where="cuda:0",
                    fix="update CUDA to 11.4 or newer (JetPack 5)",
                ) from error
            function.argtypes = call.arguments
            self._functions[call.name] = function
        return self._functions[call.name]

    def _text(self, code: int) -> str:
        if self.api == "runtime":
            describe = self._library.cudaGetErrorString
            describe.argtypes, describe.restype = (_INT,), ctypes.c_char_p
            text = describe(code)
        else:
            place = ctypes.c_char_p()
            describe = self._library.cuGetErrorString
            describe.argtypes = (_INT, _POINTER)
            describe(code, ctypes.byref(place))
            text = place.value
        return text.decode() if text else "unknown error"


def open_library(load: Loader, start: Callable[[CudaLibrary], None]) -> CudaLibrary:
    """Return the first library that finds a device: the runtime's, or else the driver's.

    Args:
        load: Loads a library by name, or raises OSError.
        start: Makes the device current, or raises.

    Raises:
        MissingDependencyError: None can be loaded, or none of them finds a device; the message
            says what each answered.
    """
    answers = []
    libraries: tuple[tuple[Api, Iterable[str]], ...] = (
        ("runtime", _RUNTIME_LIBRARIES),
        ("driver", _DRIVER_LIBRARIES),
    )
    for api, names in libraries:
        loaded = _first(names, load)
        if loaded is None:
            answers.append(f"no {'libcudart' if api == 'runtime' else 'libcuda.so.1 (the driver)'}")
            continue
        library = CudaLibrary(loaded, api)
        try:
            start(library)
        except FpetError as error:
            answers.append(error.what.removeprefix("CUDA failed: "))
        else:
            return library
    raise MissingDependencyError(
        f"there is no usable CUDA device: {'; '.join(answers)}",
        where="cuda:0",
        fix="install the NVIDIA driver, or run this where nvidia-smi lists a GPU",
    )


def _first(names: Iterable[str], load: Loader) -> Any | None:
    for name in names:
        try:
            return load(name)
        except OSError:
            continue
    return None
