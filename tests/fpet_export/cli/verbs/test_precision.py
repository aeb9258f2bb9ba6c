"""`--precision` on `export` and `deploy`, `best`, and typed graphs in `compare`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from benchmarks import Measurement
from benchmarks.paired_statistics import Comparison
from engines.cuda.device import open_cuda
from engines.errors import MissingDependencyError
from engines.imaging.synthetic import synthetic_set
from engines.manifest import read_manifest, write_manifest
from engines.parity.outputs import compare_built
from fpet_export.steps import measuring, timed_choice
from tests.fpet_export.command_line import Done, Exported, call
from tests.fpet_export.tiny import CLASSES, SIDE


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards of images that look like photographs, no image in both: `a.npz`, `b.npz`."""
    folder = tmp_path_factory.mktemp("shards")
    for seed, name in enumerate("ab"):
        images = synthetic_set((SIDE, SIDE), 10, seed=seed).pixels
        np.savez(folder / f"{name}.npz", images=images, labels=np.arange(10) % CLASSES)
    return folder


def deploy(exported: Exported, out: Path, *words: object) -> Done:
    return call("deploy", *exported.words, "--no-bench", "-o", out, *words, "--json")


# export


def test_export_leaves_a_typed_graph_beside_the_exported_one(
    exported: Exported, shards: Path, tmp_path: Path
) -> None:
    done = call(
        "export", *exported.words, "--target", "rtx", "--precision", "fp16",
        "--data", shards / "b.npz", "-o", tmp_path, "--json",
    )  # fmt: skip

    assert done.code == 0, done.err
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [
        "model.fp16.manifest.json", "model.fp16.onnx", "model.manifest.json", "model.onnx",
        "parity.json",
    ]  # fmt: skip
    stages = [row["stage"] for row in done.document()["parity"]["rows"]]
    assert stages == ["checkpoint f32", "folded", "frozen", "onnx", "fp16"]
    assert done.document()["onnx"] == str(tmp_path / "model.fp16.onnx")
    assert read_manifest(tmp_path / "model.fp16.onnx").parity == done.document()["parity"]
    exact = read_manifest(tmp_path / "model.onnx").parity  # what the typed graph lost is not its
    assert exact is not None
    assert exact["rows"] == done.document()["parity"]["rows"][:4]


def test_a_typed_row_is_against_the_float64_model(
    exported: Exported, shards: Path, tmp_path: Path
) -> None:
    """With half of the data to calibrate on, the rest is checked on."""
    done = call(
        "export", *exported.words, "--target", "rtx", "--precision", "int8",
        "--data", shards, "-o", tmp_path, "--json",
    )  # fmt: skip

    assert done.code == 0, done.err
    row = done.document()["parity"]["rows"][-1]
    assert (row["stage"], row["images"], row["tokens_kept"]) == ("int8", 10, 17)
    assert row["unexplained_flips"] == 0
    assert 15 < row["sqnr_db"] < 60
    quantization = done.document()["manifest"]["quantization"]
    assert quantization["images"] == 10
    assert quantization["preset"] == "vit-linear"


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (("--target", "cpu", "--precision", "fp16"), 2, "cpu does not run fp16, it runs int8"),
        (("--target", "rtx", "--precision", "int8"), 2, "int8 needs images to find its ranges on"),
        (("--precision", "fp32", "--io", "uint8"), 2, "--io belongs to a typed graph"),
        (("--target", "cpu", "--precision", "fp23"), 2, "invalid choice: 'fp23'"),
        (
            ("--target", "cpu", "--precision", "int8", "--preset", "vit-attention", "--data", "{}"),
            2,
            "on a CPU the attention stays in float32",
        ),
        (
            ("--precision", "int8", "--calibration", "{}", "--images", "21"),
            3,
            "21 calibration images were asked for, there are 20",
        ),
        (
            ("--precision", "int8", "--data", "{}", "--min-sqnr", "200"),
            8,
            "the limit on accuracy is missed",
        ),
        (("--precision", "int8", "--data", "{}", "--keep", "blocks/9"), 2, "'blocks/9'"),
        (("--precision", "int8", "--data", "{}", "--observer", "q=best"), 2, "'q=best'"),
        (("--precision", "int8", "--data", "{}", "--min-agreement", "101"), 2, "'101'"),
    ],
)
def test_what_cannot_be_is_said(
    words: tuple[str, ...], code: int, sentence: str,
    exported: Exported, shards: Path, tmp_path: Path,
) -> None:  # fmt: skip
    filled = (str(shards) if word == "{}" else word for word in words)

    done = call("export", *exported.words, *filled, "-o", tmp_path / "out", "--json")

    assert done.code == code
    assert sentence in done.error()["what"]


