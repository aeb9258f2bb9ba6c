"""What a network gives besides logits: features and tokens, against timm's own, and every verb."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

import engines
import fpet_export
from engines.errors import CheckpointError, ParityError, UsageError
from engines.imaging.images import to_input
from engines.imaging.synthetic import synthetic_set
from engines.manifest import Head, read_manifest
from engines.parity.reference_file import read_reference, write_reference
from fpet_export.model.mergers.fpet import partition
from fpet_export.stages import Adapted
from fpet_export.steps.float64_reference import begin
from tests.fpet_export.command_line import call, pixels_of, write_images
from tests.fpet_export.tiny import relative

HF_MODELS = Path(__file__).parent / "hf_models"
SIDE = 32
ARGUMENTS: dict[str, Any] = {
    "embed_dim": 64, "depth": 2, "num_heads": 4, "img_size": SIDE, "patch_size": 8,
}  # fmt: skip
NETWORKS: dict[str, dict[str, Any]] = {
    "class token": {},
    "mean, norm behind it": {"global_pool": "avg"},
    "mean, norm before it": {"global_pool": "avg", "fc_norm": False},
    "class token, norm behind it": {"fc_norm": True},
    "registers": {"reg_tokens": 3, "no_embed_class": True},
    "no class token": {"class_token": False, "global_pool": "avg"},
    "norm before the blocks": {"pre_norm": True},
    "layer scale": {"init_values": 0.3},
    "distilled": {"name": "deit_tiny_distilled_patch16_224"},
}


def write_model(
    folder: Path, *, name: str = "vit_tiny_patch16_224", num_classes: int = 5, **more: Any
) -> torch.nn.Module:
    """Write a small timm model as the hub's layout has it, and return it in float64."""
    arguments = ARGUMENTS | more
    model: torch.nn.Module = timm.create_model(name, num_classes=num_classes, **arguments).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    folder.mkdir(exist_ok=True)
    save_file(model.state_dict(), folder / "model.safetensors")
    document = {
        "architecture": name,
        "num_classes": num_classes,
        "global_pool": arguments.pop("global_pool", "token"),
        "model_args": arguments,
        "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"},
    }
    (folder / "config.json").write_text(json.dumps(document))
    return model.double()


def of_timm(model: Any, pixels: np.ndarray, head: Head) -> np.ndarray:
    """What timm's own code gives of pixels normalised by 0.5."""
    images = torch.from_numpy(pixels.astype(np.float32) / 255).double().permute(0, 3, 1, 2)
    with torch.inference_mode():
        tokens = model.forward_features((images - 0.5) / 0.5)
        if head == "tokens":
            found = tokens[:, model.num_prefix_tokens :]
        else:
            found = model.forward_head(tokens, pre_logits=head == "features")
    answered: np.ndarray = found.numpy()
    return answered


def in_the_graph(run: Adapted, pixels: np.ndarray, path: Path, **options: Any) -> np.ndarray:
    frozen = run.fold().freeze(batch=len(pixels), **options)
    graph = frozen.to_onnx(path)
    head = run.model.spec.head
    (output,) = read_manifest(graph).outputs
    assert (output.name, output.shape) == (head, (len(pixels), *run.model.spec.output))
    with engines.open(graph) as engine:
        found: np.ndarray = engine.run({"images": to_input(pixels, frozen.preprocessing)})[head]
    return found


