from __future__ import annotations

import ast
import dataclasses
import importlib.util
import json
import math
import re
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import benchmarks.experiments.crosscheck
from benchmarks.experiments.crosscheck import __main__ as command
from benchmarks.experiments.crosscheck import graphs, measure, modelopt_quantize, ort_quantize
from benchmarks.experiments.crosscheck.graphs import SUBJECTS, Attempt, Prepared, attempts, make
from benchmarks.experiments.crosscheck.rows import (
    OURS,
    Kernels,
    MeasuredQuality,
    Result,
    Row,
    gains_db,
    kernels_of,
    missed,
    quality_of,
    read_results,
    to_json,
    to_markdown,
)
from engines.errors import (
    BudgetError,
    EngineError,
    InputError,
    MissingDependencyError,
    UsageError,
)
from engines.fusion.kernels import Kernel, Tensor
from engines.fusion.report import report_on
from engines.imaging.images import ImageSet
from engines.manifest import WHITE, Manifest, Preprocessing, TensorSpec, write_manifest
from engines.parity.model_outputs import ModelOutputs

ROOT = Path(__file__).resolve().parents[3]
PREPROCESSING = Preprocessing(
    size=(4, 4),
    interpolation="bicubic",
    crop=1.0,
    decode="full",
    background=WHITE,
    mean=(0.0,) * 3,
    std=(1.0,) * 3,
)


def row(
    tool: str = OURS, settings: str = "vit-linear", db: float | None = 30.0, **changes: Any
) -> Row:
    quality = MeasuredQuality(images=4, sqnr_db=db, agreement=1.0)
    return Row(
        **{"tool": tool, "settings": settings, "precision": "int8", "quality": quality, **changes}
    )


def result(*rows: Row, subject: str = command.JUDGED, accuracy: float | None = None) -> Result:
    return Result(
        subject=subject,
        run="a run",
        weights="random",
        calibration="some images",
        images="others",
        accuracy=accuracy,
        rows=rows,
    )


OTHERS = (row("onnxruntime", "defaults", 12.0), row("modelopt", "defaults", 20.0))


def prepared_in(folder: Path, *, images: int = 3) -> Prepared:
    pixels = np.random.default_rng(0).integers(0, 256, (images, 4, 4, 3), np.uint8)
    found = ImageSet(pixels=pixels, description="noise", labels=np.zeros(images, np.int64))
    prepared = Prepared(
        onnx=folder / "model.onnx", folder=folder, calibration=found, measured=found
    )
    feeds: dict[str, Any] = {"images": (pixels / np.float32(255)).transpose(0, 3, 1, 2)}
    np.savez(prepared.feeds, **feeds)
    return prepared


def test_quality_compares_with_the_float32_graph() -> None:
    reference = ModelOutputs(
        logits=np.array([[3.0, 4.0], [0.0, 5.0]]), match=np.array([[1, 2], [3, 4]])
    )
    actual = ModelOutputs(
        logits=np.array([[3.5, 4.0], [5.0, 5.0]]), match=np.array([[1, 0], [3, 4]])
    )

    found = quality_of(actual, reference, np.array([1, 1]))

    assert found.sqnr_db == pytest.approx(10 * math.log10(50 / 25.25))
    assert (found.images, found.agreement, found.same_partner) == (2, 0.5, 0.75)
    assert (found.accuracy, found.drop_pp) == (0.5, 50.0)
    unlabelled = quality_of(dataclasses.replace(actual, match=None), reference)
    assert (unlabelled.same_partner, unlabelled.accuracy, unlabelled.drop_pp) == (None,) * 3


@pytest.mark.parametrize("logits", [[[1.0, 2.0]], [[math.nan, 2.0]]])
def test_a_ratio_that_is_no_number_is_none(logits: list[list[float]]) -> None:
    """JSON has neither: equal logits are infinitely far above their noise."""
    reference = ModelOutputs(logits=np.array([[1.0, 2.0]]))

    assert quality_of(ModelOutputs(logits=np.array(logits)), reference).sqnr_db is None


def test_kernels_are_counted_by_what_they_multiply() -> None:
    def kernel(name: str, kind: str, dtype: str) -> Kernel:
        tensor = Tensor(name=name, dtype=dtype, shape=(1, 8))
        return Kernel(name=name, kind=kind, inputs=(tensor,), outputs=(tensor,))

    report = report_on(
        [
            kernel("_gemm_mha_v2_0", "kgen", "Int8"),
            kernel("_gemm_mha_v2_1", "kgen", "Half"),
            kernel("one", "gemm", "Int8"),
            kernel("two", "gemm", "Half"),
        ],
        "verbose log",
    )

    found = kernels_of(report, "8.6")

    assert found == Kernels(
        compute_capability="8.6", total=4, attentions=2, quantized_attentions=1, quantized_gemms=1
    )


