"""Thousands of damaged plans, manifests, bundles and signatures: none reaches a runtime."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import engines
from engines import engine as engine_module
from engines.errors import FpetError
from engines.manifest import WHITE, Manifest, Preprocessing, Runtime, TensorSpec, write_manifest
from engines.transport import signature
from engines.transport.bundle import Role, unpack, write_bundle

QUICK, THOROUGH = 60, 1700
SIGNATURES = 300
COUNTS = (QUICK, pytest.param(THOROUGH, marks=pytest.mark.slow))


def damaged(content: bytes, choice: random.Random) -> bytes:
    """Return other bytes: a bit flipped, a byte replaced, cut off, doubled, swapped or appended."""
    kind, place = choice.randrange(6), choice.randrange(len(content))
    if kind == 0:
        return (
            content[:place]
            + bytes([content[place] ^ 1 << choice.randrange(8)])
            + content[place + 1 :]
        )
    if kind == 1:
        return (
            content[:place]
            + bytes([(content[place] + choice.randrange(1, 256)) % 256])
            + content[place + 1 :]
        )
    if kind == 2:
        return content[:place]
    if kind == 3:
        length = choice.randrange(1, 64)
        return content[:place] + content[place : place + length] + content[place:]
    if kind == 4:
        other = choice.randrange(len(content))
        first, last = sorted((place, other))
        swapped = bytearray(content)
        swapped[first], swapped[last] = swapped[last], swapped[first]
        return bytes(swapped)
    return content + bytes(choice.randrange(256) for _ in range(choice.randrange(1, 9)))


def make(folder: Path, name: str, seed: int, flavour: str) -> Path:
    """Write an engine of random bytes with its manifest."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_bytes(random.Random(seed).randbytes(3000))
    spec = TensorSpec(name="images", shape=(1, 3, 16, 16), dtype="float32")
    write_manifest(
        path,
        Manifest(
            kind="engine", file=name, inputs=(spec,), outputs=(spec,), precision="fp16", opset=20,
            target="rtx", weights="trained", labels=("ant", "bee"),
            preprocessing=Preprocessing(
                size=(16, 16), interpolation="bicubic", crop=1.0, decode="full", background=WHITE,
                mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5),
            ),
            runtime=Runtime(flavour=flavour, version="1.7.1", compute_capabilities=("8.6",)),
            created="2026-01-01T00:00:00+00:00",
        ),
    )  # fmt: skip
    return path


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """What reached a runtime."""
    reached: list[Path] = []

    def reach(artefact: Path, manifest: Any, *, options: Any) -> Any:
        reached.append(artefact)
        return SimpleNamespace()

    monkeypatch.setattr(engine_module, "backend", lambda name: SimpleNamespace(open_engine=reach))
    return reached


def refused_each_time(path: Path, count: int, attempt: Callable[[], object]) -> None:
    """Damage a file `count` times; each attempt must raise one of ours."""
    whole, choice = path.read_bytes(), random.Random(path.name)
    done = 0
    while done < count:
        content = damaged(whole, choice)
        if content == whole:
            continue
        done += 1
        path.write_bytes(content)
        with pytest.raises(FpetError):
            attempt()
    path.write_bytes(whole)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize(
    ("name", "flavour"), [("model.plan", "tensorrt_rtx"), ("model.cpu.onnx", "onnxruntime")]
)
@pytest.mark.parametrize("side", ["artefact", "manifest"])
def test_a_damaged_engine_reaches_no_runtime(
    name: str, flavour: str, side: str, count: int, opened: list[Path], tmp_path: Path
) -> None:
    path = make(tmp_path, name, 0, flavour)
    harmed = path if side == "artefact" else engines.manifest.manifest_path(path)

    refused_each_time(harmed, count // 2, lambda: engines.open(path))

    assert opened == []
    engines.open(path)
    assert opened == [path]  # the whole one does


@pytest.mark.parametrize("name", ["model.plan", "model.cpu.onnx"])
def test_one_engine_under_another_s_manifest_reaches_no_runtime(
    name: str, opened: list[Path], tmp_path: Path
) -> None:
    first, second = (
        make(tmp_path / place, name, seed, "tensorrt_rtx") for seed, place in enumerate("ab")
    )
    shutil.copy(second, first)

    with pytest.raises(FpetError):
        engines.open(first)

    assert opened == []


@pytest.mark.parametrize("has_tasks", [False, True], ids=["one artefact", "tasks"])
@pytest.mark.parametrize("count", COUNTS)
def test_a_damaged_bundle_is_not_unpacked(count: int, has_tasks: bool, tmp_path: Path) -> None:
    artefact = make(tmp_path / "in", "model.plan", 0, "tensorrt_rtx")
    bundle = tmp_path / "x.bundle.tar"
    manifest = engines.manifest.manifest_path(artefact)
    tasks: list[tuple[Path, Role]] = []
    if has_tasks:
        for name in ("pets", "cars"):
            delta = tmp_path / "in" / f"{name}.safetensors"
            delta.write_bytes(random.Random(name).randbytes(700))
            tasks.append((delta, "companion"))
    write_bundle(
        bundle, [(manifest, "manifest"), (artefact, "artefact")], tasks=tasks, target="rtx",
        tools={},
    )  # fmt: skip

    refused_each_time(bundle, count, lambda: unpack(bundle, tmp_path / "out"))

    assert not (tmp_path / "out").exists()
    assert unpack(bundle, tmp_path / "out").is_file()


@dataclasses.dataclass(frozen=True)
class Signed:
    bundle: Path
    signers: Path


@pytest.fixture
def signed(tmp_path: Path) -> Signed:
    if shutil.which("ssh-keygen") is None:
        pytest.skip("needs ssh-keygen")
    key, bundle = tmp_path / "key", tmp_path / "x.bundle.tar"
    words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)]
    subprocess.run(words, check=True)
    bundle.write_bytes(random.Random(1).randbytes(2000))
    signature.sign(bundle, key)
    signers = tmp_path / "allowed"
    signers.write_text(f"anna {key.with_suffix('.pub').read_text()}")
    return Signed(bundle, signers)


def payload(armoured: bytes) -> bytes | None:
    """Return what a signature's text encodes; blanks and the end of the text mean nothing."""
    lines = armoured.split(b"-----END")[0].split(b"\n")[1:]
    try:
        return base64.b64decode(b"".join(lines))
    except binascii.Error:
        return None


@pytest.mark.parametrize("count", [10, pytest.param(SIGNATURES, marks=pytest.mark.slow)])
def test_a_damaged_signature_does_not_hold(count: int, signed: Signed) -> None:
    path = signature.signature_path(signed.bundle)
    whole, choice = path.read_bytes(), random.Random(2)
    refused = 0
    while refused < count:
        content = damaged(whole, choice)
        path.write_bytes(content)
        if payload(content) == payload(whole):
            continue
        with pytest.raises(FpetError):
            signature.verify(signed.bundle, signed.signers)
        refused += 1


@pytest.mark.parametrize("count", [10, pytest.param(SIGNATURES, marks=pytest.mark.slow)])
def test_a_signature_of_other_bytes_does_not_hold(count: int, signed: Signed) -> None:
    refused_each_time(signed.bundle, count, lambda: signature.verify(signed.bundle, signed.signers))

    assert signature.verify(signed.bundle, signed.signers) == "anna"
