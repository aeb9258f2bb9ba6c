"""Lists and tables of images: their labels, their paths, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from engines.errors import InputError, UsageError
from engines.imaging.class_names import KnownClasses
from engines.imaging.images import ImageSet
from engines.imaging.lists import read_list
from engines.imaging.source import open_source, read_set
from tests.engines.imaging.test_source import WANTED


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("images/a.png", "images/b c.png", "d.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (16, 16), (len(name), 0, 0)).save(path)
    return tmp_path


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(path: Path, *names: str, count: int = 20) -> ImageSet:
    return read_set(path, WANTED, known=KnownClasses(count=len(names) or count, names=names))


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("name", ["train800val200.txt", "list.LST"])
def test_a_list_has_a_path_and_an_index_a_line(
    name: str, mark: str, newline: str, folder: Path
) -> None:
    lines = ["images/a.png 10", "images/b c.png\t2", "", "d.png   2", ""]

    found = read(write(folder, name, mark + newline.join(lines)))

    assert found.names == ("a.png", "b c.png", "d.png")
    assert found.labels is not None
    assert found.labels.tolist() == [10, 2, 2]
    assert found.labels_found == "by index"
    assert found.description == f"3 of 3 images in {name}"


def test_labels_of_a_list_may_be_names(folder: Path) -> None:
    path = write(folder, "val.txt", "images/a.png dog\nd.png ant\n")

    found = read(path, "bee", "dog", "ant")

    assert found.labels is not None
    assert found.labels.tolist() == [1, 2]
    assert found.labels_found == "by name"
    unknown = read(path, count=2)
    assert unknown.labels is not None
    assert unknown.labels.tolist() == [1, 0]
    assert unknown.labels_found == "by alphabetical order of the labels"
    assert unknown.class_names == ()


def test_a_list_without_labels_has_none(folder: Path) -> None:
    found = read(write(folder, "val.txt", "images/a.png\nd.png\n"))

    assert (len(found), found.labels, found.labels_found) == (2, None, None)


def test_paths_of_a_list_may_be_absolute(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("lists")

    assert len(read(write(other, "val.txt", f"{folder / 'd.png'} 1\n"))) == 1


@pytest.mark.parametrize(
    "content",
    [
        "path,label\nimages/a.png,1\n'',\n".replace("'',\n", "images/b c.png,2\n"),
        'File Name;Class\nimages/a.png;1\n"images/b c.png";2\n',
        "label\timage\n1\timages/a.png\n2\timages/b c.png\n",
        "\ufeffid,IMAGE,Target\r\n7,images/a.png,1\r\n8,images/b c.png,2\r\n",
    ],
)
def test_a_table_names_its_columns(content: str, folder: Path) -> None:
    found = read(write(folder, "val.csv", content))

    assert found.names == ("a.png", "b c.png")
    assert found.labels is not None
    assert found.labels.tolist() == [1, 2]


def test_a_table_may_hold_names_with_blanks(folder: Path) -> None:
    path = write(folder, "val.csv", 'path,class\nd.png,great dane\nimages/a.png,"ant, red"\n')

    found = read(path, "ant, red", "great dane")

    assert found.labels is not None
    assert found.labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("name,species\nd.png,1\n", "the columns are name, species"),
        ("path,species\nd.png,1\n", "no column has a name that means the label"),
        (
            "path,label,class_name\nd.png,1,ant\n",
            "several columns may hold the label: label, class",
        ),
        ("path,image,label\nd.png,d.png,1\n", "several columns may hold the path"),
        ("images/a.png,1\nd.png,2\n", "the columns are images/a.png, 1"),
        ("path,label\nd.png,1,2\n", "line 2 has 3 cells, the header 2"),
        ("path,label\nd.png,\n", "line 2 has no label"),
        ("path,label\n,1\n", "line 2 has no path"),
        ("path,label\n", "names no image"),
        ("", "names no image"),
        ('path,label\n"d.png,1\n', "cannot be read"),
    ],
)
def test_a_table_that_leaves_something_open_is_refused(
    content: str, words: str, folder: Path
) -> None:
    with pytest.raises(InputError, match=words) as caught:
        read_list(write(folder, "val.csv", content))
    assert "val.csv" in caught.value.where


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("d.png 1\nimages/a.png\n", "line 2 has no label"),
        ("d.png 1\nd.png 2\n", "d.png has two labels: '1' in line 1, '2' in line 2"),
        ("\n\n", "names no image"),
        ("x.png 1\ny.png 2\n", "none of its 2 images is there"),
    ],
)
def test_a_list_that_contradicts_itself_is_refused(content: str, words: str, folder: Path) -> None:
    with pytest.raises(InputError, match=words):
        open_source(write(folder, "val.txt", content), WANTED)


def test_a_missing_image_of_a_list_is_named(folder: Path) -> None:
    path = write(folder, "val.txt", "d.png 1\ngone.png 2\n")

    with pytest.raises(InputError, match=r"1 of 2 images cannot be read:\n .*gone.png"):
        read(path)
    left = open_source(path, WANTED).matched(KnownClasses(count=3)).readable(skip_bad=True)
    assert left.labels is not None
    assert left.labels.tolist() == [1]


def test_a_list_in_another_encoding_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read_list(write(folder, "val.txt", "d.png 1\n".encode("utf-16")))


@pytest.mark.parametrize(
    "header", ["path label", "image\tclass", "filename,label", "File; Target", "path"]
)
def test_a_header_in_a_list_is_named(header: str, folder: Path) -> None:
    listed = write(folder, "val.txt", f"\n{header}\nimages/a.png 0\n")

    with pytest.raises(InputError) as caught:
        read_list(listed)

    assert caught.value.what == f"line 2 is the header of a table and names no image: {header!r}"
    assert "remove that line" in caught.value.fix and ".csv" in caught.value.fix


def test_an_image_that_is_called_as_a_column_is_no_header(folder: Path) -> None:
    (folder / "d.png").rename(folder / "image")

    assert read_list(write(folder, "val.txt", "image label\n")).classes == ("label",)
