"""Open a graph on ONNX Runtime's CUDA provider, on a stream of ours."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

from engines.backends._engine_base import EngineSpec
from engines.backends._ort.cuda_engine import OrtCudaEngine
from engines.backends._ort.engine import ON_A_GPU, of_session
from engines.backends._ort.session import Model, open_session, require_provider
from engines.contract import OpenOptions
from engines.cuda.device import open_cuda
from engines.errors import EngineError

_CANNOT_RECORD = "graph capture"  # in what the provider says of a graph that is not its alone


def open_on_cuda(model: Model, spec: EngineSpec, *, options: OpenOptions) -> OrtCudaEngine:
    """Open a graph so that its runs are recorded as CUDA graphs, where the provider can do that.

    It cannot where some operator runs on the CPU; the engine then says so in `describe`.

    Args:
        model: The graph; extents of its outputs are numbers or extents of an input.
        spec: What is known of the engine before the session is there.
        options: How the engine is opened.

    Raises:
        EngineError: ONNX Runtime refuses the graph.
        MissingDependencyError: There is no device, the provider is not in this package, or it
            does not start.
    """
    require_provider("cuda", model.where)
    cuda = open_cuda()
    with contextlib.ExitStack() as undo:
        stream = cuda.create_stream()
        undo.callback(cuda.destroy_stream, stream)

        def start(*, recorded: bool) -> Any:
            more = {"user_compute_stream": str(stream)}
            if recorded:
                more["enable_cuda_graph"] = "1"
            return open_session(model, "cuda", more=more)

        no_graph = None
        try:
            session = start(recorded=options.cuda_graph)
        except EngineError as error:
            if not options.cuda_graph or _CANNOT_RECORD not in error.what:
                raise
            no_graph = "an operator of the graph runs on the CPU"
            session = start(recorded=False)
        spec = dataclasses.replace(spec, facts={**spec.facts, **ON_A_GPU})
        engine = OrtCudaEngine(
            cuda,
            of_session(spec, session),
            session,
            stream=stream,
            no_graph=no_graph,
            options=options,
        )
        undo.pop_all()
        return engine
