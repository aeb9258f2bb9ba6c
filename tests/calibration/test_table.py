"""The calibration table: what goes in comes out, shards merge without loss, damage is refused."""

from __future__ import annotations

import base64
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from calibration.table import (
    CalibrationTable,
    Record,
    Rewrites,
    SeenImage,
    merged_record,
    merged_table,
    read_table,
    seen,
    write_table,
)
from engines.errors import FpetError, InputError, TrustError
from engines.manifest import WHITE, Preprocessing

PREPROCESSING = Preprocessing(
    size=(16, 16),
    interpolation="bicubic",
    crop=1.0,
    decode="full",
    background=WHITE,
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
)


def table_of(*seeds: int, **changes: Any) -> CalibrationTable:
    """A table of two sites, with one image a seed."""
    records: dict[str, Record] = {}
    for seed in seeds:
        generator = np.random.default_rng(seed)
        tokens = generator.normal(size=(1, 5, 4)).astype(np.float32)
        weights = np.abs(generator.normal(size=(1, 2, 5, 5))).astype(np.float32)
        found = {
            "blocks/0/fc1/input": seen(tokens, channels=True),
            "blocks/0/attn/probabilities": seen(weights, channels=False),
        }
        for name, record in found.items():
            records[name] = merged_record(records[name], record) if name in records else record
    fields: dict[str, Any] = {
        "graph": "a" * 64,
        "graph_file": "model.onnx",
        "preprocessing": PREPROCESSING,
        "images": tuple(SeenImage(f"{seed}.png", f"{seed:064x}") for seed in seeds),
        "description": f"{len(seeds)} images",
        "records": records,
        "rewrites": Rewrites(
            {"blocks/0/attn/qkv": np.array([0.1, -0.2])},
            {"blocks/0/norm1/LayerNormalization": np.array([0.5, 2.0, 1.0, 1.5])},
            {"blocks/0/fc2": np.array([3.0, 0.25])},
            {"blocks/0/attn/qkv": np.array([0.75, 4.0])},
        ),
        "tools": {"numpy": "2"},
    }
    return CalibrationTable(**(fields | changes))


def same(first: CalibrationTable, second: CalibrationTable) -> bool:
    return first.images == second.images and records_of(first) == records_of(second)


def records_of(table: CalibrationTable) -> dict[str, Any]:
    return {
        name: (
            {**record.histogram.to_json()},
            record.channel_sum.tolist(),
            record.channel_lowest.tolist(),
            record.channel_highest.tolist(),
            record.rows,
            record.lowest,
            record.highest,
        )
        for name, record in table.records.items()
    }


# Records


def test_a_record_says_what_numpy_says() -> None:
    values = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)

    record = seen(values, channels=True)

    wide = values.reshape(-1, 4).astype(np.float64)
    assert np.allclose(record.channel_sum, wide.sum(axis=0), rtol=1e-12)
    assert np.allclose(record.channel_mean, wide.mean(axis=0), rtol=1e-12)
    assert np.array_equal(record.channel_lowest, wide.min(axis=0))
    assert np.array_equal(record.channel_highest, wide.max(axis=0))
    assert np.array_equal(record.channel_largest, np.abs(wide).max(axis=0))
    assert (record.lowest, record.highest) == (wide.min(), wide.max())
    assert (record.rows, record.histogram.total) == (6, 24)


def test_without_channels_only_the_values_are_kept() -> None:
    record = seen(np.ones((2, 3, 4), np.float32), channels=False)

    assert record.channel_sum.shape == record.channel_largest.shape == (0,)
    assert record.histogram.total == 24


