"""INT8 on CPUs: integer kernels, exact on every CPU, and engines judged by their graph.

The network is small and has random weights; calibration and quantization are the real ones.
"""

from __future__ import annotations

import collections
import dataclasses
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

import engines
from calibration import integer_gemm
from calibration.graph_typing import recipe_for
from calibration.roles import linears
from engines.backends import ort
from engines.backends._ort import session
from engines.contract import BuildOptions, OpenOptions
from engines.engine import load_target
from engines.errors import InputError, UsageError
from engines.imaging.synthetic import synthetic_set
from engines.manifest import Manifest, read_manifest
from engines.onnx_graph.files import read_graph
from engines.parity.outputs import CONTROL, compare_built, engine_outputs
from tests.fpet_export.command_line import call
from tests.fpet_export.steps.int8_graphs import (
    SIDE,
    Change,
    quantize,
    write_float_graph,
    write_wrong,
)

HAS_OPENVINO = importlib.util.find_spec("openvino") is not None
needs_openvino = pytest.mark.skipif(not HAS_OPENVINO, reason="needs openvino")
TARGETS = ["cpu", pytest.param("openvino", marks=needs_openvino)]
AGAIN = BuildOptions(force=True)


@dataclasses.dataclass(frozen=True)
class Graphs:
    """One network: float32, INT8 with weights of the full range, and with reduced ones."""

    floating: Path
    full: Path
    reduced: Path


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Graphs:
    folder = tmp_path_factory.mktemp("int8")
    floating = write_float_graph(folder / "model.onnx")
    return Graphs(
        floating=floating,
        full=quantize(floating, folder / "full.onnx"),
        reduced=quantize(floating, folder / "reduced.onnx", largest_weight=integer_gemm.REDUCED),
    )


