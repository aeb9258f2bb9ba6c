"""`deploy`: from a run to engines and one page, with the parity of every target."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import pytest
from PIL import Image

from engines.manifest import read_manifest
from fpet_export.model.backbones import random_weights
from tests.fpet_export.command_line import (
    LABELS,
    Done,
    Exported,
    call,
    perturb,
    pixels_of,
    write_images,
)
from tests.fpet_export.tiny import spec_of


@pytest.fixture(scope="module")
def deployed(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    """Deployed for two targets on labelled data, with a short measurement."""
    pytest.importorskip("tensorrt_rtx", reason="needs the TensorRT-RTX package")
    folder = tmp_path_factory.mktemp("deployed")
    for seed, name in enumerate(LABELS):
        write_images(folder / "data" / name, pixels_of(1, seed=seed))
    done = call(
        "deploy", *exported.words, "--target", "cpu,rtx", "--data", folder / "data",
        "--rounds", "4", "--seconds", "0", "--allow-noise", "--threads", "1",
        "-o", folder / "out", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    return folder / "out", done


@pytest.mark.tensorrt
def test_it_leaves_what_the_help_says(deployed: tuple[Path, Done]) -> None:
    out, done = deployed
    names = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}

    assert names == {
        "report.html", "parity.json", "latency.json", "merge.png",
        "cpu/model.onnx", "cpu/model.manifest.json",
        "cpu/model.cpu.onnx", "cpu/model.cpu.manifest.json",
        "rtx/model.onnx", "rtx/model.manifest.json",
        "rtx/model.rtx.plan", "rtx/model.rtx.manifest.json", "rtx/model.rtx.fusion.json",
    }  # fmt: skip
    assert done.document()["report"] == str(out / "report.html")
    assert set(done.document()["engines"]) == {"cpu", "rtx"}


@pytest.mark.tensorrt
def test_every_stage_of_every_target_is_in_the_table(deployed: tuple[Path, Done]) -> None:
    out, done = deployed
    parity = json.loads((out / "parity.json").read_text())
    stages = [row["stage"] for row in parity["rows"]]

    assert stages[:5] == ["checkpoint f32", "folded", "cpu frozen", "cpu onnx", "cpu engine"]
    assert stages[5:7] == ["rtx frozen", "rtx onnx"]
    assert all(row["failures"] == [] for row in parity["rows"])
    assert all(row["accuracy"] is not None for row in parity["rows"] if row["stage"] != "folded")
    assert parity == done.document()["parity"]
    own = ["checkpoint f32", "folded", "frozen", "onnx"]  # each artefact keeps its own way
    engine = [stage for stage in stages if stage == "rtx engine"]  # where there is a GPU
    for name, wanted in (
        ("cpu/model.onnx", own),
        ("cpu/model.cpu.onnx", [*own, "cpu engine"]),
        ("rtx/model.onnx", own),
        ("rtx/model.rtx.plan", [*own, *engine] if engine else []),
    ):
        manifest = read_manifest(out / name)
        rows = [] if manifest.parity is None else manifest.parity["rows"]
        assert [row["stage"] for row in rows] == wanted
        assert manifest.labels == ()  # folders alone do not say in which order they were trained


@pytest.mark.tensorrt
def test_the_page_is_self_contained(deployed: tuple[Path, Done]) -> None:
    out, _ = deployed
    page = (out / "report.html").read_text("utf-8")

    sources = re.findall(r"""(?:src|href)\s*=\s*["']([^"']*)""", page)
    assert all(source.startswith(("data:", "#")) for source in sources), sources
    assert "<script src" not in page
    assert "@import" not in page
    assert not re.findall(r"url\((?!['\"]?(?:data:|#))", page)
    for word in ("cpu engine", "rtx onnx", "data:image/png;base64,", "plain.cpu"):
        assert word in page


@pytest.mark.tensorrt
def test_the_page_says_first_what_came_out(deployed: tuple[Path, Done]) -> None:
    out, done = deployed
    page = (out / "report.html").read_text("utf-8")
    top = page[page.index("<h1>") : page.index('class="tiles"')]

    assert "The cpu engine gives the same class as the fine-tuned model on" in top
    assert "but its speed is not known" in top  # four rounds are too few
    assert f"Measure again: <code>fpet-export bench {out / 'cpu' / 'model.cpu.onnx'}" in top
    assert html.escape(done.document()["sentence"]) in top
    assert "faster" not in top


@pytest.mark.tensorrt
def test_the_page_has_a_row_for_every_engine_and_for_every_file(
    deployed: tuple[Path, Done],
) -> None:
    out, _ = deployed
    page = (out / "report.html").read_text("utf-8")
    built = page[page.index("What was built") :].partition("</table>")[0]
    files = page[page.index("<h2>Files</h2>") :].partition("</table>")[0]

    assert re.search(r"model\.cpu\.onnx.*?ran, same class on", built, re.DOTALL)
    assert re.search(r"model\.rtx\.plan.*?(not run here: |ran, same class on)", built, re.DOTALL)
    named = set(re.findall(r'<th scope="row">([^<]+)</th>', files))
    written = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert named == written


@pytest.mark.tensorrt
def test_the_latency_and_the_picture_are_kept(deployed: tuple[Path, Done]) -> None:
    out, done = deployed
    latency = json.loads((out / "latency.json").read_text())

    assert {contender["name"] for contender in latency["contenders"]} >= {"model.cpu", "plain.cpu"}
    assert done.document()["latency"]["baseline"] == "plain.cpu"
    assert (latency["valid"], done.document()["latency"]["valid"]) == (False, False)  # 4 rounds
    with Image.open(out / "merge.png") as picture:
        assert picture.format == "PNG"


@pytest.mark.tensorrt
def test_a_speed_that_was_not_shown_is_a_command_and_no_failure(
    deployed: tuple[Path, Done],
) -> None:
    out, done = deployed
    (speed,) = done.document()["verdict"]["speed"]

    assert done.code == 0
    assert speed["text"].startswith("not known: 4 rounds were measured, 20 are needed")
    assert speed["measure"].startswith(f"fpet-export bench {out / 'cpu' / 'model.cpu.onnx'}")
    assert f"   measure again: {speed['measure']}\n" in done.err
    for said in (done.err, (out / "report.html").read_text("utf-8")):
        assert not re.search(r"\d+[x×] (faster|slower)", said)


def test_a_drift_stops_after_its_evidence_is_written(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    perturb(monkeypatch)

    done = call("deploy", *exported.words, "-o", tmp_path, "--json")

    assert done.code == 7
    assert "cpu frozen drifts from the reference" in done.error()["what"]
    page = (tmp_path / "report.html").read_text()
    assert '<section class="verdict bad"' in page
    assert "The answers are not equal: cpu frozen drifts from the reference" in page
    assert "Measure again" not in page
    assert (tmp_path / "parity.json").exists()
    assert not (tmp_path / "latency.json").exists()


def test_random_weights_on_images_without_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random_weights, "spec_of_name", lambda name, **_: spec_of())
    images = write_images(tmp_path / "mine", pixels_of(3, side=20))
    out = tmp_path / "out"

    done = call(
        "deploy", "random:tiny:0", "--method", "lora", "--merge-block", "1", "--no-bench",
        "--data", tmp_path / "mine", "-o", out,
    )  # fmt: skip
    graph, engine = out / "cpu" / "model.onnx", out / "cpu" / "model.cpu.onnx"
    predicted = call("predict", graph, images[0])

    assert done.code == 0, done.err
    assert done.out == f"{out / 'report.html'}\n"
    assert f"fpet-export predict {engine} {images[0]}" in done.err
    assert "3 of 3 images in mine" in done.err
    rows = json.loads((out / "parity.json").read_text())["rows"]
    assert {row["accuracy"] for row in rows} == {None}
    assert not (out / "latency.json").exists()
    assert "random: this export is good for speed only" in done.err
    assert read_manifest(graph).weights == read_manifest(engine).weights == "random"
    assert "The weights are random" in (out / "report.html").read_text()
    assert "random: these classes mean nothing" in predicted.err
    assert predicted.code == 0


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("--target", "cpu,rtxx"), "'rtxx' is not one of"),
        (("--peers", "ort_plan"), "'ort_plan' is not one of"),
    ],
)
def test_unknown_names_are_refused_before_any_work(
    words: tuple[str, ...], what: str, exported: Exported, tmp_path: Path
) -> None:
    done = call("deploy", *exported.words, *words, "-o", tmp_path / "out", "--json")

    assert done.code == 2
    assert done.error()["class"] == "UnknownNameError"
    assert what in done.error()["what"]
    assert not (tmp_path / "out").exists()


def test_few_rounds_are_refused_before_the_work(exported: Exported, tmp_path: Path) -> None:
    few = ("deploy", *exported.words, "--rounds", "19", "-o", tmp_path / "out", "--json")
    done = call(*few)

    assert done.code == 2
    assert done.error()["what"] == "19 rounds are too few for a valid measurement, 20 are needed"
    assert done.error()["fix"].startswith("--rounds 20 or more")
    assert not (tmp_path / "out").exists()
