from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from engines.cuda import Cuda, open_cuda
from engines.errors import EngineError, MissingDependencyError

RUNTIME_NAMES = {
    "cudaGetDeviceCount": "count",
    "cudaSetDevice": "succeed",
    "cudaDeviceGetAttribute": "attribute",
    "cudaDriverGetVersion": "version",
    "cudaMalloc": "allocate",
    "cudaFree": "free",
    "cudaMemcpyAsync": "copy",
    "cudaStreamCreateWithFlags": "stream",
    "cudaStreamDestroy": "destroy",
    "cudaStreamSynchronize": "synchronize",
    "cudaGetErrorString": "runtime_text",
}
DRIVER_NAMES = {
    "cuInit": "succeed",
    "cuDeviceGet": "count",
    "cuDevicePrimaryCtxRetain": "stream",
    "cuCtxSetCurrent": "succeed",
    "cuDeviceGetAttribute": "attribute",
    "cuDriverGetVersion": "version",
    "cuMemAlloc_v2": "allocate",
    "cuMemFree_v2": "free",
    "cuMemcpyHtoDAsync_v2": "copy",
    "cuMemcpyDtoHAsync_v2": "copy",
    "cuStreamCreate": "stream",
    "cuStreamDestroy_v2": "destroy",
    "cuStreamSynchronize": "synchronize",
    "cuGetErrorString": "driver_text",
}


class FakeLibrary:
    """A CUDA library whose device memory is host memory; `names` are all that it exports."""

    def __init__(self, names: dict[str, str], **results: int) -> None:
        self.names, self.results = names, results
        self.blocks: dict[int, Any] = {}
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., Any]:
        action = getattr(self, f"_{self.names[name]}")

        def call(*arguments: Any) -> Any:
            self.calls.append(name)
            return self.results.get(name) or action(*arguments)

        return call

    def _succeed(self, *_: Any) -> int:
        return 0

    _destroy = _synchronize = _succeed

    def _count(self, place: Any, *_: Any) -> int:
        place._obj.value = 1
        return 0

    def _attribute(self, place: Any, attribute: int, _: Any) -> int:
        place._obj.value = {75: 8, 76: 6}[attribute]
        return 0

    def _version(self, place: Any) -> int:
        place._obj.value = 12080
        return 0

    def _allocate(self, place: Any, size: Any) -> int:
        block = ctypes.create_string_buffer(size.value)
        place._obj.value = ctypes.addressof(block)
        self.blocks[place._obj.value] = block
        return 0

    def _free(self, address: Any) -> int:
        del self.blocks[address.value]
        return 0

    def _copy(self, target: Any, source: Any, size: Any, *_: Any) -> int:
        ctypes.memmove(target, source, size.value)
        return 0

    def _stream(self, place: Any, _: Any) -> int:
        place._obj.value = 77
        return 0

    def _runtime_text(self, code: int) -> bytes:
        return b"driver is insufficient" if code == 35 else b"out of memory"

    def _driver_text(self, code: int, place: Any) -> int:
        place._obj.value = b"no device" if code == 100 else b"out of memory"
        return 0


def loader(**libraries: FakeLibrary) -> Callable[[str], FakeLibrary]:
    def load(name: str) -> FakeLibrary:
        for part, library in libraries.items():
            if name.startswith(f"lib{part}.so"):
                return library
        raise OSError(name)

    return load


@pytest.fixture(params=["runtime", "driver"])
def cuda(request: pytest.FixtureRequest) -> Cuda:
    names = RUNTIME_NAMES if request.param == "runtime" else DRIVER_NAMES
    part = "cudart" if request.param == "runtime" else "cuda"
    return open_cuda(loader(**{part: FakeLibrary(names)}))


def test_bytes_go_up_and_come_down(cuda: Cuda) -> None:
    values, back = np.arange(6, dtype=np.float32), np.zeros(6, np.float32)
    stream = cuda.create_stream()
    address = cuda.allocate(values.nbytes)

    cuda.upload(address, values, stream)
    cuda.download(back, address, stream)
    cuda.synchronize(stream)
    cuda.free(address)
    cuda.destroy_stream(stream)

    assert back.tolist() == values.tolist()
    assert not cuda.library.blocks


def test_the_device_is_described(cuda: Cuda) -> None:
    assert cuda.compute_capability() == "8.6"
    assert cuda.driver_version() == "12.8"


def test_the_driver_serves_when_the_runtime_finds_no_device() -> None:
    runtime = FakeLibrary(RUNTIME_NAMES, cudaGetDeviceCount=35)
    driver = FakeLibrary(DRIVER_NAMES)

    assert open_cuda(loader(cudart=runtime, cuda=driver)).api == "driver"


def test_without_any_library_the_driver_is_named() -> None:
    with pytest.raises(MissingDependencyError, match=r"no libcudart; no libcuda\.so\.1") as caught:
        open_cuda(loader())

    assert caught.value.exit_code == 4
    assert "nvidia-smi" in caught.value.fix


def test_each_library_says_why_it_cannot_serve() -> None:
    runtime = FakeLibrary(RUNTIME_NAMES, cudaGetDeviceCount=35)
    driver = FakeLibrary(DRIVER_NAMES, cuInit=100)

    with pytest.raises(MissingDependencyError) as caught:
        open_cuda(loader(cudart=runtime, cuda=driver))

    assert "cudaGetDeviceCount returned 35 (driver is insufficient)" in caught.value.what
    assert "cuInit returned 100 (no device)" in caught.value.what


def test_this_machine_has_a_device_or_says_why_not() -> None:
    """The real libraries, where there are any."""
    try:
        cuda = open_cuda()
    except MissingDependencyError as error:
        assert "cuda" in error.what.lower()
    else:
        assert "." in cuda.compute_capability()


@pytest.mark.parametrize(
    ("part", "names", "function"),
    [("cudart", RUNTIME_NAMES, "cudaMalloc"), ("cuda", DRIVER_NAMES, "cuMemAlloc_v2")],
)
def test_a_full_device_proposes_a_smaller_batch(
    part: str, names: dict[str, str], function: str
) -> None:
    cuda = open_cuda(loader(**{part: FakeLibrary(names, **{function: 2})}))

    with pytest.raises(EngineError, match=rf"{function} returned 2 \(out of memory\)") as caught:
        cuda.allocate(10**9)

    assert "smaller batch" in caught.value.fix
