"""An open session of ONNX Runtime as an engine."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from engines.backends._engine_base import EngineBase, EngineSpec
from engines.backends._feeds import resolved
from engines.backends._ort.session import ERRORS, onnxruntime, run_error
from engines.contract import Array, Provider
from engines.machine import processor
from engines.manifest import TensorSpec
from engines.onnx_header import OnnxHeader

PRODUCTS = "int8_products"
ON_A_GPU = {"device": "cuda:0", "tf32": "off"}
_NUMPY_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(bfloat16)": "bfloat16",
    "tensor(double)": "float64",
}


class OrtEngine(EngineBase):
    """An ONNX Runtime session; implements `engines.contract.Engine`."""

    def __init__(self, spec: EngineSpec, session: Any, *, provider: Provider) -> None:
        super().__init__(spec)
        self._session = session
        self._provider = provider
        self._threads: int = session.get_session_options().intra_op_num_threads

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once and return the outputs by name; see `engines.contract.Engine`."""
        checked, _ = self._check(feeds)
        names = [spec.name for spec in self.outputs]
        try:
            values = self._session.run(names, checked)
        except ERRORS as error:
            raise run_error(error, self.name) from error
        return dict(zip(names, values, strict=True))

    def bind(self, feeds: Mapping[str, Array]) -> Callable[[], None]:
        """Put `feeds` and the outputs' memory in place; see `engines.contract.Engine`."""
        checked, extents = self._check(feeds)
        binding = self._session.io_binding()
        device = "cpu" if self._provider == "cpu" else "cuda"
        kept = []  # the binding holds addresses only: the arrays must live as long as it does
        try:
            for name, value in checked.items():
                placed = onnxruntime.OrtValue.ortvalue_from_numpy(value, device, 0)
                kept.append((value, placed))
                binding.bind_ortvalue_input(name, placed)
            for spec in self.outputs:
                shape = resolved(spec, extents)
                if shape is None:
                    binding.bind_output(spec.name, device)
                    continue
                room = onnxruntime.OrtValue.ortvalue_from_shape_and_type(
                    list(shape), np.dtype(spec.dtype), device, 0
                )
                binding.bind_ortvalue_output(spec.name, room)
        except ERRORS as error:
            raise run_error(error, self.name) from error

        def run_once() -> None:
            assert kept is not None
            self._require_open()
            try:
                self._session.run_with_iobinding(binding)
                if device != "cpu":
                    binding.synchronize_outputs()
            except ERRORS as error:
                raise run_error(error, self.name) from error

        return run_once

    def describe(self) -> dict[str, str]:
        """Return what a measurement must record about this engine."""
        facts = {**self._facts, "threads": str(self._threads)}
        if self._provider == "cpu":
            return {**facts, "device": processor.processor_name()}
        return {**facts, **ON_A_GPU, "cuda_graph": "no"}

    def _free(self) -> None:
        self._session = None


def session_facts(
    provider: Provider, *, rewrites: str, header: OnnxHeader, products: str | None
) -> dict[str, str]:
    """Return what is recorded of every session."""
    return {
        "runtime": "onnxruntime",
        "version": onnxruntime.__version__,
        "provider": provider,
        "graph_rewrites": rewrites,
        "opset": str(header.opset),
        **products_fact(products),
    }


def products_fact(products: str | None) -> dict[str, str]:
    """Return what is recorded of the bytes that an INT8 graph's products multiply."""
    return {} if products is None else {PRODUCTS: products}


def of_session(spec: EngineSpec, session: Any) -> EngineSpec:
    """Return a spec with a session's inputs and outputs, whose shapes ONNX Runtime has inferred."""
    inputs, outputs = map(_tensors, (session.get_inputs(), session.get_outputs()))
    return dataclasses.replace(spec, inputs=inputs, outputs=outputs)


def _tensors(nodes: Iterable[Any]) -> tuple[TensorSpec, ...]:
    return tuple(map(_tensor, nodes))


def _tensor(node: Any) -> TensorSpec:
    shape = tuple(
        extent if isinstance(extent, int | str) else f"unnamed_{axis}"
        for axis, extent in enumerate(node.shape)
    )
    inner = node.type.removeprefix("tensor(").removesuffix(")")
    return TensorSpec(name=node.name, shape=shape, dtype=_NUMPY_DTYPES.get(node.type, inner))
