"""The board agent on arm64: Debian's Python and numpy on a CPU that QEMU emulates.

Opt-in: `make test-arm64` makes the root and runs this with `--arm64 ROOT`. Nothing here is skipped
when the root is there. Latencies of an emulated CPU mean nothing, and there is no TensorRT.
"""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engines.manifest import read_manifest
from fpet_export.board.agent import build_agent
from tests.arm64.board import EVERYTHING, NANO_LIKE, ORIN_LIKE, Board, Cpu
from tests.fpet_export.command_line import Done, call

pytestmark = pytest.mark.arm64

DIGITS = Path(__file__).parents[2] / "examples" / "digits"
ARTEFACTS = ("lora", "adaptformer", "lora-int8")
EACH = 2
"""Images of every digit that are predicted; one takes seconds there."""
INT8_PRODUCTS = "u8 x s8"
Record = Callable[[str, object], None]


@dataclasses.dataclass(frozen=True)
class Sent:
    """What a workstation has of a run, and the machine that it was sent to.

    Attributes:
        graph: As exported, or quantized.
        engine: Built of it here, on x86.
        bundle: Of the graph.
        board: With the bundle unpacked in its folder.
    """

    graph: Path
    engine: Path
    bundle: Path
    board: Board

    def built(self) -> Path:
        """The engine that the board built, built first where it is not there yet."""
        engine = self.board.path / f"{self.graph.stem}.cpu.onnx"
        if not engine.exists():
            done = self.board.agent("build")
            assert done.code == 0, done.err
        return engine


@pytest.fixture(scope="session")
def root(request: pytest.FixtureRequest) -> Path:
    """The root, with no folder of an earlier run."""
    root = Path(request.config.getoption("--arm64")).resolve()
    shutil.rmtree(root / "board")
    (root / "board").mkdir()
    return root


