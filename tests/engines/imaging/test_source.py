"""Images one after the other: the same as all at once, from any mix of files and shards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engines.errors import InputError
from engines.imaging.class_names import KnownClasses
from engines.imaging.source import open_source, read_set
from engines.manifest import WHITE, Preprocessing

WANTED = Preprocessing(
    size=(16, 16),
    interpolation="bicubic",
    crop=1.0,
    decode="full",
    background=WHITE,
    mean=(0.0,) * 3,
    std=(1.0,) * 3,
)


def shards(folder: Path, *counts: int, side: int = 16) -> np.ndarray:
    """Write shards of so many images; return all their pixels."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (sum(counts), side, side, 3), dtype=np.uint8)
    start = 0
    for index, count in enumerate(counts):
        part = slice(start, start + count)
        labels = np.arange(start, start + count)
        np.savez(folder / f"{index}.npz", images=images[part], labels=labels)
        start += count
    return images


def test_a_folder_of_shards_is_all_of_them_in_order(tmp_path: Path) -> None:
    images = shards(tmp_path, 3, 1, 4)

    source = open_source(tmp_path, WANTED).matched(KnownClasses())

    np.testing.assert_array_equal(np.stack(list(source.pixels())), images)
    assert source.labels is not None
    assert source.labels.tolist() == list(range(8))
    assert [location.name for location in source.locations[2:5]] == ["0[2]", "1[0]", "2[0]"]
    assert source.description == f"8 of 8 images in {tmp_path.name}"


@pytest.mark.parametrize("skip", range(9))
def test_skipped_images_are_left_out_at_the_front(tmp_path: Path, skip: int) -> None:
    images = shards(tmp_path, 3, 1, 4)

    found = list(open_source(tmp_path, WANTED).pixels(skip=skip))

    assert len(found) == 8 - skip
    for index, pixels in enumerate(found):
        np.testing.assert_array_equal(pixels, images[skip + index])


def test_a_limit_spreads_over_all_shards(tmp_path: Path) -> None:
    images = shards(tmp_path, 3, 1, 4)

    found = read_set(tmp_path, WANTED, limit=4)

    np.testing.assert_array_equal(found.pixels, images[[0, 2, 4, 6]])


def test_images_are_read_only_when_they_are_asked_for(tmp_path: Path) -> None:
    for index in range(3):
        Image.new("RGB", (20, 20), (index, 0, 0)).save(tmp_path / f"{index}.png")
    source = open_source(tmp_path, WANTED)
    (tmp_path / "2.png").write_bytes(b"damaged since")

    pixels = source.pixels()

    assert next(pixels)[0, 0, 0] == 0
    assert next(pixels)[0, 0, 0] == 1
    with pytest.raises(InputError, match="not a whole image"):
        next(pixels)


def test_a_shard_that_ends_early_is_refused_where_it_ends(tmp_path: Path) -> None:
    shards(tmp_path, 4)
    path = tmp_path / "0.npz"
    source = open_source(path, WANTED)
    np.savez(path, images=np.zeros((2, 16, 16, 3), np.uint8))

    pixels = source.pixels()
    next(pixels), next(pixels)

    with pytest.raises(InputError, match="row 2 ends early"):
        next(pixels)


def test_shards_of_two_data_sets_are_refused(tmp_path: Path) -> None:
    images = np.zeros((2, 16, 16, 3), np.uint8)
    np.savez(tmp_path / "a.npz", images=images, labels=[0, 1], class_names=["cat", "dog"])
    np.savez(tmp_path / "b.npz", images=images, labels=[0, 1], class_names=["dog", "cat"])

    with pytest.raises(InputError, match="do not agree"):
        open_source(tmp_path, WANTED)


def test_a_label_beyond_the_classes_is_refused_though_its_image_is_not_chosen(
    tmp_path: Path,
) -> None:
    shards(tmp_path, 10)  # labels 0 to 9

    source = open_source(tmp_path, WANTED, limit=2)

    assert source.labels is not None
    assert source.labels.tolist() == [0, 5]
    with pytest.raises(InputError, match="labels 0 to 9 for a model of 9 classes"):
        source.matched(KnownClasses(count=9))
    assert source.matched(KnownClasses(count=10)).labels_found == "by index"


def test_a_folder_around_the_class_folders_is_pointed_out(tmp_path: Path) -> None:
    for name in ("ant", "bee"):
        (tmp_path / "val" / name).mkdir(parents=True)
        Image.new("RGB", (20, 20)).save(tmp_path / "val" / name / "1.png")

    with pytest.raises(InputError, match="not a class of the model: val") as caught:
        read_set(tmp_path, WANTED, known=KnownClasses(names=("ant", "bee")))

    assert caught.value.fix.endswith(f"give {tmp_path / 'val'}")
    found = read_set(tmp_path / "val", WANTED, known=KnownClasses(names=("bee", "ant")))
    assert found.labels is not None
    assert found.labels.tolist() == [1, 0]


def test_a_shard_stored_by_columns_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "f.npz", images=np.asfortranarray(np.zeros((2, 16, 16, 3), np.uint8)))

    with pytest.raises(InputError, match="column by column"):
        open_source(tmp_path / "f.npz", WANTED)
