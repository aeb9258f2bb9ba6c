from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from engines.cuda.device import Cuda, open_cuda
from engines.cuda.library import Api
from engines.errors import EngineError, MissingDependencyError
from tests.engines.cuda.fake_cuda import C_TYPES, GOLDEN, NS_OF_ONE_TASK, FakeCuda
from tests.golden.make_cuda_api import our_calls


def loader(**libraries: FakeCuda) -> Callable[[str], FakeCuda]:
    def load(name: str) -> FakeCuda:
        for part, library in libraries.items():
            if name.startswith(f"lib{part}.so"):
                return library
        raise OSError(name)

    return load


@pytest.fixture(params=["runtime", "driver"])
def device(request: pytest.FixtureRequest) -> FakeCuda:
    return FakeCuda(request.param)


@pytest.fixture
def cuda(device: FakeCuda) -> Cuda:
    return open_cuda(loader(**{"cudart" if device.api == "runtime" else "cuda": device}))


@pytest.mark.parametrize("version", GOLDEN)
def test_every_call_has_the_types_of_nvidias_headers(version: str) -> None:
    for name, call in our_calls().items():
        wanted = tuple(C_TYPES[kind] for kind in GOLDEN[version][name])
        assert call.arguments == wanted, name


def test_every_call_of_the_runtime_is_in_the_real_library() -> None:
    """The one that pip installs for torch, where there is one."""
    found = importlib.util.find_spec("nvidia")
    places = [] if found is None else list(found.submodule_search_locations or ())
    libraries = [path for place in places for path in Path(place).rglob("libcudart.so.*")]
    if not libraries:
        pytest.skip("no CUDA runtime is installed")
    for path in libraries:
        library = ctypes.CDLL(str(path))
        missing = {n for n in our_calls() if n.startswith("cuda") and not hasattr(library, n)}
        assert not missing


def test_bytes_go_up_and_come_down(cuda: Cuda, device: FakeCuda) -> None:
    values, back = np.arange(6, dtype=np.float32), np.zeros(6, np.float32)
    stream = cuda.create_stream()
    address = cuda.allocate(values.nbytes)

    cuda.upload(address, values, stream)
    cuda.download(back, address, stream)
    assert not back.any()
    cuda.synchronize(stream)
    cuda.free(address)
    cuda.destroy_stream(stream)

    assert back.tolist() == values.tolist()
    assert device.left == 0


def test_page_locked_memory_is_an_array_that_the_device_reads_too(
    cuda: Cuda, device: FakeCuda
) -> None:
    values = cuda.allocate_host((2, 3), np.dtype("float16"))
    values[:] = [[1, 2, 3], [4, 5, 6]]
    back, stream = np.zeros((2, 3), np.float16), cuda.create_stream()

    cuda.download(back, cuda.address_on_device(values), stream)
    cuda.synchronize(stream)
    cuda.free_host(values)
    cuda.destroy_stream(stream)

    assert back.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert device.left == 0


def test_a_graph_repeats_what_it_recorded_with_what_lies_there_now(
    cuda: Cuda, device: FakeCuda
) -> None:
    values, back = np.zeros(2, np.float32), np.zeros(2, np.float32)
    stream, address = cuda.create_stream(), cuda.allocate(8)

    def there_and_back() -> None:
        cuda.upload(address, values, stream)
        cuda.download(back, address, stream)

    values[:] = 1
    graph = cuda.capture(there_and_back, stream)
    cuda.synchronize(stream)
    assert back.tolist() == [0, 0]  # recorded, not done
    for number in (2, 3):
        values[:] = number
        cuda.launch(graph, stream)
        cuda.synchronize(stream)
        assert back.tolist() == [number, number]

    cuda.destroy_graph(graph)
    cuda.free(address)
    cuda.destroy_stream(stream)
    assert device.left == 0


@pytest.mark.parametrize("breaks", [True, False])
def test_a_capture_that_fails_leaves_a_stream_that_works(
    cuda: Cuda, device: FakeCuda, breaks: bool
) -> None:
    stream = cuda.create_stream()

    def impossible() -> None:
        if breaks:
            cuda.allocate(8)
        raise EngineError("no", where="here", fix="none")

    with pytest.raises(EngineError):
        cuda.capture(impossible, stream)

    done: list[int] = []
    device.enqueue(stream, lambda: done.append(1))
    cuda.synchronize(stream)
    cuda.destroy_stream(stream)
    assert done == [1]
    assert device.left == 0


