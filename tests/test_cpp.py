"""The C++ sample: compiled, and run on a stand-in for TensorRT and CUDA.

    TENSORRT_INCLUDE=DIR CUDA_INCLUDE=DIR pytest tests/test_cpp.py

compiles it against NVIDIA's own headers, too.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import os
import shutil
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engines.imaging.images import read_files, to_input
from engines.manifest import Manifest, Preprocessing, TensorSpec, read_manifest, write_manifest

SAMPLE = Path(__file__).parents[1] / "examples/cpp"
FAKE = Path(__file__).with_name("cpp")
COMPILER = next(filter(shutil.which, ("g++", "clang++", "c++")), None)
FLAGS = ("-std=c++14", "-Wall", "-Wextra", "-Werror")
LABELS = ("ant", "bee or wasp", "Käfer", "dog", "elk", "fox", "gnu")
SIDE = 8

if COMPILER is None:
    pytest.skip("needs a C++ compiler: g++", allow_module_level=True)


def compiled(*words: object) -> None:
    done = subprocess.run(
        [str(COMPILER), *map(str, words)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in, under the two names that CMake looks for."""
    folder = tmp_path_factory.mktemp("fake")
    path = folder / "libnvinfer.so"
    compiled("-std=c++14", "-shared", "-fPIC", "-isystem", FAKE / "declared",
             FAKE / "fake_runtime.cpp", "-o", path)  # fmt: skip
    (folder / "libcudart.so").symlink_to(path)
    return path


