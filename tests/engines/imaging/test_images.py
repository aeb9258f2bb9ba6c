"""Images to input tensors: the pixels of torchvision and timm, and refusals in words."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from timm.data.transforms_factory import create_transform
from torchvision import transforms  # type: ignore[import-untyped]  # it has no stubs

from engines.errors import InputError
from engines.imaging.images import ImageSet, one_grey_level_off, read_files, resize, to_input
from engines.imaging.source import read_set
from engines.manifest import WHITE, Preprocessing

SHAPES = [(64, 64), (40, 90), (91, 33), (224, 300), (500, 375), (17, 16), (16, 16)]


def preprocessing(**changes: Any) -> Preprocessing:
    fields: dict[str, Any] = {
        "size": (16, 16),
        "interpolation": "bicubic",
        "crop": 1.0,
        "decode": "full",
        "background": WHITE,
        "mean": (0.0, 0.0, 0.0),
        "std": (1.0, 1.0, 1.0),
    }
    return Preprocessing(**(fields | changes))


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    """A smooth image with noise on it, so that a shift by one pixel shows."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (5, 5, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height)), np.float64)
    noisy = smooth + generator.normal(0, 20, smooth.shape)
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


# The same pixels as an evaluation in PyTorch


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_a_whole_image_is_torchvisions_resize(shape: tuple[int, int], interpolation: str) -> None:
    image = picture(*shape)
    theirs = transforms.Compose(
        [
            transforms.Resize((224, 224), transforms.InterpolationMode(interpolation)),
            transforms.ToTensor(),
        ]
    )

    wanted = preprocessing(size=(224, 224), interpolation=interpolation)
    actual = to_input(resize(image, wanted)[None], wanted)[0]

    np.testing.assert_array_equal(actual, theirs(image).numpy())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [(224, 224), (32, 32), (33, 33), (32, 64), (48, 31)])
@pytest.mark.parametrize("crop", [0.875, 0.9, 0.95])
def test_a_centre_crop_is_timms_evaluation(
    shape: tuple[int, int], size: tuple[int, int], crop: float
) -> None:
    image = picture(*shape)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    theirs = create_transform(
        (3, *size), interpolation="bicubic", crop_pct=crop, mean=mean, std=std, is_training=False
    )

    wanted = preprocessing(size=size, crop=crop, mean=mean, std=std, in_graph=False)
    actual = to_input(resize(image, wanted)[None], wanted)[0]

    np.testing.assert_allclose(actual, theirs(image).numpy(), rtol=0, atol=2e-6)


def test_another_crop_gives_other_pixels() -> None:
    """The control of the tests above: a difference of one pixel would be seen."""
    image = picture(300, 224)

    first = resize(image, preprocessing(size=(224, 224), crop=0.9))
    second = resize(image, preprocessing(size=(224, 224), crop=0.896))

    assert (first != second).mean() > 0.1


# Layouts


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_bytes_and_floats_hold_equal_pixels(layout: Any) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), dtype=np.uint8)

    raw = to_input(pixels, preprocessing(layout=layout, dtype="uint8"))
    floats = to_input(pixels, preprocessing(layout=layout))

    assert raw.dtype == np.uint8
    assert floats.dtype == np.float32
    assert raw.flags["C_CONTIGUOUS"]
    assert floats.flags["C_CONTIGUOUS"]
    assert raw.shape == ((2, 3, 4, 5) if layout == "NCHW" else (2, 4, 5, 3))
    np.testing.assert_array_equal(raw.astype(np.float32) / np.float32(255), floats)


def test_float_pixels_are_those_of_to_tensor() -> None:
    every = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)

    actual = to_input(every, preprocessing())[0]

    np.testing.assert_array_equal(actual, transforms.ToTensor()(every[0]).numpy())


def test_mean_and_std_are_applied_only_outside_the_graph() -> None:
    pixels = np.full((1, 2, 2, 3), 51, np.uint8)
    stated = {"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.25, 0.1)}

    inside = to_input(pixels, preprocessing(**stated))
    outside = to_input(pixels, preprocessing(**stated, in_graph=False))

    assert inside == pytest.approx(0.2)
    expected = torch.tensor([0.2, 0.0, -1.0])[:, None, None].expand(3, 2, 2).numpy()
    np.testing.assert_allclose(outside[0], expected, atol=1e-6)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_half_precision_is_rounded_last(layout: Any) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), dtype=np.uint8)
    stated = preprocessing(layout=layout, mean=(0.5,) * 3, std=(0.3,) * 3, in_graph=False)

    half = to_input(pixels, stated, dtype="float16")

    assert half.dtype == np.float16
    assert half.flags["C_CONTIGUOUS"]
    np.testing.assert_array_equal(half, to_input(pixels, stated).astype(np.float16))