def test_elapsed_time_is_that_of_the_work_alone(cuda: Cuda, device: FakeCuda) -> None:
    stream = cuda.create_stream()
    device.enqueue(stream, lambda: None)

    def two_tasks() -> None:
        for _ in range(2):
            device.enqueue(stream, lambda: None)

    assert cuda.elapsed_ns(two_tasks, stream) == 2 * NS_OF_ONE_TASK
    with pytest.raises(EngineError):
        cuda.elapsed_ns(lambda: cuda.destroy_stream(0), stream)
    assert device.events == {}


def test_the_device_is_described(cuda: Cuda, device: FakeCuda) -> None:
    assert cuda.compute_capability() == "8.6"
    assert cuda.driver_version() == "13.0"
    assert cuda.bus_id() == "0000:3b:00.0"
    assert not cuda.shares_memory()
    device.shares_memory = True
    assert cuda.shares_memory()


def test_the_driver_serves_when_the_runtime_finds_no_device() -> None:
    runtime, driver = FakeCuda("runtime", cudaGetDeviceCount=35), FakeCuda("driver")

    assert open_cuda(loader(cudart=runtime, cuda=driver)).compute_capability() == "8.6"
    assert "cuDeviceGetAttribute" in driver.calls


def test_without_any_library_the_driver_is_named() -> None:
    with pytest.raises(MissingDependencyError, match=r"no libcudart; no libcuda\.so\.1") as caught:
        open_cuda(loader())

    assert caught.value.exit_code == 4
    assert "nvidia-smi" in caught.value.fix


def test_each_library_says_why_it_cannot_serve() -> None:
    runtime = FakeCuda("runtime", cudaGetDeviceCount=35)
    driver = FakeCuda("driver", cuInit=100)

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
    ("api", "function"), [("runtime", "cudaMalloc"), ("driver", "cuMemAlloc_v2")]
)
def test_a_full_device_proposes_a_smaller_batch(api: Api, function: str) -> None:
    cuda = FakeCuda(api, **{function: 2}).opened()

    with pytest.raises(EngineError, match=rf"{function} returned 2 \(out of memory\)") as caught:
        cuda.allocate(10**9)

    assert "smaller batch" in caught.value.fix


def test_an_old_cuda_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    device = FakeCuda()
    monkeypatch.delitem(GOLDEN["13.2"], "cudaHostAlloc")

    with pytest.raises(MissingDependencyError, match="this CUDA has no cudaHostAlloc") as caught:
        device.opened().allocate_host((1,), np.dtype("float32"))

    assert "11.4" in caught.value.fix


@pytest.mark.parametrize("api", ["runtime", "driver"])
def test_a_real_device_does_all_of_it(api: Api) -> None:
    """Copies, page-locked memory, a graph and the clock, where there is a GPU."""

    def load(name: str) -> ctypes.CDLL:
        if name.startswith("libcudart") != (api == "runtime"):
            raise OSError(name)
        return ctypes.CDLL(name)

    try:
        cuda = open_cuda(load)
    except MissingDependencyError as error:
        pytest.skip(f"needs an NVIDIA GPU: {error.what}")
    stream, size = cuda.create_stream(), 1 << 22
    values = cuda.allocate_host((size,), np.dtype("float32"))
    back = cuda.allocate_host((size,), np.dtype("float32"))
    address = cuda.allocate(values.nbytes)

    def there_and_back() -> None:
        cuda.upload(address, values, stream)
        cuda.download(back, address, stream)

    graph = cuda.capture(there_and_back, stream)
    for number in (1, 2):
        values[:] = number
        elapsed = cuda.elapsed_ns(lambda: cuda.launch(graph, stream), stream)
        assert (back == number).all()
        assert elapsed > 0
    assert cuda.address_on_device(values) != 0
    cuda.destroy_graph(graph)
    cuda.free(address)
    for array in (values, back):
        cuda.free_host(array)
    cuda.destroy_stream(stream)