@pytest.fixture(scope="session")
def workstation(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Exports a run, and quantizes it where the name says so, each once."""
    folder = tmp_path_factory.mktemp("workstation")

    def graph(name: str) -> Path:
        run, _, precision = name.partition("-")
        exported = folder / run / "model.onnx"
        if not exported.exists():
            backbone = DIGITS / "backbone.safetensors"
            where = ("--backbone", backbone, "-o", folder / run)
            succeed(call("export", DIGITS / "runs" / run, *where))
        if not precision:
            return exported
        typed = exported.with_name(f"model.{precision}.onnx")
        if not typed.exists():
            ranges = ("--calibration", DIGITS / "calibration.npz", "--images", 64)
            check = ("--data", DIGITS / "test.npz", "--limit", 64)
            succeed(call("quantize", exported, "--precision", precision, *ranges, *check))
        return typed

    return graph


@pytest.fixture(scope="session")
def send(root: Path, workstation: Callable[[str], Path]) -> Callable[[str, Cpu], Sent]:
    """Bundles a graph and unpacks it there with an agent that came another way."""
    sent: dict[tuple[str, Cpu], Sent] = {}

    def deliver(name: str, cpu: Cpu) -> Sent:
        if (name, cpu) in sent:
            return sent[name, cpu]
        graph = workstation(name)
        engine, bundle = graph.with_name(f"{graph.stem}.cpu.onnx"), graph.with_suffix(".tar")
        if not bundle.exists():
            succeed(call("build", graph, "--target", "cpu"))
            data = ("--data", DIGITS / "test.npz", "--limit", 8)
            succeed(call("bundle", graph, "--target", "cpu", *data, "-o", bundle))
        folder = f"{name}-{cpu.name}"
        post = Board(root, f"post-{folder}", cpu)
        post.path.mkdir()
        shutil.copy(bundle, post.path / "run.bundle.tar")
        (post.path / "agent.pyz").write_bytes(build_agent())
        succeed(post.agent("verify", "run.bundle.tar", "--unpack", f"../{folder}"))
        sent[name, cpu] = Sent(graph, engine, bundle, Board(root, folder, cpu))
        return sent[name, cpu]

    return deliver


@pytest.fixture
def orin(send: Callable[[str, Cpu], Sent]) -> Sent:
    """The LoRA run on a CPU like an Orin's."""
    return send("lora", ORIN_LIKE)


@pytest.fixture(params=ARTEFACTS)
def each(request: pytest.FixtureRequest, send: Callable[[str, Cpu], Sent]) -> Sent:
    return send(request.param, ORIN_LIKE)


def succeed(done: Done) -> Done:
    assert done.code == 0, done.err or done.out
    return done


def test_the_agent_answers_questions(orin: Sent) -> None:
    for words in (("--help",), ("targets",), ("build", "--help")):
        succeed(orin.board.agent(*words))


def test_doctor_knows_the_machine(orin: Sent) -> None:
    done = succeed(orin.board.agent("doctor", "--json"))

    document = done.document()
    assert re.search(r"python +3\.\d+\.\d+ on Linux aarch64", done.err)
    assert document["packages"]["numpy"].startswith("1.")  # the system's, older than ours
    assert document["packages"]["onnxruntime"] == read_manifest(orin.engine).tools["onnxruntime"]
    assert document["bundle"]["fits"] is True
    assert document["lacking"] == []


def test_the_engine_it_builds_says_what_the_graph_said_on_x86(
    each: Sent, record_property: Record
) -> None:
    engine = each.built()
    done = succeed(each.board.agent("check", "--json"))

    runtime = read_manifest(engine).runtime
    assert runtime is not None
    assert runtime.machine == "aarch64"
    assert "asimddp" in runtime.settings["instruction_sets"].split()
    (row,) = done.document()["parity"]["rows"]
    record_property("row", row)
    assert row["failures"] == []
    assert row["agreement"] == 1.0


def test_it_predicts_the_classes_that_x86_predicts(
    each: Sent, tmp_path: Path, record_property: Record
) -> None:
    with np.load(DIGITS / "test.npz") as content:
        pixels, labels = content["images"], content["labels"]
    chosen = [index for digit in range(10) for index in np.flatnonzero(labels == digit)[:EACH]]
    names = [f"{index:03}.png" for index in chosen]
    each.built()
    for folder in (tmp_path, each.board.path):
        for name, index in zip(names, chosen, strict=True):
            Image.fromarray(pixels[index]).save(folder / name)

    there = succeed(each.board.agent("predict", *names, "--top", 10, "--json"))
    here = succeed(
        call("predict", each.engine, *(tmp_path / name for name in names), "--top", 10, "--json")
    )

    found, expected = probabilities(there), probabilities(here)
    record_property("largest difference of a probability", float(np.abs(found - expected).max()))
    assert len(found) == 10 * EACH
    assert found.argmax(axis=1).tolist() == expected.argmax(axis=1).tolist()


def probabilities(done: Done) -> np.ndarray:
    """Return (I, K) from a `predict --top K`."""
    predictions = done.document()["predictions"]
    found = np.zeros((len(predictions), len(predictions[0]["classes"])))
    for row, prediction in zip(found, predictions, strict=True):
        for one in prediction["classes"]:
            row[one["class"]] = one["probability"]
    return found


def test_bench_measures(orin: Sent) -> None:
    orin.built()

    words = ("--rounds", 20, "--seconds", 0.1, "--allow-noise", "--json")
    document = succeed(orin.board.agent("bench", *words)).document()

    (measured,) = document["contenders"]
    assert measured["name"] == "model.cpu"
    assert document["environment"]["architecture"] == "aarch64"


@pytest.mark.parametrize("cpu", [ORIN_LIKE, NANO_LIKE, EVERYTHING], ids=lambda cpu: cpu.name)
def test_int8_products_are_exact(
    cpu: Cpu, send: Callable[[str, Cpu], Sent], record_property: Record
) -> None:
    """Without the dot product, with it, and with i8mm: each has kernels of its own."""
    sent = send("lora-int8", cpu)
    engine = sent.built()

    done = succeed(sent.board.agent("check", "--json"))
    trial = succeed(
        sent.board.python(
            "-c",
            "import sys; sys.path.insert(0, 'agent.pyz'); "
            "from engines.backends import ort; print(ort.saturates_here())",
        )
    )

    runtime = read_manifest(engine).runtime
    assert runtime is not None
    assert runtime.settings["int8_products"] == INT8_PRODUCTS
    assert trial.out == "False\n"
    (row,) = done.document()["parity"]["rows"]
    record_property("row", row)
    assert row["failures"] == []


# What must be refused there


def test_an_engine_of_an_x86_is_refused_with_what_rebuilds_it(
    orin: Sent, root: Path, tmp_path: Path
) -> None:
    bundle = tmp_path / "engine.bundle.tar"
    succeed(call("bundle", orin.engine, "-o", bundle))
    board = Board(root, "engine-of-x86", ORIN_LIKE)
    board.path.mkdir()
    shutil.copy(bundle, board.path)
    (board.path / "agent.pyz").write_bytes(build_agent())
    succeed(board.agent("verify", bundle.name, "--unpack", "unpacked"))
    unpacked = Board(root, "engine-of-x86/unpacked", ORIN_LIKE)

    healthy = unpacked.agent("doctor", "--json")
    refusals = [unpacked.agent(*words, "--json") for words in (("check",), ("bench",))]

    assert healthy.document()["bundle"]["fits"] is False
    assert healthy.code != 0
    for done in refusals:
        assert done.code == 10
        assert "the engine was built for another CPU: this one lacks" in done.error()["what"]
        assert "adds aarch64" in done.error()["what"]
        assert "build model.onnx --target cpu --force" in done.error()["fix"]


def test_an_engine_of_another_arm_cpu_is_refused(orin: Sent, root: Path) -> None:
    orin.built()

    done = Board(root, orin.board.folder, NANO_LIKE).agent("check", "--json")

    assert done.code == 10
    assert "this one lacks asimddp asimdhp and adds nothing" in done.error()["what"]


def test_a_tampered_bundle_is_refused(orin: Sent, root: Path) -> None:
    board = Board(root, "tampered", ORIN_LIKE)
    board.path.mkdir()
    content = bytearray(orin.bundle.read_bytes())
    content[len(content) // 2] ^= 1
    (board.path / "run.bundle.tar").write_bytes(content)
    (board.path / "agent.pyz").write_bytes(build_agent())

    done = board.agent("verify", "run.bundle.tar", "--unpack", "unpacked", "--json")

    assert done.code == 10
    assert done.error()["class"] == "TrustError"
    assert not (board.path / "unpacked").exists()


def test_a_graph_tampered_with_on_the_board_is_not_built(orin: Sent, root: Path) -> None:
    board = Board(root, "tampered-graph", ORIN_LIKE)
    shutil.copytree(orin.board.path, board.path, ignore=shutil.ignore_patterns("*.cpu.*", "*.png"))
    graph = board.path / "model.onnx"
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)

    done = board.agent("build", "--json")

    assert done.code == 10
    assert not (board.path / "model.cpu.onnx").exists()
