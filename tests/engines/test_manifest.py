from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.errors import TrustError
from engines.manifest import (
    Companion,
    Manifest,
    MergeStep,
    ModelFacts,
    Parent,
    Preprocessing,
    Runtime,
    TensorSpec,
    from_json,
    manifest_path,
    read_manifest,
    write_manifest,
)

NAMES = st.text(min_size=1, max_size=8)
DIMENSIONS = st.one_of(st.integers(1, 512), st.sampled_from(["batch", "tokens"]))
SPECS = st.lists(
    st.builds(
        TensorSpec,
        name=NAMES,
        shape=st.lists(DIMENSIONS, max_size=4).map(tuple),
        dtype=st.sampled_from(["float32", "uint8"]),
    ),
    max_size=3,
).map(tuple)
TRIPLES = st.tuples(*[st.floats(0, 1)] * 3)
MANIFESTS = st.builds(
    Manifest,
    kind=st.sampled_from(["graph", "engine"]),
    file=st.just("model.onnx"),
    inputs=SPECS,
    outputs=SPECS,
    precision=st.sampled_from(["fp32", "fp16"]),
    opset=st.integers(17, 25),
    target=st.just("cpu"),
    weights=st.sampled_from(["trained", "random", "unknown"]),
    preprocessing=st.none()
    | st.builds(
        Preprocessing,
        size=st.just((224, 224)),
        interpolation=st.just("bicubic"),
        crop=st.floats(0.1, 1),
        mean=TRIPLES,
        std=TRIPLES,
    ),
    labels=st.lists(NAMES, max_size=4).map(tuple),
    companions=st.lists(st.builds(Companion, file=NAMES), max_size=2).map(tuple),
    model=st.none()
    | st.builds(
        ModelFacts,
        architecture=NAMES,
        width=st.just(768),
        depth=st.just(12),
        heads=st.just(12),
        hidden=st.just(3072),
        patch=st.just((16, 16)),
        grid=st.just((14, 14)),
        prefix_tokens=st.just(1),
        classes=st.just(100),
        method=st.just("lora"),
        bit=st.none() | st.integers(1, 32),
        dim=st.none() | st.integers(1, 32),
        scale=st.none() | st.floats(0, 10),
        merge=st.sampled_from(["none", "fpet@6", "tome:r=8"]),
        merges=st.lists(
            st.builds(
                MergeStep,
                block=st.integers(0, 11),
                before=st.just(197),
                merged=st.just(8),
                sources=st.just(98),
            ),
            max_size=2,
        ).map(tuple),
        ties=st.sampled_from(["argmax", "reference"]),
        tokens=st.lists(st.integers(1, 197), max_size=12).map(tuple),
        macs=st.integers(0, 10**11),
    ),
    runtime=st.none()
    | st.builds(Runtime, flavour=NAMES, version=NAMES, settings=st.dictionaries(NAMES, NAMES)),
    operators=st.dictionaries(NAMES, st.integers(1, 99), max_size=4),
    probes=st.dictionaries(NAMES, NAMES, max_size=2),
    batch_range=st.none() | st.tuples(st.integers(1, 4), st.integers(4, 8)),
    parents=st.lists(st.builds(Parent, role=NAMES, file=NAMES, sha256=NAMES)).map(tuple),
    command=st.lists(NAMES, max_size=3).map(tuple),
    parity=st.none() | st.just({"stages": [{"name": "onnx", "sqnr_db": 120.5}]}),
)


def a_manifest(**changes: Any) -> Manifest:
    manifest = Manifest(
        kind="graph",
        file="model.onnx",
        inputs=(TensorSpec(name="image", shape=("batch", 3, 8, 8), dtype="float32"),),
        outputs=(TensorSpec(name="logits", shape=("batch", 10), dtype="float32"),),
        precision="fp32",
        opset=20,
        target="cpu",
        weights="trained",
    )
    return dataclasses.replace(manifest, **changes)


@pytest.fixture
def artefact(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"these are the bytes")
    write_manifest(path, a_manifest())
    return path


def edit(artefact: Path, **changes: Any) -> None:
    """Change a manifest and its own hash with it, as somebody who means it would."""
    path = manifest_path(artefact)
    document = json.loads(path.read_text()) | changes
    document.pop("manifest_sha256")
    own = hashlib.sha256(json.dumps(document).encode()).hexdigest()
    path.write_text(json.dumps({**document, "manifest_sha256": own}, indent=1) + "\n")


@given(MANIFESTS)
def test_a_manifest_survives_its_json(manifest: Manifest) -> None:
    text = json.dumps(dataclasses.asdict(manifest))

    assert from_json(Manifest, json.loads(text)) == manifest


def test_what_is_written_is_read_back(artefact: Path) -> None:
    manifest = read_manifest(artefact)

    assert manifest.file == "model.onnx"
    assert manifest.size_bytes == 19
    assert manifest.inputs == a_manifest().inputs