def test_merged_records_are_one_over_all_values() -> None:
    parts = np.random.default_rng(1).normal(size=(2, 3, 4)).astype(np.float32)
    whole = seen(parts, channels=True)

    found = merged_record(seen(parts[:1], channels=True), seen(parts[1:], channels=True))

    assert found.histogram == whole.histogram
    assert np.allclose(found.channel_sum, whole.channel_sum, rtol=1e-12)
    assert np.array_equal(found.channel_lowest, whole.channel_lowest)
    assert np.array_equal(found.channel_highest, whole.channel_highest)
    assert (found.rows, found.lowest, found.highest) == (whole.rows, whole.lowest, whole.highest)


# Files


def test_a_table_comes_back_from_its_file(tmp_path: Path) -> None:
    table = table_of(1, 2, seed=7)
    write_table(tmp_path / "t.json", table, chosen={"amax": {"a": 1.5}})

    found = read_table(tmp_path / "t.json")

    assert same(found, table)
    assert dataclasses.replace(found, records={}, rewrites=None) == dataclasses.replace(
        table, records={}, rewrites=None
    )
    assert found.rewrites is not None
    assert table.rewrites is not None
    assert table.rewrites.inputs
    for part, first in found.rewrites.parts().items():
        second = table.rewrites.parts()[part]
        assert {name: v.tolist() for name, v in first.items()} == {
            name: v.tolist() for name, v in second.items()
        }
    document = json.loads((tmp_path / "t.json").read_text())
    assert document["chosen"] == {"amax": {"a": 1.5}}
    assert document["images"]["count"] == 2


def test_a_table_without_rewrites_comes_back_too(tmp_path: Path) -> None:
    write_table(tmp_path / "t.json", table_of(1, rewrites=None), chosen={})

    assert read_table(tmp_path / "t.json").rewrites is None


def test_no_file_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read") as caught:
        read_table(tmp_path / "absent.json")

    assert "absent.json" in caught.value.where
    with pytest.raises(InputError):
        read_table(tmp_path)


# Merging


def test_two_shards_merge_to_what_one_run_gives() -> None:
    found = merged_table(table_of(1, 2), table_of(3))

    whole = table_of(1, 2, 3)
    assert found.images == whole.images
    assert records_of(found) == records_of(whole)
    assert found.description == "2 images and 1 images"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"graph": "b" * 64}, "different graphs"),
        (
            {"preprocessing": dataclasses.replace(PREPROCESSING, crop=0.9)},
            "different preprocessing",
        ),
        ({"records": {}}, "different sites"),
        ({"rewrites": None}, "different rewrites"),
        ({"rewrites": Rewrites({"blocks/0/attn/qkv": np.array([0.1, -0.3])}, {})}, "rewrites"),
    ],
)
def test_tables_of_different_things_do_not_merge(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        merged_table(table_of(1), table_of(2, **changes))

    assert caught.value.where == "1 images; 1 images"


def test_an_image_counts_once() -> None:
    with pytest.raises(InputError, match="hold the same 1 image"):
        merged_table(table_of(1, 2), table_of(2, 3))


# Damage


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("table") / "t.json"
    write_table(path, table_of(1), chosen={})
    return json.loads(path.read_text())


def read_document(document: Any, folder: Path) -> CalibrationTable:
    path = folder / "damaged.json"
    path.write_text(json.dumps(document))
    return read_table(path)


def packed(values: list[float]) -> str:
    return base64.b64encode(np.array(values).tobytes()).decode()


SITE = ("sites", "blocks/0/fc1/input")


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("schema",), 99),
        (("graph",), {}),
        (("images",), []),
        (("images", "seen"), [["a"]]),
        (("images", "seen"), 3),
        (("images", "seed"), "seven"),
        (("preprocessing", "size"), [16]),
        (("preprocessing", "more"), 1),
        (("rewrites", "values"), None),
        (("rewrites", "factors"), {"norm": "%"}),
        (("rewrites", "factors"), {"norm": packed([1.0, 0.0])}),
        (("rewrites", "values"), {"qkv": packed([1.0, np.nan])}),
        (("rewrites", "inputs"), {"fc2": packed([1.0, -1.0])}),
        (("rewrites", "inputs"), {"fc2": packed([1.0, np.inf])}),
        (("rewrites", "value_factors"), {"qkv": packed([1.0, 0.0])}),
        (("tools",), None),
        (("sites",), []),
        ((*SITE, "rows"), float("inf")),
        ((*SITE, "rows"), 0),
        ((*SITE, "lowest"), float("nan")),
        ((*SITE, "highest"), 1e9),
        ((*SITE, "lowest"), None),
        ((*SITE, "channel_sum"), ""),
        ((*SITE, "channel_sum"), base64.b64encode(bytes(7)).decode()),
        ((*SITE, "channel_sum"), packed([np.nan] * 4)),
        ((*SITE, "channel_highest"), packed([1e9] * 4)),
        ((*SITE, "channel_lowest"), packed([-1e9] * 4)),
        ((*SITE, "channel_lowest"), packed([np.nan] * 4)),
        ((*SITE, "channel_highest"), packed([0.0] * 3)),
        ((*SITE, "histogram", "exponent"), float("inf")),
        ((*SITE, "histogram", "counts"), ""),
    ],
)
def test_a_damaged_entry_is_refused(
    place: tuple[str, ...], value: Any, document: Any, tmp_path: Path
) -> None:
    damaged = json.loads(json.dumps(document))
    inner = damaged
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value

    with pytest.raises(TrustError, match="damaged") as caught:
        read_document(damaged, tmp_path)

    assert "damaged.json" in caught.value.where
    assert "fpet-export quantize" in caught.value.fix


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"schema": 1}', "[" * 100_000, "\x00"])
def test_what_is_no_table_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(text)

    with pytest.raises(TrustError):
        read_table(tmp_path / "t.json")