@pytest.fixture
def clipping(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU on which every runtime clips sums of u8 x s8."""
    monkeypatch.setattr(ort, "saturates_here", lambda: True)
    if HAS_OPENVINO:
        from engines.backends import ov

        monkeypatch.setattr(ov, "saturates_here", lambda: True)


def built(graph: Path, target: str, folder: Path) -> Path:
    return engines.build(graph, target=target, out=folder / f"{graph.stem}.{target}.onnx")


def settings_of(engine: Path) -> dict[str, str]:
    runtime = read_manifest(engine).runtime
    assert runtime is not None
    return runtime.settings


def logits_of(path: Path, options: OpenOptions | None = None) -> NDArray[np.float64]:
    manifest: Manifest = read_manifest(path)
    with engines.open(path, options=options) as engine:
        found = engine_outputs(engine, manifest, synthetic_set((SIDE, SIDE), 4).pixels)
    return found.logits.astype(np.float64)


def difference(actual: NDArray[np.float64], expected: NDArray[np.float64]) -> float:
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


def stored_weights(cache: Path) -> list[int]:
    """ONNX types of the weights that the integer products of a cache read."""
    model = onnx.load(str(cache))
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    return [kinds[node.input[3]] for node in model.graph.node if node.op_type == "QGemm"]


def test_every_linear_becomes_one_integer_product(graphs: Graphs, tmp_path: Path) -> None:
    cache = built(graphs.full, "cpu", tmp_path)

    operators = collections.Counter(node.op_type for node in onnx.load(str(cache)).graph.node)
    assert operators["QGemm"] == len(linears(read_graph(graphs.floating))) > 0
    assert operators["DequantizeLinear"] == 0


@pytest.mark.parametrize("target", TARGETS)
def test_an_engine_passes_against_its_graph(graphs: Graphs, tmp_path: Path, target: str) -> None:
    table = compare_built(graphs.reduced, built(graphs.reduced, target, tmp_path))

    control, row = table.rows
    assert control.stage == f"reduced.onnx {CONTROL}"
    assert row.stage == f"reduced.{target}.onnx"
    assert (control.failures, row.failures) == ((), ())
    assert control.sqnr_db < 80  # negative control: one grey level is seen


@pytest.mark.parametrize(
    ("operator", "side", "change"),
    [
        pytest.param("DequantizeLinear", 1, lambda s: s * np.float32(1.05), id="weight scales"),
        pytest.param("QuantizeLinear", 1, lambda s: np.asarray(s * np.float32(1.05)), id="scales"),
        pytest.param("QuantizeLinear", 2, lambda z: np.asarray(z + 1, np.uint8), id="zero points"),
    ],
)
def test_a_wrong_engine_fails_against_the_graph(
    graphs: Graphs, tmp_path: Path, operator: str, side: int, change: Change
) -> None:
    wrong = tmp_path / "wrong.onnx"
    write_wrong(graphs.full, wrong, operator=operator, side=side, change=change)

    row = compare_built(graphs.full, built(wrong, "cpu", tmp_path)).rows[-1]

    assert any(failure.startswith("signal to noise (SQNR)") for failure in row.failures)


def test_an_unchanged_copy_passes(graphs: Graphs, tmp_path: Path) -> None:
    """The control of the test above: it is the change that fails."""
    same = tmp_path / "same.onnx"
    write_wrong(graphs.full, same, operator="QuantizeLinear", side=1, change=lambda scale: scale)

    assert compare_built(graphs.full, built(same, "cpu", tmp_path)).rows[-1].passed


def test_a_float_engine_keeps_its_tight_gate(graphs: Graphs, tmp_path: Path) -> None:
    (row,) = compare_built(graphs.floating, built(graphs.floating, "cpu", tmp_path)).rows

    assert row.passed
    assert row.relative < 1e-5


@pytest.mark.usefixtures("clipping")
def test_weights_become_unsigned_where_sums_are_clipped(graphs: Graphs, tmp_path: Path) -> None:
    cache = built(graphs.full, "cpu", tmp_path)

    assert set(stored_weights(cache)) == {onnx.TensorProto.UINT8}
    assert settings_of(cache)["int8_products"].startswith("u8 x u8")
    for path in (cache, graphs.full):
        with engines.open(path) as engine:
            assert engine.describe()["int8_products"].startswith("u8 x u8")
    assert compare_built(graphs.full, cache).rows[-1].passed


def test_unsigned_weights_give_the_same_numbers(
    graphs: Graphs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if ort.saturates_here():
        pytest.skip("this CPU clips sums of u8 x s8: there is nothing exact to compare with")
    signed = built(graphs.full, "cpu", tmp_path)
    assert set(stored_weights(signed)) == {onnx.TensorProto.INT8}
    assert settings_of(signed)["int8_products"] == "u8 x s8"
    monkeypatch.setattr(ort, "saturates_here", lambda: True)

    unsigned = engines.build(graphs.full, target="cpu", out=tmp_path / "unsigned.onnx")

    assert np.array_equal(logits_of(signed), logits_of(unsigned))


def test_a_float_graph_says_nothing_about_int8(graphs: Graphs, tmp_path: Path) -> None:
    cache = built(graphs.floating, "cpu", tmp_path)

    assert "int8_products" not in settings_of(cache)
    with engines.open(cache) as engine:
        assert "int8_products" not in engine.describe()


def test_a_graph_as_written_means_the_same_either_way(graphs: Graphs) -> None:
    as_written = logits_of(graphs.full, OpenOptions(rewrites="none"))
    quicker = logits_of(graphs.full, OpenOptions(rewrites="keep-qdq"))

    assert difference(quicker, as_written) < 1e-5
    assert difference(logits_of(graphs.floating), as_written) > 1e-3  # negative control


@pytest.mark.parametrize("rewrites", ["keep-qdq", "none"])
def test_a_graph_as_written_has_no_integer_products(graphs: Graphs, rewrites: str) -> None:
    options = OpenOptions(rewrites=rewrites)  # type: ignore[arg-type]  # of two literals
    with engines.open(graphs.full, options=options) as engine:
        facts = engine.describe()

    assert facts["graph_rewrites"] == rewrites
    assert facts["int8_products"].startswith("none")


def test_build_prints_both_distances(graphs: Graphs, tmp_path: Path) -> None:
    out = tmp_path / "engine.onnx"

    done = call("build", graphs.full, "--target", "cpu", "-o", out)

    assert done.code == 0, done.err
    assert "INT8 products u8 x " in done.err
    assert f"the graph against itself, {CONTROL}: " in done.err
    assert "the engine against its graph as written, 4 synthetic images, seed 0: " in done.err
    parity = read_manifest(out).parity
    assert parity is not None
    assert [row["stage"] for row in parity["rows"]] == [f"full.onnx {CONTROL}", "engine.onnx"]


def test_build_exits_7_when_the_engine_is_wrong(
    graphs: Graphs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = write_wrong(
        graphs.full,
        tmp_path / "wrong.onnx",
        operator="QuantizeLinear",
        side=2,
        change=lambda zero: np.asarray(zero + 1, np.uint8),
    )
    real = session.open_session

    def swapped(model: session.Model, *words: Any, **named: Any) -> Any:
        if model.source == str(graphs.full) and model.settings.optimized_model_filepath:
            model = dataclasses.replace(model, source=str(wrong))
        return real(model, *words, **named)

    monkeypatch.setattr(ort, "open_session", swapped)
    done = call("build", graphs.full, "--target", "cpu", "-o", tmp_path / "e.onnx", "--json")

    assert done.code == 7, done.err
    assert "SQNR" in done.error()["what"]


def test_a_target_decides_the_range_of_the_weights() -> None:
    assert recipe_for(load_target("cpu"), "int8").largest_weight == integer_gemm.FULL
    assert recipe_for(load_target("openvino"), "int8").largest_weight == integer_gemm.REDUCED


@needs_openvino
@pytest.mark.usefixtures("clipping")
def test_openvino_is_refused_weights_that_it_would_clip(graphs: Graphs, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"weights reach 127; .* only up to 64") as caught:
        built(graphs.full, "openvino", tmp_path)

    assert "--target openvino" in caught.value.fix
    assert list(tmp_path.iterdir()) == []
    built(graphs.reduced, "openvino", tmp_path)


@needs_openvino
def test_openvino_refuses_to_open_on_a_lesser_cpu(
    graphs: Graphs, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Its artefact is the graph, which may have been built on a CPU with VNNI."""
    from engines.backends import ov

    if ov.saturates_here():
        pytest.skip("it cannot be built here in the first place")
    full = built(graphs.full, "openvino", tmp_path)
    reduced = built(graphs.reduced, "openvino", tmp_path)
    assert settings_of(full)["int8_weights"].startswith("full range")
    assert settings_of(reduced)["int8_weights"].startswith("reduced")
    request.getfixturevalue("clipping")

    with pytest.raises(InputError, match="weights reach 127"):
        engines.open(full)
    with engines.open(reduced) as engine:
        assert engine.describe()["int8_weights"].startswith("reduced")


def test_an_fp8_graph_runs_as_it_is_written(graphs: Graphs, tmp_path: Path) -> None:
    graph = quantize(graphs.floating, tmp_path / "fp8.onnx", form="pairs", precision="fp8")

    with engines.open(graph) as engine:
        assert engine.describe()["graph_rewrites"] == "keep-qdq"
    assert 1e-4 < difference(logits_of(graph), logits_of(graphs.floating)) < 0.3
    with pytest.raises(UsageError, match="cannot rewrite an FP8 graph") as caught:
        engines.open(graph, options=OpenOptions(rewrites="all"))
    assert "keep-qdq" in caught.value.fix
    with pytest.raises(InputError, match="the graph is FP8"):
        engines.build(graph, target="cpu")


def test_half_precision_inputs_are_fed_as_the_graph_takes_them(
    graphs: Graphs, tmp_path: Path
) -> None:
    graph = quantize(
        graphs.floating, tmp_path / "half.onnx", form="pairs", precision="fp16", io="typed"
    )

    assert read_manifest(graph).inputs[0].dtype == "float16"
    assert difference(logits_of(graph), logits_of(graphs.floating)) < 2e-2


def test_a_bfloat16_input_is_refused_in_a_sentence(graphs: Graphs, tmp_path: Path) -> None:
    graph = quantize(
        graphs.floating, tmp_path / "bf16.onnx", form="pairs", precision="bf16", io="typed"
    )

    for use in (engines.open, lambda path: engines.build(path, target="cpu")):
        with pytest.raises(InputError, match="is bfloat16, which numpy cannot hand"):
            use(graph)


WITHOUT_VNNI = """\
import sys
from pathlib import Path
import engines
from engines.backends import {backend} as backend
from engines.parity.outputs import compare_built

graph, folder = Path(sys.argv[1]), Path(sys.argv[2])
saturates = backend.saturates_here()
print("saturates", saturates)
for protect in (True, False):
    backend.saturates_here = lambda: protect
    engine = engines.build(graph, target="{target}", out=folder / f"{{protect}}.onnx")
    row = compare_built(graph, engine).rows[-1]
    print(row.passed, f"{{row.sqnr_db:.1f}}")
    if graph.stem == "reduced":
        break
"""


def on_haswell(program: str, *words: object) -> list[list[str]]:
    """Run a program on an emulated CPU with AVX2 and without VNNI; return its lines' words."""
    if shutil.which("qemu-x86_64") is None:
        pytest.skip("needs qemu-user")
    done = subprocess.run(
        ["qemu-x86_64", "-cpu", "Haswell", sys.executable, "-c", program, *map(str, words)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    return [line.split() for line in done.stdout.splitlines()]


@pytest.mark.slow
def test_int8_is_right_without_vnni_and_wrong_without_the_setting(
    graphs: Graphs, tmp_path: Path
) -> None:
    program = WITHOUT_VNNI.format(backend="ort", target="cpu")

    trial, exact, clipped = on_haswell(program, graphs.full, tmp_path)

    assert trial == ["saturates", "True"]
    assert (exact[0], clipped[0]) == ("True", "False")
    assert float(exact[1]) > float(clipped[1]) + 20


@needs_openvino
@pytest.mark.slow
def test_openvino_is_right_without_vnni_with_reduced_weights_alone(
    graphs: Graphs, tmp_path: Path
) -> None:
    program = WITHOUT_VNNI.format(backend="ov", target="openvino")
    unprotected = program.replace("(True, False)", "(False,)")

    trial, exact = on_haswell(program, graphs.reduced, tmp_path)
    _, clipped = on_haswell(unprotected, graphs.full, tmp_path)

    assert trial == ["saturates", "True"]
    assert (exact[0], clipped[0]) == ("True", "False")
