"""`export`: what it leaves, what the manifest says, and what happens when a stage drifts."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from engines.manifest import read_manifest
from fpet_export.model import cost
from fpet_export.model.merge_plan import merge_plan
from tests.fpet_export.command_line import (
    LABELS,
    Exported,
    call,
    perturb,
    pixels_of,
    write_images,
    write_shard,
)

STAGES = ["checkpoint f32", "folded", "frozen", "onnx"]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_exactly_three_files_are_left(exported: Exported) -> None:
    names = sorted(path.name for path in exported.out.iterdir())

    assert names == ["model.manifest.json", "model.onnx", "parity.json"]


def test_json_names_the_graph_and_carries_parity(exported: Exported) -> None:
    document = exported.done.document()

    assert document["onnx"] == str(exported.graph)
    assert document["parity"] == json.loads((exported.out / "parity.json").read_text())
    assert [row["stage"] for row in document["parity"]["rows"]] == STAGES


def test_every_stage_kept_every_token_and_every_class(exported: Exported) -> None:
    rows = exported.done.document()["parity"]["rows"]

    for row in rows:
        assert row["failures"] == []
        assert row["relative"] < 1e-5
        assert row["agreement"] == 1.0
        assert row["unexplained_flips"] == 0
        assert (row["tokens_kept"], row["tokens_expected"]) == (17, 17)
        assert row["images"] == (2 if row["stage"] == "folded" else 8)


def test_people_see_the_steps_and_the_next_commands(exported: Exported) -> None:
    done = exported.done

    for word in ("✓ inspect", "✓ fold", "✓ freeze", "✓ onnx", "17/17 tokens kept", "17→9 tokens"):
        assert word in done.err
    assert f"fpet-export build {exported.graph} --target cpu" in done.err
    assert "random" not in done.err


def test_the_manifest_says_what_the_graph_is(exported: Exported) -> None:
    manifest = read_manifest(exported.graph)
    spec = exported.run.spec

    assert manifest.kind == "graph"
    assert manifest.weights == "trained"
    assert manifest.labels == LABELS
    assert manifest.precision == "fp32"
    assert manifest.target == "cpu"
    assert manifest.parity == json.loads((exported.out / "parity.json").read_text())
    assert manifest.command[:3] == ("fpet-export", "export", exported.run.text)
    assert {"fpet-export", "torch", "onnx", "python"} <= set(manifest.tools)
    assert manifest.probes == {"match": "match", "size": "size"}
    model = manifest.model
    assert model is not None
    assert (model.method, model.bit, model.dim, model.scale) == ("lora", 1, 8, 0.5)
    assert (model.merge, model.merged_blocks, model.ties) == ("fpet@1", (1,), "argmax")
    assert (model.grid, model.patch, model.prefix_tokens, model.classes) == ((4, 4), (4, 4), 1, 5)
    assert model.tokens == (17, 9, 1)  # the head reads the class token alone
    assert model.macs == sum(cost.macs(spec, merge_plan(spec, "fpet@1"), last=1))


def test_the_manifest_states_the_authors_preprocessing(exported: Exported) -> None:
    preprocessing = read_manifest(exported.graph).preprocessing

    assert preprocessing is not None
    assert preprocessing.size == (16, 16)
    assert (preprocessing.interpolation, preprocessing.crop) == ("bicubic", 1.0)
    assert (preprocessing.mean, preprocessing.std) == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    assert (preprocessing.layout, preprocessing.dtype) == ("NCHW", "float32")


def test_the_manifest_has_the_hashes_of_the_graph_and_its_parents(exported: Exported) -> None:
    manifest = read_manifest(exported.graph)
    files = {
        "cifar.pth": exported.run.pth,
        "cifar.bin": exported.run.bin,
        "params.sh": exported.run.params,
        exported.run.config.name: exported.run.config,
        "backbone.safetensors": exported.backbone,
        "config.json": exported.folder / "config.json",
    }

    assert manifest.sha256 == sha256(exported.graph)
    assert manifest.size_bytes == exported.graph.stat().st_size
    assert {p.file: p.sha256 for p in manifest.parents} == {n: sha256(p) for n, p in files.items()}
    roles = {parent.file: parent.role for parent in manifest.parents}
    assert roles["cifar.bin"] == "run"
    assert roles["backbone.safetensors"] == "backbone"


def test_the_graph_is_the_one_that_the_manifest_describes(exported: Exported) -> None:
    manifest = read_manifest(exported.graph)
    graph = onnx.load(str(exported.graph)).graph

    (images,) = graph.input
    (logits,) = graph.output
    assert [d.dim_value for d in images.type.tensor_type.shape.dim] == [1, 3, 16, 16]
    assert [d.dim_value for d in logits.type.tensor_type.shape.dim] == [1, 5]
    assert manifest.inputs[0].shape == (1, 3, 16, 16)
    assert manifest.outputs[0].shape == (1, 5)
    assert manifest.operators["LayerNormalization"] == 7
    assert not set(manifest.operators) & {"ScatterElements", "TopK", "NonZero", "If", "Loop"}


# The opset


def test_the_opset_is_the_one_asked_for(exported: Exported, tmp_path: Path) -> None:
    words = ("--opset", "18", "--limit", "2", "-o", tmp_path)
    done = call("export", *exported.words, *words, "--json")

    manifest = read_manifest(tmp_path / "model.onnx")
    assert done.code == 0, done.err
    assert (manifest.opset, manifest.target) == (18, "cpu")
    assert onnx.load(str(tmp_path / "model.onnx")).opset_import[0].version == 18
    assert "opset 18 · " in done.err


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("--opset", "22"), "cpu reads opsets up to 21, not 22"),
        (("--opset", "16"), "graphs are written in the opsets 17 to 23, not in 16"),
    ],
)
def test_an_opset_that_the_target_does_not_read_is_refused_at_once(
    words: tuple[str, ...], what: str, exported: Exported, tmp_path: Path
) -> None:
    done = call("export", *exported.words, *words, "-o", tmp_path / "out", "--json")

    assert done.code == 2
    assert done.error()["what"] == what
    assert done.error()["where"] == "--opset"
    assert "✓" not in done.err
    assert not (tmp_path / "out").exists()


def test_an_unknown_target_is_refused_at_once(exported: Exported, tmp_path: Path) -> None:
    done = call("export", *exported.words, "--target", "tensorrt9", "-o", tmp_path / "o", "--json")

    assert done.error()["class"] == "UnknownNameError"
    assert "✓" not in done.err


# Drift


def test_a_drift_exits_7_and_names_the_first_stage(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    perturb(monkeypatch)

    done = call("export", *exported.words, "-o", tmp_path, "--json")

    assert done.code == 7
    error = done.error()
    assert error["class"] == "ParityError"
    assert error["what"].startswith("frozen drifts from the reference: ")
    assert "relative difference" in error["what"]
    assert error["where"].startswith("stage frozen, on 8 synthetic images")
    assert "✗ freeze" in done.err
    assert "✓ fold" in done.err
    evidence = json.loads((tmp_path / "parity.json").read_text())
    failed = {row["stage"]: bool(row["failures"]) for row in evidence["rows"]}
    assert failed == {"checkpoint f32": False, "folded": False, "frozen": True, "onnx": True}
    assert read_manifest(tmp_path / "model.onnx").parity == evidence


# The check's images


def test_labelled_data_give_an_accuracy_and_class_names(exported: Exported, tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "test.npz", 6, class_names=np.array(LABELS))

    done = call(
        "export", *exported.words, "-o", tmp_path / "out", "--data", shard, "--limit", "5", "--json"
    )

    document = done.document()
    rows = document["parity"]["rows"]
    assert document["parity"]["images"] == "5 of 6 images in test.npz"
    assert {row["images"] for row in rows if row["stage"] != "folded"} == {5}
    assert len({row["accuracy"] for row in rows if row["stage"] != "folded"}) == 1
    assert rows[0]["accuracy"] is not None
    assert tuple(document["manifest"]["labels"]) == LABELS


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"labels": np.arange(6)}, "labels 0 to 5 for a model of 5 classes"),
        ({"labels": np.arange(6) - 1}, "labels -1 to 4 for a model of 5 classes"),
        ({"class_names": np.array(LABELS[:4]), "labels": np.arange(6) % 4}, "4 class names for"),
        ({"images": pixels_of(6).astype(np.float32)}, "`images` is not uint8"),
        ({"labels": np.zeros(6)}, "`labels` are not whole numbers"),
        ({"labels": np.zeros(5, int)}, "`labels` does not have one entry for each image"),
    ],
)
def test_wrong_data_are_refused(
    arrays: dict[str, Any], words: str, exported: Exported, tmp_path: Path
) -> None:
    shard = write_shard(tmp_path / "test.npz", **arrays)
    out = tmp_path / "out"

    done = call("export", *exported.words, "-o", out, "--data", shard, "--json")

    assert done.code == 3
    assert words in done.error()["what"]
    assert "test.npz" in done.error()["where"]
    assert not out.exists()


def test_a_folder_that_lacks_a_class_is_refused(exported: Exported, tmp_path: Path) -> None:
    for name in LABELS[1:]:
        write_images(tmp_path / "data" / name, pixels_of(1))

    done = call(
        "export", *exported.words, "-o", tmp_path / "out", "--data", tmp_path / "data", "--json"
    )

    assert done.code == 3
    assert "4 classes for a model of 5 classes" in done.error()["what"]


def test_an_empty_folder_is_refused(exported: Exported, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()

    done = call(
        "export", *exported.words, "-o", tmp_path / "out", "--data", tmp_path / "data", "--json"
    )

    assert done.code == 3
    assert done.error()["what"] == "there is no image in this folder"


@pytest.mark.parametrize("content", [b"", "ant\nbée\n".encode("latin-1")])
def test_class_names_that_are_no_text_or_too_few_are_refused(
    content: bytes, exported: Exported, tmp_path: Path
) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_bytes(content or b"ant\nbee\n")

    done = call("export", *exported.words, "-o", tmp_path / "out", "--labels", labels, "--json")

    assert done.code == 2
    assert "class names" in done.error()["what"]
    assert not (tmp_path / "out" / "model.onnx").exists()


def test_several_targets_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    run = tmp_path / "run.bin"
    run.touch()

    done = call("export", run, "--target", "cpu,rtx", "-o", tmp_path / "out")

    assert done.code == 2
    assert "export writes one graph" in done.err
    assert "deploy makes engines for several" in done.err
