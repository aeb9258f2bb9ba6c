"""Every file of a set is seen: it is an image, or it is counted with the reason."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engines.errors import InputError, MissingDependencyError
from engines.imaging import decoding, files
from engines.imaging import source as image_source
from engines.imaging.class_names import KnownClasses
from engines.imaging.files import list_images, shortened
from engines.imaging.images import ImageSet
from engines.imaging.source import collect, open_files, open_source, read_set
from engines.manifest import Preprocessing
from tests.engines.imaging.test_source import WANTED, shards


def draw(folder: Path, *names: str) -> None:
    """Write an image of each name; its ending says the format, in whatever case."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20), (len(name), 0, 0)).save(path)


def names_in(folder: Path, *, with_classes: bool = True) -> list[str]:
    listing = list_images(folder, with_classes=with_classes)
    return [file.relative_to(folder).as_posix() for file in listing.files]


def skipped(folder: Path) -> list[str]:
    return [one.in_words() for one in list_images(folder).skipped]


def in_twelve_classes(source: Path) -> ImageSet:
    return read_set(source, WANTED, known=KnownClasses(count=12))


def test_nested_folders_belong_to_the_class_of_the_first_level(tmp_path: Path) -> None:
    draw(tmp_path, "b/1.png", "b/c/d/2.png", "a/x/1.png", "a/0.png")

    listing = list_images(tmp_path)

    assert names_in(tmp_path) == ["a/0.png", "a/x/1.png", "b/1.png", "b/c/d/2.png"]
    assert listing.classes == ("a", "a", "b", "b")
    assert listing.folders == ("a", "b")
    assert listing.skipped == ()


def test_whole_numbers_are_in_the_order_of_their_values(tmp_path: Path) -> None:
    draw(tmp_path, *(f"{index}/1.png" for index in range(12)))

    assert list_images(tmp_path).folders == tuple(str(index) for index in range(12))
    found = in_twelve_classes(tmp_path)
    assert found.labels is not None
    assert found.labels.tolist() == list(range(12))
    assert found.labels_found == "by index"


def test_two_folders_alone_mean_their_own_indices(tmp_path: Path) -> None:
    draw(tmp_path, "7/1.png", "3/1.png")

    found = in_twelve_classes(tmp_path)

    assert found.labels is not None
    assert found.labels.tolist() == [3, 7]


@pytest.mark.parametrize(
    "ending", ["jfif", "jpe", "JPG", "JPEG", "Png", "TIFF", "webp", "avif", "jp2"]
)
def test_every_ending_in_any_case_is_an_image(ending: str, tmp_path: Path) -> None:
    name = f"a/1.{ending}"
    (tmp_path / "a").mkdir()
    kind = {"jfif": "JPEG", "jpe": "JPEG"}.get(ending)
    Image.new("RGB", (20, 20), (9, 9, 9)).save(tmp_path / name, kind)

    assert names_in(tmp_path) == [name]
    assert len(read_set(tmp_path, WANTED)) == 1


@pytest.mark.parametrize(
    "name", ["__MACOSX", ".ipynb_checkpoints", "@eaDir", "$RECYCLE.BIN", "lost+found", ".git"]
)
def test_folders_of_the_system_are_no_classes(name: str, tmp_path: Path) -> None:
    draw(tmp_path, "a/1.png", f"{name}/1.png", f"a/{name}/1.png")

    assert list_images(tmp_path).folders == ("a",)
    assert names_in(tmp_path) == ["a/1.png"]
    assert skipped(tmp_path) == [f"2 hidden or of the system ({name})"]


def test_what_is_left_out_is_counted_with_its_reason(tmp_path: Path) -> None:
    draw(tmp_path, "a/1.png", "b/1.png", "top.png", "top.jpg")
    for name in ("a/Thumbs.db", "a/notes.txt", "b/more.TXT", "b/README", "b/.DS_Store", "x.json"):
        (tmp_path / name).touch()

    assert sorted(skipped(tmp_path)) == [
        "2 beside the class folders, without a label",
        "2 hidden or of the system (.DS_Store, Thumbs.db)",
        "4 not images (.json, .txt, no ending)",
    ]
    assert open_source(tmp_path, WANTED).description == f"2 of 4 images in {tmp_path.name}"


