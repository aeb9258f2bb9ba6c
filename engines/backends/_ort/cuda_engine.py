"""An ONNX Runtime session on its CUDA provider, run as the CUDA graph that the provider records."""

from __future__ import annotations

from typing import Any

import numpy as np

from engines.backends._cuda_engine import CudaEngine
from engines.backends._engine_base import EngineSpec
from engines.backends._ort.session import ERRORS, onnxruntime, run_error
from engines.backends._placement import Given, Placement
from engines.contract import OpenOptions
from engines.cuda.device import Cuda

_DEVICE = "cuda"  # what ONNX Runtime calls the memory that `engines.cuda` reserves
_GRAPH_ID = "gpu_graph_id"
_NO_GRAPH = "-1"  # the provider's word for: run this one call by call
_GRAPHS = 64
"""CUDA graphs of a session, one for each set of addresses.

The provider frees none of them before the session ends, so without a limit a program that goes on
switching between shapes would fill the device. What follows runs call by call.
"""

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
        spec: EngineSpec,
        session: Any,
        *,
        stream: int,
        no_graph: str | None,
        options: OpenOptions,
    ) -> None:
        """Take a session that queues its work on `stream`.

        Args:
            cuda: The device.
            spec: With the inputs and outputs that the session has.
            session: ONNX Runtime's, opened on that stream.
            stream: Destroyed when the engine is closed.
            no_graph: Why the session records no CUDA graphs; None where it does.
            options: How the engine is opened.
        """
        super().__init__(cuda, spec, stream=stream, options=options)
        self._session = session
        self._no_graph = self._no_graph or no_graph
        self._calls: dict[Key, tuple[Any, Any]] = {}
        self._sets = 0  # of addresses, which ran or run now

    def describe(self) -> dict[str, str]:
        """Return what a measurement must record about this engine."""
        facts = super().describe()
        if self._no_graph is None and self._sets > _GRAPHS:
            facts["cuda_graph"] = f"for the first {_GRAPHS} of {self._sets} sets of addresses"
        return facts

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
            memory = (np.dtype(spec.dtype), shape, addresses[spec.name])
            binding.bind_input(spec.name, _DEVICE, 0, *memory)
        for spec in self.outputs:
            shape = placement.output_shapes[spec.name]
            memory = (np.dtype(spec.dtype), shape, addresses[spec.name])
            binding.bind_output(spec.name, _DEVICE, 0, *memory)
        return binding

    def _run_options(self) -> Any:
        """Return the options of a call, with an identifier of its own for its CUDA graph."""
        options = onnxruntime.RunOptions()
        self._sets += 1
        recorded = self._no_graph is None and self._sets <= _GRAPHS
        options.add_run_config_entry(_GRAPH_ID, str(self._sets) if recorded else _NO_GRAPH)
        return options

    def _release(self, placement: Placement) -> None:
        self._calls = {key: call for key, call in self._calls.items() if key[0] != id(placement)}
        super()._release(placement)

    def _free_runtime(self) -> None:
        self._calls.clear()
        self._session = None
