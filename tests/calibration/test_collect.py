"""Observing a graph over images: streamed, resumed, in any batch, and refusals."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibration import collect as collecting
from calibration import equalise, histogram
from calibration.collect import calibrate, collect, is_noise, pixel_hash, runs
from calibration.roles import sites
from calibration.table import CalibrationTable, merged_table, read_table, write_table
from engines.errors import InputError
from engines.imaging.images import ImageSet
from engines.manifest import read_manifest, write_manifest
from engines.onnx_graph.files import read_graph
from tests.calibration.exports import (
    Exports,
    feed_of,
    images_of,
    run,
    saved,
    source_of,
    write_shard,
)
from tests.calibration.test_table import records_of


def subset(images: ImageSet, chosen: Any) -> ImageSet:
    assert images.labels is not None
    return dataclasses.replace(images, pixels=images.pixels[chosen], labels=images.labels[chosen])


def histograms_of(table: CalibrationTable) -> dict[str, Any]:
    return {name: record.histogram.to_json() for name, record in table.records.items()}


# What is seen


@pytest.mark.parametrize(
    "variant", [{}, {"batch": 4}, {"batch": (1, 4)}, {"input": "uint8-nhwc"}], ids=str
)
def test_every_site_sees_what_the_graph_computes_over_all_images(
    variant: dict[str, Any], exports: Exports, tmp_path: Path
) -> None:
    """Ten images: a remainder of two in batches of four, which is filled up and must not count."""
    path, images = exports(**variant), images_of(10)
    table = collect(path, source_of(tmp_path / "images.npz", images, path))
    found = sites(read_graph(path))
    feed = feed_of(path, images)
    padded = np.concatenate([feed, feed[-1:], feed[-1:]]) if variant == {"batch": 4} else feed
    computed = run(path, padded, [site.tensor for site in found])

    assert set(table.records) == {site.name for site in found}
    assert len(table.images) == 10
    for site, values in zip(found, computed, strict=True):
        record, values = table.records[site.name], values[:10]
        assert record.histogram.total == values.size
        assert record.highest == pytest.approx(values.max(), rel=1e-4)
        assert record.lowest == pytest.approx(values.min(), rel=1e-4, abs=1e-6)
        assert record.histogram.largest == pytest.approx(np.abs(values).max(), rel=1e-4)
        expected = histogram.of_values(values).counts
        moved = np.abs(np.cumsum(record.histogram.counts) - np.cumsum(expected)).max()
        assert moved <= max(3, 2e-3 * values.size)  # values at the border of a bin
        if site.kind == "input":
            wide = values.reshape(-1, values.shape[-1]).astype(np.float64)
            assert record.rows == len(wide)
            assert np.allclose(record.channel_sum, wide.sum(axis=0), atol=1e-2)
            assert np.allclose(record.channel_largest, np.abs(wide).max(axis=0), rtol=1e-3)


def test_the_table_names_its_graph_and_its_images(merged: Path, tmp_path: Path) -> None:
    images = images_of(9)
    table = collect(merged, source_of(tmp_path / "cats.npz", images, merged))
    manifest = read_manifest(merged)

    assert (table.graph, table.graph_file) == (manifest.sha256, "model.onnx")
    assert table.preprocessing == manifest.preprocessing
    assert table.description == "9 of 9 images in cats.npz"
    assert [image.name for image in table.images] == [f"cats[{row}]" for row in range(9)]
    assert [image.sha256 for image in table.images] == [pixel_hash(p) for p in images.pixels]
    assert set(table.tools) == {"onnxruntime", "numpy", "pillow"}
    assert table.rewrites is None


def test_two_shards_give_what_one_run_gives(merged: Path, tmp_path: Path) -> None:
    images = images_of(20)
    whole = collect(merged, source_of(tmp_path / "all.npz", images, merged))
    parts = [
        collect(merged, source_of(tmp_path / f"{name}.npz", subset(images, chosen), merged))
        for name, chosen in (("a", slice(0, 8)), ("b", slice(8, 20)))
    ]

    for found in (merged_table(*parts), merged_table(*reversed(parts))):
        assert histograms_of(found) == histograms_of(whole)
        assert found.hashes == whole.hashes
    grown = collect(
        merged,
        source_of(tmp_path / "b.npz", subset(images, slice(8, 20)), merged),
        start=parts[0],
    )
    assert records_of(grown) == records_of(whole)
    assert grown.description == "8 of 8 images in a.npz and 12 of 12 images in b.npz"


def test_one_image_is_in_memory_at_a_time(
    merged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = source_of(tmp_path / "images.npz", images_of(12), merged)
    read = itertools.count(1)
    done = 0

    def watched(pixels: np.ndarray) -> str:
        assert next(read) == done + 1  # the next is read when the last one was observed
        return pixel_hash(pixels)

    def progress(count: int) -> None:
        nonlocal done
        done += count

    monkeypatch.setattr(collecting, "pixel_hash", watched)
    collect(merged, source, progress=progress)

    assert done == 12


def test_an_image_that_comes_again_counts_once(merged: Path, tmp_path: Path) -> None:
    images = images_of(10)
    twice = dataclasses.replace(images, pixels=images.pixels.repeat(2, axis=0), labels=None)
    counts: list[int] = []

    once = collect(merged, source_of(tmp_path / "once.npz", images, merged))
    found = collect(
        merged, source_of(tmp_path / "twice.npz", twice, merged), progress=counts.append
    )

    assert records_of(found) == records_of(once)
    assert sum(counts) == 20


# Rewrites


def test_calibrating_observes_the_rewritten_graph(
    merged: Path, table: CalibrationTable, tmp_path: Path
) -> None:
    plain = calibrate(
        merged, source_of(tmp_path / "i.npz", images_of(16), merged), equalising=False
    )

    assert plain.rewrites is None
    assert table.rewrites is not None
    centred = table.records["blocks/0/attn/v"]
    assert abs(centred.highest + centred.lowest) < abs(plain.records["blocks/0/attn/v"].highest)
    name = "blocks/0/fc1/input"
    assert not np.allclose(table.records[name].channel_largest, plain.records[name].channel_largest)


def test_a_start_brings_its_rewrites(merged: Path, table: CalibrationTable, tmp_path: Path) -> None:
    more = source_of(tmp_path / "more.npz", images_of(8, seed=3), merged)

    found = calibrate(merged, more, start=table)

    assert found.rewrites is table.rewrites
    assert len(found.images) == 24


def test_the_rewrites_are_fitted_on_all_images(merged: Path, tmp_path: Path) -> None:
    """What only the last of them shows to be large must not keep its range."""
    source = source_of(tmp_path / "images.npz", images_of(40), merged)
    counts: list[int] = []

    found = calibrate(merged, source, progress=counts.append)

    wanted, fewer = (
        equalise.fit(read_graph(merged), collect(merged, source.spread(number)))
        for number in (40, 32)
    )
    assert sum(counts) == runs(source, fits=True) == 80
    assert runs(source, fits=False) == 40
    assert found.rewrites is not None
    for name, factor in found.rewrites.factors.items():
        assert np.array_equal(factor, wanted.factors[name])
        assert not np.array_equal(factor, fewer.factors[name])  # negative control


# Interruptions


@pytest.mark.parametrize("variant", [{}, {"batch": 4}], ids=str)
def test_an_interrupted_run_goes_on_and_ends_as_one_that_was_not(
    variant: dict[str, Any], exports: Exports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collecting, "SAVE_EVERY", 4)
    path, state = exports(**variant), tmp_path / "state.json"
    source = source_of(tmp_path / "images.npz", images_of(18), path)
    whole = calibrate(path, source)
    done = 0

    def interrupt(count: int) -> None:
        nonlocal done
        done += count
        if done == 18 + 11:  # the rewrites are fitted on all of them before
            raise KeyboardInterrupt

    def keep(table: CalibrationTable) -> None:
        write_table(state, table, chosen={})

    with pytest.raises(KeyboardInterrupt):
        calibrate(path, source, progress=interrupt, keep=keep)

    left = read_table(state)
    assert len(left.images) == 8
    found = calibrate(path, source, start=left, keep=keep)
    assert found.images == whole.images
    assert records_of(found) == records_of(whole)
    assert found.description == whole.description


# Refusals


@pytest.mark.parametrize("count", [1, 7])
def test_too_few_images_are_refused(count: int, merged: Path, tmp_path: Path) -> None:
    source = source_of(tmp_path / "few.npz", images_of(count), merged)

    with pytest.raises(InputError, match=rf"{count} images? for a calibration, wanted 8") as caught:
        collect(merged, source)

    assert "few.npz" in caught.value.where
    assert "8 or more" in caught.value.fix


def test_images_that_are_all_the_same_are_refused(merged: Path, tmp_path: Path) -> None:
    same = subset(images_of(20), [3] * 20)

    with pytest.raises(InputError, match="only 1 of 20 images differ") as caught:
        collect(merged, source_of(tmp_path / "same.npz", same, merged))

    assert "different images" in caught.value.fix


def test_a_few_images_may_be_added_to_a_table(
    merged: Path, table: CalibrationTable, tmp_path: Path
) -> None:
    few = source_of(tmp_path / "few.npz", images_of(2, seed=9), merged)

    assert len(collect(merged, few, start=table).images) == 18


def noise(count: int, side: int = 16) -> ImageSet:
    pixels = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    return ImageSet(pixels=pixels, description="noise")


def test_noise_is_refused(exports: Exports, tmp_path: Path) -> None:
    path = exports(merge_block=None, image=(32, 32), depth=1)

    with pytest.raises(InputError, match="are random noise") as caught:
        collect(path, source_of(tmp_path / "noise.npz", noise(40, 32), path))

    assert "noise.npz" in caught.value.where


def test_a_few_noisy_images_among_others_are_taken(merged: Path, tmp_path: Path) -> None:
    mixed = np.concatenate([images_of(12).pixels, noise(6).pixels])
    images = ImageSet(pixels=mixed, description="mixed")

    assert len(collect(merged, source_of(tmp_path / "m.npz", images, merged)).images) == 18


def test_noise_is_told_from_pictures() -> None:
    assert sum(map(is_noise, noise(20, 64).pixels)) >= 18
    assert not any(map(is_noise, images_of(50, side=64).pixels))
    assert not any(map(is_noise, images_of(50).pixels))
    ramp = np.linspace(0, 255, 32).astype(np.uint8)
    assert not is_noise(np.broadcast_to(ramp[:, None, None], (32, 32, 3)))
    assert not is_noise(np.zeros((16, 16, 3), np.uint8))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"graph": "b" * 64}, "another graph"),
        ({"preprocessing": None}, "another preprocessing"),
        ({"records": {}}, "other sites"),
    ],
)
def test_a_start_of_something_else_is_refused(
    changes: dict[str, Any],
    words: str,
    merged: Path,
    table: CalibrationTable,
    tmp_path: Path,
) -> None:
    start = dataclasses.replace(table, **changes)
    source = source_of(tmp_path / "i.npz", images_of(8), merged)

    with pytest.raises(InputError, match=words) as caught:
        collect(merged, source, start=start)

    assert "--force" in caught.value.fix


def test_a_network_that_is_not_finite_is_refused(merged: Path, tmp_path: Path) -> None:
    graph = read_graph(merged)
    weight = next(n for n in graph.nodes if n.name == "blocks/1/fc1/MatMul").inputs[1]
    weight.values = weight.values.copy()
    weight.values[0, 0] = np.nan
    path = saved(graph, tmp_path / "broken.onnx")
    write_manifest(path, dataclasses.replace(read_manifest(merged), file=path.name))

    with pytest.raises(InputError, match="not finite") as caught:
        collect(path, source_of(tmp_path / "i.npz", images_of(8), merged))

    assert "checkpoint" in caught.value.fix


def test_a_shard_that_ends_early_is_refused(merged: Path, tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "i.npz", images_of(12))
    source = source_of(tmp_path / "i.npz", images_of(12), merged)
    shard.write_bytes(shard.read_bytes()[:4000])

    with pytest.raises(InputError, match="not a whole"):
        collect(merged, source)


def test_moments_are_of_all_images_of_the_source(merged: Path, tmp_path: Path) -> None:
    """A table on disk has none; going on from it runs the images again that it holds."""
    source = source_of(tmp_path / "first.npz", images_of(16), merged)
    table = calibrate(merged, source)
    path = tmp_path / "model.table.json"
    write_table(path, table, chosen={})
    stored = read_table(path)
    other = source_of(tmp_path / "other.npz", images_of(8, seed=5), merged)

    again = calibrate(merged, source, start=stored)
    longer = calibrate(merged, other, start=stored)

    inputs = {site.name for site in sites(read_graph(merged)) if site.kind == "input"}
    assert set(table.moments) == set(again.moments) == set(longer.moments) == inputs
    assert not stored.moments
    name = "blocks/0/fc1/input"
    rows = table.records[name].rows
    assert table.moments[name].rows == again.moments[name].rows == again.records[name].rows == rows
    assert longer.moments[name].rows == longer.records[name].rows - rows == rows // 2
    assert np.allclose(table.moments[name].total, table.records[name].channel_sum)
    assert np.array_equal(table.moments[name].product, again.moments[name].product)
    assert not np.array_equal(table.moments[name].product, longer.moments[name].product)