def test_without_classes_all_images_count(tmp_path: Path) -> None:
    draw(tmp_path, "top.png", "a/1.png", "a/b/2.png")

    assert names_in(tmp_path, with_classes=False) == ["top.png", "a/1.png", "a/b/2.png"]


def test_an_empty_class_folder_keeps_its_place(tmp_path: Path) -> None:
    draw(tmp_path, "a/1.png", "c/1.png")
    (tmp_path / "b").mkdir()

    source = open_source(tmp_path, WANTED)

    assert source.stated is not None
    assert source.stated.classes == ("a", "b", "c")
    assert source.stated.empty == ("b",)
    assert source.matched(KnownClasses(count=3)).labels is not None
    with pytest.raises(InputError, match="3 classes for a model of 2 classes"):
        source.matched(KnownClasses(count=2))


def test_links_to_folders_are_followed_and_end(tmp_path: Path) -> None:
    draw(tmp_path, "real/1.png")
    data = tmp_path / "data"
    data.mkdir()
    (data / "a").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "again").symlink_to(tmp_path / "real")

    assert names_in(data) == ["a/1.png"]
    assert skipped(data) == ["1 link to a folder above it"]


def test_a_format_that_needs_a_package_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(files._NEEDS, ".heic", lambda: "pillow-heif")
    draw(tmp_path, "a/1.png")
    (tmp_path / "a" / "2.HEIC").write_bytes(b"heic")

    source = open_source(tmp_path, WANTED)

    assert source.left_out() == ("1 needs pillow-heif (.heic)",)
    assert source.description == f"1 of 2 images in {tmp_path.name}"
    (tmp_path / "a" / "1.png").unlink()
    for path in (tmp_path, tmp_path / "a" / "2.HEIC"):
        with pytest.raises(MissingDependencyError, match="needs pillow-heif") as caught:
            open_source(path, WANTED)
        assert caught.value.fix.startswith("python3 -m pip install pillow-heif")


# Images that cannot be read


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """Four images in two classes, of which two cannot be read."""
    folder = tmp_path / "val"
    draw(folder, "a/0.png", "a/1.png", "b/2.jpg", "b/3.png")
    (folder / "a" / "1.png").write_bytes(b"no image")
    whole = (folder / "b" / "2.jpg").read_bytes()
    (folder / "b" / "2.jpg").write_bytes(whole[: len(whole) // 2])
    return folder


def test_unreadable_images_are_all_named_and_refused(damaged: Path) -> None:
    with pytest.raises(InputError) as caught:
        read_set(damaged, WANTED)

    assert caught.value.what.startswith("2 of 4 images cannot be read:")
    assert "a/1.png" in caught.value.what
    assert "b/2.jpg" in caught.value.what
    assert "--skip-bad" in caught.value.fix


def test_unreadable_images_are_left_out_with_their_labels(damaged: Path) -> None:
    source = open_source(damaged, WANTED).matched(KnownClasses(count=2)).readable(skip_bad=True)

    found = collect(source)

    assert found.names == ("0.png", "3.png")
    assert found.labels is not None
    assert found.labels.tolist() == [0, 1]
    assert found.description == "2 of 4 images in val"
    assert [name.rpartition("/")[2] for name in source.unreadable] == ["1.png", "2.jpg"]
    assert found.left_out[-1].startswith("2 unreadable (")


def test_a_set_of_which_nothing_can_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "1.png").touch()
    (tmp_path / "2.png").touch()

    with pytest.raises(InputError, match="2 of 2 images cannot be read"):
        open_source(tmp_path, WANTED).readable(skip_bad=True)


# Shards, and files by name


def test_shards_beside_images_are_refused(tmp_path: Path) -> None:
    shards(tmp_path, 2)
    draw(tmp_path, "1.png")

    with pytest.raises(InputError, match=r"shards and images in this folder: 1.png beside 0.npz"):
        open_source(tmp_path, WANTED)


def test_what_lies_beside_shards_is_counted(tmp_path: Path) -> None:
    shards(tmp_path, 2)
    (tmp_path / "README.md").touch()
    (tmp_path / "images").mkdir()

    assert open_source(tmp_path, WANTED).left_out() == (
        "1 not a shard (.md)",
        "1 folder beside the shards (images)",
    )


def test_shards_of_which_some_have_labels_are_refused(tmp_path: Path) -> None:
    shards(tmp_path, 2, 2)
    np.savez(tmp_path / "1.npz", images=np.zeros((2, 16, 16, 3), np.uint8))

    with pytest.raises(InputError, match=r"1.npz of the 2 shards have no `labels`"):
        open_source(tmp_path, WANTED)


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (np.array([b"ant", "bée".encode()]), ("ant", "bée")),
        (np.array(["ant", "bée"]), ("ant", "bée")),
    ],
)
def test_class_names_may_be_bytes(
    names: np.ndarray, found: tuple[str, ...], tmp_path: Path
) -> None:
    images = np.zeros((2, 16, 16, 3), np.uint8)
    np.savez(tmp_path / "v.npz", images=images, labels=[0, 1], class_names=names)

    assert read_set(tmp_path / "v.npz", WANTED).class_names == found


