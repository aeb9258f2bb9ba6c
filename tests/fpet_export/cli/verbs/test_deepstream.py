"""`deepstream`: a configuration that nvinfer takes, and pictures that get the same answers."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from engines.contract import OpenOptions
from engines.engine import open_engine
from engines.imaging.images import read_files, to_input
from engines.manifest import Runtime, TensorSpec, read_manifest, write_manifest
from tests.fpet_export.command_line import LABELS, Exported, call
from tests.fpet_export.deepstream.nvinfer_reference import input_of, read_config
from tests.fpet_export.tasks.task_files import TaskFiles

RUNTIME = Runtime(
    flavour="tensorrt", version="10.3.0.30", compute_capabilities=("8.7",), machine="aarch64"
)


@pytest.fixture
def plan(exported: Exported, tmp_path: Path) -> Path:
    """A stand-in for a plan: nothing here opens it."""
    path = tmp_path / "model.fp16.plan"
    path.write_bytes(b"not a plan")
    manifest = read_manifest(exported.graph)
    write_manifest(
        path, dataclasses.replace(manifest, kind="engine", target="tensorrt", runtime=RUNTIME)
    )
    return path


def rewrite(path: Path, **changes: Any) -> None:
    write_manifest(path, dataclasses.replace(read_manifest(path), **changes))


def prepared(path: Path, **changes: Any) -> None:
    """Change the preprocessing of a plan."""
    preprocessing = read_manifest(path).preprocessing
    assert preprocessing is not None
    rewrite(path, preprocessing=dataclasses.replace(preprocessing, **changes))


def with_features(path: Path) -> None:
    manifest = read_manifest(path)
    assert manifest.model is not None
    model = dataclasses.replace(manifest.model, head="features", classes=0)
    output = TensorSpec(name="features", shape=(1, 32), dtype="float32")
    rewrite(path, model=model, outputs=(output,), labels=())


def config_in(folder: Path) -> dict[str, Any]:
    return read_config((folder / "config_infer.txt").read_text("utf-8"))


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    shares = np.exp(logits.astype(np.float64) - logits.max())
    return np.asarray(shares / shares.sum())


def test_the_folder_of_a_classifier(plan: Path, tmp_path: Path) -> None:
    out = tmp_path / "ds"

    done = call("deepstream", plan, "-o", out, "--gpu", 1, "--json")

    assert done.code == 0, done.err
    assert config_in(out) == {
        "gpu-id": 1, "gie-unique-id": 1, "process-mode": 1, "model-engine-file": "model.plan",
        "batch-size": 1, "network-mode": 0, "network-type": 1, "infer-dims": [3, 16, 16],
        "network-input-order": 0, "model-color-format": 0, "net-scale-factor": 1 / 255,
        "maintain-aspect-ratio": 0, "scaling-filter": 2, "scaling-compute-hw": 1,
        "output-tensor-meta": 0, "labelfile-path": "labels.txt", "classifier-threshold": 0,
        "custom-lib-path": "libclassifier_parser.so",
        "parse-classifier-func-name": "NvDsInferParseFpetLogits",
    }  # fmt: skip
    assert (out / "labels.txt").read_text() == ";".join(LABELS) + "\n"
    assert call("verify", out / "model.plan").code == 0
    assert {path.name for path in out.iterdir()} == {
        "README.md", "config_infer.txt", "labels.txt", "classifier_parser.cpp", "model.plan",
        "model.manifest.json",
    }  # fmt: skip
    assert all(f'    "{name}",\n' in (out / "classifier_parser.cpp").read_text() for name in LABELS)
    document = done.document()
    assert document["deepstream"] == ["7.1 (JetPack 6.1)"]
    assert document["crop"] is None
    assert "DeepStream 7.1 (JetPack 6.1)" in done.err


def test_the_readme_names_only_files_that_are_there(plan: Path, tmp_path: Path) -> None:
    out = tmp_path / "ds"
    assert call("deepstream", plan, "-o", out).code == 0

    text = (out / "README.md").read_text()

    named = {*re.findall(r"[\w.]+\.(?:txt|cpp|so)\b", text)}
    assert named == {"config_infer.txt", "classifier_parser.cpp", "libclassifier_parser.so"}
    for words in ("g++ -std=c++14", "gst-launch-1.0", "[primary-gie]", "## What is not equal"):
        assert words in text


def test_a_picture_of_the_networks_size_gets_the_class_and_the_logits_of_predict(
    plan: Path, engine: Path, tmp_path: Path
) -> None:
    out, generator = tmp_path / "ds", np.random.default_rng(5)
    assert call("deepstream", plan, "-o", out).code == 0
    config, manifest = config_in(out), read_manifest(engine)
    assert manifest.preprocessing is not None
    with open_engine(engine, options=OpenOptions()) as opened:
        for number in range(6):
            file = tmp_path / f"{number}.png"
            Image.fromarray(generator.integers(0, 256, (16, 16, 3), np.uint8)).save(file)
            images = read_files([file], manifest.preprocessing)

            logits = opened.run({"images": input_of(config, images.pixels[0])})["logits"][0]

            wanted = to_input(images.pixels, manifest.preprocessing)
            expected = opened.run({"images": wanted})["logits"][0]
            largest = float(np.abs(expected).max())
            assert np.abs(logits - expected).max() <= 1e-5 * largest
            told = call("predict", engine, file, "--top", len(LABELS), "--json").document()
            best, *_ = classes = told["predictions"][0]["classes"]
            shares = softmax(logits)
            assert best["class"] == int(shares.argmax())
            for one in classes:
                assert shares[one["class"]] == pytest.approx(one["probability"], abs=2e-6)
            for wrong in ({"net-scale-factor": 1.0}, {"model-color-format": 1}):  # the controls
                other = opened.run({"images": input_of(config | wrong, images.pixels[0])})
                assert np.abs(other["logits"][0] - expected).max() > 1e-3 * largest


def test_normalisation_outside_the_graph_becomes_scale_and_offsets(
    plan: Path, tmp_path: Path
) -> None:
    prepared(plan, in_graph=False, mean=(0.5, 0.4, 0.3), std=(0.25, 0.25, 0.25))
    pixels = np.random.default_rng(1).integers(0, 256, (16, 16, 3), np.uint8)
    assert call("deepstream", plan, "-o", tmp_path / "ds").code == 0

    found = input_of(config_in(tmp_path / "ds"), pixels)

    preprocessing = read_manifest(plan).preprocessing
    assert preprocessing is not None
    np.testing.assert_allclose(found, to_input(pixels[None], preprocessing), atol=2e-6)


def test_pixels_beside_each_other_keep_their_order(plan: Path, tmp_path: Path) -> None:
    prepared(plan, layout="NHWC")
    rewrite(plan, inputs=(TensorSpec(name="images", shape=(1, 16, 16, 3), dtype="float32"),))
    pixels = np.random.default_rng(1).integers(0, 256, (16, 16, 3), np.uint8)
    assert call("deepstream", plan, "-o", tmp_path / "ds").code == 0

    config = config_in(tmp_path / "ds")

    assert config["network-input-order"] == 1
    np.testing.assert_allclose(
        input_of(config, pixels)[0], pixels / np.float32(255), atol=1e-7, rtol=0
    )


@pytest.mark.parametrize(
    ("shape", "given", "batch"),
    [(1, None, 1), (4, None, 4), ("batch", (1, 8), 8), ("batch", (2, 1024), 1024)],
)
def test_the_batch_is_the_plans_largest(
    shape: int | str, given: tuple[int, int] | None, batch: int, plan: Path, tmp_path: Path
) -> None:
    rewrite(
        plan,
        inputs=(TensorSpec(name="images", shape=(shape, 3, 16, 16), dtype="float32"),),
        outputs=(TensorSpec(name="logits", shape=(shape, len(LABELS)), dtype="float32"),),
        batch_range=given,
    )
    assert call("deepstream", plan, "-o", tmp_path / "ds").code == 0
    assert config_in(tmp_path / "ds")["batch-size"] == batch


@pytest.mark.parametrize(
    ("precision", "mode"), [("fp16", 2), ("int8", 1), ("bf16", None), ("fp8", None)]
)
def test_the_mode_is_that_of_the_plan_where_nvinfer_has_one(
    precision: str, mode: int | None, plan: Path, tmp_path: Path
) -> None:
    rewrite(plan, precision=precision)
    assert call("deepstream", plan, "-o", tmp_path / "ds").code == 0
    assert config_in(tmp_path / "ds").get("network-mode") == mode


def test_tensors_are_attached_as_they_are(plan: Path, tmp_path: Path) -> None:
    asked, features = tmp_path / "asked", tmp_path / "features"
    assert call("deepstream", plan, "-o", asked, "--tensors").code == 0
    with_features(plan)
    done = call("deepstream", plan, "-o", features)

    assert done.code == 0, done.err
    for folder in (asked, features):
        config = config_in(folder)
        assert (config["network-type"], config["output-tensor-meta"]) == (100, 1)
        assert not {"labelfile-path", "custom-lib-path", "parse-classifier-func-name"} & {*config}
        assert {path.name for path in folder.iterdir()} == {
            "README.md", "config_infer.txt", "model.plan", "model.manifest.json",
        }  # fmt: skip
        text = (folder / "README.md").read_text()
        assert "NvDsInferTensorMeta" in text
        assert "fakesink" in text and "nvdsosd" not in text


def test_another_gpu_is_named_to_every_element(plan: Path, tmp_path: Path) -> None:
    prepared(plan, crop=0.875)
    words = ("deepstream", plan, "-o", tmp_path / "ds", "--frame", "640x480")
    assert call(*words).code == 0
    assert "gpu-id" not in (tmp_path / "ds/README.md").read_text()
    assert call(*words, "--gpu", 2, "--force").code == 0

    text = (tmp_path / "ds/README.md").read_text()

    for element in ("nvurisrcbin", "nvvideoconvert", "nvstreammux name=mux", "nvdsosd"):
        assert text.count(f"{element} gpu-id=2") == text.count(element)


def test_objects_of_a_detector(plan: Path, tmp_path: Path) -> None:
    out = tmp_path / "ds"
    assert call("deepstream", plan, "-o", out, "--objects-of", 3).code == 0

    config, text = config_in(out), (out / "README.md").read_text()

    assert config["process-mode"] == 2
    assert (config["operate-on-gie-id"], config["gie-unique-id"]) == (3, 4)
    assert "nvinfer config-file-path=DETECTOR.txt" in text
    assert "[secondary-gie0]" in text
    assert "**Objects.**" in text


# What the network sees


def test_a_crop_is_cut_out_before_nvinfer(plan: Path, tmp_path: Path) -> None:
    prepared(plan, crop=0.875)
    out = tmp_path / "ds"

    done = call("deepstream", plan, "-o", out, "--frame", "1920x1080", "--json")

    text = (out / "README.md").read_text()
    assert done.code == 0, done.err
    # 1080 rows become 18, of which 16 are kept: 960 of 1080
    assert done.document()["crop"] == {"left": 480, "top": 60, "width": 960, "height": 960}
    assert "nvvideoconvert src-crop=480:60:960:960" in text
    assert "width=960,height=960" in text
    assert "videos of 1920x1080 only" in text


@pytest.mark.parametrize(
    ("words", "where"),
    [
        ((), "--frame"),
        (("--objects-of", 1), "--objects-of"),
        (("--objects-of", 1, "--frame", "640x480"), "--objects-of"),
        (("--frame", "640x480", "--uncropped"), "--uncropped"),
    ],
)
def test_what_the_network_sees_is_not_guessed(
    words: tuple[object, ...], where: str, plan: Path, tmp_path: Path
) -> None:
    prepared(plan, crop=0.875)

    done = call("deepstream", plan, "-o", tmp_path / "ds", *words, "--json")

    assert done.code == 2
    assert done.error()["where"] == where
    assert not (tmp_path / "ds").exists()


@pytest.mark.parametrize("words", [(), ("--objects-of", 1)])
def test_whole_pictures_are_said_not_to_be_equal(
    words: tuple[object, ...], plan: Path, tmp_path: Path
) -> None:
    prepared(plan, crop=0.875)

    done = call("deepstream", plan, "-o", tmp_path / "ds", "--uncropped", *words)

    assert done.code == 0, done.err
    assert "crop       none, and the run was prepared with" in done.err
    assert "**No crop.**" in (tmp_path / "ds/README.md").read_text()


def test_without_a_crop_there_is_nothing_to_leave_out(plan: Path, tmp_path: Path) -> None:
    done = call("deepstream", plan, "-o", tmp_path / "ds", "--uncropped", "--json")
    assert done.code == 2
    assert "crops nothing" in done.error()["what"]


def test_a_frame_that_leaves_nothing_is_refused(plan: Path, tmp_path: Path) -> None:
    prepared(plan, crop=0.875)
    done = call("deepstream", plan, "-o", tmp_path / "ds", "--frame", "16x16", "--json")
    assert done.code == 3
    assert "leaves 14x14" in done.error()["what"]


# Refusals


@pytest.mark.parametrize(
    ("runtime", "what"),
    [
        (Runtime(flavour="tensorrt_rtx", version="1.7.1"), "an engine of tensorrt_rtx"),
        (Runtime(flavour="onnxruntime", version="1.31"), "an engine of onnxruntime"),
        (Runtime(flavour="tensorrt", version="11.4.0.106"), "built by TensorRT 11.4"),
    ],
)
def test_an_engine_that_deepstream_cannot_load(
    runtime: Runtime, what: str, plan: Path, tmp_path: Path
) -> None:
    rewrite(plan, runtime=runtime)

    done = call("deepstream", plan, "-o", tmp_path / "ds", "--json")

    assert done.code == 2
    assert what in done.error()["what"]
    assert not (tmp_path / "ds").exists()


def test_a_graph_is_not_left_to_nvinfer(exported: Exported, tmp_path: Path) -> None:
    error = call("deepstream", exported.graph, "-o", tmp_path / "ds", "--json").error()
    assert error["exit_code"] == 2
    assert "nvinfer would build it itself, with TF32" in error["what"]
    assert f"fpet-export build {exported.graph} --target tensorrt" in error["fix"]


def floats(*shape: int | str, name: str = "images", dtype: str = "float32") -> TensorSpec:
    return TensorSpec(name=name, shape=shape, dtype=dtype)


LOGITS = floats(1, 5, name="logits")


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"preprocessing": None}, "its preprocessing is unknown"),
        ({"inputs": (floats(1, 3, 16, 16), floats(4, 4, name="w"))}, "takes 2 inputs (images, w)"),
        ({"inputs": (floats(1, 3, 16, 16, dtype="float16"),)}, "'images' takes float16"),
        ({"inputs": (floats(1, 3, 16, 16, dtype="uint8"),)}, "'images' takes uint8"),
        ({"inputs": (floats(1, 3, 16, 8),)}, "has the shape [1, 3, 16, 8]"),
        ({"inputs": (floats("batch", 3, 16, 16),)}, "does not say how large it may be"),
        ({"inputs": (floats(1025, 3, 16, 16),)}, "the batch is 1025"),
        ({"outputs": (floats(1, 5, name="logits", dtype="float16"),)}, "'logits' is float16"),
        ({"outputs": (floats(1, 5, name="logits", dtype="bfloat16"),)}, "'logits' is bfloat16"),
        ({"outputs": (LOGITS, floats(1, name="size"))}, "'size' has the shape [1]"),
        ({"outputs": (LOGITS, floats(1, "n", name="m"))}, "'m' has the shape [1, 'n']"),
        ({"labels": ("a", "b")}, "2 class names for 5 classes"),
        ({"labels": ("a", "b", "c;d", "e", "f")}, "the class name 'c;d' has a semicolon"),
        ({"labels": ("a", "b", "c\nd", "e", "f")}, "has a semicolon or a line break"),
    ],
)
def test_what_nvinfer_would_do_otherwise_is_refused(
    changes: dict[str, Any], what: str, plan: Path, tmp_path: Path
) -> None:
    rewrite(plan, **changes)

    done = call("deepstream", plan, "-o", tmp_path / "ds", "--json")

    assert done.code == 3
    assert what in done.error()["what"]
    assert not (tmp_path / "ds").exists()


def test_tasks_that_share_a_graph_are_refused(task_files: TaskFiles, tmp_path: Path) -> None:
    error = call("deepstream", task_files.out, "-o", tmp_path / "ds", "--json").error()
    assert error["exit_code"] == 2
    assert "tasks share a graph" in error["what"]


def test_a_std_for_each_channel_must_be_in_the_graph(plan: Path, tmp_path: Path) -> None:
    prepared(plan, in_graph=False, std=(0.229, 0.224, 0.225))
    error = call("deepstream", plan, "-o", tmp_path / "ds", "--json").error()
    assert error["exit_code"] == 3
    assert "net-scale-factor is one for all channels" in error["what"]


def test_raw_pixels_are_refused(plan: Path, tmp_path: Path) -> None:
    prepared(plan, dtype="uint8")
    error = call("deepstream", plan, "-o", tmp_path / "ds", "--json").error()
    assert "--input float32" in error["fix"]


@pytest.mark.parametrize(
    "words", [("--frame", "1920"), ("--frame", "0x5"), ("--gpu", "-1"), ("--objects-of", "0")]
)
def test_what_makes_no_sense_is_refused(words: tuple[str, ...], plan: Path, tmp_path: Path) -> None:
    assert call("deepstream", plan, "-o", tmp_path / "ds", *words, "--json").code == 2
    assert not (tmp_path / "ds").exists()


def test_a_bundle_and_a_tampered_plan_are_refused(
    exported: Exported, plan: Path, tmp_path: Path
) -> None:
    bundle, out = tmp_path / "x.bundle.tar", tmp_path / "ds"
    assert call("bundle", exported.graph, "-o", bundle).code == 0
    plan.write_bytes(b"another one")

    assert "this is a bundle" in call("deepstream", bundle, "-o", out, "--json").error()["what"]
    assert call("deepstream", plan, "-o", out, "--json").code == 10
    assert not out.exists()


def test_nothing_is_overwritten_without_force(plan: Path, tmp_path: Path) -> None:
    out = tmp_path / "ds"
    assert call("deepstream", plan, "-o", out).code == 0
    (out / "README.md").write_text("mine")
    (out / "model.plan").unlink()

    done = call("deepstream", plan, "-o", out, "--json")

    assert done.code == 2
    assert "exists already" in done.error()["what"]
    assert not (out / "model.plan").exists()
    assert (out / "README.md").read_text() == "mine"
    assert call("deepstream", plan, "-o", out, "--force").code == 0


def test_names_longer_than_deepstream_keeps_are_said(plan: Path, tmp_path: Path) -> None:
    rewrite(plan, labels=("ä" * 64, *LABELS[1:]))
    done = call("deepstream", plan, "-o", tmp_path / "ds", "--json")
    assert any("127 bytes" in one for one in done.document()["not_equal"])
    rewrite(plan, labels=LABELS)
    done = call("deepstream", plan, "-o", tmp_path / "ds", "--force", "--json")
    assert not any("127 bytes" in one for one in done.document()["not_equal"])


@pytest.mark.parametrize(
    ("version", "machine", "releases"),
    [
        ("10.3.0.30", "aarch64", ["7.1 (JetPack 6.1)"]),
        ("10.13.3.9", "aarch64", ["8.0 (JetPack 7.0)", "9.0 (JetPack 7.1)"]),
        ("10.13.3.9", "x86_64", []),
        ("10.16.1.11", "x86_64", ["9.1", "9.2"]),
    ],
)
def test_releases_with_the_plans_tensorrt_are_named(
    version: str, machine: str, releases: list[str], plan: Path, tmp_path: Path
) -> None:
    rewrite(plan, runtime=dataclasses.replace(RUNTIME, version=version, machine=machine))
    done = call("deepstream", plan, "-o", tmp_path / "ds", "--json")
    assert done.document()["deepstream"] == releases
    named = " or ".join(releases) or "none of the releases up to 9.2"
    assert named in " ".join((tmp_path / "ds/README.md").read_text().split())


def test_the_configuration_survives_a_name_with_a_line_break(plan: Path, tmp_path: Path) -> None:
    odd = plan.with_name("a\nonnx-file=x.plan")
    odd.write_bytes(plan.read_bytes())
    write_manifest(odd, read_manifest(plan))
    assert call("deepstream", odd, "-o", tmp_path / "ds").code == 0
    assert "onnx-file" not in json.dumps(config_in(tmp_path / "ds"))
