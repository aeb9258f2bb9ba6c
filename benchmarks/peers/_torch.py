"""A torch module behind the Engine protocol, on the CPU."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import torch

from benchmarks.conditions.failures import as_engine_error
from benchmarks.peers import PeerSource
from benchmarks.peers._runner import Runner
from engines.backends._engine_base import EngineSpec
from engines.contract import Array, Engine
from engines.manifest import TensorSpec

_FIX = "leave this peer out; torch.compile needs a C++ compiler"
_WARM_CALLS = 2  # torch.compile works in the first call; the second shows that it is over


def open_module(
    module: Callable[[torch.Tensor], torch.Tensor],
    *,
    name: str,
    source: PeerSource,
    threads: int,
    facts: dict[str, str],
) -> Engine:
    """Return an engine that calls `module` in inference mode.

    The number of threads is one for the whole process in torch: all torch peers share it.
    """
    torch.set_num_threads(threads)

    def call(images: torch.Tensor) -> torch.Tensor:
        # no_grad, not inference_mode: inductor's freezing refuses inference tensors.
        with torch.no_grad():
            return module(images)

    def first_calls(images: torch.Tensor) -> torch.Tensor:
        with as_engine_error(name, fix=_FIX), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for _ in range(_WARM_CALLS):
                logits = call(images)
        return logits

    def run(batch: Array) -> Array:
        return np.asarray(first_calls(torch.from_numpy(batch)).numpy())

    def bind(batch: Array) -> Callable[[], None]:
        images = torch.from_numpy(batch)
        first_calls(images)

        def run_once() -> None:
            call(images)

        return run_once

    spec = EngineSpec(
        name=name,
        inputs=(TensorSpec(name="images", shape=("batch", *source.image), dtype=source.dtype),),
        outputs=(TensorSpec(name="logits", shape=("batch", "classes"), dtype=source.dtype),),
        facts={
            "runtime": "torch",
            "version": torch.__version__,
            "provider": "CPU",
            "threads": str(threads),
            **facts,
        },
    )
    return Runner(spec, run=run, bind=bind)