def test_a_typed_graph_is_not_replaced_without_force(
    exported: Exported, shards: Path, tmp_path: Path
) -> None:
    (tmp_path / "model.fp16.onnx").write_bytes(b"mine")
    words = ("export", *exported.words, "--target", "rtx", "--precision", "fp16", "-o", tmp_path)

    done = call(*words, "--json")

    assert done.code == 2
    assert "model.fp16.onnx exists already" in done.error()["what"]
    assert [path.name for path in tmp_path.iterdir()] == ["model.fp16.onnx"]


# deploy


def test_best_may_replace_none_of_its_engines(exported: Exported, tmp_path: Path) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "model.int8.cpu.onnx").write_bytes(b"mine")

    done = deploy(exported, tmp_path, "--precision", "best", "--json")

    assert done.code == 2
    assert "model.int8.cpu.onnx exists already" in done.error()["what"]


@pytest.mark.tensorrt
def test_deploy_builds_the_typed_graph_of_every_target(
    exported: Exported, shards: Path, tmp_path: Path
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs the TensorRT-RTX package")
    done = deploy(
        exported, tmp_path, "--target", "cpu,rtx", "--precision", "int8",
        "--calibration", shards / "a.npz", "--data", shards / "b.npz",
    )  # fmt: skip

    assert done.code == 0, done.err
    engines = {Path(path).name for path in done.document()["engines"].values()}
    assert engines == {"model.int8.cpu.onnx", "model.int8.rtx.plan"}
    rows = {row["stage"]: row for row in done.document()["parity"]["rows"]}
    assert rows["cpu engine"]["failures"] == []
    assert abs(rows["cpu engine"]["sqnr_db"] - rows["cpu int8"]["sqnr_db"]) < 3
    page = (tmp_path / "report.html").read_text()
    assert "rtx int8" in page
    for name, last in (
        ("cpu/model.onnx", "onnx"),
        ("cpu/model.int8.onnx", "int8"),
        ("rtx/model.int8.onnx", "int8"),
        ("cpu/model.int8.cpu.onnx", "cpu engine"),
    ):
        parity = read_manifest(tmp_path / name).parity
        assert parity is not None and parity["rows"][-1]["stage"] == last


# best


@dataclasses.dataclass(frozen=True)
class Against:
    verdict: str
    ratio: float


@dataclasses.dataclass(frozen=True)
class Result:
    against: Against | None


class Measured:
    """The part of a measurement that the choice reads."""

    def __init__(self, baseline: str, **others: Against) -> None:
        self.baseline = baseline
        self._results = {baseline: Result(None)} | {n: Result(a) for n, a in others.items()}

    def result(self, name: str) -> Result:
        return self._results[name]


@pytest.mark.parametrize(
    ("int8", "fp8", "chosen"),
    [
        (Against("faster", 0.8), Against("faster", 0.7), "fp8"),
        (Against("faster", 0.8), Against("no difference shown", 0.6), "int8"),
        (Against("slower", 1.2), Against("no difference shown", 0.99), "fp16"),
    ],
)
def test_only_what_is_shown_to_be_faster_replaces_the_baseline(
    int8: Against, fp8: Against, chosen: str
) -> None:
    measured: Any = Measured("fp16", int8=int8, fp8=fp8)

    assert timed_choice.fastest(measured, ("fp16", "int8", "fp8")) == chosen


def test_best_measures_engines_on_this_machine(
    exported: Exported, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = exported.copy(tmp_path)
    seen: list[list[str]] = []
    real = measuring.measure

    def measured(paths: list[Path], **options: Any) -> Measurement:
        seen.append([path.name for path in paths])
        settings = dataclasses.replace(options.pop("settings"), rounds=4, seconds=0.0)
        found = real(paths, settings=settings, **options)
        # The verdict of a busy test machine is worth nothing: what is shown here is the choice.
        faster = Comparison(
            baseline="fp32",
            ratio=0.5,
            low=0.4,
            high=0.6,
            confidence=0.95,
            speedup=2.0,
            verdict="faster",
        )
        contenders = tuple(
            dataclasses.replace(one, against=faster if one.name == "int8" else one.against)
            for one in found.contenders
        )
        return dataclasses.replace(found, contenders=contenders, findings=())

    monkeypatch.setattr(measuring, "measure", measured)

    done = call("quantize", graph, "--precision", "best", "--data", shards, "--json")

    assert done.code == 0, done.err
    assert seen == [["fp32.onnx", "int8.onnx"]]
    assert done.document()["precision"] == "int8"
    assert done.document()["onnx"] == str(tmp_path / "model.int8.onnx")


@pytest.mark.tensorrt
def test_best_is_refused_before_the_work_where_engines_do_not_run(
    exported: Exported, shards: Path, tmp_path: Path
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs the TensorRT-RTX package")
    out = tmp_path / "rtx"
    assert call("export", *exported.words, "--target", "rtx", "-o", out).code == 0
    words = ("quantize", out / "model.onnx", "--precision", "best", "--data", shards, "--json")
    try:
        open_cuda()
    except MissingDependencyError:
        done = call(*words)
    else:
        pytest.skip("engines run here")

    assert done.code == 4
    assert "nothing can be measured" in done.error()["what"]
    assert not list(out.glob("*.table.json"))


# compare


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8", "fp8"])
def test_a_typed_graph_compares_by_its_precision(
    precision: str, exported: Exported, shards: Path, tmp_path: Path
) -> None:
    out = tmp_path / "rtx"
    assert call("export", *exported.words, "--target", "rtx", "-o", out).code == 0
    words = ("--precision", precision, "--data", shards)
    assert call("quantize", out / "model.onnx", *words).code == 0
    typed = out / f"model.{precision}.onnx"

    by_graph = call("compare", out / "model.onnx", typed, "--data", shards / "b.npz", "--json")
    by_run = call(
        "compare", exported.run.text, typed, *exported.words[1:], "--data", shards / "b.npz",
        "--json",
    )  # fmt: skip

    for done in (by_graph, by_run):
        assert done.code == 0, done.err
        (row,) = done.document()["rows"]
        assert row["unexplained_flips"] == 0
        assert row["tokens_kept"] == 17


def test_a_broken_match_in_a_typed_graph_is_found(
    exported: Exported, shards: Path, tmp_path: Path
) -> None:
    """An argmin keeps every token: the audit does not see it, the logits do."""
    out = tmp_path / "rtx"
    assert call("export", *exported.words, "--target", "rtx", "-o", out).code == 0
    assert call("quantize", out / "model.onnx", "--precision", "fp16").code == 0
    typed = out / "model.fp16.onnx"
    model = onnx.load(typed)
    (search,) = (node for node in model.graph.node if node.op_type == "ArgMax")
    search.op_type = "ArgMin"
    onnx.save(model, typed)
    write_manifest(typed, read_manifest(typed, verify=False))

    done = call("compare", out / "model.onnx", typed, "--data", shards / "b.npz", "--json")

    assert done.code == 7
    assert "model.fp16.onnx drifts from the reference" in done.error()["what"]


def test_an_engine_of_a_half_precision_graph_is_held_to_half_precision(
    exported: Exported, tmp_path: Path
) -> None:
    """A GPU adds up in another order, and each sum is rounded to float16 then."""
    words = ("--target", "rtx", "--precision", "fp16", "-o", tmp_path)
    assert call("export", *exported.words, *words).code == 0

    (row,) = compare_built(tmp_path / "model.fp16.onnx", tmp_path / "model.onnx").rows

    assert row.relative > 1e-4
    assert row.failures == ()