@pytest.mark.parametrize("head", ["features", "tokens"])
@pytest.mark.parametrize("network", NETWORKS)
def test_features_and_tokens_are_timms(network: str, head: Head, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", **NETWORKS[network])
    pixels = pixels_of(3, side=SIDE)

    run = fpet_export.load(tmp_path / "model", head=head)

    expected = of_timm(model, pixels, head)
    assert relative(run.outputs(pixels).logits, expected) < 1e-12
    frozen = run.fold().freeze(batch=3)
    assert relative(frozen.outputs(pixels).logits, expected) < 1e-5
    assert relative(run.outputs(pixels[:, ::-1]).logits, expected) > 1e-3


@pytest.mark.parametrize("head", ["features", "tokens"])
@pytest.mark.parametrize("network", ["class token", "mean, norm behind it", "distilled"])
def test_the_graph_gives_them(network: str, head: Head, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", **NETWORKS[network])
    pixels = pixels_of(2, side=SIDE)

    run = fpet_export.load(tmp_path / "model", head=head)

    found = in_the_graph(run, pixels, tmp_path / "model.onnx")
    assert relative(found, of_timm(model, pixels, head)) < 1e-5


@pytest.mark.parametrize("pool", [None, "token", "avg"])
def test_features_of_transformers_are_what_its_classifier_reads(
    pool: str | None, tmp_path: Path
) -> None:
    """The library's logits are its classifier on them; the model alone, without it, gives them."""
    folder = Path(shutil.copytree(HF_MODELS / "dinov2", tmp_path / "dinov2"))
    with np.load(folder / "expected.npz") as expected:
        pixels, logits = expected["images"], expected["logits"]
    tensors = load_file(folder / "model.safetensors")
    weight, bias = (tensors.pop(f"classifier.{leaf}").double() for leaf in ("weight", "bias"))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config |= {"architectures": ["Dinov2Model"]}
    (folder / "config.json").write_text(json.dumps(config))

    run = fpet_export.load(folder, head="features", pool=pool)

    width = run.model.spec.width
    part = {None: slice(None), "token": slice(width), "avg": slice(width, None)}[pool]
    found = torch.from_numpy(run.outputs(pixels).logits)
    whole = torch.from_numpy(fpet_export.load(folder, head="features").outputs(pixels).logits)
    assert relative((whole @ weight.T + bias).numpy(), logits) < 1e-6
    assert relative(found.numpy(), whole[:, part].numpy()) < 1e-12
    with pytest.raises(CheckpointError, match="has no head"):
        fpet_export.load(folder)


def test_tokens_need_all_tokens_of_the_last_block(tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    blocks = {}
    for head in ("logits", "features", "tokens"):
        run = fpet_export.load(tmp_path / "model", head=head)
        blocks[head] = run.fold().freeze(last_block="class-token").module.tokens
    assert blocks == {"logits": (17, 1), "features": (17, 1), "tokens": (17, 17)}


def test_a_merged_network_gives_features(tmp_path: Path) -> None:
    write_model(tmp_path / "model", global_pool="avg")
    pixels = pixels_of(2, side=SIDE)
    run = fpet_export.load(tmp_path / "model", merge_block=0, head="features")
    without = fpet_export.load(tmp_path / "model", head="features")

    found = in_the_graph(run, pixels, tmp_path / "model.onnx")

    assert relative(found, run.outputs(pixels).logits) < 1e-5
    assert relative(found, without.outputs(pixels).logits) > 1e-3


@pytest.fixture(scope="module")
def headless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("headless") / "model"
    write_model(folder, num_classes=0)
    return folder


def test_a_file_without_a_classifier_gives_features_and_no_logits(
    headless: Path, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match="has no head") as refused:
        fpet_export.load(headless)
    assert "--head features" in refused.value.fix

    done = call("export", headless, "--head", "features", "-o", tmp_path / "out", "--json")

    assert done.code == 0, done.err
    manifest = read_manifest(tmp_path / "out/model.onnx")
    assert manifest.model is not None
    assert (manifest.model.head, manifest.model.classes, manifest.labels) == ("features", 0, ())
    rows = done.document()["parity"]["rows"]
    assert all(row["agreement"] is None and row["cosine"] > 1 - 1e-9 for row in rows)
    assert call("inspect", headless, "--head", "tokens").code == 0


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a classifier, exported with each head."""
    folder = tmp_path_factory.mktemp("heads")
    write_model(folder / "model")
    write_images(folder / "images", pixels_of(4, side=SIDE))
    for head in ("logits", "features", "tokens"):
        done = call("export", folder / "model", "--head", head, "-o", folder / head, "-q")
        assert done.code == 0, done.err
    return folder


def test_compare_takes_the_head_of_a_run_and_refuses_another(exported: Path) -> None:
    run, features = exported / "model", exported / "features/model.onnx"
    assert call("compare", run, features, "--head", "features", "-q").code == 0

    for reference in (run, exported / "tokens/model.onnx", exported / "logits/model.onnx"):
        error = call("compare", reference, features, "--json").error()
        assert error["exit_code"] == 7 and "gives features, the reference" in error["what"]


def test_an_engine_is_built_and_checked_where_it_arrives(exported: Path, tmp_path: Path) -> None:
    built = call("build", exported / "tokens/model.onnx", "-o", tmp_path / "m.cpu.onnx", "--json")
    assert built.code == 0, built.err
    (row,) = built.document()["parity"]["rows"]
    assert row["cosine"] > 1 - 1e-9 and row["agreement"] is None


def test_predict_and_labels_want_classes(exported: Path, tmp_path: Path) -> None:
    image = exported / "images/0.png"
    error = call("predict", exported / "features/model.onnx", image, "--json").error()
    assert error["exit_code"] == 2 and "only logits name a class" in error["what"]
    assert call("predict", exported / "logits/model.onnx", image).code == 0

    names = tmp_path / "names.txt"
    names.write_text("a\nb\nc\nd\ne\n")
    words = ("export", exported / "model", "--head", "features", "-o", tmp_path / "out", "--json")
    error = call(*words, "--labels", names).error()
    assert error["exit_code"] == 2 and "names no classes" in error["what"]


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("--precision", "int8", "--max-drop", "1"), "--max-drop counts classes"),
        (("--precision", "int8", "--min-agreement", "0.9"), "--min-agreement counts classes"),
        (("--merge", "auto", "--min-agreement", "0.9"), "judges merges by classes"),
    ],
)
def test_limits_on_classes_are_refused(
    words: tuple[str, ...], what: str, exported: Path, tmp_path: Path
) -> None:
    export = ("export", exported / "model", "--head", "tokens", "-o", tmp_path / "out")
    error = call(*export, "--data", exported / "images", *words, "--json").error()
    assert error["exit_code"] == 2 and what in error["what"]


def test_a_graph_of_features_refuses_limits_on_classes(exported: Path) -> None:
    graph = exported / "features/model.onnx"
    words = ("quantize", graph, "--precision", "int8", "--data", exported / "images")
    error = call(*words, "--min-agreement", "0.9", "--json").error()
    assert error["exit_code"] == 2 and "--min-sqnr" in error["fix"]


def test_integers_are_judged_by_the_noise_of_features(exported: Path, tmp_path: Path) -> None:
    shard = tmp_path / "images.npz"
    pixels = synthetic_set((SIDE, SIDE), 16).pixels
    np.savez(shard, images=pixels, labels=np.arange(16) % 5)
    words = (
        "export", exported / "model", "--head", "features", "--precision", "int8",
        "--data", shard, "-o", tmp_path / "out", "--force", "--json",
    )  # fmt: skip
    done = call(*words, "--min-sqnr", "20")
    assert done.code == 0, done.err
    row = done.document()["parity"]["rows"][-1]
    assert row["stage"] == "int8" and row["sqnr_db"] >= 20
    assert 0.9 < row["cosine"] < 1 and row["accuracy"] is None
    assert "labels not used" in call(*words[:-1]).err.replace("\n", " ")

    assert call(*words, "--min-sqnr", "200").error()["exit_code"] == 8


def test_tasks_share_a_graph_and_differ_in_their_heads(exported: Path, tmp_path: Path) -> None:
    words = ("tasks", f"x={exported / 'model'}", "--head", "features", "-o", tmp_path / "t")
    assert "bring a head each" in call(*words, "--json").error()["what"]


@pytest.mark.parametrize("merge", ["fpet@0", "fpet@1", "tome:r=2", "tome:r=5@0-0"])
def test_every_patch_is_given_the_token_it_merged_into(
    merge: str, exported: Path, tmp_path: Path
) -> None:
    """The reference follows the match patch by patch; the graph multiplies by what was chosen."""
    pixels = pixels_of(3, side=SIDE)
    run = fpet_export.load(exported / "model", head="tokens").merged(merge, "--merge")

    expected = run.outputs(pixels)

    assert expected.logits.shape == (3, 16, 64)
    left = run.merge_plan().tokens[-1] - 1
    for image in expected.logits:
        assert len(np.unique(image.round(9), axis=0)) == left < 16
    frozen = run.fold().freeze(batch=3)
    assert relative(frozen.outputs(pixels).logits, expected.logits) < 1e-5
    assert relative(in_the_graph(run, pixels, tmp_path / "model.onnx"), expected.logits) < 1e-5


def test_patches_that_did_not_merge_keep_their_own_place(exported: Path) -> None:
    """Set B of FPET stays: the mean over the patches of each token, by place, is the token."""
    pixels = pixels_of(2, side=SIDE)
    run = fpet_export.load(exported / "model", head="tokens").merged("fpet@1", "--merge")
    outputs = run.outputs(pixels)
    set_a, set_b = partition((4, 4))
    assert outputs.match is not None
    for tokens, match in zip(outputs.logits, outputs.match, strict=True):
        assert (tokens[set_a] == tokens[set_b][match]).all()
        assert len(np.unique(tokens[set_b], axis=0)) == len(set_b)


def test_merged_tokens_are_exported_with_parity(exported: Path, tmp_path: Path) -> None:
    words = ("export", exported / "model", "--head", "tokens", "--merge", "fpet@0", "--json")
    done = call(*words, "-o", tmp_path / "out")
    assert done.code == 0, done.err
    assert done.document()["parity"]["rows"][-1]["relative"] < 1e-5
    assert read_manifest(tmp_path / "out/model.onnx").outputs[0].shape == (1, 16, 64)

    error = call(*words, "-o", tmp_path / "ties", "--ties", "reference").error()
    assert error["exit_code"] == 2 and "loses tokens" in error["what"]


def test_tokens_that_were_pruned_cannot_be_given_back(exported: Path) -> None:
    run = fpet_export.load(exported / "model", head="tokens")
    with pytest.raises(UsageError, match="loses some of them") as refused:
        run.merged("diffrate:15-11,10-8", "--merge")
    assert "--merge fpet@N" in refused.value.fix


def test_reference_outputs_keep_what_they_are(exported: Path, tmp_path: Path) -> None:
    run = fpet_export.load(exported / "model", head="tokens")
    expected = begin(run, synthetic_set((SIDE, SIDE), 2))
    write_reference(tmp_path / "m.check.npz", expected)

    found = read_reference(tmp_path / "m.check.npz")

    assert found.outputs.head == "tokens" and found.outputs.logits.shape == (2, 16, 64)
    assert found.compare("again", found.outputs).cosine == 1
    logits = begin(fpet_export.load(exported / "model"), found.images).outputs
    with pytest.raises(ParityError, match="gives logits, the reference tokens"):
        found.compare("other", logits)
