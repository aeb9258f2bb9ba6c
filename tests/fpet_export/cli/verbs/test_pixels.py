"""The same digits as ordinary, 16-bit, turned and transparent files: what a verb makes of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engines.imaging.traits import DEEP, ORIENTATION, TRANSPARENT
from engines.manifest import read_manifest
from tests.fpet_export.command_line import call

DIGITS = Path(__file__).parents[4] / "examples" / "digits"


def save_plain(grey: np.ndarray, path: Path) -> None:
    Image.fromarray(grey).save(path)


def save_deep(grey: np.ndarray, path: Path) -> None:
    Image.fromarray(grey.astype(np.uint16) * 257).save(path)


def save_turned(grey: np.ndarray, path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.ascontiguousarray(np.rot90(grey))).save(path, exif=exif)


def save_transparent(grey: np.ndarray, path: Path) -> None:
    """White ink that covers as much as the digit is bright: on black the very same picture."""
    white = np.full_like(grey, 255)
    Image.fromarray(np.dstack([white, white, white, grey])).save(path)


SAVED: dict[str, Callable[[np.ndarray, Path], None]] = {
    "plain": save_plain,
    "deep": save_deep,
    "turned": save_turned,
    "transparent": save_transparent,
}


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two digits of each class, as class folders in every form."""
    home = tmp_path_factory.mktemp("digits")
    with np.load(DIGITS / "test.npz") as shard:
        images, labels = shard["images"], shard["labels"]
    for form, save in SAVED.items():
        for label in range(10):
            folder = home / form / str(label)
            folder.mkdir(parents=True)
            for index in np.flatnonzero(labels == label)[:2]:
                save(
                    np.asarray(Image.fromarray(images[index]).convert("L")), folder / f"{index}.png"
                )
    return home


@pytest.fixture(scope="module")
def graph_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Export the example run with options, once for each set of them."""
    known: dict[tuple[str, ...], Path] = {}

    def export(*how: str) -> Path:
        if how not in known:
            out = tmp_path_factory.mktemp("export")
            done = call(
                "export", DIGITS / "runs/lora", "--backbone", DIGITS / "backbone.safetensors",
                "--data", DIGITS / "test.npz", "--limit", 1, *how, "-o", out,
            )  # fmt: skip
            assert done.code == 0, done.err
            known[how] = out / "model.onnx"
        return known[how]

    return export


def compared(graph: Path, data: Path) -> tuple[float, dict[str, Any]]:
    """Return the accuracy of a graph, and its remarks by what they are on."""
    done = call("compare", graph, graph, "--data", data, "--json")
    assert done.code == 0, done.err
    document = done.document()
    accuracy: float = document["rows"][0]["accuracy"]
    return accuracy, {one["trait"]: one for one in document.get("warnings", [])}


FULL = ("--decode", "full", "--background", "black")


def test_full_decoding_gives_one_accuracy_whatever_the_form(
    sets: Path, graph_of: Callable[..., Path]
) -> None:
    found = {form: compared(graph_of(*FULL), sets / form) for form in SAVED}

    wanted, no_remarks = found.pop("plain")
    assert wanted >= 0.7
    assert no_remarks == {}
    traits = {"deep": DEEP, "turned": ORIENTATION, "transparent": TRANSPARENT}
    for form, (accuracy, remarks) in found.items():
        assert accuracy == wanted, form
        assert list(remarks) == [traits[form]]
        assert all((one["images"], one["total"]) == (20, 20) for one in remarks.values())


def test_plain_decoding_is_right_for_depth_and_warns_of_the_rest(
    sets: Path, graph_of: Callable[..., Path]
) -> None:
    graph = graph_of()
    assert read_manifest(graph).preprocessing is not None
    wanted, _ = compared(graph, sets / "plain")

    assert compared(graph, sets / "deep")[0] == wanted
    turned, remarks = compared(graph, sets / "turned")
    assert turned < wanted - 0.3  # the control: what plain decoding costs here
    assert "export with --decode full" in remarks[ORIENTATION]["done"]
    hidden, remarks = compared(graph, sets / "transparent")
    assert hidden < wanted - 0.3
    assert "export with --decode full" in remarks[TRANSPARENT]["done"]


def test_predict_and_show_warn(sets: Path, graph_of: Callable[..., Path], tmp_path: Path) -> None:
    image = next((sets / "turned" / "3").iterdir())

    predicted = call("predict", graph_of(), image)
    shown = call("show", graph_of(), image, "-o", tmp_path / "merge.png")

    assert "! images     1 of 1 image carries an EXIF orientation" in predicted.err
    assert "! images     1 of 1 image carries an EXIF orientation" in shown.err


def test_calibration_images_are_spoken_of_too(
    sets: Path, graph_of: Callable[..., Path], tmp_path: Path
) -> None:
    done = call(
        "quantize", graph_of(*FULL), "--precision", "int8", "--calibration", sets / "transparent",
        "--images", 8, "--data", sets / "plain", "--limit", 4, "-o", tmp_path / "a.onnx",
        "--json",
    )  # fmt: skip

    assert done.code == 0, done.err
    warned = [one for one in done.document()["warnings"] if one.get("trait") == TRANSPARENT]
    assert [one["name"] for one in warned] == ["calibrate"]
    assert warned[0]["images"] == warned[0]["total"] == 8
    assert "laid on the background 0,0,0" in warned[0]["done"]


def test_a_bundle_decodes_for_its_check_as_the_graph_says(
    sets: Path, graph_of: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "m.bundle.tar"

    done = call("bundle", graph_of(), "--data", sets / "turned", "-o", out, "--json")

    assert done.code == 0, done.err
    assert [one["trait"] for one in done.document()["warnings"]] == [ORIENTATION]


def test_compare_says_where_two_graphs_would_make_other_pixels(
    sets: Path, graph_of: Callable[..., Path]
) -> None:
    same = call("compare", graph_of(), graph_of(), "--data", sets / "plain", "--json").document()
    done = call("compare", graph_of(), graph_of(*FULL), "--data", sets / "plain", "--json")

    assert "warnings" not in same
    (warned,) = done.document()["warnings"]
    assert warned["own"].startswith("RGB turned by EXIF, on 0,0,0 (full)")
    assert warned["given"].startswith("RGB as stored (plain)")


def test_an_option_of_a_run_is_refused_beside_a_graph(graph_of: Callable[..., Path]) -> None:
    done = call("compare", graph_of(), graph_of(), "--decode", "full", "--json")

    assert done.error()["where"] == "--decode"
    assert done.code == 2
