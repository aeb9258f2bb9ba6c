"""Open a graph on ONNX Runtime's CUDA provider, on a stream of ours."""

from __future__ import annotations

import contextlib
from typing import Any

from engines.backends._ort.cuda_engine import OrtCudaEngine
from engines.backends._ort.engine import ON_A_GPU, specs
from engines.backends._ort.session import open_session, require_provider
from engines.contract import OpenOptions
from engines.cuda.device import open_cuda
from engines.errors import EngineError
from engines.onnx_header import OnnxHeader

_CANNOT_RECORD = "graph capture"  # in what the provider says of a graph that is not its alone


def open_on_cuda(
    model: str | bytes,
    settings: Any,
    *,
    header: OnnxHeader,
    batch_range: tuple[int, int] | None,
    facts: dict[str, str],
    where: str,
    name: str,
    options: OpenOptions,
) -> OrtCudaEngine:
    """Open a graph so that its runs are recorded as CUDA graphs, where the provider can do that.

    It cannot where some operator runs on the CPU; the engine then says so in `describe`.

    Args:
        model: A file, or the graph itself.
        settings: ONNX Runtime's SessionOptions.
        header: Header of the graph; extents of its outputs are numbers or extents of an input.
        batch_range: Smallest and largest dynamic batch; None allows any from 1.
        facts: To record.
        where: For messages.
        name: A short name for tables.
        options: How the engine is opened.

    Raises:
        EngineError: ONNX Runtime refuses the graph.
        MissingDependencyError: There is no device, the provider is not in this package, or it
            does not start.
    """
    require_provider("cuda", where)
    cuda = open_cuda()
    with contextlib.ExitStack() as undo:
        stream = cuda.create_stream()
        undo.callback(cuda.destroy_stream, stream)

        def start(*, recorded: bool) -> Any:
            more = {"user_compute_stream": str(stream)}
            if recorded:
                more["enable_cuda_graph"] = "1"
            return open_session(model, settings, "cuda", where=where, header=header, more=more)

        no_graph = None
        try:
            session = start(recorded=options.cuda_graph)
        except EngineError as error:
            if not options.cuda_graph or _CANNOT_RECORD not in error.what:
                raise
            no_graph = "an operator of the graph runs on the CPU"
            session = start(recorded=False)
        engine = OrtCudaEngine(
            cuda,
            session,
            inputs=specs(session.get_inputs()),
            outputs=specs(session.get_outputs()),
            batch_range=batch_range,
            name=name,
            stream=stream,
            facts={**facts, **ON_A_GPU},
            no_graph=no_graph,
            options=options,
        )
        undo.pop_all()
        return engine