@pytest.mark.parametrize(
    ("gives", "takes", "words"),
    [
        ("float32", "bfloat16", "takes bfloat16, pixels are given as float32, float16, uint8"),
        ("float32", "uint8", "takes uint8 and the preprocessing gives float32"),
        ("uint8", "float32", "takes float32 and the preprocessing gives uint8"),
    ],
)
def test_an_input_that_the_preprocessing_cannot_give_is_refused(
    gives: Any, takes: str, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        to_input(np.zeros((1, 2, 2, 3), np.uint8), preprocessing(dtype=gives), dtype=takes)


@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 4),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
)
def test_one_grey_level_off_is_one_value_an_image(
    seed: int, count: int, height: int, width: int
) -> None:
    shape = (count, height, width, 3)
    pixels = np.random.default_rng(seed).choice(np.array([0, 127, 128, 255], np.uint8), shape)
    before = pixels.copy()

    changed = one_grey_level_off(pixels)

    np.testing.assert_array_equal(pixels, before)
    steps = np.abs(changed.astype(int) - pixels.astype(int)).reshape(count, -1)
    assert (steps.sum(axis=1) == 1).all()
    assert changed.dtype == np.uint8


# Folders


def write(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(20, 20, seed).save(path)
    return path


def test_a_folder_of_images_has_no_labels(tmp_path: Path) -> None:
    for name in ("b.png", "a.PNG", "c.jpg"):
        write(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".hidden.png").write_text("no image either")

    found = read_set(tmp_path, preprocessing())

    assert found.names == ("a.PNG", "b.png", "c.jpg")
    assert found.labels is None
    assert found.class_names == ()
    assert found.description == f"3 of 3 images in {tmp_path.name}"


def test_sub_folders_are_classes_in_sorted_order(tmp_path: Path) -> None:
    for name in ("dog/1.png", "ant/1.png", "ant/2.png", "cat/1.png"):
        write(tmp_path / name)
    (tmp_path / "bee").mkdir()  # a class without an image keeps its place
    (tmp_path / ".ipynb_checkpoints").mkdir()
    write(tmp_path / "stray.png")

    found = read_set(tmp_path, preprocessing())

    assert found.class_names == ()  # nobody states their order
    assert found.labels_found == "by folder order"
    assert found.labels is not None
    assert found.labels.tolist() == [0, 0, 2, 3]
    assert len(found) == 4
    assert found.description == f"4 of 5 images in {tmp_path.name}"
    assert found.left_out == (
        "1 hidden or of the system (.ipynb_checkpoints)",
        "1 beside the class folders, without a label",
    )


def test_a_limit_spreads_over_the_classes(tmp_path: Path) -> None:
    for name in "abcde":
        for index in range(4):
            write(tmp_path / name / f"{index}.png", seed=index)

    found = read_set(tmp_path, preprocessing(), limit=5)

    assert found.labels is not None
    assert found.labels.tolist() == [0, 1, 2, 3, 4]
    assert found.description == f"5 of 20 images in {tmp_path.name}"


def test_one_file_is_a_set(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png")

    found = read_set(path, preprocessing())

    assert found.names == ("a.png",)
    assert (found.pixels == read_files([path], preprocessing()).pixels).all()


def refused(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_set(path, preprocessing())
    assert str(path.name) in caught.value.where
    return caught.value.what


def test_an_empty_folder_and_a_missing_one_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty" / "class").mkdir(parents=True)

    assert refused(tmp_path / "empty") == "there is no image in this folder"
    (tmp_path / "empty" / "notes.txt").touch()
    assert "only 1 not an image (.txt)" in refused(tmp_path / "empty")
    assert refused(tmp_path / "missing") == "there is no such image, folder, list or .npz"


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp", "tif", "webp", "ppm"])
def test_an_image_cut_anywhere_is_refused_in_words(suffix: str, tmp_path: Path) -> None:
    whole = write(tmp_path / f"whole.{suffix}").read_bytes()
    cut = tmp_path / f"cut.{suffix}"
    for share in (0.01, 0.1, 0.3, 0.5):
        cut.write_bytes(whole[: int(share * len(whole))])

        assert "not a whole image" in refused(cut)


# Shards


def shard(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def raw(count: int = 6, side: int = 20) -> np.ndarray:
    generator = np.random.default_rng(1)
    return generator.integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def test_a_shard_of_the_right_size_is_read_as_it_is(tmp_path: Path) -> None:
    images = raw(side=16)
    path = shard(
        tmp_path / "v.npz",
        images=images,
        labels=np.arange(6, dtype=np.uint8),
        class_names=list("abcdef"),
    )

    found = read_set(path, preprocessing())

    np.testing.assert_array_equal(found.pixels, images)
    assert found.labels is not None
    assert found.labels.tolist() == list(range(6))
    assert found.labels.dtype == np.int64
    assert found.class_names == tuple("abcdef")
    assert found.labels_found == "by index"
    assert found.names[2] == "v[2]"


def test_a_shard_of_another_size_is_resized_as_a_file_is(tmp_path: Path) -> None:
    images = raw()
    file = tmp_path / "3.png"
    Image.fromarray(images[3]).save(file)

    found = read_set(shard(tmp_path / "v.npz", images=images), preprocessing())

    np.testing.assert_array_equal(found.pixels[3], read_files([file], preprocessing()).pixels[0])
    assert found.labels is None


def test_a_limit_spreads_over_a_sorted_shard(tmp_path: Path) -> None:
    path = shard(tmp_path / "v.npz", images=raw(12), labels=np.repeat([0, 1, 2], 4))

    found = read_set(path, preprocessing(), limit=3)

    assert found.labels is not None
    assert found.labels.tolist() == [0, 1, 2]
    assert found.names == ("v[0]", "v[4]", "v[8]")
    assert len(read_set(path, preprocessing(), limit=100)) == 12


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"pixels": raw()}, "there is no array `images`"),
        ({"images": raw().astype(np.float32) / 255}, "`images` is not uint8"),
        ({"images": raw().astype(np.int64)}, "`images` is not uint8"),
        ({"images": raw()[0]}, "`images` is not (I, h, w, 3)"),
        ({"images": raw().transpose(0, 3, 1, 2)}, "`images` is not (I, h, w, 3)"),
        ({"images": raw()[:0]}, "`images` is empty"),
        ({"images": raw()[:, :0]}, "`images` is empty"),
        ({"images": raw(), "labels": np.zeros(5, int)}, "`labels` does not have one entry"),
        ({"images": raw(), "labels": np.zeros((6, 1), int)}, "`labels` does not have one entry"),
        ({"images": raw(), "labels": np.zeros(6)}, "`labels` are not whole numbers"),
        ({"images": raw(), "labels": np.array(["a"] * 6)}, "`labels` are not whole numbers"),
        ({"images": np.array([None, "a"])}, "`images` is not uint8"),
    ],
)
def test_a_wrong_shard_is_refused(arrays: dict[str, Any], words: str, tmp_path: Path) -> None:
    assert words in refused(shard(tmp_path / "v.npz", **arrays))


