"""The plain graph in OpenVINO on the CPU, tuned for latency."""

from __future__ import annotations

import os

# openvino-telemetry asks for consent only in openvino's own tools; this also covers those.
os.environ.setdefault("OPENVINO_TELEMETRY_OPT_OUT", "1")

import numpy as np
import openvino

from benchmarks.peers import PeerSource
from benchmarks.peers._runner import Runner
from engines.engine import Array, Engine
from engines.errors import EngineError
from engines.manifest import TensorSpec


def open_peer(source: PeerSource, *, threads: int) -> Engine:
    """Compile the plain graph for the CPU in float32, one stream, the given threads."""
    graph = source.graph("openvino_plain")
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        # Without it OpenVINO computes in bfloat16 where the CPU can: another precision.
        "INFERENCE_PRECISION_HINT": "f32",
    }
    try:
        compiled = openvino.Core().compile_model(str(graph), "CPU", settings)
    except RuntimeError as error:
        raise EngineError(
            f"OpenVINO refuses the graph: {str(error).splitlines()[0]}",
            where=graph.name,
            fix="leave this peer out, or export for another opset",
        ) from error
    port, result = compiled.inputs[0], compiled.outputs[0]

    def bind(batch: Array) -> openvino.InferRequest:
        request = compiled.create_infer_request()
        request.set_input_tensor(openvino.Tensor(np.ascontiguousarray(batch)))
        return request

    def run(batch: Array) -> Array:
        request = bind(batch)
        request.infer()
        return np.array(request.get_output_tensor(0).data)

    return Runner(
        name="openvino_plain",
        inputs=(_spec(port),),
        outputs=(_spec(result),),
        run=run,
        bind=lambda batch: bind(batch).infer,
        facts={
            "runtime": "openvino",
            "version": openvino.get_version().partition("-")[0],
            "provider": "CPU",
            "threads": str(threads),
            "hint": "latency",
            "precision": "f32",
        },
    )


def _spec(port: openvino.ConstOutput) -> TensorSpec:
    shape = tuple(
        extent.get_length() if extent.is_static else "batch" for extent in port.partial_shape
    )
    dtype = np.dtype(port.element_type.to_dtype()).name
    return TensorSpec(name=port.any_name, shape=shape, dtype=dtype)