@pytest.fixture(scope="module")
def program(library: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample, made as its page says where CMake is at hand."""
    folder = tmp_path_factory.mktemp("build")
    if shutil.which("cmake") is None:
        compiled(*FLAGS, "-isystem", FAKE / "declared", SAMPLE / "classify.cpp", library,
                 f"-Wl,-rpath,{library.parent}", "-o", folder / "classify")  # fmt: skip
        return folder / "classify"
    for words in (
        ["-S", SAMPLE, "-B", folder, "-DCMAKE_CXX_FLAGS=-Werror",
         f"-DTENSORRT_INCLUDE={FAKE / 'declared'}", f"-DCUDA_INCLUDE={FAKE / 'declared'}",
         f"-DTENSORRT_LIBRARY={library}", f"-DCUDA_LIBRARY={library.parent / 'libcudart.so'}"],
        ["--build", folder],
    ):  # fmt: skip
        done = subprocess.run(
            ["cmake", *map(str, words)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    return folder / "classify"


@pytest.mark.skipif("TENSORRT_INCLUDE" not in os.environ, reason="needs TensorRT's headers")
def test_it_compiles_against_nvidias_headers() -> None:
    folders = (os.environ["TENSORRT_INCLUDE"], os.environ.get("CUDA_INCLUDE", "/usr/local/cuda"))
    includes = [word for folder in folders for word in ("-isystem", folder)]
    compiled(*FLAGS, "-fsyntax-only", *includes, SAMPLE / "classify.cpp")


@dataclasses.dataclass(frozen=True)
class Case:
    """A plan, its facts, a picture, and the preprocessing of both."""

    plan: Path
    facts: Path
    picture: Path
    image: Path
    preprocessing: Preprocessing


def case(
    folder: Path, *, batch: int | str = 1, labels: tuple[str, ...] = LABELS, **changes: Any
) -> Case:
    """Write a plan for the stand-in with its manifest, and the files that the two scripts make."""
    preprocessing = dataclasses.replace(
        Preprocessing(
            size=(SIDE, SIDE), interpolation="bicubic", crop=0.8, decode="full",
            background=(255, 255, 255), mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3),
        ),
        **changes,
    )  # fmt: skip
    sides = (SIDE, SIDE, 3) if preprocessing.layout == "NHWC" else (3, SIDE, SIDE)
    images = TensorSpec(name="images", shape=(batch, *sides), dtype=preprocessing.dtype)
    logits = TensorSpec(name="logits", shape=(batch, len(LABELS)), dtype="float32")
    made = Case(folder / "m.plan", folder / "m.facts", folder / "p.ppm", folder / "p.png",
                preprocessing)  # fmt: skip
    made.plan.write_text(f"{bound('in', images)}\n{bound('out', logits)}\n")
    write_manifest(
        made.plan,
        Manifest(
            kind="engine", file="", precision="fp16", opset=20, target="tensorrt",
            weights="trained", inputs=(images,), outputs=(logits,), labels=labels,
            preprocessing=preprocessing, batch_range=(2, 8) if batch == "batch" else None,
        ),
    )  # fmt: skip
    pixels = np.random.default_rng(2).integers(0, 256, (20, 24, 3), np.uint8)
    Image.fromarray(pixels).save(made.image)
    made.facts.write_text(module("facts").facts(made.plan), "utf-8")
    made.picture.write_bytes(module("picture").picture(made.plan, made.image))
    return made


def bound(mode: str, spec: TensorSpec, form: str = "linear") -> str:
    extents = (str(one) if isinstance(one, int) else "-1" for one in spec.shape)
    return f"{mode} {spec.name} {spec.dtype} {form} {' '.join(extents)}"


@functools.cache
def module(name: str) -> Any:
    """Return a script of the sample as a module."""
    spec = importlib.util.spec_from_file_location(name, SAMPLE / f"{name}.py")
    assert spec is not None and spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def script(name: str, *words: Path) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, str(SAMPLE / name), *map(str, words)]
    root = {**os.environ, "PYTHONPATH": str(SAMPLE.parents[1])}
    return subprocess.run(argv, capture_output=True, text=True, check=False, env=root)


def classified(program: Path, *words: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(program), *map(str, words)], capture_output=True, text=True, check=False,
        env={**os.environ, **environment},
    )  # fmt: skip


def five_best(made: Case) -> list[str]:
    """Return what the stand-in's logits come to, from the input that `predict` would give."""
    images = read_files([made.image], made.preprocessing)
    values = to_input(images.pixels, made.preprocessing).ravel()
    logits = values[:: values.size // len(LABELS)][: len(LABELS)].astype(np.float64)
    shares = np.exp(logits - logits.max())
    shares /= shares.sum()
    order = np.argsort(-shares, kind="stable")[:5]
    return [f"{LABELS[index]} {shares[index]:.1%}" for index in order]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"in_graph": False},
        {"layout": "NHWC", "in_graph": False},
        {"dtype": "uint8"},
        {"dtype": "uint8", "layout": "NHWC"},
        {"batch": 3},
        {"batch": "batch"},
    ],
    ids=str,
)
def test_it_prints_the_five_best_classes(
    changes: dict[str, Any], program: Path, tmp_path: Path
) -> None:
    made = case(tmp_path, **changes)

    done = classified(program, made.plan, made.facts, made.picture)

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == five_best(made)
    batch = {"batch": 2}.get(str(changes.get("batch")), changes.get("batch", 1))
    assert done.stderr == f"fake: host code refused\nfake: ran a batch of {batch}\n"


def test_classes_without_names_are_numbers(program: Path, tmp_path: Path) -> None:
    made = case(tmp_path, labels=())
    done = classified(program, made.plan, made.facts, made.picture)
    best = five_best(made)[0]
    number = next(str(index) for index, name in enumerate(LABELS) if best.startswith(name))
    assert done.stdout.splitlines()[0].split()[0] == number


def test_the_facts_of_another_plan_are_refused(program: Path, tmp_path: Path) -> None:
    made = case(tmp_path)
    other = made.plan.read_text().replace("images", "imaged")
    made.plan.write_text(other)  # as many bytes
    done = classified(program, made.plan, made.facts, made.picture)
    assert (done.returncode, done.stdout) == (1, "")
    assert "is about another plan" in done.stderr


