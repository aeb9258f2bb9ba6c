"""`quantize`: what it leaves, what it promises, what it refuses, and how it goes on."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibration import collect as collecting
from calibration.recipe import typed_graph
from calibration.table import read_table
from engines.imaging.images import ImageSet
from engines.manifest import read_manifest, write_manifest
from engines.onnx_graph.files import read_graph
from fpet_export.cli.console import Console
from fpet_export.steps.typing_request import state_path
from tests.calibration.exports import Exports, images_of, saved, write_shard
from tests.calibration.test_table import records_of
from tests.fpet_export.command_line import Done, Exported, call


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph for TensorRT-RTX, which runs every precision."""
    return Exports.of_session(tmp_path_factory)()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 labelled images to calibrate on, and 12 others to check on."""
    folder = tmp_path_factory.mktemp("data")
    images = images_of(32)
    write_shard(folder / "train.npz", part(images, slice(0, 20)))
    write_shard(folder / "val.npz", part(images, slice(20, 32)))
    return folder


def part(images: ImageSet, chosen: slice) -> ImageSet:
    assert images.labels is not None
    return dataclasses.replace(images, pixels=images.pixels[chosen], labels=images.labels[chosen])


def copy_of(graph: Path, folder: Path) -> Path:
    """The graph and its manifest in a folder of the test's own."""
    for suffix in (".onnx", ".manifest.json"):
        source = graph.with_name(f"model{suffix}")
        (folder / source.name).write_bytes(source.read_bytes())
    return folder / "model.onnx"


def quantize(graph: Path, precision: str, *words: object) -> Done:
    return call("quantize", graph, "--precision", precision, *words)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


MODEL = {"model.onnx", "model.manifest.json"}


# What it leaves


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_lies_beside_the_graph(precision: str, graph: Path, tmp_path: Path) -> None:
    onnx = copy_of(graph, tmp_path)

    done = quantize(onnx, precision, "--json")

    assert done.code == 0, done.err
    out = tmp_path / f"model.{precision}.onnx"
    assert names(tmp_path) == MODEL | {out.name, f"model.{precision}.manifest.json"}
    document = done.document()
    assert document["onnx"] == str(out)
    assert document["choice"] is None
    (row,) = document["parity"]["rows"]
    assert (row["stage"], row["failures"], row["images"]) == (precision, [], 8)
    assert (row["tokens_kept"], row["unexplained_flips"]) == (17, 0)
    manifest = read_manifest(out)
    assert (manifest.precision, manifest.kind, manifest.quantization) == (precision, "graph", None)
    assert manifest.parity == document["parity"]
    assert manifest.parents[0].sha256 == read_manifest(onnx).sha256
    assert manifest.command[:4] == ("fpet-export", "quantize", str(onnx), "--precision")