def test_a_companion_is_hashed_and_verified(artefact: Path) -> None:
    weights = artefact.with_name("model.onnx.data")
    weights.write_bytes(b"weights")
    manifest = dataclasses.replace(a_manifest(), companions=(Companion(file=weights.name),))

    written = write_manifest(artefact, manifest)

    assert written.companions[0].size_bytes == 7
    assert read_manifest(artefact).companions == written.companions
    weights.write_bytes(b"Weights")
    with pytest.raises(TrustError, match="SHA-256") as caught:
        read_manifest(artefact)
    assert caught.value.where == str(weights)


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "", "."])
def test_a_companion_outside_the_folder_is_refused(artefact: Path, name: str) -> None:
    edit(artefact, companions=[{"file": name, "sha256": "0" * 64, "size_bytes": 1}])

    with pytest.raises(TrustError, match="names a file outside its folder"):
        read_manifest(artefact)


def test_an_artefact_may_be_a_link_to_another_folder(artefact: Path) -> None:
    elsewhere = artefact.parent / "store"
    elsewhere.mkdir()
    artefact.replace(elsewhere / "blob")
    (link := artefact.parent / "links").mkdir()
    (link / artefact.name).symlink_to(elsewhere / "blob")
    manifest_path(artefact).replace(link / manifest_path(artefact).name)

    assert read_manifest(link / artefact.name).size_bytes == 19


def test_the_side_car_lies_beside_the_artefact() -> None:
    assert manifest_path(Path("a/model.cpu.onnx")) == Path("a/model.cpu.manifest.json")


@given(place=st.integers(0, 18), flip=st.integers(1, 255))
def test_one_changed_byte_is_refused(
    tmp_path_factory: pytest.TempPathFactory, place: int, flip: int
) -> None:
    path = tmp_path_factory.mktemp("changed") / "model.onnx"
    content = bytearray(b"these are the bytes")
    path.write_bytes(content)
    write_manifest(path, a_manifest())
    content[place] ^= flip
    path.write_bytes(content)

    with pytest.raises(TrustError, match="SHA-256") as caught:
        read_manifest(path)

    assert caught.value.exit_code == 10


def test_a_longer_file_is_refused_by_its_size(artefact: Path) -> None:
    artefact.write_bytes(artefact.read_bytes() + b"!")

    with pytest.raises(TrustError, match="20 bytes, its manifest says 19"):
        read_manifest(artefact)


def test_a_missing_side_car_is_refused(artefact: Path) -> None:
    manifest_path(artefact).unlink()

    with pytest.raises(TrustError, match="manifest is missing"):
        read_manifest(artefact)


@pytest.mark.parametrize(
    "text", ["", "{", "[" * 100_000, '{"schema": 1', "[]", "null", '"x"', "\x00"], ids=range(8)
)
def test_damaged_json_is_refused(artefact: Path, text: str) -> None:
    manifest_path(artefact).write_text(text)

    with pytest.raises(TrustError, match="manifest"):
        read_manifest(artefact)


def test_bytes_that_are_no_text_are_refused(artefact: Path) -> None:
    manifest_path(artefact).write_bytes(b"\xff\xfe\x00")

    with pytest.raises(TrustError, match="cannot be read"):
        read_manifest(artefact)


def test_an_unknown_key_is_refused(artefact: Path) -> None:
    edit(artefact, colour="green")

    with pytest.raises(TrustError, match="colour"):
        read_manifest(artefact)


def test_a_missing_key_is_refused(artefact: Path) -> None:
    document = json.loads(manifest_path(artefact).read_text())
    del document["opset"]
    manifest_path(artefact).write_text(json.dumps(document))

    with pytest.raises(TrustError, match=r"missing \['opset'\]"):
        read_manifest(artefact)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("opset", "20"),
        ("opset", True),
        ("kind", "poem"),
        ("inputs", {}),
        ("inputs", [{"name": "x", "shape": [1.5], "dtype": "float32"}]),
        ("batch_range", [1]),
        ("labels", [1]),
    ],
)
def test_a_value_of_another_type_is_refused(artefact: Path, key: str, value: object) -> None:
    edit(artefact, **{key: value})

    with pytest.raises(TrustError, match="damaged"):
        read_manifest(artefact)


def test_an_edit_that_means_nothing_passes(artefact: Path) -> None:
    """The control of the tests around it: it is the change that is refused."""
    edit(artefact)

    assert read_manifest(artefact).file == artefact.name


@pytest.mark.parametrize("seal", [None, "0" * 64, 7])
def test_a_changed_word_is_refused(artefact: Path, seal: object) -> None:
    """A label, a mean: what no hash of the artefact covers."""
    path = manifest_path(artefact)
    document = json.loads(path.read_text()) | {"labels": ["ant"]}
    if seal is not None:
        document["manifest_sha256"] = seal
    path.write_text(json.dumps(document, indent=1) + "\n")

    with pytest.raises(TrustError, match="does not match its own hash"):
        read_manifest(artefact)


def test_another_schema_is_refused(artefact: Path) -> None:
    edit(artefact, schema=99)

    with pytest.raises(TrustError, match="schema 99, this version reads 5"):
        read_manifest(artefact)


def test_the_manifest_of_another_file_is_refused(artefact: Path) -> None:
    edit(artefact, file="other.onnx")

    with pytest.raises(TrustError, match=r"describes 'other\.onnx'"):
        read_manifest(artefact)


def test_a_missing_artefact_is_refused(artefact: Path) -> None:
    artefact.unlink()

    with pytest.raises(TrustError, match="cannot be read"):
        read_manifest(artefact)
