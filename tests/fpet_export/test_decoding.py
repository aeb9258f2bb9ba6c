"""Which way a run's images become pixels: by its format, by the user, and never by chance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import fpet_export
from engines.errors import UsageError
from engines.manifest import read_manifest
from tests.fpet_export.command_line import Exported, call

RANDOM = "random:vit_tiny_patch16_224:0"


def test_a_run_of_the_authors_is_plain_because_of_its_format(exported: Exported) -> None:
    run = fpet_export.load(exported.run.text, backbone=exported.backbone)

    assert run.preprocessing.decode == "plain"
    assert "the authors' code" in run.checkpoint.facts["decode"].source
    assert "background" not in run.checkpoint.facts  # it has no effect
    assert (
        read_manifest(exported.graph).preprocessing
        == fpet_export.load(exported.run.text, backbone=exported.backbone)
        .fold()
        .freeze()
        .preprocessing
    )


def test_every_other_run_is_full_on_white() -> None:
    run = fpet_export.load(RANDOM)

    assert run.preprocessing.decode == "full"
    assert run.preprocessing.background == (255, 255, 255)
    assert str(run.checkpoint.facts["decode"]) == "full (the default)"
    assert str(run.checkpoint.facts["background"]) == "255,255,255 (the default)"


def test_what_the_user_says_counts(exported: Exported) -> None:
    asked: dict[str, Any] = {"decode": "full", "background": (1, 2, 3)}
    run = fpet_export.load(exported.run.text, backbone=exported.backbone, **asked)

    assert (run.preprocessing.decode, run.preprocessing.background) == ("full", (1, 2, 3))
    assert str(run.checkpoint.facts["decode"]) == "full (--decode)"
    assert str(run.checkpoint.facts["background"]) == "1,2,3 (--background)"


def test_a_background_without_effect_is_refused(exported: Exported) -> None:
    with pytest.raises(UsageError, match=r"no effect with decode plain \(the authors' code"):
        fpet_export.load(exported.run.text, backbone=exported.backbone, background=(0, 0, 0))


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"decode": "Full"}, "decode is 'Full'"),
        ({"background": (0, 0, 256)}, r"background is \(0, 0, 256\)"),
        ({"background": (0, 0)}, r"background is \(0, 0\)"),
        ({"background": "red"}, "background is 'red'"),
    ],
)
def test_what_python_says_wrongly_is_refused(asked: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        fpet_export.load(RANDOM, **asked)


@pytest.mark.parametrize(
    ("text", "colour"),
    [("white", [255, 255, 255]), ("black", [0, 0, 0]), ("12,0,255", [12, 0, 255])],
)
def test_the_manifest_holds_what_was_asked_for(
    text: str, colour: list[int], exported: Exported, tmp_path: Path
) -> None:
    asked = ("--decode", "full", "--background", text)
    done = call("export", *exported.words, *asked, "-o", tmp_path, "--limit", "1", "--json")

    found = done.document()["manifest"]["preprocessing"]
    assert (found["decode"], found["background"]) == ("full", colour)
    facts = read_manifest(tmp_path / "model.onnx").facts
    assert facts["decode"] == "full (--decode)"
    assert facts["background"] == f"{','.join(map(str, colour))} (--background)"


@pytest.mark.parametrize("text", ["256,0,0", "1,2", "grey", "1,2,3,4", "-1,0,0"])
def test_what_is_no_colour_is_refused(text: str, exported: Exported) -> None:
    done = call("inspect", *exported.words, f"--background={text}")

    assert done.code == 2
    assert "white, black or R,G,B from 0 to 255" in done.err


def test_the_next_command_keeps_the_choice(exported: Exported) -> None:
    asked = ("--decode", "full", "--background", "black")
    document = call("inspect", *exported.words, *asked, "--json").document()
    said = call("inspect", *exported.words, *asked).err

    assert document["facts"]["decode"] == {"value": "full", "source": "--decode"}
    assert document["facts"]["background"] == {"value": "0,0,0", "source": "--background"}
    assert "--decode full --background 0,0,0" in said