@pytest.mark.parametrize("schema", [2, 3])
def test_a_table_of_an_older_version_says_how_to_make_it_again(
    schema: int, document: Any, tmp_path: Path
) -> None:
    with pytest.raises(TrustError, match=rf"schema {schema}, wanted 4") as caught:
        read_document({**document, "schema": schema}, tmp_path)

    assert "fpet-export quantize model.onnx --precision int8 --calibration" in caught.value.fix
    assert "1 images" in caught.value.fix  # which images


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_bytes(b"\xff\xfe\x00table")

    with pytest.raises(TrustError):
        read_table(tmp_path / "t.json")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(part=st.floats(0, 1, exclude_max=True))
def test_a_truncated_table_is_refused(part: float, document: Any, tmp_path: Path) -> None:
    content = json.dumps(document)
    (tmp_path / "t.json").write_text(content[: int(part * len(content))])

    with pytest.raises(TrustError):
        read_table(tmp_path / "t.json")


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_entry_replaced_by_junk_ends_in_a_sentence_or_a_table(
    data: st.DataObject, document: Any, tmp_path: Path
) -> None:
    damaged = json.loads(json.dumps(document))
    inner = damaged
    while True:
        keys = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
        key = data.draw(st.sampled_from(keys))
        deeper = isinstance(inner[key], dict | list) and inner[key] and data.draw(st.booleans())
        if not deeper:
            break
        inner = inner[key]
    if isinstance(inner, dict) and data.draw(st.booleans()):
        del inner[key]
    else:
        inner[key] = data.draw(JUNK)

    try:
        found = read_document(damaged, tmp_path)
    except FpetError as error:
        assert isinstance(error, TrustError | InputError)
    else:
        assert all(record.histogram.largest < np.inf for record in found.records.values())


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_ends_in_a_sentence_or_a_table(
    place: float, bit: int, document: Any, tmp_path: Path
) -> None:
    content = bytearray(json.dumps(document).encode())
    content[int(place * len(content))] ^= 1 << bit
    (tmp_path / "t.json").write_bytes(content)

    try:
        read_table(tmp_path / "t.json")
    except FpetError as error:
        assert isinstance(error, TrustError)
