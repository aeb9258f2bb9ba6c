"""What is said about images that are not ordinary photographs, and how many of a set they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engines.imaging.class_names import KnownClasses
from engines.imaging.images import read_files
from engines.imaging.source import collect, open_source
from engines.imaging.traits import DEEP, FRAMES, ORIENTATION, TRANSPARENT, remarks_on
from engines.manifest import WHITE, Decode, Preprocessing


def by(decode: Decode, background: tuple[int, int, int] = WHITE) -> Preprocessing:
    return Preprocessing(
        size=(16, 16),
        interpolation="bicubic",
        crop=1.0,
        decode=decode,
        background=background,
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
    )


def write(folder: Path) -> list[Path]:
    """Write a deep, a turned, a transparent and two ordinary images, and a damaged one."""
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    paths = [folder / f"{name}.png" for name in ("deep", "exif", "one", "rgba", "two")]
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(grey.astype(np.uint16) * 257).save(paths[0])
    Image.fromarray(grey).save(paths[1], exif=exif)
    Image.fromarray(grey).save(paths[2])
    Image.fromarray(np.dstack([grey] * 4)).save(paths[3])
    Image.fromarray(grey).save(paths[4])
    (folder / "bad.png").write_bytes(paths[0].read_bytes()[:40])
    return paths


@pytest.mark.parametrize(
    ("decode", "trait", "words"),
    [
        ("plain", ORIENTATION, "2 of 3 images carry an EXIF orientation: decode plain ignores it"),
        ("full", ORIENTATION, "2 of 3 images carry an EXIF orientation: turned upright"),
        ("plain", TRANSPARENT, "2 of 3 images have transparent pixels: decode plain shows what"),
        (
            "full",
            TRANSPARENT,
            "2 of 3 images have transparent pixels: laid on the background 0,1",
        ),
        ("full", DEEP, "2 of 3 images have more than 8 bits a channel: reduced to 8"),
        ("plain", FRAMES, "2 of 3 images have more than one frame: the first one is taken"),
    ],
)
def test_a_remark_counts_and_says_what_was_done(decode: Decode, trait: str, words: str) -> None:
    traits = [frozenset({trait}), frozenset[str](), frozenset({trait})]

    (remark,) = remarks_on(traits, by(decode, (0, 1, 2)))

    assert remark.in_words().startswith(words)
    assert remark.to_json()["trait"] == trait
    assert (remark.to_json()["images"], remark.to_json()["total"]) == (2, 3)


def test_one_image_is_spoken_of_as_one() -> None:
    (remark,) = remarks_on([frozenset({TRANSPARENT})], by("plain"))

    assert remark.in_words().startswith("1 of 1 image has transparent pixels: ")


def test_ordinary_images_need_no_remark() -> None:
    assert remarks_on([frozenset()] * 5, by("full")) == ()


def test_a_source_counts_the_images_that_it_keeps(tmp_path: Path) -> None:
    write(tmp_path)
    source = open_source(tmp_path, by("full")).matched(KnownClasses())

    looked = source.readable(skip_bad=True)

    assert source.remarks() == ()  # nobody has looked yet
    found = {remark.trait: (remark.images, remark.total) for remark in looked.remarks()}
    assert found == {ORIENTATION: (1, 5), TRANSPARENT: (1, 5), DEEP: (1, 5)}
    halves = looked.halves()  # deep, one, two; exif, rgba
    assert [remark.trait for remark in halves[0].remarks()] == [DEEP]
    assert [remark.trait for remark in halves[1].remarks()] == [ORIENTATION, TRANSPARENT]
    assert collect(looked).remarks == looked.remarks()


def test_files_and_sources_say_the_same(tmp_path: Path) -> None:
    paths = write(tmp_path)
    source = open_source(tmp_path, by("plain")).readable(skip_bad=True)

    assert read_files(paths, by("plain")).remarks == source.remarks()


def test_a_shard_has_nothing_to_remark(tmp_path: Path) -> None:
    np.savez(tmp_path / "v.npz", images=np.zeros((2, 8, 8, 3), np.uint8))

    assert open_source(tmp_path / "v.npz", by("plain")).readable().remarks() == ()