@pytest.mark.parametrize("names", [np.array("ant"), np.zeros((2, 2), "U3"), np.zeros(2)])
def test_class_names_that_are_no_list_of_text_are_refused(
    names: np.ndarray, tmp_path: Path
) -> None:
    images = np.zeros((2, 16, 16, 3), np.uint8)
    np.savez(tmp_path / "v.npz", images=images, class_names=names)

    with pytest.raises(InputError, match="`class_names` is not a list of text"):
        open_source(tmp_path / "v.npz", WANTED)


def test_files_and_folders_are_listed_together(tmp_path: Path) -> None:
    draw(tmp_path, "a/b/1.png", "a/2.png", "c.png")

    source = open_files([tmp_path / "c.png", tmp_path / "a"], WANTED)

    assert [location.name for location in source.locations] == ["c.png", "2.png", "1.png"]
    assert [len(part) for part in source.parts(2)] == [2, 1]
    assert len(collect(source)) == 3


def test_long_lists_say_how_many_there_are() -> None:
    assert shortened(("a", "b", "c"), 2) == "a, b, c"
    assert shortened(tuple("abcdef"), 3) == "a, b, … f (6 in all)"


@pytest.mark.parametrize(("other", "own"), [("classes", "class_names"), ("y", "labels")])
def test_an_array_under_another_name_is_not_passed_over(
    other: str, own: str, tmp_path: Path
) -> None:
    content: dict[str, Any] = {"images": np.zeros((2, 16, 16, 3), np.uint8), other: [0, 1]}
    np.savez(tmp_path / "v.npz", **content)

    with pytest.raises(InputError, match=f"`{other}` and none called `{own}`"):
        read_set(tmp_path / "v.npz", WANTED)


def test_what_was_looked_at_is_decoded_once_as_long_as_it_is_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index in range(4):
        Image.new("RGB", (20, 20), (index, 0, 0)).save(tmp_path / f"{index}.png")
    fresh = [pixels.copy() for pixels in open_source(tmp_path, WANTED).pixels()]
    decoded: list[str] = []
    real = decoding.decode

    def decode(path: Path, preprocessing: Preprocessing) -> Any:
        decoded.append(path.name)
        return real(path, preprocessing)

    monkeypatch.setattr("engines.imaging.source.decode", decode)
    monkeypatch.setattr(image_source, "MOST_KEPT_BYTES", 2 * fresh[0].nbytes)
    source = open_source(tmp_path, WANTED).readable()
    assert len(decoded) == 4
    again = list(source.pixels())

    assert decoded[4:] == ["2.png", "3.png"]
    assert all(np.array_equal(one, two) for one, two in zip(fresh, again, strict=True))
    del decoded[:]
    smaller = dataclasses.replace(source, preprocessing=dataclasses.replace(WANTED, size=(8, 8)))
    assert [pixels.shape for pixels in smaller.pixels()] == [(8, 8, 3)] * 4
    assert len(decoded) == 4  # kept pixels of another preprocessing are of no use
