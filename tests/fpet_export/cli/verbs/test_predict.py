"""`predict`: the classes of the float64 reference, as probabilities."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fpet_export
from engines import engine as engine_module
from engines.contract import Engine, OpenOptions
from engines.imaging.images import read_files
from tests.fpet_export.command_line import LABELS, Exported, call, pixels_of, write_images


def reference(exported: Exported, images: list[Path]) -> np.ndarray:
    run, _, backbone = exported.words
    adapted = fpet_export.load(run, backbone=backbone)
    return adapted.outputs(read_files(images, adapted.preprocessing).pixels).logits


def test_classes_are_those_of_the_float64_reference(
    exported: Exported, engine: Path, images: list[Path]
) -> None:
    logits = reference(exported, images)
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)

    for artefact in (exported.graph, engine):
        document = call("predict", artefact, *images, "--top", 5, "--json").document()
        found = np.zeros_like(expected)
        for row, answer in enumerate(document["predictions"]):
            assert answer["image"] == str(images[row])
            assert answer["classes"][0]["class"] == logits[row].argmax()
            for place in answer["classes"]:
                assert place["name"] == LABELS[place["class"]]
                found[row, place["class"]] = place["probability"]
        assert found.sum(axis=1) == pytest.approx(1.0, abs=5e-6)  # six digits are printed
        assert found == pytest.approx(expected, abs=5e-6)


def test_one_line_an_image_on_stdout(engine: Path, images: list[Path]) -> None:
    done = call("predict", engine, *images)

    lines = done.out.splitlines()
    assert [line.partition(": ")[0] for line in lines] == [str(path) for path in images]
    assert all(line.partition(": ")[2].split()[0] in LABELS for line in lines)
    assert done.err == ""


def test_more_classes_than_there_are_gives_all(engine: Path, images: list[Path]) -> None:
    document = call("predict", engine, images[0], "--top", "99", "--json").document()

    shares = [place["probability"] for place in document["predictions"][0]["classes"]]
    assert len(shares) == 5
    assert shares == sorted(shares, reverse=True)


def test_images_of_any_size_and_mode(engine: Path, tmp_path: Path) -> None:
    from PIL import Image

    paths = write_images(tmp_path, pixels_of(1, side=50))
    for mode in ("L", "RGBA", "P", "1", "CMYK"):
        path = tmp_path / f"{mode}.{'tif' if mode == 'CMYK' else 'png'}"
        Image.open(paths[0]).convert(mode).save(path)
        paths.append(path)

    assert len(call("predict", engine, *paths, "--json").document()["predictions"]) == 6


@pytest.mark.parametrize("top", ["0", "-1"])
def test_no_class_at_all_is_a_usage_error(top: str, engine: Path, images: list[Path]) -> None:
    assert call("predict", engine, images[0], f"--top={top}", "--json").code == 2


def test_a_missing_or_broken_image_is_refused(engine: Path, tmp_path: Path) -> None:
    (whole,) = write_images(tmp_path, pixels_of(1))
    broken, text = tmp_path / "broken.png", tmp_path / "text.jpg"
    broken.write_bytes(whole.read_bytes()[:200])
    text.write_text("no image")

    empty = tmp_path / "empty"
    empty.mkdir()

    for path in (tmp_path / "no.png", broken, text, empty):
        done = call("predict", engine, whole, path, "--json")

        assert done.code == 3
        assert done.error()["where"] == str(path)


def test_a_tampered_graph_is_refused(tampered: Path, images: list[Path]) -> None:
    done = call("predict", tampered, images[0], "--json")

    assert done.code == 10
    assert done.error()["class"] == "TrustError"


def test_it_needs_neither_torch_nor_onnx(engine: Path, images: list[Path]) -> None:
    program = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(['torch', 'timm', 'onnx', 'onnx_graphsurgeon']))\n"
        "from fpet_export.cli.dispatch import main\n"
        f"sys.exit(main(['predict', {str(engine)!r}, {str(images[0])!r}]))\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout == call("predict", engine, images[0]).out


def test_it_opens_as_asked(
    exported: Exported, engine: Path, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[OpenOptions] = []
    real = engine_module.open_engine

    def seen(path: Path, *, options: OpenOptions) -> Engine:
        asked.append(options)
        return real(path)

    monkeypatch.setattr("fpet_export.workflow.predict.open_engine", seen)
    call("predict", engine, images[0])
    call("predict", engine, images[0], "--provider", "tensorrt", "--no-cuda-graph", "--zero-copy")
    assert asked == [
        OpenOptions(),
        OpenOptions(provider="tensorrt", cuda_graph=False, zero_copy=True),
    ]


@pytest.mark.parametrize(
    ("words", "code", "what"),
    [
        (("--zero-copy",), 2, "only a plan of TensorRT"),
        (("--provider", "cuda"), 2, "built for the provider cpu, not cuda"),
    ],
)
def test_what_the_runtime_cannot_do_is_refused(
    engine: Path, images: list[Path], words: tuple[str, ...], code: int, what: str
) -> None:
    done = call("predict", engine, images[0], *words)
    assert done.code == code
    assert what in done.err