@pytest.fixture(scope="module")
def int8(graph: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    """INT8 linears, checked on labelled images, within a promise that holds at once."""
    out = tmp_path_factory.mktemp("int8") / "deep" / "vit.onnx"
    done = quantize(
        graph, "int8", "--calibration", data / "train.npz", "--data", data / "val.npz",
        "--min-sqnr", "10", "-o", out, "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    return out, done


def test_integers_leave_their_table_too(int8: tuple[Path, Done]) -> None:
    out, done = int8
    document = done.document()

    assert names(out.parent) == {"vit.onnx", "vit.manifest.json", "vit.table.json"}
    manifest = read_manifest(out)
    assert manifest.precision == "int8"
    assert manifest.operators["QuantizeLinear"] == 24
    assert manifest.parity == document["parity"]
    quantization = manifest.quantization
    assert quantization is not None
    assert (quantization.preset, quantization.kept) == ("vit-linear", ())
    assert len(quantization.quantized) == 12
    assert (quantization.images, quantization.table) == (20, "vit.table.json")
    assert quantization.quality is not None
    assert quantization.quality["images"] == 12
    assert quantization.quality["accuracy"] is not None
    assert document["choice"]["quantized"] == list(quantization.quantized)
    assert document["parity"]["rows"][0]["accuracy"] == quantization.quality["accuracy"]


def test_people_read_the_steps(graph: Path, data: Path, tmp_path: Path) -> None:
    done = quantize(
        graph, "int8", "--calibration", data / "train.npz", "--data", data / "val.npz",
        "-o", tmp_path / "q.onnx",
    )  # fmt: skip

    assert done.code == 0, done.err
    assert done.out.strip() == str(tmp_path / "q.onnx")
    for words in (
        "✓ calibrate", "20 images, 20 of 20 images in train.npz", "✓ int8",
        "vit-linear, 12 layers", "SQNR", "agreement", "float32 graph model.onnx",
        f"fpet-export build {tmp_path / 'q.onnx'} --target rtx",
    ):  # fmt: skip
        assert words in done.err


def test_half_of_the_data_is_calibrated_on_and_the_rest_checked_on(
    graph: Path, data: Path, tmp_path: Path
) -> None:
    done = quantize(graph, "fp8", "--data", data / "train.npz", "-o", tmp_path / "q.onnx", "--json")

    assert done.code == 0, done.err
    (row,) = done.document()["parity"]["rows"]
    assert row["images"] == 10
    assert len(read_table(tmp_path / "q.table.json").images) == 10
    assert "look better than they are" not in done.err


def test_a_graph_for_the_cpu(
    exported: Exported, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summed: list[int] = []
    monkeypatch.setattr("calibration.collect.Moments", summed.append)
    done = quantize(
        exported.graph, "int8", "--calibration", data / "train.npz", "-o", tmp_path / "q.onnx"
    )

    assert done.code == 0, done.err
    manifest = read_manifest(tmp_path / "q.onnx")
    assert manifest.target == "cpu"
    assert summed == []  # it rounds its weights without second moments, which cost as much again
    assert manifest.operators["Gemm"] == 14
    assert manifest.inputs[0].dtype == "float32"
    assert "fpet-export build" in done.err
    assert "--target cpu" in done.err


@pytest.mark.parametrize(("io", "dtype"), [("typed", "float16"), ("uint8", "uint8")])
def test_the_input_may_be_typed(io: str, dtype: str, graph: Path, tmp_path: Path) -> None:
    done = quantize(graph, "fp16", "--io", io, "-o", tmp_path / "q.onnx")

    assert done.code == 0, done.err
    assert read_manifest(tmp_path / "q.onnx").inputs[0].dtype == dtype


def test_layers_and_rules_may_be_chosen(graph: Path, data: Path, tmp_path: Path) -> None:
    done = quantize(
        graph, "int8", "--calibration", data / "train.npz", "--preset", "vit-attention",
        "--keep", "blocks/0,blocks/2/fc2", "--observer", "input=percentile,q=mse", "--half", "bf16",
        "--no-equalise", "--images", "9", "-o", tmp_path / "q.onnx",
    )  # fmt: skip

    assert done.code == 0, done.err
    quantization = read_manifest(tmp_path / "q.onnx").quantization
    assert quantization is not None
    assert quantization.kept == (
        "blocks/0/attn/qkv", "blocks/0/attn/proj", "blocks/0/fc1", "blocks/0/fc2", "blocks/0/attn",
        "blocks/2/fc2",
    )  # fmt: skip
    assert len(quantization.quantized) == 9
    assert quantization.observers == {
        "input": "percentile", "q": "mse", "k": "absmax", "v": "absmax", "probabilities": "mse",
    }  # fmt: skip
    table = read_table(tmp_path / "q.table.json")
    assert len(table.images) == 9
    assert table.rewrites is None
    assert {t.dtype.name for t in read_graph(tmp_path / "q.onnx").tensors().values()} >= {
        "bfloat16", "int8",
    }  # fmt: skip


# The promise


def test_layers_go_back_until_the_promise_is_kept(
    graph: Path, data: Path, int8: tuple[Path, Done], tmp_path: Path
) -> None:
    sqnr = int8[1].document()["parity"]["rows"][0]["sqnr_db"]
    words = ("--calibration", data / "train.npz", "--data", data / "val.npz")
    out = tmp_path / "q.onnx"

    done = quantize(graph, "int8", *words, "--min-sqnr", f"{sqnr + 2:.2f}", "-o", out, "--json")

    assert done.code == 0, done.err
    promise = done.document()["choice"]
    assert promise["kept"]
    assert promise["quality"]["sqnr_db"] >= sqnr + 2 - 0.01 > promise["before"]["sqnr_db"]
    assert [step["layer"] for step in promise["steps"]] == promise["kept"]
    assert done.err.count("reverted") == len(promise["kept"])
    assert f"{len(promise['kept'])} kept in high precision" in done.err


def test_an_impossible_promise_ends_with_8_and_leaves_nothing(
    graph: Path, data: Path, tmp_path: Path
) -> None:
    keep = "blocks/0,blocks/1,blocks/2/attn,blocks/2/fc1"
    done = quantize(
        graph, "int8", "--calibration", data / "train.npz", "--data", data / "val.npz",
        "--keep", keep, "--min-sqnr", "300", "-o", tmp_path / "q.onnx", "--json",
    )  # fmt: skip

    assert done.code == 8
    error = done.error()
    assert error["class"] == "BudgetError"
    assert "limit 300" in error["what"]
    assert names(tmp_path) == set()


def test_a_drop_needs_labels_before_anything_is_calibrated(
    graph: Path, data: Path, tmp_path: Path
) -> None:
    unlabelled = dataclasses.replace(images_of(8, seed=7), labels=None)
    shard = write_shard(tmp_path / "plain.npz", unlabelled)
    words = ("--calibration", data / "train.npz", "--max-drop", "1", "-o", tmp_path / "q.onnx")

    without = quantize(graph, "int8", *words, "--data", shard, "--json").error()
    nothing = quantize(graph, "int8", *words, "--json").error()

    assert "these have no labels" in without["what"]
    assert without["exit_code"] == 3
    assert "--max-drop needs images with labels" in nothing["what"]
    assert nothing["exit_code"] == 2
    assert names(tmp_path) == {"plain.npz"}


def test_a_graph_that_is_broken_ends_with_7(
    graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The typed graph drifts beyond what half precision explains."""

    def drifting(*arguments: Any, **options: Any) -> Any:
        made = typed_graph(*arguments, **options)
        for node in made.nodes:
            if node.name == "blocks/2/fc1/MatMul":
                node.inputs[1].values = node.inputs[1].values * 3
        return made

    monkeypatch.setattr("calibration.graph_typing.typed_graph", drifting)
    done = quantize(graph, "fp16", "-o", tmp_path / "q.onnx", "--json")

    assert done.code == 7
    error = done.error()
    assert error["class"] == "ParityError"
    assert "fp16 drifts" in error["what"]
    assert "✗ fp16" in done.err
    assert names(tmp_path) == set()


# Refusals


def test_a_typed_graph_is_not_typed_again(int8: tuple[Path, Done]) -> None:
    done = quantize(int8[0], "fp16", "--json")

    assert done.code == 3
    assert "is already int8" in done.error()["what"]
    assert done.error()["fix"] == "quantize model.onnx"


@pytest.mark.parametrize("precision", ["fp16", "bf16", "fp8"])
def test_a_cpu_runs_no_half_precision(
    precision: str, exported: Exported, data: Path, tmp_path: Path
) -> None:
    done = quantize(
        exported.graph, precision, "--data", data / "train.npz", "-o", tmp_path / "q.onnx", "--json"
    )

    assert done.code == 2
    assert f"cpu does not run {precision}, it runs int8" in done.error()["what"]


def test_integers_need_images(graph: Path, tmp_path: Path) -> None:
    done = quantize(graph, "int8", "-o", tmp_path / "q.onnx", "--json")

    assert done.code == 2
    assert "needs images" in done.error()["what"]
    assert "--calibration DIR" in done.error()["fix"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--images", "21"), 3, "21 calibration images were asked for, there are 20"),
        (("--images", "5"), 3, "5 images for a calibration, wanted 8 or more"),
        (("--keep", "blocks/9"), 2, "no layer of this graph is called 'blocks/9'"),
        (("--keep", "blocks"), 2, "nothing is left to quantize"),
        (("--observer", "input=best"), 2, "is not KIND=RULE"),
        (("--observer", "weights=mse"), 2, "is not KIND=RULE"),
        (("--min-agreement", "101"), 2, "not a percentage"),
        (("--table", "absent.json"), 3, "no such file for --table"),
        (("--data", "absent"), 3, "no such file for --data"),
    ],
    ids=str,
)
def test_what_cannot_be_is_a_sentence(
    words: tuple[str, ...], code: int, said: str, graph: Path, data: Path, tmp_path: Path
) -> None:
    done = quantize(
        graph, "int8", "--calibration", data / "train.npz", *words, "-o", tmp_path / "q.onnx",
        "--json",
    )  # fmt: skip

    assert done.code == code, done.out
    assert said in done.error()["what"]
    assert names(tmp_path) == set()


@pytest.mark.parametrize(
    ("promise"),
    [("--max-drop", "nan"), ("--min-sqnr", "nan"), ("--max-drop", "much"), ("--max-drop", "-1")],
)
def test_a_promise_that_is_no_number_is_refused(
    promise: tuple[str, str], graph: Path, data: Path, tmp_path: Path
) -> None:
    done = quantize(
        graph, "int8", "--calibration", data / "train.npz", *promise, "-o", tmp_path / "q.onnx",
        "--json",
    )  # fmt: skip

    assert done.code == 2
    assert promise[0] in done.error()["what"]


A_FILE = "FILE"


@pytest.mark.parametrize(
    "words",
    [("--max-drop", "1"), ("--min-sqnr", "40"), ("--min-agreement", "99"), ("--keep", "blocks/0"),
     ("--calibration", A_FILE), ("--images", "8"), ("--table", A_FILE),
     ("--observer", "q=mse"), ("--preset", "vit-attention"), ("--no-equalise",)],
    ids=str,
)  # fmt: skip
def test_half_precision_takes_nothing_that_is_for_integers(
    words: tuple[str, ...], graph: Path, tmp_path: Path
) -> None:
    """A promise that nobody looks at would be broken silently."""
    given = [str(graph) if word == A_FILE else word for word in words]  # any file that exists
    done = quantize(graph, "fp16", *given, "-o", tmp_path / "q.onnx", "--json")

    assert done.code == 2
    assert words[0] in done.error()["where"]
    assert names(tmp_path) == set()


def test_noise_and_copies_are_refused(graph: Path, data: Path, tmp_path: Path) -> None:
    same = part(images_of(32), slice(0, 1)).pixels.repeat(12, axis=0)
    write_shard(tmp_path / "same.npz", ImageSet(pixels=same, description="same"))

    done = quantize(
        graph, "int8", "--calibration", tmp_path / "same.npz", "-o", tmp_path / "q.onnx", "--json"
    )

    assert done.code == 3
    assert "only 1 of 12 images differ" in done.error()["what"]


def test_a_graph_without_its_manifest_is_refused(graph: Path, tmp_path: Path) -> None:
    copy = copy_of(graph, tmp_path)
    (tmp_path / "model.manifest.json").unlink()

    done = quantize(copy, "fp16", "--json")

    assert done.code == 3
    assert "no manifest" in done.error()["what"]


def test_a_graph_that_was_changed_is_refused(tampered: Path) -> None:
    done = quantize(tampered, "int8", "--json")

    assert done.code == 10


def test_a_weight_beyond_float16_is_refused(graph: Path, tmp_path: Path) -> None:
    changed = read_graph(graph)
    weight = next(n for n in changed.nodes if n.name == "blocks/2/fc1/MatMul").inputs[1]
    weight.values = weight.values.copy()
    weight.values[0, 0] = 1e5
    copy = saved(changed, tmp_path / "large.onnx")
    write_manifest(copy, dataclasses.replace(read_manifest(graph), file=copy.name))

    done = quantize(copy, "fp16", "--json")

    assert done.code == 5
    assert "--precision bf16" in done.error()["fix"]
    assert names(tmp_path) == {"large.onnx", "large.manifest.json"}


# Overlap, tables, force


def test_images_that_were_calibrated_on_are_pointed_out(
    graph: Path, data: Path, tmp_path: Path
) -> None:
    done = quantize(
        graph, "int8", "--calibration", data / "train.npz", "--data", data,
        "-o", tmp_path / "q.onnx",
    )  # fmt: skip

    assert done.code == 0, done.err
    assert "20 of 32 images to check on were calibrated on" in done.err


def test_a_table_spares_the_calibration(
    graph: Path, data: Path, int8: tuple[Path, Done], tmp_path: Path
) -> None:
    done = quantize(
        graph, "int8", "--table", int8[0].parent / "vit.table.json", "--data", data / "val.npz",
        "-o", tmp_path / "q.onnx",
    )  # fmt: skip

    assert done.code == 0, done.err
    assert "20 images of 20 of 20 images in train.npz, as stored" in done.err
    assert "each rounded to the nearest number" in done.err
    first, second = (int8[0].read_bytes(), (tmp_path / "q.onnx").read_bytes())
    assert first != second
    assert "each rounded to the nearest number" not in int8[1].err


def test_a_table_and_its_images_give_the_graph_again(
    graph: Path, data: Path, int8: tuple[Path, Done], tmp_path: Path
) -> None:
    done = quantize(
        graph, "int8", "--table", int8[0].parent / "vit.table.json",
        "--calibration", data / "train.npz", "--data", data / "val.npz",
        "-o", tmp_path / "q.onnx",
    )  # fmt: skip

    assert done.code == 0, done.err
    assert "20 seen before" in done.err
    assert "each rounded to the nearest number" not in done.err
    assert int8[0].read_bytes() == (tmp_path / "q.onnx").read_bytes()


def test_shards_that_were_calibrated_apart_are_merged(
    graph: Path, data: Path, tmp_path: Path
) -> None:
    tables = []
    for name in ("train", "val"):
        out = tmp_path / f"{name}.onnx"
        done = quantize(
            graph, "int8", "--calibration", data / f"{name}.npz", "--no-equalise", "-o", out
        )
        assert done.code == 0, done.err
        tables.append(tmp_path / f"{name}.table.json")
    whole = quantize(
        graph, "int8", "--calibration", data, "--no-equalise", "-o", tmp_path / "whole.onnx"
    )
    assert whole.code == 0, whole.err

    done = quantize(
        graph, "int8", "--table", tables[0], "--table", tables[1], "--calibration", data,
        "-o", tmp_path / "both.onnx", "--no-equalise",
    )  # fmt: skip

    assert done.code == 0, done.err
    assert (tmp_path / "both.onnx").read_bytes() == (tmp_path / "whole.onnx").read_bytes()
    twice = quantize(
        graph, "int8", "--table", tables[0], "--table", tables[0], "-o", tmp_path / "t.onnx",
        "--json",
    )  # fmt: skip
    assert twice.code == 3
    assert "both calibration tables hold the same 20 images" in twice.error()["what"]


def test_a_table_of_another_graph_is_refused(
    exported: Exported, int8: tuple[Path, Done], tmp_path: Path
) -> None:
    table = int8[0].parent / "vit.table.json"

    done = quantize(exported.graph, "int8", "--table", table, "-o", tmp_path / "q.onnx", "--json")

    assert done.code == 3
    assert "another graph" in done.error()["what"]


def test_an_equalised_table_does_not_serve_a_graph_that_is_not(
    graph: Path, int8: tuple[Path, Done], tmp_path: Path
) -> None:
    table = int8[0].parent / "vit.table.json"

    done = quantize(
        graph, "int8", "--table", table, "--no-equalise", "-o", tmp_path / "q.onnx", "--json"
    )

    assert done.code == 2
    assert "of an equalised graph" in done.error()["what"]


def test_a_damaged_table_is_refused(graph: Path, int8: tuple[Path, Done], tmp_path: Path) -> None:
    text = (int8[0].parent / "vit.table.json").read_text()
    (tmp_path / "half.json").write_text(text[: len(text) // 2])

    done = quantize(
        graph, "int8", "--table", tmp_path / "half.json", "-o", tmp_path / "q.onnx", "--json"
    )

    assert done.code == 10
    assert "damaged" in done.error()["what"]


@pytest.mark.parametrize("existing", ["model.int8.onnx", "model.int8.table.json"])
def test_no_file_is_replaced_without_force(
    existing: str, graph: Path, data: Path, tmp_path: Path
) -> None:
    onnx = copy_of(graph, tmp_path)
    (tmp_path / existing).write_text("mine")
    words = ("--calibration", data / "train.npz")

    done = quantize(onnx, "int8", *words, "--json")

    assert done.code == 2
    assert f"{existing} exists" in done.error()["what"]
    assert names(tmp_path) == MODEL | {existing}
    assert quantize(onnx, "int8", *words, "--force").code == 0
    assert (tmp_path / existing).read_bytes()[:4] != b"mine"


# Interruptions


def interrupt_after(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the calibration's progress bar meet Ctrl-C, and save the state every four images."""
    honest = Console.progress
    done = 0

    @contextlib.contextmanager
    def progress(self: Console, label: str, total: int) -> Iterator[Callable[[int], None]]:
        with honest(self, label, total) as advance:

            def count_on(step: int) -> None:
                nonlocal done
                done += step
                advance(step)
                if done == count:
                    raise KeyboardInterrupt

            yield count_on if label == "calibrate" else advance

    monkeypatch.setattr(Console, "progress", progress)
    monkeypatch.setattr(collecting, "SAVE_EVERY", 4)


def interrupted(onnx: Path, monkeypatch: pytest.MonkeyPatch, *words: object) -> Path:
    """The state that is left; the rewrites are fitted on all 20 images before."""
    with monkeypatch.context() as patch:
        interrupt_after(20 + 10, patch)
        done = quantize(onnx, "int8", *words)
    assert done.code == 130
    assert "interrupted" in done.err
    state = state_path(onnx.with_name("model.int8.onnx"))
    assert f"{state} keeps what was calibrated" in done.err
    assert "fix:   run the command again: it goes on from there" in done.err
    assert names(onnx.parent) == MODEL | {state.name}
    assert len(read_table(state).images) == 8
    return state


def test_an_interruption_before_the_rewrites_are_fitted_leaves_nothing(
    graph: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx = copy_of(graph, tmp_path)
    interrupt_after(10, monkeypatch)

    done = quantize(onnx, "int8", "--calibration", data / "train.npz")

    assert done.code == 130
    assert "nothing half-written was left behind" in done.err
    assert names(onnx.parent) == MODEL


def test_an_interrupted_calibration_goes_on(
    graph: Path, data: Path, int8: tuple[Path, Done], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    onnx, words = copy_of(graph, tmp_path), ("--calibration", data / "train.npz")
    state = interrupted(onnx, monkeypatch, *words)

    done = quantize(onnx, "int8", *words)

    assert done.code == 0, done.err
    assert "going on behind 8 images of model.int8.partial.json" in done.err
    assert not state.exists()
    found = read_table(tmp_path / "model.int8.table.json")
    whole = read_table(int8[0].parent / "vit.table.json")
    assert found.images == whole.images
    assert found.description == whole.description
    assert records_of(found) == records_of(whole)


@pytest.mark.parametrize("other", ["images", "rewrites", "graph"])
def test_what_an_other_command_left_is_not_gone_on_with(
    other: str, graph: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Going on would put images, or rewrites, into the table that nobody asked for."""
    onnx = copy_of(graph, tmp_path)
    state = interrupted(onnx, monkeypatch, "--calibration", data / "train.npz")
    words: tuple[object, ...] = ("--calibration", data / "train.npz")
    if other == "images":
        words = ("--calibration", data / "val.npz")
    elif other == "rewrites":
        words = (*words, "--no-equalise")
    else:
        document = json.loads(state.read_text())
        document["graph"]["sha256"] = "b" * 64
        state.write_text(json.dumps(document))

    done = quantize(onnx, "int8", *words)

    assert done.code == 0, done.err
    assert "going on" not in done.err
    table = read_table(tmp_path / "model.int8.table.json")
    assert len(table.images) == (12 if other == "images" else 20)
    assert (table.rewrites is None) == (other == "rewrites")
    assert not state.exists()


def test_a_damaged_state_is_refused(graph: Path, data: Path, tmp_path: Path) -> None:
    onnx = copy_of(graph, tmp_path)
    (tmp_path / "model.int8.partial.json").write_text("{")

    done = quantize(onnx, "int8", "--calibration", data / "train.npz", "--json")

    assert done.code == 10
    assert "model.int8.partial.json" in done.error()["where"]


def test_json_is_one_document_whatever_is_said(int8: tuple[Path, Done]) -> None:
    document = int8[1].document()

    assert set(document) == {"onnx", "parity", "manifest", "choice"}
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert np.isfinite(document["parity"]["rows"][0]["sqnr_db"])