def test_our_int8_is_compared_with_the_better_one_of_the_others_defaults() -> None:
    told = row("onnxruntime", "as TensorRT reads it", 40.0)
    fp8 = row("modelopt", "defaults", 45.0, precision="fp8")

    found = result(*OTHERS, told, fp8, row(db=30.0), row(settings="vit-attention", db=25.0))

    assert gains_db(found) == {"vit-linear": 10.0, "vit-attention": 5.0}
    assert missed(found) == ["INT8 vit-attention is 5.0 dB above the others' defaults, goal 6"]


@pytest.mark.parametrize("others", [(), (row("modelopt", "defaults", None),)])
def test_without_another_tool_the_goal_is_not_met(others: tuple[Row, ...]) -> None:
    assert gains_db(result(*others, row())) == {}
    assert missed(result(*others, row())) == [
        "no INT8 of another tool's defaults was measured beside ours"
    ]


def test_the_table_has_a_cell_for_everything_and_notes_below() -> None:
    kernels = Kernels(
        compute_capability="8.6",
        total=123,
        attentions=12,
        quantized_attentions=7,
        quantized_gemms=48,
    )
    quality = MeasuredQuality(
        images=4, sqnr_db=31.25, agreement=0.75, same_partner=0.5, accuracy=0.9, drop_pp=2.5
    )
    rows = (
        row(quality=quality, kernels=kernels, file_bytes=5_300_000),
        row("modelopt", "defaults", quality=None, failures=("not made: no luck",)),
        row("onnxruntime", "defaults", failures=("not built", "not made: no luck")),
    )

    labelled = to_markdown([result(*rows, accuracy=0.925)])
    unlabelled = to_markdown([result(*rows)])

    for text in (labelled, unlabelled):
        lines = [line for line in text.splitlines() if line.startswith("|")]
        assert len(lines) == 2 + len(rows)
        assert len({line.count("|") for line in lines}) == 1
        assert text.endswith("[1] not made: no luck\n\n[2] not built")
        assert "defaults [2] [1]" in lines[-1]
    assert "| 31.2 dB | 75.0% | 90.0% (-2.5 pp) | 50.0% | 123 | 12 (7) | 48 | 5 |" in labelled
    assert "float32 accuracy 92.5%" in labelled
    assert "accuracy" not in unlabelled


def test_a_result_is_read_as_it_was_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "crosscheck.json"
    written = [result(*OTHERS, row()), result(row(quality=None), subject="another", accuracy=0.5)]
    document = {"schema": 2, "kind": "crosscheck", "results": [to_json(each) for each in written]}
    path.write_text(json.dumps(document))

    assert read_results(path) == written
    assert command.main(["table", str(path)]) == 0
    assert capsys.readouterr().out == to_markdown(written) + "\n"


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"kind": "fidelity", "schema": 2, "results": []}',
     '{"kind": "crosscheck", "schema": 2, "results": [{"subject": 3}]}'],
)  # fmt: skip
def test_what_is_no_cross_check_is_refused(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)

    with pytest.raises(InputError, match="not a cross-check"):
        read_results(path)
    assert command.main(["table", str(path)]) == InputError.exit_code
    assert "make crosscheck" in capsys.readouterr().err


def test_the_committed_result_is_whole() -> None:
    results = read_results(ROOT / command.RESULT)

    of_repository = [each.name for each in SUBJECTS if each.weights != "pretrained"]
    assert [each.subject for each in results] == of_repository
    for each in results:
        assert {(one.tool, one.precision) for one in each.rows} >= {
            ("onnxruntime", "int8"), ("modelopt", "int8"), ("modelopt", "fp8"),
            (OURS, "fp16"), (OURS, "int8"), (OURS, "fp8"),
        }  # fmt: skip


