"""`show`: a PNG with three panels from the exported graph."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from tests.fpet_export.command_line import Exported, call, write_files


def test_a_picture_of_the_merge(exported: Exported, images: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "merge.png"

    document = call("show", exported.graph, images[0], "-o", out, "--json").document()

    assert document["png"] == str(out)
    assert sum(document["directions"].values()) == 8
    assert "dropped" not in document["directions"]
    predicted = call("predict", exported.graph, images[0], "--json").document()
    assert document["class"] == predicted["predictions"][0]["classes"][0]["class"]
    with Image.open(out) as picture:
        assert picture.format == "PNG"
        assert picture.width > 3 * 640


def test_another_file_type_is_a_usage_error(
    exported: Exported, images: list[Path], tmp_path: Path
) -> None:
    done = call("show", exported.graph, images[0], "-o", tmp_path / "merge.jpg", "--json")

    assert done.code == 2
    assert done.error()["fix"] == "end its name in .png"


def test_an_engine_shows_nothing_of_its_inside(
    engine: Path, images: list[Path], tmp_path: Path
) -> None:
    done = call("show", engine, images[0], "-o", tmp_path / "merge.png", "--json")

    assert done.code == 3
    assert "an engine shows nothing of its inside" in done.error()["fix"]


def test_a_tampered_graph_is_refused(tampered: Path, images: list[Path], tmp_path: Path) -> None:
    done = call("show", tampered, images[0], "-o", tmp_path / "merge.png", "--json")

    assert done.code == 10
    assert not (tmp_path / "merge.png").exists()


def test_a_graph_without_merging_has_nothing_to_show(images: list[Path], tmp_path: Path) -> None:
    run = write_files(tmp_path, merge_block=None, params=False, bit=32)
    words = (run.text, "--backbone", tmp_path / "backbone.safetensors", "--merge-block", "none")
    done = call("export", *words, "-o", tmp_path / "out", "--input", "uint8", "--limit", "2")
    assert done.code == 0, done.err
    graph = tmp_path / "out" / "model.onnx"

    shown = call("show", graph, images[0], "-o", tmp_path / "merge.png", "--json")
    predicted = call("predict", graph, images[0], "--json")

    assert shown.code == 3
    assert shown.error()["what"] == "this graph merges no tokens, or does not say where"
    assert predicted.code == 0