@pytest.mark.parametrize(
    ("plan", "what"),
    [
        ("rubbish\n", "the plan does not load"),
        ("in images float16 linear 1 3 8 8\nout logits float32 linear 1 7\n", "another type"),
        ("in images float32 other 1 3 8 8\nout logits float32 linear 1 7\n", "another type"),
        ("in images float32 linear 1 3 8 8\nout logits float32 linear 1 8\n", "another type"),
        ("in images float32 linear 1 3 8 8\nout match float32 linear 1 7\n", "no such binding"),
        ("in images float32 linear 1 3 8 8\nin w float32 linear 1 7\nout logits float32 linear "
         "1 7\n", "more inputs or outputs"),
    ],
)  # fmt: skip
def test_bindings_are_compared_with_the_manifest(
    plan: str, what: str, program: Path, tmp_path: Path
) -> None:
    made = case(tmp_path)
    facts = made.facts.read_text().splitlines()[1:]
    made.plan.write_text(plan)
    adler = zlib.adler32(plan.encode())
    made.facts.write_text("\n".join([f"plan {len(plan)} {adler}", *facts]) + "\n")
    done = classified(program, made.plan, made.facts, made.picture)
    assert (done.returncode, done.stdout) == (1, "")
    assert what in done.stderr


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"P6\n4 8\n255\n" + bytes(96), "has 4x8, wanted 8x8"),
        (b"P6\n8 8\n255\n" + bytes(191), "another number of bytes"),
        (b"P6\n8 8\n255\n" + bytes(193), "another number of bytes"),
        (b"P6\n8 8\n65535\n" + bytes(384), "not a binary PPM"),
        (b"P3\n8 8\n255\n" + b"0 " * 192, "not a binary PPM"),
        (b"", "not a binary PPM"),
    ],
)
def test_another_picture_is_refused(
    content: bytes, what: str, program: Path, tmp_path: Path
) -> None:
    made = case(tmp_path)
    made.picture.write_bytes(content)
    done = classified(program, made.plan, made.facts, made.picture)
    assert (done.returncode, done.stdout) == (1, "")
    assert what in done.stderr


def test_what_cuda_lacks_is_said(program: Path, tmp_path: Path) -> None:
    made = case(tmp_path)
    done = classified(program, made.plan, made.facts, made.picture, FAKE_NO_MEMORY="1")
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, "error: a fake error")


@pytest.mark.parametrize("line", ["batch 0", "colour 3", "label"])
def test_damaged_facts_are_refused(line: str, program: Path, tmp_path: Path) -> None:
    made = case(tmp_path)
    made.facts.write_text(made.facts.read_text() + line + "\n")
    done = classified(program, made.plan, made.facts, made.picture)
    assert (done.returncode, done.stdout) == (1, "")
    assert "write it again with facts.py" in done.stderr or "unknown fact: colour 3" in done.stderr


def test_files_that_are_not_there_and_too_few_words(program: Path, tmp_path: Path) -> None:
    made = case(tmp_path)
    gone = tmp_path / "gone"
    assert "gone: cannot be read" in classified(program, gone, made.facts, made.picture).stderr
    assert "gone: cannot be read" in classified(program, made.plan, gone, made.picture).stderr
    assert "usage: classify" in classified(program, made.plan).stderr


def test_the_scripts_do_the_same_from_a_shell(tmp_path: Path) -> None:
    made, facts, picture = case(tmp_path), tmp_path / "facts", tmp_path / "picture"
    assert script("facts.py", made.plan, facts).returncode == 0
    assert script("picture.py", made.plan, made.image, picture).returncode == 0
    assert facts.read_text() == made.facts.read_text()
    assert picture.read_bytes() == made.picture.read_bytes()


def test_facts_of_a_tampered_plan_are_not_written(tmp_path: Path) -> None:
    made = case(tmp_path)
    made.plan.write_text(made.plan.read_text() + " ")
    done = script("facts.py", made.plan, tmp_path / "new")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert not (tmp_path / "new").exists()


def test_types_that_the_sample_does_not_write_are_refused(tmp_path: Path) -> None:
    made = case(tmp_path)
    images = TensorSpec(name="images", shape=(1, 3, SIDE, SIDE), dtype="float16")
    write_manifest(made.plan, dataclasses.replace(read_manifest(made.plan), inputs=(images,)))
    done = script("facts.py", made.plan, tmp_path / "new")
    assert "its types are float16 and float32, wanted float32 and float32" in done.stderr