@pytest.mark.parametrize("python", ["no/such/python", sys.executable])
def test_without_modelopts_environment_nothing_starts(
    tmp_path: Path, python: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if importlib.util.find_spec("modelopt") is not None:
        pytest.skip("ModelOpt is installed here, against the rules")
    output = tmp_path / "out.json"

    code = command.main(
        ["run", "--modelopt-python", python, "-o", str(output), "--work", str(tmp_path / "work")]
    )

    assert code == MissingDependencyError.exit_code
    assert "fix:   make crosscheck" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_network_and_an_existing_file_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.json"
    words = ["run", "--modelopt-python", "python", "-o", str(output)]

    assert command.main([*words, "--only", "Swin"]) == UsageError.exit_code
    assert "ViT-B/16" in capsys.readouterr().err
    output.write_text("{}")
    assert command.main(words) == UsageError.exit_code
    assert "--force" in capsys.readouterr().err


@pytest.fixture
def stubbed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A run in which nothing is exported, quantized or built; returns its command line."""
    prepared = prepared_in(tmp_path)
    monkeypatch.setattr(command, "require_images", lambda subject: None)
    monkeypatch.setattr(command, "require_modelopt", lambda python: {"nvidia-modelopt": "9"})
    monkeypatch.setattr(command, "prepare", lambda subject, folder, counts: prepared)
    monkeypatch.setattr(command, "outputs_of", lambda onnx, images: ModelOutputs(logits=np.eye(3)))
    return ["run", "--modelopt-python", "python", "-o", str(tmp_path / "out.json")]


@pytest.mark.parametrize(("ours", "code"), [(30.0, 0), (25.0, BudgetError.exit_code)])
def test_a_run_writes_every_row_and_judges_the_large_network(
    stubbed: list[str], ours: float, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(attempt: Attempt, prepared: Prepared, reference: ModelOutputs) -> Row:
        db = ours if attempt.tool == OURS else 20.0
        return row(attempt.tool, attempt.settings, db, precision=attempt.precision)

    monkeypatch.setattr(command, "row_of", measured)

    assert command.main([*stubbed, "--images", "7"]) == code

    document = json.loads(Path(stubbed[-1]).read_text())
    assert document["missed"] == [
        f"INT8 {preset} is 5.0 dB above the others' defaults, goal 6"
        for preset in ("vit-linear", "vit-attention")
        if code
    ]
    assert "--images=7" in document["command"]
    assert document["modelopt_environment"] == {"nvidia-modelopt": "9"}
    assert document["environment"]["packages"]["numpy"] == np.__version__
    found = read_results(Path(stubbed[-1]))
    assert [len(each.rows) for each in found] == [12, 12, 12]
    assert command.main([*stubbed, "--force", "--only", "digits"]) == 0


def test_every_tool_gets_the_same_graph_and_images(tmp_path: Path) -> None:
    prepared = prepared_in(tmp_path)

    found = list(attempts(prepared, Path("other/python")))

    assert len({attempt.output for attempt in found}) == len(found) == 12
    for attempt in found:
        if attempt.tool == OURS:
            assert str(prepared.onnx) in attempt.command
            assert attempt.made_by == ()
        else:  # ModelOpt writes its input again
            assert str(prepared.copy) in attempt.command
            assert str(prepared.feeds) in attempt.command
            assert all(path.is_file() for path in attempt.made_by)
    others = [attempt for attempt in found if attempt.tool in ("modelopt", "nncf")]
    assert len(others) == 4
    assert all(attempt.command[:2] == ("other/python", "-I") for attempt in others)


def test_each_of_ours_calibrates(tmp_path: Path) -> None:
    """A stored table would round the weights to the nearest number, which nobody would type."""
    prepared = prepared_in(tmp_path)

    ours = [each for each in attempts(prepared, Path("python")) if each.tool == OURS]

    *quantized, half = ours
    assert not {"--calibration", "--table"} & set(half.command)
    for attempt in quantized:
        assert attempt.command[attempt.command.index("--images") + 1] == "3"
        assert str(prepared.shard) in attempt.command
        assert "--table" not in attempt.command


def test_our_commands_are_ones_that_exist(tmp_path: Path) -> None:
    pytest.importorskip("fpet_export.cli.dispatch")
    from fpet_export.cli.dispatch import build_parser

    for attempt in attempts(prepared_in(tmp_path), Path("python")):
        if attempt.tool == OURS:
            parsed = build_parser().parse_args(attempt.command[3:])
            assert (parsed.verb, parsed.out) == ("quantize", attempt.output)


def test_some_graphs_alone_and_no_unknown_ones(
    stubbed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        command, "row_of", lambda attempt, *_: row(attempt.tool, attempt.settings, 1.0)
    )
    words = [*stubbed, "--only", "stamps", "--graphs", "nncf-plain"]

    assert command.main([*words, "nncf-none"]) == UsageError.exit_code
    assert not Path(stubbed[-1]).exists()
    assert command.main([*words, "modelopt-fp8"]) == 0

    for each in read_results(Path(stubbed[-1])):
        assert [found.tool for found in each.rows] == ["modelopt", "nncf"]


def test_a_network_without_its_images_is_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    code = command.main(
        ["run", "--modelopt-python", "python", "-o", "out.json", "--only", "stamps"]
    )

    assert code == InputError.exit_code
    assert "fix:   python -m benchmarks.experiments.pretrained" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def counting(output: Path, made_by: tuple[Path, ...]) -> Attempt:
    program = f"import pathlib; pathlib.Path({str(output)!r}).open('a').write('x')"
    return Attempt(
        tool="a tool", settings="defaults", precision="int8", output=output,
        command=(sys.executable, "-c", program), made_by=made_by,
    )  # fmt: skip


def test_a_graph_of_another_tool_is_kept_until_something_changes(tmp_path: Path) -> None:
    prepared = prepared_in(tmp_path)
    prepared.onnx.write_bytes(b"a graph")
    script = tmp_path / "script.py"
    script.write_text("one")
    attempt = counting(tmp_path / "made.onnx", (script,))

    for _ in range(2):
        make(attempt, prepared)
    assert attempt.output.read_text() == "x"
    for changed in (script, prepared.onnx):
        changed.write_text("two")
        make(attempt, prepared)
    assert attempt.output.read_text() == "xxx"
    ours = dataclasses.replace(attempt, made_by=())
    make(ours, prepared)
    make(ours, prepared)
    assert attempt.output.read_text() == "xxxxx"


def test_a_tool_that_fails_is_a_row_and_not_the_end(tmp_path: Path) -> None:
    prepared = prepared_in(tmp_path)
    prepared.onnx.write_bytes(b"a graph")
    program = "import sys; print('RuntimeError: no luck. Much more.'); sys.exit(3)"
    attempt = dataclasses.replace(
        counting(tmp_path / "made.onnx", (prepared.onnx,)), command=(sys.executable, "-c", program)
    )

    with pytest.raises(EngineError, match="exit code 3: RuntimeError: no luck"):
        make(attempt, prepared)
    found = measure.row_of(attempt, prepared, ModelOutputs(logits=np.eye(2)))

    assert found.failures == ("not made: exit code 3: RuntimeError: no luck",)
    assert (found.file_bytes, found.quality, found.kernels) == (None, None, None)


def test_a_row_is_measured_again_only_when_its_graph_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = prepared_in(tmp_path)
    prepared.onnx.write_bytes(b"float32")
    ran: list[bytes] = []

    def outputs(onnx: Path, _: Prepared) -> ModelOutputs:
        ran.append(onnx.read_bytes())
        return ModelOutputs(logits=np.eye(3))

    monkeypatch.setattr(measure, "make", lambda *_: None)
    monkeypatch.setattr(measure, "outputs_of", outputs)
    monkeypatch.setattr(measure, "build_kernels", lambda *_: None)
    attempt = next(attempts(prepared, Path("python")))

    def measured(graph: bytes) -> Row:
        attempt.output.write_bytes(graph)
        return measure.row_of(attempt, prepared, ModelOutputs(logits=np.eye(3)))

    first = measured(b"one")

    assert measured(b"one") == first
    assert ran == [b"one"]
    assert measured(b"three").file_bytes == 5
    assert ran == [b"one", b"three"]
    attempt.output.with_suffix(".row.json").write_text("{")
    measured(b"three")
    assert len(ran) == 3


def test_what_tensorrt_reads_is_symmetric_and_without_quantized_biases() -> None:
    nodes = [("blocks/6/merge/MatMul", "MatMul"), ("blocks/1/adapters/0/MatMul", "MatMul"),
             ("blocks/1/fc1/MatMul", "MatMul")]  # fmt: skip

    told = ort_quantize.settings("tensorrt", nodes)
    spared = ort_quantize.settings("tensorrt-no-match", nodes)

    assert ort_quantize.settings("defaults", nodes) == {}
    assert told["nodes_to_exclude"] == []
    assert told["extra_options"]["ActivationSymmetric"] is True
    assert told["extra_options"]["QuantizeBias"] is False
    assert spared["nodes_to_exclude"] == ["blocks/6/merge/MatMul", "blocks/1/adapters/0/MatMul"]
    assert {**spared, "nodes_to_exclude": []} == told


def test_feeds_come_one_by_one_and_again(tmp_path: Path) -> None:
    feeds = ort_quantize.Feeds(prepared_in(tmp_path, images=2).feeds)

    shapes = [feeds.get_next() for _ in range(3)]
    feeds.rewind()
    again = feeds.get_next()

    assert [each is None for each in shapes] == [False, False, True]
    assert again is not None
    assert again["images"].shape == (1, 3, 4, 4)
    assert np.array_equal(again["images"], (shapes[0] or {})["images"])


def test_modelopt_is_told_nothing_but_the_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = prepared_in(tmp_path)
    told: dict[str, Any] = {}
    stand_in = types.ModuleType("modelopt.onnx.quantization")
    stand_in.quantize = lambda **words: told.update(words)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, stand_in.__name__, stand_in)

    modelopt_quantize.main(
        ["model.onnx", "--precision", "fp8", "--calibration", str(prepared.feeds), "-o", "out.onnx"]
    )

    calibration = told.pop("calibration_data")
    assert calibration["images"].shape == (3, 3, 4, 4)
    assert told == {"onnx_path": "model.onnx", "quantize_mode": "fp8", "output_path": "out.onnx"}


def test_modelopt_and_our_packages_never_meet() -> None:
    """What runs in ModelOpt's environment imports nothing of ours, and nobody else imports it."""
    tree = ast.parse(Path(modelopt_quantize.__file__).read_text())
    names = [
        name
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    ]
    assert set(names) - set(sys.stdlib_module_names) == {"numpy", "collections.abc"}
    for package in ("fpet_export", "calibration", "engines", "benchmarks"):
        for file in (ROOT / package).rglob("*.py"):
            assert not re.search(r"^\s*(import|from) modelopt\b", file.read_text(), re.MULTILINE)
    required = graphs.REQUIREMENTS.read_text().splitlines()
    for name in graphs.PACKAGES:
        assert name == "numpy" or any(line.startswith(f"{name}==") for line in required), name


@pytest.fixture
def tiny(tmp_path: Path) -> Prepared:
    """A linear classifier with an ArgMax, as it is exported: graph, manifest, images."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    weight = np.random.default_rng(0).standard_normal((48, 4)).astype(np.float32)
    nodes = [
        onnx.helper.make_node("Flatten", ["images"], ["flat"], name="patches/Flatten"),
        onnx.helper.make_node("MatMul", ["flat", "weight"], ["logits"], name="head/MatMul"),
        onnx.helper.make_node("ArgMax", ["logits"], ["best"], name="merge/ArgMax", axis=1),
    ]
    floats, integers = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
    graph = onnx.helper.make_graph(
        nodes,
        "tiny",
        [onnx.helper.make_tensor_value_info("images", floats, [1, 3, 4, 4])],
        [onnx.helper.make_tensor_value_info("logits", floats, [1, 4])],
        [onnx.numpy_helper.from_array(weight, "weight")],
        value_info=[onnx.helper.make_tensor_value_info("best", integers, [1, 1])],
    )
    opset = [onnx.helper.make_opsetid("", 20)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=9)
    prepared = prepared_in(tmp_path)
    onnx.save(model, prepared.onnx)
    write_manifest(
        prepared.onnx,
        Manifest(
            kind="graph",
            file=prepared.onnx.name,
            inputs=(TensorSpec(name="images", shape=(1, 3, 4, 4), dtype="float32"),),
            outputs=(TensorSpec(name="logits", shape=(1, 4), dtype="float32"),),
            precision="fp32",
            opset=20,
            target="cpu",
            weights="random",
            preprocessing=PREPROCESSING,
        ),
    )
    return prepared


def test_the_match_is_found_whatever_it_is_called(tiny: Prepared) -> None:
    found = measure.outputs_of(tiny.onnx, tiny)

    assert found.match is not None
    assert np.array_equal(found.match[:, 0], found.logits.argmax(axis=1))
    assert sorted(path.name for path in tiny.folder.iterdir()) == [
        "feeds.npz", "model.manifest.json", "model.onnx",
    ]  # fmt: skip


@pytest.mark.filterwarnings("ignore")
def test_what_onnx_runtime_makes_for_tensorrt_has_no_zero_points(tiny: Prepared) -> None:
    onnx = pytest.importorskip("onnx")
    output = tiny.folder / "quantized.onnx"

    ort_quantize.main(
        [str(tiny.onnx), "--form", "tensorrt", "--calibration", str(tiny.feeds), "-o", str(output)]
    )

    graph = onnx.load(str(output)).graph
    constants = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
    pairs = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    assert len(pairs) == 2
    assert all(not constants[node.input[2]].any() for node in pairs)
    found = quality_of(measure.outputs_of(output, tiny), measure.outputs_of(tiny.onnx, tiny))
    assert found.sqnr_db is not None
    assert 20 < found.sqnr_db < 60  # eight bits, two roundings


def test_the_package_says_how_it_is_run() -> None:
    assert "make crosscheck" in (benchmarks.experiments.crosscheck.__doc__ or "")
    assert re.search(r"^crosscheck:", (ROOT / "Makefile").read_text(), re.MULTILINE)
