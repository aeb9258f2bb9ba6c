from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.comparison import bench
from benchmarks.conditions.environment import Environment
from benchmarks.latency import Schedule
from benchmarks.measurement import SCHEMA, Measurement
from benchmarks.measurement_file import read_measurement, to_document, write_measurement
from benchmarks.report.table import WIDTH, format_table, shorten
from engines.errors import InputError, UsageError

WIDE = 110


@pytest.fixture
def measurement(
    make_engine: Any, clock: Any, quiet_machine: Any, watcher: Any, environment: Environment
) -> Measurement:
    engines = [
        make_engine("plain", 190_000_000),
        make_engine("frozen", 140_000_000),
        make_engine("a name that is much too long for a table of one hundred columns", 400_000_000),
        make_engine("twin", 190_000_000),
    ]
    return bench(
        engines,
        schedule=Schedule(min_rounds=30, min_s=0.0),
        clock=clock,
        pause=clock.pause,
        machine=quiet_machine,
        watcher=watcher,
        environment=lambda: environment,
        command=["fpet-export", "bench", "a.onnx"],
    )


def test_a_measurement_survives_its_json(measurement: Measurement, tmp_path: Path) -> None:
    path = tmp_path / "bench" / "a.latency.json"

    write_measurement(path, measurement)

    assert read_measurement(path) == measurement


def test_samples_take_one_line_and_the_json_is_standard(
    measurement: Measurement, tmp_path: Path
) -> None:
    path = tmp_path / "a.latency.json"

    write_measurement(path, measurement)

    text = path.read_text()
    assert json.loads(text) == json.loads(json.dumps(to_document(measurement)))
    assert len(text.splitlines()) < 300


def test_a_measurement_is_not_overwritten_unless_forced(
    measurement: Measurement, tmp_path: Path
) -> None:
    path = tmp_path / "a.latency.json"
    write_measurement(path, measurement)

    with pytest.raises(UsageError, match="exists already"):
        write_measurement(path, measurement)
    write_measurement(path, measurement, force=True)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda document: document | {"schema": SCHEMA + 1}, "this version reads"),
        (lambda document: document | {"surprise": 1}, "unknown"),
        (lambda document: document | {"batch": "one"}, "batch is 'one'"),
        (lambda document: [document], "schema 'list'"),
    ],
)
def test_a_changed_document_is_refused(
    measurement: Measurement, tmp_path: Path, change: Any, words: str
) -> None:
    path = tmp_path / "a.latency.json"
    path.write_text(json.dumps(change(json.loads(json.dumps(to_document(measurement))))))

    with pytest.raises(InputError, match=words):
        read_measurement(path)


@pytest.mark.parametrize("content", ["", "{", "\x00"])
def test_a_damaged_file_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.latency.json"
    path.write_text(content)

    with pytest.raises(InputError, match="cannot be read"):
        read_measurement(path)


def test_table_fits_80_columns_and_shows_what_counts(measurement: Measurement) -> None:
    table = format_table(measurement)

    assert max(len(line) for line in table.splitlines()) <= WIDTH
    rows = {line.split()[0]: line for line in table.splitlines()[2:] if line}
    assert rows["plain"].endswith("baseline")
    assert "faster" in rows["frozen"]
    assert "1.3" in rows["frozen"]
    assert rows["twin"].endswith("no difference shown")
    assert "x no difference" not in table


def test_a_narrow_table_leaves_columns_out_and_says_so(measurement: Measurement) -> None:
    wide, narrow = format_table(measurement, width=WIDE), format_table(measurement)

    (heads,) = [line for line in wide.splitlines() if "p50" in line]
    (fewer,) = [line for line in narrow.splitlines() if "p50" in line]
    assert "p90" in heads
    assert "not shown" not in wide
    assert "p90" not in fewer
    assert "left out at this width: p90" in narrow
    assert "p99" in fewer


def test_long_names_lose_their_middle() -> None:
    assert shorten("short", 8) == "short"
    assert shorten("0123456789", 7) == "012…789"


def test_the_devices_own_time_has_a_column_only_where_there_is_one(
    measurement: Measurement,
) -> None:
    assert "GPU p50" not in format_table(measurement)
    first, *others = measurement.contenders
    timed = dataclasses.replace(first, device_p50_ns=1_234_567)
    table = format_table(dataclasses.replace(measurement, contenders=(timed, *others)), width=WIDE)
    assert max(map(len, table.splitlines())) <= WIDE
    assert "GPU p50" in table
    assert "1.235" in next(line for line in table.splitlines() if line.startswith(first.name))
