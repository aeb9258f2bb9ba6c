"""Thousands of inferences and hundreds of openings leave the memory as it was."""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import engines
from engines.contract import Engine

RUNS, OPENINGS = 4_000, 100
STATM = Path("/proc/self/statm")
pytestmark = pytest.mark.skipif(not STATM.exists(), reason="needs Linux's /proc")


def resident_bytes() -> int:
    """Return what the process holds, without what its allocator keeps for later."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def leaks(count: int, step: Callable[[], object], *, allowed: int) -> bool:
    """Say whether the process grows by more bytes than allowed, after steps that fill its pools.

    It does so in three tries: in a process that has run other tests, pools that are no allocator's
    grow now and then, while a leak grows each time.
    """
    for _ in range(count // 10):
        step()
    for _ in range(3):
        before = resident_bytes()
        for _ in range(count):
            step()
        if resident_bytes() - before < allowed:
            return False
    return True


@pytest.fixture
def graph(tiny_vit: Callable[..., Path]) -> Path:
    return tiny_vit()


def feeds_of(engine: Engine) -> dict[str, np.ndarray]:
    shapes = {
        spec.name: [1 if isinstance(n, str) else n for n in spec.shape] for spec in engine.inputs
    }
    return {spec.name: np.ones(shapes[spec.name], spec.dtype) for spec in engine.inputs}


def test_runs_leave_nothing(graph: Path) -> None:
    """An input kept each time would be 48 MB."""
    with engines.open(engines.build(graph, target="cpu")) as engine:
        feeds = feeds_of(engine)
        bound = engine.bind(feeds)

        assert not leaks(RUNS, lambda: engine.run(feeds), allowed=2 << 20)
        assert not leaks(RUNS, bound, allowed=2 << 20)


def test_openings_leave_nothing(graph: Path) -> None:
    """A session of this graph holds about half a megabyte."""
    artefact = engines.build(graph, target="cpu")

    def once() -> None:
        with engines.open(artefact) as engine:
            engine.run(feeds_of(engine))

    assert not leaks(OPENINGS, once, allowed=10 << 20)


def test_a_leak_is_seen(graph: Path) -> None:
    """Negative control: 64 kB that are kept each time are seen."""
    kept: list[np.ndarray] = []
    with engines.open(engines.build(graph, target="cpu")) as engine:
        feeds = feeds_of(engine)

        def leaking() -> None:
            engine.run(feeds)
            kept.append(np.ones(1 << 13))

        assert leaks(RUNS // 10, leaking, allowed=2 << 20)
