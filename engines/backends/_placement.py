"""Where the tensors of one set of feeds lie: on the device, and page-locked on the host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from engines.contract import Array
from engines.cuda.device import Cuda, DeviceArray
from engines.manifest import TensorSpec

Given = dict[str, int]
"""Addresses of the feeds that lie on the device already, by name."""

_GRAPHS = 32  # kept a placement: one for each task that is switched to and fro


class Placement:
    """Memory for feeds and outputs of certain shapes, and the CUDA graphs that use it.

    Feeds of the host and outputs pass through page-locked memory: the device copies it without a
    detour, and with `zero_copy` it reads and writes it where it lies.

    Attributes:
        input_shapes: Shapes of all feeds, by name.
        output_shapes: Shapes of all outputs, by name.
        addresses: Where the device finds what this placement holds itself.
        given: The addresses that the context has of the other feeds.
    """

    def __init__(
        self,
        cuda: Cuda,
        feeds: Mapping[str, Any],
        outputs: Sequence[tuple[TensorSpec, tuple[int, ...]]],
        extents: dict[str, int],
        *,
        zero_copy: bool,
    ) -> None:
        """Reserve the memory.

        Args:
            cuda: The device.
            feeds: Arrays of the host, and of the device.
            outputs: Each with its shape.
            extents: Every dynamic extent.
            zero_copy: Let the device use the host's memory.

        Raises:
            CudaCallError: There is not enough.
        """
        self.input_shapes = {name: value.shape for name, value in feeds.items()}
        self.output_shapes = {spec.name: shape for spec, shape in outputs}
        self.addresses: dict[str, int] = {}
        self.given: Given = {}
        self._cuda, self._extents, self._zero_copy = cuda, extents, zero_copy
        self._inputs: dict[str, Array] = {}
        self._outputs: dict[str, Array] = {}
        self._graphs: dict[frozenset[tuple[str, int]], int] = {}
        try:
            for name, value in feeds.items():
                if not isinstance(value, DeviceArray):
                    self._reserve(self._inputs, name, value.shape, value.dtype)
            for spec, shape in outputs:
                self._reserve(self._outputs, spec.name, shape, np.dtype(spec.dtype))
        except BaseException:
            self.release()
            raise

    def suits(self, feeds: Mapping[str, Any], extents: dict[str, int]) -> bool:
        """Whether these feeds have the same shapes, and come from the host where those did."""
        hosted = {name for name, value in feeds.items() if not isinstance(value, DeviceArray)}
        return self._extents == extents and hosted == self._inputs.keys()

    def fill(self, feeds: Mapping[str, Any], stream: int) -> None:
        """Take over the host's feeds; on the device they are there for what is queued next."""
        for name, host in self._inputs.items():
            np.copyto(host, feeds[name])
            if not self._zero_copy:
                self._cuda.upload(self.addresses[name], host, stream)

    def fetch(self, stream: int) -> dict[str, Array]:
        """Wait for what is queued and return copies of the outputs."""
        if not self._zero_copy:
            for name, host in self._outputs.items():
                self._cuda.download(host, self.addresses[name], stream)
        self._cuda.synchronize(stream)
        return {name: host.copy() for name, host in self._outputs.items()}

    def graph(self, given: Given) -> int | None:
        """Return the graph that was recorded with these addresses."""
        return self._graphs.get(frozenset(given.items()))

    def keep_graph(self, given: Given, graph: int) -> None:
        """Keep a graph; the oldest makes room."""
        if len(self._graphs) == _GRAPHS:
            self._cuda.destroy_graph(self._graphs.pop(next(iter(self._graphs))))
        self._graphs[frozenset(given.items())] = graph

    def release(self) -> None:
        """Give everything back."""
        while self._graphs:
            self._cuda.destroy_graph(self._graphs.popitem()[1])
        while self.addresses:
            address = self.addresses.popitem()[1]
            if not self._zero_copy:
                self._cuda.free(address)
        for arrays in (self._inputs, self._outputs):
            while arrays:
                self._cuda.free_host(arrays.popitem()[1])

    def _reserve(
        self, arrays: dict[str, Array], name: str, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> None:
        host = arrays[name] = self._cuda.allocate_host(shape, dtype)
        if self._zero_copy:
            self.addresses[name] = self._cuda.address_on_device(host)
        else:
            self.addresses[name] = self._cuda.allocate(host.nbytes)
