"""Which class of a model a label means: by name, by index, or refused with both lists."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines.errors import InputError, UsageError
from engines.imaging.class_names import (
    BY_INDEX,
    BY_INDEX_FROM_1,
    Form,
    KnownClasses,
    Stated,
    agreed,
    is_sure,
    match,
    names_without_labels,
    read_class_names,
)
from engines.imaging.files import ordered

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def stated(*labels: str, form: Form = "folders", empty: tuple[str, ...] = ()) -> Stated:
    """A set with one image of each of these labels."""
    classes = ordered([*labels, *empty])
    index = np.array([classes.index(label) for label in labels], np.int64)
    return Stated(form=form, index=index, classes=classes, empty=empty, where="val")


def known(*names: str, count: int | None = None) -> KnownClasses:
    return KnownClasses(
        count=len(names) or None if count is None else count, names=names, source="the graph"
    )


def refused(own: Stated, model: KnownClasses) -> str:
    with pytest.raises(InputError) as caught:
        match(own, model)
    assert caught.value.where
    assert caught.value.fix
    return caught.value.what


@pytest.mark.parametrize("form", ["folders", "list", "table"])
def test_names_are_found_in_the_order_of_the_model(form: Form) -> None:
    found = match(stated(*DIGITS, form=form), known(*DIGITS))

    assert found.labels.tolist() == list(range(10))
    assert found.names == DIGITS
    assert found.found == "by name"


def test_some_of_the_classes_keep_their_indices() -> None:
    assert match(stated("seven", "three"), known(*DIGITS)).labels.tolist() == [7, 3]


def test_names_match_without_case_blanks_and_underscores_where_that_is_unambiguous() -> None:
    found = match(stated("Great_Dane", "ant"), known("Ant", "great dane"))

    assert found.labels.tolist() == [1, 0]
    assert found.found == "by name, ignoring case, blanks and _"


@pytest.mark.parametrize(
    ("own", "model"),
    [
        (("CAT", "dog"), ("cat", "Cat", "dog")),  # two of the model's differ in case alone
        (("Cat", "CAT"), ("cat", "dog")),  # two of the set's do
    ],
)
def test_names_that_differ_in_case_alone_are_not_guessed(own: Any, model: Any) -> None:
    assert "\n  the set's: " in refused(stated(*own), known(*model))


def test_exact_names_that_differ_in_case_alone_are_two_classes() -> None:
    assert match(stated("Cat", "cat"), known("cat", "dog", "Cat")).labels.tolist() == [2, 0]


def test_an_accent_is_one_letter_however_it_is_stored() -> None:
    as_on_a_mac = unicodedata.normalize("NFD", "café")
    assert as_on_a_mac != "café"

    found = match(stated(as_on_a_mac), known("bar", "café"))

    assert (found.labels.tolist(), found.found) == ([1], "by name")


def test_whole_numbers_are_indices_where_they_are_no_names() -> None:
    twelve = [str(index) for index in range(12)]

    assert match(stated(*twelve), known(count=12)).labels.tolist() == list(range(12))
    found = match(stated("3", "7"), known(*DIGITS))
    assert found.labels.tolist() == [3, 7]
    assert found.names == DIGITS
    assert found.found == "by index"


def test_a_folder_whose_name_is_a_number_is_found_by_name() -> None:
    """Trained with torchvision on folders 0 to 11: the third class is that of folder 10."""
    as_text = sorted(str(index) for index in range(12))
    assert as_text[2] == "10"

    found = match(stated("10", "2", "11"), known(*as_text))

    assert found.labels.tolist() == [2, 4, 3]
    assert found.found == "by name"


@pytest.mark.parametrize("form", ["list", "table"])
def test_a_number_in_a_list_that_may_be_a_name_is_refused(form: Form) -> None:
    as_text = sorted(str(index) for index in range(12))

    what = refused(stated("2", "10", form=form), known(*as_text))

    assert "may be the index of the class" in what
    assert match(stated("0", "1", form=form), known(*as_text)).labels.tolist() == [0, 1]


def test_numbers_from_zero_against_names_from_one_are_refused() -> None:
    names = [str(index + 1) for index in range(10)]

    assert "may be the index" in refused(
        stated(*(str(index) for index in range(10))), known(*names)
    )
    assert match(stated("1", "10"), known(*names)).labels.tolist() == [0, 9]


@pytest.mark.parametrize("model", [known(count=10), known(*DIGITS)])
def test_a_number_beyond_the_classes_is_refused(model: KnownClasses) -> None:
    what = refused(stated("1", "2", "10"), model)

    assert "a model of 10 classes has no 10 (only 0 to 9)" in what
    assert ("zero, one" in what) == bool(model.names)


def test_an_empty_folder_beyond_the_classes_is_refused_too() -> None:
    assert "11" in refused(stated("0", "1", empty=("11",)), known(count=10))


def test_one_number_written_in_two_ways_is_refused() -> None:
    assert "01, 1 are the same number" in refused(stated("1", "01"), known(count=10))


def test_a_name_that_is_no_class_is_refused_with_both_lists() -> None:
    what = refused(stated("one", "two", "dog"), known(*DIGITS))

    assert what.startswith("1 of the 3 class folders is not a class of the model: dog")
    assert "\n  the set's: dog, one, two" in what
    assert "\n  the classes, the graph: zero, one, two" in what


def test_long_lists_are_shortened() -> None:
    names = [f"class {index:03}" for index in range(1000)]

    what = refused(stated("dog", *names), known(*names))

    assert len(what) < 400
    assert "(1000 in all)" in what


def test_where_nobody_states_the_order_the_result_says_so() -> None:
    found = match(stated("dog", "ant", "cat", empty=("bee",)), known(count=4))

    assert found.labels.tolist() == [3, 0, 2]  # the empty folder keeps its place
    assert found.names == ()
    assert found.found == "by folder order"
    assert not is_sure(found.found)
    assert is_sure("by name")
    assert is_sure(None)


@pytest.mark.parametrize("count", [2, 4])
def test_without_an_order_there_must_be_a_folder_a_class(count: int) -> None:
    what = refused(stated("dog", "ant", "cat"), known(count=count))

    assert f"3 classes for a model of {count} classes whose names are unknown" in what
    assert "ant, cat, dog" in what


# Shards


def shard(labels: list[int], *names: str) -> Stated:
    span = (min(labels), max(labels))
    return Stated(form="shard", index=np.array(labels), classes=names, span=span, where="v.npz")


def test_a_shard_states_indices_and_their_names() -> None:
    found = match(shard([1, 0], "ant", "bee"), known(count=2))

    assert found.labels.tolist() == [1, 0]
    assert found.names == ("ant", "bee")
    assert found.found == "by index"


def test_a_shard_that_does_not_agree_with_the_graph_is_refused_with_both_lists() -> None:
    what = refused(shard([0, 1], "ant", "cow", "bee"), known("ant", "bee", "cat"))

    assert what.splitlines() == [
        "two sources do not agree on the classes, first at index 1",
        "  the graph: ant, bee, cat",
        "  `class_names` of v.npz: ant, cow, bee",
    ]


@pytest.mark.parametrize("names", [("cat", "ant", "bee"), ("cat", "ant"), ("Cat", "ANT", "bee")])
def test_a_shard_in_another_order_is_matched_by_name(names: tuple[str, ...]) -> None:
    found = match(shard([0, 1, 1], *names), known("ant", "bee", "cat"))

    assert found.labels.tolist() == [2, 0, 0]
    assert found.names == ("ant", "bee", "cat")
    assert found.found.startswith("by name")


def test_a_shard_whose_names_are_numbers_states_both_and_is_matched() -> None:
    assert match(shard([0, 1], "1", "0"), known("0", "1")).labels.tolist() == [1, 0]


def test_an_index_beyond_the_names_of_a_shard_is_not_matched_by_name() -> None:
    refused(shard([0, 2], "bee", "ant"), known("ant", "bee", "cat"))


def test_a_shard_without_labels_takes_the_order_of_the_model() -> None:
    own = KnownClasses(names=("cat", "ant"), source="the shard")

    assert names_without_labels(known("ant", "bee", "cat"), own) == ("ant", "bee", "cat")
    assert names_without_labels(KnownClasses(), own) == ("cat", "ant")
    with pytest.raises(InputError, match="do not agree"):
        names_without_labels(known("ant", "bee"), own)


# Numbers that begin at 1


@pytest.mark.parametrize("form", ["folders", "list", "table"])
def test_numbers_from_1_are_doubted_and_one_too_many_is_refused(form: Form) -> None:
    def numbered(first: int, last: int) -> Stated:
        classes = tuple(map(str, range(first, last + 1)))
        return Stated(form=form, index=np.arange(len(classes)), classes=classes, where="data")

    assert match(numbered(1, 9), known(count=10)).found == BY_INDEX_FROM_1
    assert match(numbered(0, 9), known(count=10)).found == BY_INDEX
    assert match(numbered(2, 9), known(count=10)).found == BY_INDEX
    with pytest.raises(InputError) as error:
        match(numbered(1, 10), known(count=10))
    assert error.value.fix.startswith("they seem to count from 1: rename them, count from 0")
    assert "--labels FILE" in error.value.fix


def test_a_shard_that_begins_at_1_is_doubted_unless_it_names_its_classes() -> None:
    assert match(shard([1, 2]), known(count=3)).found == BY_INDEX_FROM_1
    assert match(shard([0, 2]), known(count=3)).found == BY_INDEX
    assert match(shard([1, 2], "ant", "bee", "cat"), known(count=3)).found == BY_INDEX


@pytest.mark.parametrize(
    ("labels", "names", "words"),
    [
        ([0, 3], (), "labels 0 to 3 for a model of 3 classes"),
        ([-1], (), "labels -1 to -1 for a model of 3 classes"),
        ([0], ("a", "b"), "2 class names for 3 classes"),
        ([0], ("a", "a", "b"), "two classes have the name 'a': 0 and 1"),
    ],
)
def test_a_shard_of_another_model_is_refused(
    labels: list[int], names: tuple[str, ...], words: str
) -> None:
    assert words in refused(shard(labels, *names), known(count=3))


def test_an_index_beyond_the_shards_own_names_is_refused() -> None:
    assert "labels 0 to 2 for 2 classes" in refused(shard([0, 2], "a", "b"), KnownClasses())


# Several sources of names


def test_sources_that_agree_are_one() -> None:
    found = agreed([KnownClasses(count=2), known("ant", "bee"), KnownClasses(names=("ant", "bee"))])

    assert (found.count, found.names, found.source) == (2, ("ant", "bee"), "the graph")
    assert agreed([KnownClasses(count=2)]).names == ()


@pytest.mark.parametrize("other", [("bee", "ant"), ("ant", "bee", "cat"), ("ant",)])
def test_sources_that_disagree_are_refused(other: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match="do not agree on the classes"):
        agreed([known("ant", "bee"), KnownClasses(names=other, source="--labels")])


# Files of names


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "content",
    [
        b"ant\nbee\n",
        b"ant\nbee",
        b"\xef\xbb\xbfant\nbee\n",
        b"ant\r\nbee\r\n",
        b" ant \nbee\t\n\n\n",
    ],
)
def test_a_file_has_one_name_a_line(content: bytes, tmp_path: Path) -> None:
    assert read_class_names(write(tmp_path / "labels.txt", content)) == ("ant", "bee")


def test_a_line_separator_inside_a_name_is_no_new_line(tmp_path: Path) -> None:
    path = write(tmp_path / "labels.txt", "ant\x0bhill\nbee\u2028hive\n".encode())

    assert read_class_names(path) == ("ant\x0bhill", "bee\u2028hive")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no class names"),
        (b"\n\n", "no class names"),
        (b"ant\n\nbee\n", "line 2 of the class names is empty"),
        (b"\nant\n", "line 1 of the class names is empty"),
        (b"ant\nbee\nant\n", "two classes have the name 'ant': 0 and 2"),
        ("ant\nbée\n".encode("latin-1"), "cannot be read"),
        ("ant\nbee\n".encode("utf-16"), "cannot be read"),
        (b"a\0n\0t\0\n\0", "zero bytes"),
    ],
)
def test_a_file_that_leaves_an_index_open_is_refused(
    content: bytes, words: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=words):
        read_class_names(write(tmp_path / "labels.txt", content))


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_class_names(tmp_path / "labels.txt")