def test_a_damaged_shard_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "v.npz"
    np.savez_compressed(path, images=raw())
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 0xFF
    for content in (b"", b"no archive", whole[: len(whole) // 2], bytes(damaged)):
        path.write_bytes(content)

        assert "not a whole .npz shard" in refused(path)


def test_a_lone_array_is_no_shard(tmp_path: Path) -> None:
    path = tmp_path / "v.npz"
    with path.open("wb") as file:
        np.save(file, raw())

    assert "not a whole .npz shard" in refused(path)


def test_an_archive_of_something_else_is_no_shard(tmp_path: Path) -> None:
    path = tmp_path / "v.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", "no array")

    assert "not a whole .npz shard" in refused(path)


def test_the_length_of_a_set_is_its_images() -> None:
    assert len(ImageSet(pixels=raw(3), description="three")) == 3


def test_the_first_images_keep_their_labels_and_names() -> None:
    pixels = np.arange(5 * 4 * 4 * 3, dtype=np.uint8).reshape(5, 4, 4, 3)
    images = ImageSet(
        pixels=pixels, description="5 images", labels=np.arange(5), names=tuple("abcde")
    )

    first = images.first(2)

    assert np.array_equal(first.pixels, pixels[:2])
    assert first.labels is not None
    assert (first.labels.tolist(), first.names) == ([0, 1], ("a", "b"))
    assert first.description == "the first 2 of 5 images"
    assert images.first(5) is images
