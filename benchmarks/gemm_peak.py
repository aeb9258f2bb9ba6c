"""How fast this CPU multiplies matrices of a ViT's shapes: the ceiling to hold a latency against.

A latency says little without it: "0.78 of plain" may be all that the arithmetic allows.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.latency import Clock
from engines import registry
from engines.contract import OpenOptions
from engines.errors import MissingDependencyError

Matrix = NDArray[np.float32]
Multiply = Callable[[], object]
Library = Callable[[Matrix, Matrix, int], Multiply]
"""`library(a, b, threads)` puts the matrices in place; the result multiplies them once."""

_WIDTH, _HIDDEN = 768, 3072  # ViT-B


@dataclasses.dataclass(frozen=True, kw_only=True)
class GemmShape:
    """(rows, inner) times (inner, columns)."""

    rows: int
    inner: int
    columns: int

    @property
    def macs(self) -> int:
        """Multiply-adds of one product."""
        return self.rows * self.inner * self.columns


@dataclasses.dataclass(frozen=True, kw_only=True)
class GemmRate:
    """The best rate of one library for one shape."""

    library: str
    shape: GemmShape
    macs_per_s: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class GemmPeak:
    """What this CPU reaches on these shapes.

    Attributes:
        rates: Per library and shape, from the fastest of the repeats.
        threads: Threads of every library.
        absent: Libraries that are not installed.
    """

    rates: tuple[GemmRate, ...]
    threads: int
    absent: tuple[str, ...]

    @property
    def macs_per_s(self) -> float:
        """The best rate of all."""
        return max(rate.macs_per_s for rate in self.rates)

    def format(self) -> str:
        """Return one line a shape, in GMAC/s, the libraries as columns."""
        libraries = list(dict.fromkeys(rate.library for rate in self.rates))
        shapes = list(dict.fromkeys(rate.shape for rate in self.rates))
        found = {(rate.library, rate.shape): rate.macs_per_s for rate in self.rates}
        lines = [f"{'GMAC/s':<18}" + "".join(f"{library:>14}" for library in libraries)]
        for shape in shapes:
            cells = "".join(f"{found[library, shape] / 1e9:14.1f}" for library in libraries)
            lines.append(f"{f'{shape.rows}x{shape.inner}x{shape.columns}':<18}{cells}")
        lines.append(f"peak {self.macs_per_s / 1e9:.1f} GMAC/s with {self.threads} threads")
        return "\n".join([*lines, *(f"{library}: not installed" for library in self.absent)])


def vit_block_shapes(
    tokens: Sequence[int] = (197, 99), *, width: int = _WIDTH, hidden: int = _HIDDEN
) -> tuple[GemmShape, ...]:
    """Return the shapes of the four linears of a block, for each number of tokens."""
    extents = [(width, 3 * width), (width, width), (width, hidden), (hidden, width)]
    return tuple(
        GemmShape(rows=rows, inner=inner, columns=columns)
        for rows in tokens
        for inner, columns in extents
    )


def measure_gemm_peak(
    *,
    threads: int,
    shapes: Sequence[GemmShape] | None = None,
    repeats: int = 30,
    libraries: Mapping[str, Library] | None = None,
    clock: Clock = time.perf_counter_ns,
) -> GemmPeak:
    """Measure every library on every shape and keep the fastest of the repeats.

    The fastest, not the median: a ceiling must not be lowered by what disturbs the measurement.

    Args:
        threads: For every library.
        shapes: By default the linears of a ViT-B block, before and after the merge.
        repeats: Runs of each product.
        libraries: By default ONNX Runtime and torch, as far as they are installed.
        clock: Nanoseconds.

    Raises:
        MissingDependencyError: No library is installed.
    """
    rates: list[GemmRate] = []
    absent: list[str] = []
    reason: MissingDependencyError | None = None
    for name, library in (libraries or LIBRARIES).items():
        try:
            rates += [
                GemmRate(
                    library=name,
                    shape=shape,
                    macs_per_s=shape.macs * 1e9 / _fastest(library, shape, threads, repeats, clock),
                )
                for shape in shapes or vit_block_shapes()
            ]
        except MissingDependencyError as error:
            absent.append(name)
            reason = error
    if reason is not None and not rates:
        raise reason
    return GemmPeak(rates=tuple(rates), threads=threads, absent=tuple(absent))


def _fastest(library: Library, shape: GemmShape, threads: int, repeats: int, clock: Clock) -> int:
    generator = np.random.default_rng(0)
    a = generator.standard_normal((shape.rows, shape.inner), np.float32)
    b = generator.standard_normal((shape.inner, shape.columns), np.float32)
    multiply = library(a, b, threads)
    multiply()
    elapsed = []
    for _ in range(repeats):
        start = clock()
        multiply()
        elapsed.append(clock() - start)
    return max(min(elapsed), 1)


def _onnxruntime(a: Matrix, b: Matrix, threads: int) -> Multiply:
    """One MatMul with a constant second factor, which ONNX Runtime packs as it does weights."""
    ort = registry.import_or_explain("engines.backends.ort")
    onnx = registry.import_or_explain("onnx")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["a", "b"], ["product"])],
        "gemm",
        [helper.make_tensor_value_info("a", kind, a.shape)],
        [helper.make_tensor_value_info("product", kind, [a.shape[0], b.shape[1]])],
        [onnx.numpy_helper.from_array(b, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    engine = ort.open_bytes(
        model.SerializeToString(), name="gemm", options=OpenOptions(threads=threads)
    )
    run_once: Multiply = engine.bind({"a": a})
    return run_once


def _torch(a: Matrix, b: Matrix, threads: int) -> Multiply:
    torch = registry.import_or_explain("torch")
    torch.set_num_threads(threads)
    left, right = torch.from_numpy(a), torch.from_numpy(b)
    product = torch.empty(a.shape[0], b.shape[1])
    return lambda: torch.mm(left, right, out=product)


LIBRARIES: Mapping[str, Library] = {"onnxruntime": _onnxruntime, "torch": _torch}
