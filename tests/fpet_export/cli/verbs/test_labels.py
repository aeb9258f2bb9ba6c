"""Class names on the command line: matched by name everywhere, and never invented."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engines.imaging.synthetic import synthetic_set
from engines.manifest import read_manifest
from tests.fpet_export.command_line import (
    LABELS,
    Done,
    Exported,
    call,
    pixels_of,
    write_images,
    write_shard,
)
from tests.fpet_export.tiny import SIDE

SHUFFLED = ("dog", "ant", "elk", "cat", "bee")
"""The classes in an order in which no sorting puts them."""


def with_labels(exported: Exported, folder: Path, labels: tuple[str, ...]) -> Path:
    """Export the tiny run once more, with these class names; () for none."""
    words: list[Any] = ["export", *exported.words, "-o", folder, "--limit", 2, "-q"]
    if labels:
        file = folder.with_name(f"{folder.name}.txt")
        file.write_text("\n".join(labels) + "\n")
        words += ["--labels", file]
    assert call(*words).code == 0
    return folder / "model.onnx"


@pytest.fixture(scope="module")
def shuffled(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph whose classes are not in alphabetical order."""
    return with_labels(exported, tmp_path_factory.mktemp("shuffled") / "out", SHUFFLED)


@pytest.fixture(scope="module")
def nameless(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph whose class names nobody stated."""
    return with_labels(exported, tmp_path_factory.mktemp("nameless") / "out", ())


@pytest.fixture(scope="module")
def answers(shuffled: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Path, int]:
    """Images, and the class that the graph gives each."""
    pixels = synthetic_set((SIDE, SIDE), 24, seed=1).pixels
    paths = write_images(tmp_path_factory.mktemp("images"), pixels)
    document = call("predict", shuffled, *paths, "--json").document()
    found = [one["classes"][0]["class"] for one in document["predictions"]]
    assert len(set(found)) > 1
    return dict(zip(paths, found, strict=True))


def sorted_into(folder: Path, answers: dict[Path, int], names: tuple[str, ...]) -> Path:
    """Put each image into the folder of the class that the graph gives it: 100 % are right."""
    for name in names:
        (folder / name).mkdir(parents=True)
    for path, index in answers.items():
        shutil.copy(path, folder / names[index])
    return folder


def compared(graph: Path, data: Path, *words: object) -> Done:
    return call("compare", graph, graph, "--data", data, *words, "--json")


def accuracy(done: Done) -> tuple[float, str]:
    document = done.document()
    return document["rows"][0]["accuracy"], document["labels"]


def test_folders_named_as_the_classes_are_right_in_any_order(
    shuffled: Path, answers: dict[Path, int], tmp_path: Path
) -> None:
    named = sorted_into(tmp_path / "named", answers, SHUFFLED)
    numbered = sorted_into(tmp_path / "numbered", answers, tuple("01234"))

    assert accuracy(compared(shuffled, named)) == (1.0, "by name")
    assert accuracy(compared(shuffled, numbered)) == (1.0, "by index")


def test_some_of_the_classes_are_enough(
    shuffled: Path, answers: dict[Path, int], tmp_path: Path
) -> None:
    chosen = set(answers.values()) - {min(answers.values())}
    some = {path: index for path, index in answers.items() if index in chosen}
    data = sorted_into(tmp_path / "some", some, SHUFFLED)
    for folder in data.iterdir():
        if not any(folder.iterdir()):
            folder.rmdir()
    assert len(list(data.iterdir())) < len(SHUFFLED)

    assert accuracy(compared(shuffled, data)) == (1.0, "by name")


@pytest.mark.parametrize("suffix", ["txt", "csv"])
def test_lists_and_tables_are_matched_by_name(
    suffix: str, shuffled: Path, answers: dict[Path, int], tmp_path: Path
) -> None:
    separator = "," if suffix == "csv" else " "
    lines = ["path,label"] if suffix == "csv" else []
    lines += [f"{path}{separator}{SHUFFLED[index]}" for path, index in answers.items()]
    data = tmp_path / f"val.{suffix}"
    data.write_text("\ufeff" + "\n".join(lines))

    assert accuracy(compared(shuffled, data)) == (1.0, "by name")


def test_a_folder_that_is_no_class_is_refused_with_both_lists(
    shuffled: Path, answers: dict[Path, int], tmp_path: Path
) -> None:
    data = sorted_into(tmp_path / "val", answers, ("dog", "ant", "elk", "cat", "wasp"))

    error = compared(shuffled, data).error()

    assert error["exit_code"] == 3
    assert "is not a class of the model: wasp" in error["what"]
    assert "ant, cat, dog, elk, wasp" in error["what"]
    assert "dog, ant, elk, cat, bee" in error["what"]


def test_without_names_the_order_of_the_folders_is_said_to_be_one(
    nameless: Path, answers: dict[Path, int], tmp_path: Path
) -> None:
    data = sorted_into(tmp_path / "val", answers, SHUFFLED)

    done = compared(nameless, data)

    assert accuracy(done)[0] < 1
    assert accuracy(done)[1] == "by folder order"
    assert " ! labels " in done.err
    stated = tmp_path / "names.txt"
    stated.write_text("\n".join(SHUFFLED))
    assert accuracy(compared(nameless, data, "--labels", stated)) == (1.0, "by name")


def test_names_of_folders_never_become_names_of_the_graph(
    exported: Exported, answers: dict[Path, int], tmp_path: Path
) -> None:
    data = sorted_into(tmp_path / "val", answers, SHUFFLED)
    out = tmp_path / "out"

    done = call("export", *exported.words, "-o", out, "--data", data, "--limit", "4", "--json")

    assert done.document()["manifest"]["labels"] == []
    assert done.document()["parity"]["labels"] == "by folder order"
    predicted = call("predict", out / "model.onnx", next(iter(answers)), "--json").document()
    best = predicted["predictions"][0]["classes"][0]
    assert best["name"] == str(best["class"])
    call("triton", out / "model.onnx", "-o", tmp_path / "models", "-q")
    assert not (tmp_path / "models" / "model" / "labels.txt").exists()


def test_an_export_with_names_has_them_in_the_order_of_the_file(shuffled: Path) -> None:
    assert read_manifest(shuffled).labels == SHUFFLED


def test_a_shard_that_counts_its_classes_in_another_order_is_right(
    shuffled: Path, answers: dict[Path, int], tmp_path: Path
) -> None:
    images = np.stack([np.asarray(Image.open(path)) for path in answers])
    labels = np.array([LABELS.index(SHUFFLED[index]) for index in answers.values()])
    np.savez(tmp_path / "val.npz", images=images, labels=labels, class_names=np.array(LABELS))

    assert accuracy(compared(shuffled, tmp_path / "val.npz")) == (1.0, "by name")


def test_folders_that_begin_at_1_are_warned_of(
    shuffled: Path, answers: dict[Path, int], tmp_path: Path
) -> None:
    some = {path: index for path, index in answers.items() if index > 0}
    data = sorted_into(tmp_path / "numbered", some, tuple("01234"))
    (data / "0").rmdir()

    done = compared(shuffled, data)

    assert accuracy(done) == (1.0, "by index, without a class 0")
    (warning,) = done.document()["warnings"]
    assert warning["text"].startswith("the indices begin at 1")


def test_two_sources_that_disagree_are_refused(
    exported: Exported, shuffled: Path, tmp_path: Path
) -> None:
    strange = np.array([*LABELS[:-1], "elks"])
    shard = write_shard(tmp_path / "val.npz", class_names=strange)
    out = tmp_path / "out"
    names = tmp_path / "names.txt"
    names.write_text("\n".join(SHUFFLED))

    for done in (
        compared(shuffled, shard),
        call("compare", shuffled, exported.graph, "--json"),
        compared(exported.graph, shard, "--labels", names),
        call("export", *exported.words, "-o", out, "--data", shard, "--labels", names, "--json"),
        call("quantize", shuffled, "--precision", "int8", "--data", shard, "--json"),
        call("bundle", shuffled, "--data", shard, "--json"),
    ):
        error = done.error()
        assert error["exit_code"] == 3
        assert "dog, ant, elk, cat, bee" in error["what"]
        assert "ant, bee, cat, dog, elk" in error["what"]
    assert not out.exists()


def test_a_promise_on_accuracy_needs_classes_that_are_known(
    nameless: Path, answers: dict[Path, int], tmp_path: Path
) -> None:
    data = sorted_into(tmp_path / "val", answers, SHUFFLED)
    words = ("quantize", nameless, "--precision", "int8", "--data", data, "--max-drop", "50")

    error = call(*words, "-o", tmp_path / "q.onnx", "--json").error()

    assert error["exit_code"] == 3
    assert "--max-drop needs to know which class each label is" in error["what"]
    assert "--labels" in error["fix"]


def test_a_promise_on_accuracy_refuses_indices_that_begin_at_1(
    shuffled: Path, answers: dict[Path, int], tmp_path: Path
) -> None:
    some = {path: index for path, index in answers.items() if index > 0}
    data = sorted_into(tmp_path / "val", some, tuple("01234"))
    if (data / "0").exists():
        (data / "0").rmdir()
    words = ("quantize", shuffled, "--precision", "int8", "--data", data, "--max-drop", "50")

    error = call(*words, "-o", tmp_path / "q.onnx", "--json").error()

    assert error["exit_code"] == 3
    assert "the indices begin at 1" in error["what"]


def test_the_promise_is_judged_on_labels_by_name(
    shuffled: Path, answers: dict[Path, int], tmp_path: Path
) -> None:
    data = sorted_into(tmp_path / "val", answers, SHUFFLED)
    words = ("quantize", shuffled, "--precision", "int8", "--data", data, "--calibration", data)

    document = call(*words, "--max-drop", "100", "-o", tmp_path / "q.onnx", "--json").document()

    assert document["choice"]["quality"]["reference_accuracy"] == 1.0
    assert document["parity"]["labels"] == "by name"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"ant\n\nbee\ncat\ndog\nelk\n", "line 2 of the class names is empty"),
        (b"ant\nant\ncat\ndog\nelk\n", "two classes have the name 'ant'"),
        (b"ant\nbee\n", "2 class names for 5 classes"),
    ],
)
def test_class_names_are_refused_before_anything_is_computed(
    content: bytes, words: str, exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fpet_export.stages import Adapted

    def never(*arguments: object, **options: object) -> None:
        raise AssertionError("the long pass began")

    monkeypatch.setattr(Adapted, "outputs", never)
    labels = tmp_path / "labels.txt"
    labels.write_bytes(content)
    for verb in ("export", "deploy", "tasks"):
        done = call(verb, *exported.words, "-o", tmp_path / "out", "--labels", labels, "--json")
        assert done.code == 2
        assert words in done.error()["what"]
    assert not (tmp_path / "out").exists()


def test_a_byte_order_mark_is_no_part_of_the_first_name(exported: Exported, tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(LABELS).encode())
    words = ("export", *exported.words, "-o", tmp_path / "out", "--labels", labels, "--limit", 2)

    assert tuple(call(*words, "--json").document()["manifest"]["labels"]) == LABELS


@pytest.mark.parametrize("verb", ["export", "deploy", "tasks"])
def test_an_output_that_cannot_be_written_is_refused_at_once(
    verb: str, exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fpet_export import stages

    def never(*arguments: object, **options: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(stages, "load", never)
    (tmp_path / "file").touch()

    error = call(verb, *exported.words, "-o", tmp_path / "file" / "out", "--json").error()

    assert error["exit_code"] == 2
    assert "is a file, wanted a folder" in error["what"]


# Images that cannot be read


def test_unreadable_images_are_refused_or_survived(
    shuffled: Path, answers: dict[Path, int], tmp_path: Path
) -> None:
    data = sorted_into(tmp_path / "val", answers, SHUFFLED)
    bad = data / "bee" / "bad.png"
    bad.write_bytes(b"no image")
    out = tmp_path / "parity.json"

    refused = compared(shuffled, data)
    assert refused.error()["exit_code"] == 3
    assert str(bad) in refused.error()["what"]

    survived = compared(shuffled, data, "--skip-bad", "-o", out)
    assert survived.code == 3
    document = survived.document()
    assert document["unreadable"] == [str(bad)]
    assert document["images"] == f"{len(answers)} of {len(answers) + 1} images in val"
    assert document["rows"][0]["accuracy"] == 1.0
    assert str(bad) in survived.err
    assert json.loads(out.read_text())["left_out"] == [f"1 unreadable ({bad})"]


def test_unreadable_images_of_a_calibration_are_refused_or_survived(
    nameless: Path, tmp_path: Path
) -> None:
    write_images(tmp_path / "train", synthetic_set((SIDE, SIDE), 20).pixels)
    (tmp_path / "train" / "bad.jpg").write_bytes(b"no image")
    given = ("--precision", "int8", "--calibration", tmp_path / "train")
    words = ("quantize", nameless, *given, "-o", tmp_path / "q.onnx", "--json")

    assert "1 of 21 images cannot be read" in call(*words).error()["what"]
    done = call(*words, "--skip-bad")
    assert done.code == 3
    assert done.document()["unreadable"] == [str(tmp_path / "train" / "bad.jpg")]
    assert (tmp_path / "q.onnx").exists()


# `predict`


def test_predict_takes_folders(shuffled: Path, tmp_path: Path) -> None:
    paths = [
        *write_images(tmp_path / "some", pixels_of(2)),
        *write_images(tmp_path / "some" / "deeper" / "still", pixels_of(1)),
    ]
    (tmp_path / "some" / "notes.txt").touch()

    done = call("predict", shuffled, tmp_path / "some", "--json")

    assert [one["image"] for one in done.document()["predictions"]] == list(map(str, paths))
    assert "3 of 3 images in some" in done.err
    assert "1 not an image (.txt)" in done.err
    single = call("predict", shuffled, *paths, "--json").document()
    assert single["predictions"] == done.document()["predictions"]


def test_predict_skips_what_cannot_be_read_only_where_it_may(
    shuffled: Path, tmp_path: Path
) -> None:
    (whole,) = write_images(tmp_path / "some", pixels_of(1))
    bad = tmp_path / "some" / "bad.png"
    bad.write_bytes(b"no image")

    assert call("predict", shuffled, tmp_path / "some", "--json").error()["exit_code"] == 3
    done = call("predict", shuffled, tmp_path / "some", "--skip-bad", "--json")
    assert done.code == 3
    assert [one["image"] for one in done.document()["predictions"]] == [str(whole)]
    assert done.document()["unreadable"] == [str(bad)]


def test_predict_of_many_images_is_that_of_each(
    shuffled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fpet_export.workflow import predict

    write_images(tmp_path / "some", pixels_of(5))
    whole = call("predict", shuffled, tmp_path / "some", "--json").document()

    monkeypatch.setattr(predict, "_AT_ONCE", 2)
    assert call("predict", shuffled, tmp_path / "some", "--json").document() == whole


# Folders of tasks


def test_every_task_keeps_its_own_class_names(exported: Exported, tmp_path: Path) -> None:
    run, *backbone = exported.words
    names = tmp_path / "names.txt"
    names.write_text("\n".join(SHUFFLED))
    shard = write_shard(tmp_path / "val.npz", class_names=np.array(LABELS))
    folders = tmp_path / "val"
    for name in LABELS:
        write_images(folders / name, pixels_of(1))
    out = tmp_path / "out"

    done = call(
        "tasks", f"by_file={run}", f"by_shard={run}", f"nameless={run}", *backbone,
        "--labels", f"by_file={names}", "--data", f"by_file={folders}",
        "--data", f"by_shard={shard}", "--data", f"nameless={folders}", "-o", out, "--json",
    )  # fmt: skip

    tasks = done.document()["index"]["tasks"]
    assert {one["name"]: tuple(one["labels"]) for one in tasks} == {
        "by_file": SHUFFLED,
        "by_shard": LABELS,
        "nameless": (),
    }
    assert done.document()["parity"]["reference"]["labels"] == (
        "by name, by index, by folder order"
    )
    image = folders / "ant" / "0.png"
    for one in tasks:
        words = ("predict", out, "--task", one["name"], image, "--json")
        (best,) = call(*words).document()["predictions"][0]["classes"]
        expected = one["labels"][best["class"]] if one["labels"] else str(best["class"])
        assert best["name"] == expected
    wrong = call("bundle", out, "--data", f"by_shard={folders}", "--labels", names, "--json")
    assert "do not agree on the classes" in wrong.error()["what"]
    again = call("tasks", f"by_file={run}", *backbone, "-o", out, "--add", "--force")
    assert again.code == 0
    assert "class names of the task that by_file replaces are not taken over" in " ".join(
        again.err.split()
    )
