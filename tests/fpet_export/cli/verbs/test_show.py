"""`show`: a PNG of an image and its merged patches, or one of a plan's kernels."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from engines.fusion.report import fusion_path
from tests.fpet_export.command_line import Exported, call, write_files


def test_a_picture_of_the_merge(exported: Exported, images: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "merge.png"

    document = call("show", exported.graph, images[0], "-o", out, "--json").document()

    assert document["png"] == str(out)
    groups = document["groups"]
    assert (groups["patches"], groups["tokens"], groups["dropped"]) == (16, 8, 0)
    assert 2 <= groups["largest_group"] <= 9
    assert groups["merged_groups"] + groups["alone"] == 8
    predicted = call("predict", exported.graph, images[0], "--json").document()
    assert document["class"] == predicted["predictions"][0]["classes"][0]["class"]
    with Image.open(out) as picture:
        assert picture.format == "PNG"
        assert picture.width > 2 * 500
        assert picture.mode == "RGBA"


def test_another_file_type_is_a_usage_error(
    exported: Exported, images: list[Path], tmp_path: Path
) -> None:
    done = call("show", exported.graph, images[0], "-o", tmp_path / "merge.jpg", "--json")

    assert done.code == 2
    assert done.error()["fix"] == "give it a name that ends in .png"


def test_an_engine_without_its_graph_shows_nothing_of_its_inside(
    engine: Path, images: list[Path], tmp_path: Path
) -> None:
    done = call("show", engine, images[0], "-o", tmp_path / "merge.png", "--json")

    assert done.code == 3
    assert "an engine that lies beside it" in done.error()["fix"]


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


@pytest.fixture(scope="module")
def plan(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("tensorrt_rtx", reason="needs the TensorRT-RTX package")
    out = tmp_path_factory.mktemp("plan") / "model.rtx.plan"
    words = ("--target", "rtx", "--sm", "8.6", "--force-form")  # the graph is one for cpu
    done = call("build", exported.graph, *words, "-o", out)
    assert done.code == 0, done.err
    return out


@pytest.mark.tensorrt
def test_the_kernels_of_a_plan(plan: Path, tmp_path: Path) -> None:
    out = tmp_path / "fusion.png"

    done = call("show", plan, "-o", out, "--json")

    report = done.document()["fusion"]
    assert report["engine"] == plan.name
    assert f"{len(report['kernels'])} kernels" in done.err
    with Image.open(out) as picture:
        assert picture.format == "PNG"


@pytest.mark.tensorrt
def test_a_report_alone_is_drawn_as_its_plan_is(plan: Path, tmp_path: Path) -> None:
    report = tmp_path / fusion_path(plan).name
    report.write_bytes(fusion_path(plan).read_bytes())
    pictures = [tmp_path / "of_plan.png", tmp_path / "of_report.png"]

    for path, picture in zip((plan, report), pictures, strict=True):
        assert call("show", path, "-o", picture).code == 0

    assert pictures[0].read_bytes() == pictures[1].read_bytes()


def test_a_graph_without_an_image_is_a_usage_error(exported: Exported, tmp_path: Path) -> None:
    done = call("show", exported.graph, "-o", tmp_path / "merge.png", "--json")

    assert done.code == 2
    assert "drawn over an image, and none was given" in done.error()["what"]
    assert "IMAGE" in done.error()["fix"]


def test_a_report_with_an_image_is_a_usage_error(images: list[Path], tmp_path: Path) -> None:
    report = tmp_path / "model.rtx.fusion.json"
    report.write_text("{}")
    done = call("show", report, images[0], "-o", tmp_path / "fusion.png", "--json")

    assert done.code == 2
    assert "drawn without an image" in done.error()["what"]


def test_a_plan_without_a_report_is_refused(tmp_path: Path) -> None:
    plan = tmp_path / "model.rtx.plan"
    plan.write_bytes(b"plan")

    done = call("show", plan, "-o", tmp_path / "fusion.png", "--json")

    assert done.code == 3
    assert "no fusion report beside this plan" in done.error()["what"]
    assert "fpet-export build" in done.error()["fix"]


def test_a_missing_plan_is_refused(tmp_path: Path) -> None:
    done = call("show", tmp_path / "no.plan", "-o", tmp_path / "fusion.png", "--json")

    assert done.code == 3
    assert done.error()["what"] == "there is no such file"


def test_an_engine_is_shown_by_the_graph_beside_it(
    exported: Exported, images: list[Path], tmp_path: Path
) -> None:
    graph = exported.copy(tmp_path)
    engine = tmp_path / "model.cpu.onnx"
    assert call("build", graph, "--target", "cpu", "-q").code == 0
    pictures = [tmp_path / "of_engine.png", tmp_path / "of_graph.png"]

    for path, picture in zip((engine, graph), pictures, strict=True):
        done = call("show", path, images[0], "-o", picture)
        assert done.code == 0, done.err

    assert pictures[0].read_bytes() == pictures[1].read_bytes()


def test_an_engine_whose_graph_is_another_is_not_shown(
    exported: Exported, images: list[Path], tmp_path: Path
) -> None:
    graph = exported.copy(tmp_path)
    engine = tmp_path / "model.cpu.onnx"
    assert call("build", graph, "--target", "cpu", "-q").code == 0
    words = (*exported.words, "-o", tmp_path, "--force", "--limit", "1", "--ties", "reference")
    assert call("export", *words, "-q").code == 0

    done = call("show", engine, images[0], "-o", tmp_path / "merge.png", "--json")

    assert done.code == 10
    assert "the graph beside it is" in done.error()["what"]
    assert f"fpet-export build {graph}" in done.error()["fix"]


@pytest.mark.tensorrt
def test_a_report_of_another_build_is_refused(plan: Path, tmp_path: Path) -> None:
    copy = tmp_path / plan.name
    for path in (plan, fusion_path(plan), plan.with_name("model.rtx.manifest.json")):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    report = fusion_path(copy)
    report.write_text(report.read_text().replace('"sha256":"', '"sha256":"00'))

    done = call("show", copy, "-o", tmp_path / "fusion.png", "--json")

    assert done.code == 10
    assert "of another build" in done.error()["what"]
