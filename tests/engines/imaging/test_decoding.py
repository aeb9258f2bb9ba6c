"""Pixels of every form of image file against a known picture, plain and full."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

from engines.errors import InputError
from engines.imaging.decoding import Decoded, decode
from engines.imaging.traits import BAD_EXIF, DEEP, FRAMES, ORIENTATION, TRANSPARENT
from engines.manifest import Decode, Preprocessing

BOTH: tuple[Decode, ...] = ("full", "plain")
ROWS, COLUMNS = 6, 10
GREY = np.add.outer(np.arange(ROWS) * 20, np.arange(COLUMNS) * 15).astype(np.uint8)
COLOUR = np.dstack([GREY, GREY[::-1], 255 - GREY])
TURNED = {
    2: COLOUR[:, ::-1],
    3: COLOUR[::-1, ::-1],
    4: COLOUR[::-1],
    5: COLOUR.transpose(1, 0, 2),
    6: np.rot90(COLOUR),
    7: COLOUR.transpose(1, 0, 2)[::-1, ::-1],
    8: np.rot90(COLOUR, -1),
}
"""The pixels that a file holds so that its orientation shows COLOUR."""


def by(decode: Decode = "full", background: tuple[int, int, int] = (255, 255, 255)) -> Any:
    return Preprocessing(
        size=(16, 16),
        interpolation="bicubic",
        crop=1.0,
        decode=decode,
        background=background,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
    )


def pixels_of(found: Decoded) -> np.ndarray:
    assert found.image.mode == "RGB"
    return np.asarray(found.image)


def saved(path: Path, pixels: np.ndarray, mode: str | None = None, **how: Any) -> Path:
    image = Image.fromarray(pixels)
    (image if mode is None else image.convert(mode)).save(path, **how)
    return path


def with_exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def png(
    path: Path, depth: int, colour: int, rows: Iterable[bytes], width: int, *chunks: Any
) -> Path:
    """Write a PNG with bits and chunks that Pillow does not write."""

    def chunk(name: bytes, content: bytes) -> bytes:
        size, check = struct.pack(">I", len(content)), zlib.crc32(name + content)
        return size + name + content + struct.pack(">I", check)

    lines = [b"\0" + row for row in rows]
    header = struct.pack(">IIBBBBB", width, len(lines), depth, colour, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(b"".join(lines))), (b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))
    return path


def tiff(path: Path, content: bytes, bits: int, order: str = "<", **tags: int) -> Path:
    """Write a grey TIFF of ROWS by COLUMNS, with tags that Pillow does not write."""
    named = {
        "width": 256, "height": 257, "bits": 258, "compression": 259, "photometric": 262,
        "offset": 273, "samples": 277, "rows": 278, "size": 279, "format": 339,
        "smallest": 340, "largest": 341,
    }  # fmt: skip
    facts = {
        "width": COLUMNS, "height": ROWS, "bits": bits, "compression": 1, "photometric": 1,
        "offset": 0, "samples": 1, "rows": ROWS, "size": len(content), "format": 1,
    } | tags  # fmt: skip
    facts["offset"] = 8 + 2 + 12 * len(facts) + 4
    entries = b""
    for tag, value in sorted((named[name], value) for name, value in facts.items()):
        entries += struct.pack(f"{order}HHII", tag, 4, 1, value)
    magic = b"II*\0" if order == "<" else b"MM\0*"
    head = magic + struct.pack(f"{order}IH", 8, len(facts)) + entries + struct.pack("I", 0)
    path.write_bytes(head + content)
    return path


def exactly_grey(path: Path, wanted: np.ndarray, *traits: str) -> None:
    for how in BOTH:
        found = decode(path, by(how))
        np.testing.assert_array_equal(pixels_of(found), np.dstack([wanted] * 3))
        assert found.traits == set(traits)


# More than 8 bits


SIXTEEN = GREY.astype(np.uint16) * 257


def test_a_16_bit_png_has_the_pixels_of_the_8_bit_one(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", SIXTEEN)

    exactly_grey(path, GREY, DEEP)
    clipped = np.asarray(Image.fromarray(SIXTEEN.astype(np.int32)).convert("L"))
    assert (clipped == 255).mean() > 0.9  # the control: what Pillow makes of such values


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_16_bit_tiff_of_either_byte_order(order: str, tmp_path: Path) -> None:
    content = SIXTEEN.astype(f"{order}u2").tobytes()

    exactly_grey(tiff(tmp_path / "a.tif", content, 16, order), GREY, DEEP)


def test_a_compressed_16_bit_tiff(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.tif", SIXTEEN, compression="tiff_lzw")

    exactly_grey(path, GREY, DEEP)


def test_a_16_bit_pgm(tmp_path: Path) -> None:
    path = tmp_path / "a.pgm"
    path.write_bytes(b"P5\n%d %d\n65535\n" % (COLUMNS, ROWS) + SIXTEEN.astype(">u2").tobytes())

    exactly_grey(path, GREY, DEEP)


def test_a_12_bit_tiff_is_white_at_4095(tmp_path: Path) -> None:
    twelve = (GREY.astype(np.uint32) * 4095 + 127) // 255
    bits = ((twelve[..., None] >> np.arange(11, -1, -1)) & 1).astype(np.uint8)
    content = np.packbits(bits.reshape(ROWS, -1), axis=1).tobytes()

    exactly_grey(tiff(tmp_path / "a.tif", content, 12), GREY, DEEP)


def test_16_bits_are_rounded_to_the_nearest_grey(tmp_path: Path) -> None:
    every = np.arange(65536, dtype=np.uint16).reshape(256, 256)

    found = pixels_of(decode(saved(tmp_path / "a.png", every), by()))[..., 0]

    np.testing.assert_array_equal(found, np.round(every / 257.0).astype(np.uint8))


def test_white_is_zero_in_16_bits(tmp_path: Path) -> None:
    content = (65535 - SIXTEEN).astype("<u2").tobytes()

    exactly_grey(tiff(tmp_path / "a.tif", content, 16, photometric=0), GREY, DEEP)


def test_white_is_zero_in_8_bits(tmp_path: Path) -> None:
    exactly_grey(tiff(tmp_path / "a.tif", (255 - GREY).tobytes(), 8, photometric=0), GREY)


def test_a_float_image_goes_from_0_to_1(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.tif", GREY.astype(np.float32) / 255)

    exactly_grey(path, GREY, DEEP)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (GREY.astype(np.float32), "lie in 0..235, and those of a floating-point image are taken"),
        (GREY / np.float32(255) - np.float32(0.5), "lie in -0.5..0.421"),
        (np.where(GREY > 9, np.float32(np.nan), 0), "NaN or infinity"),
        (np.where(GREY > 9, np.float32(np.inf), 0), "NaN or infinity"),
        (SIXTEEN.astype(np.int32), "a signed 32-bit image does not say which value is white"),
        (GREY.astype(np.int32), "does not say which value is white"),
    ],
)
@pytest.mark.parametrize("how", BOTH)
def test_values_of_an_unknown_range_are_refused(
    how: Decode, values: np.ndarray, words: str, tmp_path: Path
) -> None:
    path = saved(tmp_path / "a.tif", values.astype(values.dtype.newbyteorder("=")))

    with pytest.raises(InputError) as caught:
        decode(path, by(how))

    assert words in caught.value.what
    assert "Image.fromarray((255.0 * pixels / WHITE)" in caught.value.fix


def test_a_signed_8_bit_image_is_refused(tmp_path: Path) -> None:
    path = tiff(tmp_path / "a.tif", (GREY.astype(int) - 128).astype("i1").tobytes(), 8, format=2)

    with pytest.raises(InputError, match="a signed 8-bit image does not say"):
        decode(path, by())


def test_a_signed_16_bit_image_is_refused(tmp_path: Path) -> None:
    path = tiff(tmp_path / "a.tif", SIXTEEN.astype("<i2").tobytes(), 16, format=2)

    with pytest.raises(InputError, match="a signed 16-bit image does not say"):
        decode(path, by())


@pytest.mark.parametrize("largest", [255, 4095, 65535])
def test_a_stated_range_counts(largest: int, tmp_path: Path) -> None:
    values = np.round(GREY * (largest / 255)).astype("<u4")
    path = tiff(tmp_path / "a.tif", values.tobytes(), 32, smallest=0, largest=largest)

    exactly_grey(path, GREY, DEEP)


@pytest.mark.parametrize(("smallest", "largest"), [(0, 230), (1, 255), (0, 0)])
def test_the_values_that_an_image_holds_are_no_stated_range(
    smallest: int, largest: int, tmp_path: Path
) -> None:
    content = GREY.astype("<u4").tobytes()
    path = tiff(tmp_path / "a.tif", content, 32, smallest=smallest, largest=largest)

    with pytest.raises(InputError, match=f"go from {smallest} to {largest}"):
        decode(path, by())


def test_more_than_the_stated_range_is_refused(tmp_path: Path) -> None:
    content = SIXTEEN.astype("<u4").tobytes()
    path = tiff(tmp_path / "a.tif", content, 32, smallest=0, largest=255)

    with pytest.raises(InputError, match=r"lie in 0..60395, and those of a 32-bit image"):
        decode(path, by())


def test_16_bit_colour_keeps_its_upper_bits(tmp_path: Path) -> None:
    deep = COLOUR.astype(">u2") * 257
    path = png(tmp_path / "a.png", 16, 2, [row.tobytes() for row in deep], COLUMNS)
    for how in BOTH:
        found = decode(path, by(how))

        np.testing.assert_array_equal(pixels_of(found), COLOUR)
        assert found.traits == {DEEP}


def test_16_bit_grey_with_alpha(tmp_path: Path) -> None:
    rows = [struct.pack(">4H", 0x8080, 0xFFFF, 0x4040, 0)]
    found = decode(png(tmp_path / "a.png", 16, 4, rows, 2), by())

    assert pixels_of(found)[0, :, 0].tolist() == [0x80, 255]
    assert found.traits == {DEEP, TRANSPARENT}


# Transparency


def blended(alpha: np.ndarray, background: tuple[int, int, int]) -> np.ndarray:
    """COLOUR over a background, rounded to the nearest level."""
    share = alpha[..., None] / 255.0
    return np.round(COLOUR * share + np.array(background) * (1 - share)).astype(np.uint8)


@pytest.mark.parametrize("background", [(255, 255, 255), (0, 0, 0), (10, 200, 30)])
@pytest.mark.parametrize("ending", ["png", "tif", "webp"])
def test_alpha_is_laid_on_the_background(
    ending: str, background: tuple[int, int, int], tmp_path: Path
) -> None:
    alpha = np.arange(ROWS * COLUMNS, dtype=np.uint8).reshape(ROWS, COLUMNS) * 4
    how: dict[str, Any] = {"lossless": True, "exact": True} if ending == "webp" else {}
    path = saved(tmp_path / f"a.{ending}", np.dstack([COLOUR, alpha]), **how)

    full, plain = decode(path, by(background=background)), decode(path, by("plain"))

    np.testing.assert_array_equal(pixels_of(full), blended(alpha, background))
    np.testing.assert_array_equal(pixels_of(plain), COLOUR)
    assert full.traits == plain.traits == {TRANSPARENT}


def test_an_alpha_that_shows_everything_is_no_transparency(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", np.dstack([COLOUR, np.full_like(GREY, 255)]))
    for how in BOTH:
        found = decode(path, by(how))

        np.testing.assert_array_equal(pixels_of(found), COLOUR)
        assert not found.traits


def test_grey_with_alpha(tmp_path: Path) -> None:
    alpha = np.where(GREY > 100, 255, 0).astype(np.uint8)
    image = Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(alpha)])
    image.save(tmp_path / "a.png")

    full = pixels_of(decode(tmp_path / "a.png", by(background=(0, 0, 7))))
    plain = pixels_of(decode(tmp_path / "a.png", by("plain")))

    assert (full[GREY > 100] == GREY[GREY > 100][:, None]).all()
    assert (full[GREY <= 100] == (0, 0, 7)).all()
    np.testing.assert_array_equal(plain, np.dstack([GREY] * 3))


@pytest.mark.parametrize(
    "hidden", [3, bytes([255, 0, 255, 128]), bytes([255, 255, 255, 0])], ids=["one", "some", "last"]
)
def test_a_palette_with_transparency(hidden: Any, tmp_path: Path) -> None:
    indices = np.arange(ROWS * COLUMNS, dtype=np.uint8).reshape(ROWS, COLUMNS) % 4
    image = Image.fromarray(indices)
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120])
    image.save(tmp_path / "a.png", transparency=hidden)
    colours = np.arange(10, 130, 10).reshape(4, 3)
    alpha = np.array([255, 255, 255, 0] if hidden == 3 else list(hidden)) / 255.0
    wanted = np.round(colours * alpha[:, None] + 255 * (1 - alpha[:, None])).astype(np.uint8)

    full, plain = (decode(tmp_path / "a.png", by(how)) for how in BOTH)

    np.testing.assert_array_equal(pixels_of(full), wanted[indices])
    np.testing.assert_array_equal(pixels_of(plain), colours.astype(np.uint8)[indices])
    assert full.traits == plain.traits == {TRANSPARENT}


def test_a_gif_with_transparency(tmp_path: Path) -> None:
    indices = np.arange(ROWS * COLUMNS, dtype=np.uint8).reshape(ROWS, COLUMNS) % 2
    image = Image.fromarray(indices)
    image.putpalette([200, 0, 0, 0, 0, 200])
    image.save(tmp_path / "a.gif", transparency=1)

    full = pixels_of(decode(tmp_path / "a.gif", by()))

    assert (full[indices == 0] == (200, 0, 0)).all()
    assert (full[indices == 1] == 255).all()


@pytest.mark.parametrize(
    ("depth", "row", "hidden", "levels"),
    [
        (1, bytes([0b01000000]), 1, [0, None]),
        (1, bytes([0b01000000]), 0, [None, 255]),
        (2, bytes([0b00011011]), 1, [0, None, 170, 255]),
        (4, bytes([0x1F, 0x70]), 15, [17, None, 119]),
        (8, bytes([7, 200]), 200, [7, None]),
        (16, struct.pack(">2H", 257 * 9, 200), 200, [9, None]),
    ],
)
def test_a_grey_png_with_one_transparent_level(
    depth: int, row: bytes, hidden: int, levels: list[int | None], tmp_path: Path
) -> None:
    named = (b"tRNS", struct.pack(">H", hidden))
    path = png(tmp_path / "a.png", depth, 0, [row], len(levels), named)

    found = decode(path, by(background=(1, 2, 3)))

    wanted = [(1, 2, 3) if level is None else (level,) * 3 for level in levels]
    assert [tuple(int(v) for v in pixel) for pixel in pixels_of(found)[0]] == wanted
    assert TRANSPARENT in found.traits
    assert TRANSPARENT in decode(path, by("plain")).traits


def test_a_colour_png_with_one_transparent_colour(tmp_path: Path) -> None:
    named = (b"tRNS", struct.pack(">3H", 1, 2, 3))
    path = png(tmp_path / "a.png", 8, 2, [bytes([1, 2, 3, 1, 2, 4])], 2, named)

    assert pixels_of(decode(path, by()))[0].tolist() == [[255, 255, 255], [1, 2, 4]]
    assert pixels_of(decode(path, by("plain")))[0].tolist() == [[1, 2, 3], [1, 2, 4]]


def test_a_transparent_16_bit_colour_is_refused_where_it_counts(tmp_path: Path) -> None:
    named = (b"tRNS", struct.pack(">3H", 1, 2, 3))
    path = png(tmp_path / "a.png", 16, 2, [struct.pack(">3H", 1, 2, 3)], 1, named)

    with pytest.raises(InputError, match=r"16-bit colour \(1, 2, 3\) is transparent"):
        decode(path, by())
    assert decode(path, by("plain")).traits == {DEEP, TRANSPARENT}


def test_colours_under_transparency_do_not_bleed_when_resized(tmp_path: Path) -> None:
    """Composition comes before resampling: no fringe of what was hidden."""
    alpha = np.where(np.arange(64) < 32, 255, 0).astype(np.uint8)[None].repeat(64, 0)
    hidden = np.zeros((64, 64, 3), np.uint8)
    hidden[:, :32] = 255
    path = saved(tmp_path / "a.png", np.dstack([hidden, alpha]))  # white, and black behind nothing

    assert (pixels_of(decode(path, by())) == 255).all()


# Orientation


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("ending", ["png", "webp", "jpg"])
def test_an_orientation_is_applied_where_decode_is_full(
    ending: str, orientation: int, tmp_path: Path
) -> None:
    how: dict[str, Any] = {"webp": {"lossless": True}, "jpg": {"quality": 100, "subsampling": 0}}
    held = np.ascontiguousarray(TURNED[orientation])
    path = saved(tmp_path / f"a.{ending}", held, exif=with_exif(orientation), **how.get(ending, {}))

    full, plain = decode(path, by()), decode(path, by("plain"))

    atol = 4 if ending == "jpg" else 0
    np.testing.assert_allclose(pixels_of(full).astype(int), COLOUR, atol=atol)
    np.testing.assert_allclose(pixels_of(plain).astype(int), held, atol=atol)
    assert full.traits == plain.traits == {ORIENTATION}


@pytest.mark.parametrize("orientation", [1, 0, 9, 65535])
def test_an_orientation_that_turns_nothing_is_none(orientation: int, tmp_path: Path) -> None:
    found = decode(saved(tmp_path / "a.png", COLOUR, exif=with_exif(orientation)), by())

    np.testing.assert_array_equal(pixels_of(found), COLOUR)
    assert not found.traits


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
@pytest.mark.parametrize("how", BOTH)
def test_a_tiff_is_turned_once_as_pillow_does(
    how: Decode, compression: str, orientation: int, tmp_path: Path
) -> None:
    held = Image.fromarray(np.ascontiguousarray(TURNED[orientation]))
    held.save(tmp_path / "a.tif", compression=compression, tiffinfo={0x0112: orientation})

    np.testing.assert_array_equal(pixels_of(decode(tmp_path / "a.tif", by(how))), COLOUR)
    with Image.open(tmp_path / "a.tif") as image:
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), COLOUR)


def test_deep_transparent_and_turned_at_once(tmp_path: Path) -> None:
    grey = np.rot90(GREY).astype(np.uint16) * 257
    image = Image.fromarray(np.ascontiguousarray(grey))
    image.save(tmp_path / "a.png", exif=with_exif(6), transparency=int(grey[0, 0]))

    found = decode(tmp_path / "a.png", by(background=(0, 0, 0)))

    wanted = np.where(np.rot90(GREY)[0, 0] == GREY, 0, GREY)
    np.testing.assert_array_equal(pixels_of(found), np.dstack([wanted] * 3))
    assert found.traits == {DEEP, TRANSPARENT, ORIENTATION}


@pytest.mark.parametrize("content", [b"nonsense", b"II*\0\xff\xff\xff\x7f", b""])
def test_damaged_exif_data_leaves_the_pixels(content: bytes, tmp_path: Path) -> None:
    exif = b"Exif\0\0" + content
    found = decode(saved(tmp_path / "a.jpg", COLOUR, quality=100, subsampling=0, exif=exif), by())

    np.testing.assert_allclose(pixels_of(found).astype(int), COLOUR, atol=4)
    assert found.traits <= {BAD_EXIF}


# Every other mode


@pytest.mark.parametrize("how", BOTH)
def test_modes_without_loss(how: Decode, tmp_path: Path) -> None:
    two = np.where(GREY > 100, 255, 0).astype(np.uint8)
    files = [
        (saved(tmp_path / "1.png", two, "1"), np.dstack([two] * 3)),
        (saved(tmp_path / "L.png", GREY), np.dstack([GREY] * 3)),
        (saved(tmp_path / "L.gif", GREY), np.dstack([GREY] * 3)),
        (saved(tmp_path / "rgb.bmp", COLOUR), COLOUR),
        (saved(tmp_path / "cmyk.tif", COLOUR, "CMYK"), COLOUR),
        (saved(tmp_path / "rgb.ppm", COLOUR), COLOUR),
    ]
    for path, wanted in files:
        found = decode(path, by(how))

        np.testing.assert_array_equal(pixels_of(found), wanted, err_msg=path.name)
        assert not found.traits, path.name


@pytest.mark.parametrize("how", BOTH)
def test_modes_with_rounding(how: Decode, tmp_path: Path) -> None:
    muted = (COLOUR // 2 + 60).astype(np.uint8)  # inside of every gamut
    adaptive = Image.fromarray(muted).quantize(60)
    adaptive.save(tmp_path / "p.png")
    files = [
        (saved(tmp_path / "cmyk.jpg", muted, "CMYK", quality=100, subsampling=0), 3),
        (saved(tmp_path / "ycc.tif", muted, "YCbCr", compression="tiff_lzw"), 3),
        (saved(tmp_path / "lab.tif", muted, "LAB"), 6),
        (tmp_path / "p.png", 8),
    ]
    for path, atol in files:
        found = pixels_of(decode(path, by(how))).astype(int)

        np.testing.assert_allclose(found, muted, atol=atol, err_msg=path.name)


@pytest.mark.parametrize("ending", ["gif", "tif", "webp", "png"])
def test_the_first_frame_is_taken(ending: str, tmp_path: Path) -> None:
    frames = [Image.fromarray(np.full((8, 8, 3), value, np.uint8)) for value in (10, 130, 250)]
    how: dict[str, Any] = {"lossless": True} if ending == "webp" else {}
    path = tmp_path / f"a.{ending}"
    frames[0].save(path, save_all=True, append_images=frames[1:], **how)

    found = decode(path, by())

    assert (pixels_of(found) == 10).all()
    assert found.traits == {FRAMES}


def test_a_photograph_with_a_second_one_behind_it_is_ordinary(tmp_path: Path) -> None:
    first, second = (Image.fromarray(np.full((8, 8, 3), value, np.uint8)) for value in (10, 99))
    first.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[second])

    found = decode(tmp_path / "a.jpg", by())

    assert (pixels_of(found) == 10).all()
    assert not found.traits


# What is no image


def refused(path: Path) -> InputError:
    with pytest.raises(InputError) as caught:
        decode(path, by())
    assert caught.value.where == str(path)
    return caught.value


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the file is empty"),
        (b"%PDF-1.7\n", "a PDF document"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG drawing"),
        (b'<?xml version="1.0"?>\n<!-- x -->\n<svg width="3"/>', "an SVG drawing"),
        (b"<!DOCTYPE html><html></html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a Git LFS pointer"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC photograph"),
        (b"no image", "not a whole image"),
    ],
)
def test_what_is_no_image_is_named(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content)

    assert words in refused(path).what


def test_a_drawing_is_not_rendered_by_chance(tmp_path: Path) -> None:
    saved(tmp_path / "a.eps", COLOUR)

    assert "a drawing (EPS)" in refused((tmp_path / "a.eps").rename(tmp_path / "a.jpg")).what


def test_the_documented_conversion_makes_it_readable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Python block of docs/pixels.md, as printed, on 12-bit values in 32 bits."""
    text = (Path(__file__).parents[3] / "docs" / "pixels.md").read_text("utf-8")
    block = text.partition("```python\n")[2].partition("```")[0]
    values = (GREY.astype(np.int32) * 4095 + 127) // 255
    assert "does not say which value is white" in refused(saved(tmp_path / "IN.tif", values)).what
    monkeypatch.chdir(tmp_path)

    exec(compile(block, "pixels.md", "exec"), {})

    exactly_grey(tmp_path / "OUT.png", GREY)


