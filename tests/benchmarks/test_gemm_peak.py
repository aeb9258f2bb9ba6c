from __future__ import annotations

import itertools

import pytest

from benchmarks.gemm_peak import (
    LIBRARIES,
    GemmShape,
    Matrix,
    Multiply,
    measure_gemm_peak,
    vit_block_shapes,
)
from engines.errors import MissingDependencyError

SMALL = GemmShape(rows=5, inner=8, columns=4)


def missing(a: Matrix, b: Matrix, threads: int) -> Multiply:
    raise MissingDependencyError("no such library", where="here", fix="pip install it")


def test_shapes_of_a_vit_b_block_sum_to_its_macs() -> None:
    before, after = vit_block_shapes()[:4], vit_block_shapes()[4:]

    assert sum(shape.macs for shape in before) == 197 * 12 * 768**2
    assert sum(shape.macs for shape in after) == 99 * 12 * 768**2


def test_rate_comes_from_the_fastest_repeat() -> None:
    elapsed = iter([400, 100, 700])
    times = itertools.chain.from_iterable((0, ns) for ns in elapsed)
    ticking = itertools.accumulate(times)

    peak = measure_gemm_peak(
        threads=1,
        shapes=[SMALL],
        repeats=3,
        libraries={"fake": lambda a, b, threads: lambda: None},
        clock=lambda: next(ticking),
    )

    assert peak.macs_per_s == pytest.approx(SMALL.macs / 100e-9)


def test_a_library_that_is_absent_is_named() -> None:
    peak = measure_gemm_peak(
        threads=1,
        shapes=[SMALL],
        repeats=1,
        libraries={"gone": missing, "fake": lambda a, b, threads: lambda: None},
        clock=itertools.count(step=50).__next__,
    )

    assert peak.absent == ("gone",)
    assert "gone: not installed" in peak.format()


def test_no_library_at_all_says_what_to_install() -> None:
    with pytest.raises(MissingDependencyError, match="pip install it"):
        measure_gemm_peak(threads=1, shapes=[SMALL], libraries={"gone": missing})


@pytest.mark.parametrize("name", sorted(LIBRARIES))
def test_every_library_multiplies(name: str) -> None:
    pytest.importorskip("onnx" if name == "onnxruntime" else name)

    peak = measure_gemm_peak(
        threads=1, shapes=[SMALL], repeats=2, libraries={name: LIBRARIES[name]}
    )

    assert peak.macs_per_s > 0
    assert "5x8x4" in peak.format()
