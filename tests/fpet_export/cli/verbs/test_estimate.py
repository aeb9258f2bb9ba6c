"""`estimate`: ranges on devices that are not here, and refusals of what is not known."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

import fpet_export
from benchmarks.measurement_file import write_measurement
from benchmarks.network import network_of
from benchmarks.prediction.work import parts_of
from engines.manifest import read_manifest
from fpet_export.model import cost
from fpet_export.model.merge_plan import merge_plan
from fpet_export.model.vit_spec import VitSpec
from tests.benchmarks.made_measurements import VIT_B, measurement
from tests.fpet_export.command_line import Exported, call

ORIN = ("--target", "jetson-orin-nano-8gb", "--precision", "fp16")


def test_each_mode_precision_and_batch_has_a_range(exported: Exported) -> None:
    words = ("--target", "jetson-orin-nano-8gb,h200", "--precision", "fp16,int8")
    done = call("estimate", exported.graph, *words, "--batches", "1,8", "--json")

    found = done.document()
    assert done.code == 0
    keys = [(one["device"], one["power_mode"], one["precision"], one["batch"])
            for one in found["predictions"]]  # fmt: skip
    assert len(set(keys)) == len(keys) == 3 * 2 * 2
    assert ("jetson-orin-nano-8gb", "MAXN_SUPER", "int8", 8) in keys
    assert ("h200", None, "fp16", 1) in keys
    for one in found["predictions"]:
        assert one["kind"] == "prediction"
        assert 0 < one["plain"]["low_ms"] < one["plain"]["high_ms"]
        assert one["merged"]["bound"] in ("compute", "weights", "activations", "launches")
        assert one["constants"]["measured"] == 0
    assert any("25W" in words and "not published" in words for words in found["left_out"])


def test_two_releases_of_one_board_are_one_board(exported: Exported) -> None:
    words = ("--target", "h200@trt10.3,h200@trt", "--precision", "fp16", "--json")

    assert len(call("estimate", exported.graph, *words).document()["predictions"]) == 1


def test_a_terminal_says_that_it_is_a_prediction(exported: Exported) -> None:
    done = call("estimate", exported.graph, *ORIN, "--power-mode", "MAXN_SUPER")

    assert "Predicted, not measured" in done.err
    assert done.out.count("predicted") == len(done.out.splitlines()) == 1
    assert "jetson-orin-nano-8gb, MAXN_SUPER" in done.out
    assert "bundle" in done.err


def test_python_gives_what_the_command_line_gives(exported: Exported) -> None:
    found = fpet_export.estimate(
        exported.graph, target="jetson-orin-nano-8gb", precision="fp16", batches=(2,)
    )

    done = call("estimate", exported.graph, *ORIN, "--batches", "2", "--json")
    assert json.loads(json.dumps(found.to_json())) == done.document()


@pytest.mark.parametrize("last", [None, 1])
def test_the_work_is_what_another_count_says(last: int | None) -> None:
    spec = VitSpec(
        image=(224, 224), patch=(16, 16), width=768, depth=12, heads=12, hidden=3072, classes=1000
    )  # fmt: skip
    network = dataclasses.replace(VIT_B, last_tokens=last or VIT_B.tokens_in)

    counted = sum(part.macs for part in parts_of(network, precision="fp16", batch=1))
    assert counted == sum(cost.macs(spec, merge_plan(spec, "none"), last=last))


def test_the_network_is_that_of_the_manifest(exported: Exported) -> None:
    manifest = read_manifest(exported.graph)
    network = network_of(manifest)

    assert network is not None
    assert manifest.model is not None
    assert network.tokens == manifest.model.tokens
    assert network.merged_blocks == manifest.model.merged_blocks != ()
    assert network.last_tokens == 1  # exported for the CPU


@pytest.mark.parametrize(
    ("words", "code", "what"),
    [
        ((), 2, "was made for cpu, which leaves the GPU open"),
        (("--target", "rtx"), 2, "rtx leaves the GPU open"),
        (("--target", "h20"), 2, "'h20' is not one of"),
        (("--target", "h200"), 2, "is in FP32"),
        (("--target", "h200", "--precision", "fp32"), 2, "'fp32' is not one of fp16"),
        (("--target", "jetson-orin-nano-8gb", "--precision", "fp8"), 2, "do not compute in FP8"),
        ((*ORIN, "--power-mode", "7W"), 2, "peaks in this mode are not published"),
        ((*ORIN, "--power-mode", "maxn_super"), 2, "has no power mode 'maxn_super'"),
    ],
)
def test_what_is_not_known_is_refused(
    exported: Exported, words: tuple[str, ...], code: int, what: str
) -> None:
    done = call("estimate", exported.graph, *words, "--json")

    assert what in done.error()["what"]
    assert done.code == code


def test_a_graph_without_a_manifest_is_refused(exported: Exported, tmp_path: Path) -> None:
    shutil.copy(exported.graph, tmp_path / "foreign.onnx")

    done = call("estimate", tmp_path / "foreign.onnx", *ORIN, "--json")
    assert "nothing says what network" in done.error()["what"]
    assert done.code == 3


def test_measurements_of_the_device_narrow_the_range(exported: Exported, tmp_path: Path) -> None:
    h200 = {"board": None, "gpu": "NVIDIA H200", "target": "cuda"}
    for batch, plain, merged in ((1, 0.6, 0.64), (8, 1.04, 0.96), (64, 5.9, 4.99)):
        found = measurement(plain, merged, batch=batch, **h200)  # type: ignore[arg-type]
        write_measurement(tmp_path / f"b{batch}.latency.json", found)
    (tmp_path / "other.json").write_text("{}")
    words = ("estimate", exported.graph, "--target", "h200", "--precision", "fp16", "--json")

    (fitted,) = call(*words, "--measured", tmp_path).document()["predictions"]
    (start,) = call(*words).document()["predictions"]

    assert fitted["constants"]["measured"] == 6
    assert fitted["constants"]["factor"] < start["constants"]["factor"]
    assert fitted["constants"]["constants"] != start["constants"]["constants"]


def test_measurements_of_another_device_are_refused(exported: Exported, tmp_path: Path) -> None:
    path = tmp_path / "h200.latency.json"
    write_measurement(path, measurement(board=None, gpu="NVIDIA H200", target="cuda"))

    done = call("estimate", exported.graph, *ORIN, "--measured", path, "--json")
    assert "but of h200" in done.error()["what"]
    done = call("estimate", exported.graph, *ORIN, "--measured", exported.graph, "--json")
    assert "cannot be read" in done.error()["what"]
