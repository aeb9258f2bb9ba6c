"""An ONNX Runtime session on its CUDA provider, run as the CUDA graph that the provider records."""

from __future__ import annotations

from typing import Any

import numpy as np

from engines.backends._cuda_engine import CudaEngine
from engines.backends._ort.session import ERRORS, onnxruntime, run_error
from engines.backends._placement import Given, Placement
from engines.contract import OpenOptions
from engines.cuda.device import Cuda
from engines.manifest import TensorSpec

_GRAPH_ID = "gpu_graph_id"
_NO_GRAPH = "-1"  # the provider's word for: run this one call by call
_GRAPHS = 64
"""Kept a session. The provider frees none of them before the session ends."""

Key = tuple[int, frozenset[tuple[str, int]]]
"""A placement, and where the feeds lie that it does not hold."""


class OrtCudaEngine(CudaEngine):
    """Implements `engines.contract.Engine`.

    The provider records the first run at certain addresses as a CUDA graph of its own, under an
    identifier for those addresses, and launches it in the runs that follow.
    """

    def __init__(
        self,
        cuda: Cuda,
        session: Any,
        *,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        batch_range: tuple[int, int] | None,
        name: str,
        stream: int,
        facts: dict[str, str],
        no_graph: str | None,
        options: OpenOptions,
        device: str = "cuda",
    ) -> None:
        """Take a session that queues its work on `stream`.

        Args:
            cuda: The device.
            session: ONNX Runtime's, opened on that stream.
            inputs: In the graph's order.
            outputs: Likewise.
            batch_range: Smallest and largest dynamic batch; None allows any from 1.
            name: A short name for tables.
            stream: Destroyed when the engine is closed.
            facts: To record.
            no_graph: Why the session records no CUDA graphs; None where it does.
            options: How the engine is opened.
            device: What ONNX Runtime calls the memory that `cuda` reserves.
        """
        super().__init__(
            cuda,
            inputs=inputs,
            outputs=outputs,
            batch_range=batch_range,
            name=name,
            stream=stream,
            options=options,
        )
        self._session = session
        self._facts = facts
        self._no_graph = self._no_graph or no_graph
        self._device = device
        self._calls: dict[Key, tuple[Any, Any]] = {}
        self._graphs = 0

    def describe(self) -> dict[str, str]:
        """Return what a measurement must record about this engine."""
        return {**self._facts, **self.device_facts()}

    def _execute(self, placement: Placement, given: Given) -> None:
        """Queue one run; see `CudaEngine`."""
        self._require_open()
        key = (id(placement), frozenset(given.items()))
        if key not in self._calls:
            self._calls[key] = (self._binding(placement, given), self._run_options())
        try:
            self._session.run_with_iobinding(*self._calls[key])
        except ERRORS as error:
            raise run_error(error, self.name) from error

    def _binding(self, placement: Placement, given: Given) -> Any:
        """Tell ONNX Runtime where each tensor lies."""
        binding = self._session.io_binding()
        addresses = {**placement.addresses, **given}
        for spec in self.inputs:
            shape = placement.input_shapes[spec.name]
            place = (np.dtype(spec.dtype), shape, addresses[spec.name])
            binding.bind_input(spec.name, self._device, 0, *place)
        for spec in self.outputs:
            shape = placement.output_shapes[spec.name]
            place = (np.dtype(spec.dtype), shape, addresses[spec.name])
            binding.bind_output(spec.name, self._device, 0, *place)
        return binding

    def _run_options(self) -> Any:
        """Return the options of a call, with an identifier of its own for its CUDA graph."""
        options = onnxruntime.RunOptions()
        if self._no_graph is None and self._graphs < _GRAPHS:
            self._graphs += 1
            options.add_run_config_entry(_GRAPH_ID, str(self._graphs))
        else:
            options.add_run_config_entry(_GRAPH_ID, _NO_GRAPH)
        return options

    def _release(self, placement: Placement) -> None:
        self._calls = {key: call for key, call in self._calls.items() if key[0] != id(placement)}
        super()._release(placement)

    def _free_runtime(self) -> None:
        self._calls.clear()
        self._session = None