def test_an_image_beyond_pillows_limit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path / "a.png", COLOUR)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)

    assert "too large" in refused(path).what


def test_a_large_image_below_the_limit_is_read_without_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow warns between its limit and twice that, and every warning is an error here."""
    path = saved(tmp_path / "a.png", COLOUR)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)

    np.testing.assert_array_equal(pixels_of(decode(path, by())), COLOUR)


class Broken(ImageFile.ImageFile):
    """A decoder that fails in a way of its own."""

    format = "BROKEN"

    def _open(self) -> None:
        raise NotImplementedError("no such thing")


def test_whatever_a_decoder_raises_is_a_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(path: Path) -> Any:
        return Broken(io.BytesIO(path.read_bytes()))

    path = saved(tmp_path / "a.png", COLOUR)
    monkeypatch.setattr(Image, "open", opened)

    assert refused(path).what == "this is not a whole image: no such thing"


@pytest.mark.parametrize("ending", ["png", "jpg", "gif", "bmp", "tif", "webp", "ppm"])
def test_any_damage_is_a_refusal_or_an_image(ending: str, tmp_path: Path) -> None:
    whole = saved(tmp_path / f"whole.{ending}", COLOUR).read_bytes()
    generator = np.random.default_rng(0)
    path = tmp_path / f"a.{ending}"
    for _ in range(60):
        damaged = bytearray(whole)
        for index in generator.integers(0, len(whole), 3):
            damaged[index] = generator.integers(0, 256)
        path.write_bytes(damaged)
        for how in BOTH:
            try:
                assert decode(path, by(how)).image.mode == "RGB"
            except InputError as error:
                assert error.where == str(path)
