"""Many results on one page: who is on a front, what is never ranked, and what is skipped."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
import shutil
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from benchmarks.energy.course import Plan
from benchmarks.energy.result import ContenderEnergy, EnergyRecord, Estimate
from benchmarks.measurement import Artefact, ContenderResult, Measurement
from benchmarks.measurement_file import to_document, to_text, write_measurement
from benchmarks.predicted import with_predictions
from benchmarks.report.fleet import FleetRow, front, groups_of
from benchmarks.report.fleet_page import dots, render_fleet, sentence
from benchmarks.report.fleet_text import csv_text, markdown
from benchmarks.report.gathering import Found, gather
from engines.errors import InputError
from tests.benchmarks.made_measurements import NOISE, measurement

RESULTS = Path(__file__).resolve().parents[3] / "benchmarks/results"


def found(*measurements: Measurement) -> list[Found]:
    return [Found(measurement=one, file=f"r{index}.json") for index, one in enumerate(measurements)]


def rows_of(*measurements: Measurement) -> list[FleetRow]:
    return [row for group in groups_of(found(*measurements)) for row in group.rows]


def changed(one: Measurement, name: str, **changes: Any) -> Measurement:
    """Change the artefact of a contender."""

    def artefact(result: ContenderResult) -> Artefact:
        assert result.artefact is not None
        return dataclasses.replace(result.artefact, **changes)

    contenders = tuple(
        dataclasses.replace(result, artefact=artefact(result)) if result.name == name else result
        for result in one.contenders
    )
    return dataclasses.replace(one, contenders=contenders)


def with_energy(one: Measurement, *millijoules: float) -> Measurement:
    record = EnergyRecord(
        source="INA sensors", covers="the module", rule="", total=("VDD_IN",), rails=(), plan=Plan()
    )
    contenders = tuple(
        dataclasses.replace(
            result, energy=ContenderEnergy(gross=Estimate(value=value, low=value, high=value))
        )
        for result, value in zip(one.contenders, millijoules, strict=True)
    )
    return dataclasses.replace(one, energy=record, contenders=contenders)


def fronts(rows: Sequence[FleetRow]) -> dict[str, bool | None]:
    return {row.engine: row.on_front for row in rows}


def test_the_faster_engine_with_the_same_answers_is_the_front() -> None:
    assert fronts(rows_of(measurement(5.0, 4.0))) == {"plain": False, "merged": True}


def test_an_engine_that_uses_less_energy_is_on_the_front_too() -> None:
    one = measurement(5.0, 4.0)

    assert fronts(rows_of(with_energy(one, 20.0, 30.0))) == {"plain": True, "merged": True}
    assert fronts(rows_of(with_energy(one, 30.0, 20.0))) == {"plain": False, "merged": True}


def test_better_answers_are_worth_a_slower_engine() -> None:
    one = measurement(5.0, 4.0)
    assert one.contenders[1].artefact is not None
    answers = one.contenders[1].artefact.answers
    assert answers is not None

    fewer = changed(one, "merged", answers=dataclasses.replace(answers, agreement=0.9))
    assert fronts(rows_of(fewer)) == {"plain": True, "merged": True}


def test_answers_beside_different_references_are_not_compared() -> None:
    one = measurement(5.0, 4.0)
    assert one.contenders[1].artefact is not None
    answers = one.contenders[1].artefact.answers
    assert answers is not None
    other = dataclasses.replace(answers, agreement=0.5, of="artefact model.onnx")

    (group,) = groups_of(found(changed(one, "merged", answers=other)))
    assert group.ranked_by == "latency"
    assert fronts(group.rows) == {"plain": False, "merged": True}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"weights": "random"}, "random weights"),
        ({"check": "failed"}, "it failed its check"),
        ({"answers": None}, "its answers are not known"),
        ({"network": None}, "its network is not recorded"),
    ],
)
def test_what_is_not_alike_is_shown_and_never_ranked(change: dict[str, Any], reason: str) -> None:
    """The merged engine is much faster and would be the front alone."""
    rows = rows_of(changed(measurement(5.0, 1.0), "merged", **change))

    (merged,) = [row for row in rows if row.engine == "merged"]
    assert merged.on_front is None
    assert merged.unranked == reason
    assert fronts(rows)["plain"] is True


def test_random_weights_are_ranked_among_themselves() -> None:
    one = measurement(5.0, 4.0, agreement=None)
    for name in ("plain", "merged"):
        one = changed(one, name, weights="random")

    assert fronts(rows_of(one)) == {"plain": False, "merged": True}


def test_a_measurement_that_is_not_valid_is_never_ranked_and_has_no_rate() -> None:
    spoiled = measurement(1.0, 0.5, findings=(NOISE,))
    groups = groups_of(found(measurement(5.0, 4.0), spoiled))

    rows = groups[0].rows
    assert [(row.engine, row.on_front) for row in rows if row.invalid] == [
        ("merged", None), ("plain", None),
    ]  # fmt: skip
    assert rows[-1].invalid == "others used 50%"  # last, although it was fastest
    assert not any(row.summary for row in rows if row.invalid)
    text = markdown(groups)
    spoiled_lines = [line for line in text.splitlines() if line.endswith("| not valid |")]
    assert len(spoiled_lines) == 2
    assert not any("faster" in line or "2000.0" in line for line in spoiled_lines)
    page = render_fleet(groups, (), title="t")
    assert page.count("not valid: others used 50%") == 2
    assert page.count("void") >= 2


def test_each_device_has_its_own_front_and_each_batch_its_own_table() -> None:
    groups = groups_of(
        found(
            measurement(5.0, 4.0),
            measurement(0.6, 0.5, board=None, gpu="NVIDIA H200", target="cuda"),
            measurement(30.0, 20.0, batch=8),
        )
    )

    assert [group.batch for group in groups] == [1, 8]
    assert [(row.device, row.engine) for row in groups[0].rows if row.on_front] == [
        ("NVIDIA H200", "merged"), ("Jetson Orin Nano 8 GB", "merged"),
    ]  # fmt: skip


def row(p50: float, energy: float | None = None, accuracy: float | None = None) -> FleetRow:
    (one, _) = rows_of(measurement())
    return dataclasses.replace(one, p50_ms=p50, energy_mj=energy, accuracy=accuracy)


@pytest.mark.parametrize(
    ("rows", "marks", "by"),
    [
        ([row(1.0), row(2.0)], [True, False], ("latency", "agreement")),
        ([row(1.0, 5.0), row(2.0)], [True, False], ("latency", "agreement")),
        ([row(1.0, 5.0), row(2.0, 4.0)], [True, True], ("latency", "energy", "agreement")),
        ([row(1.0, None, 0.8), row(2.0, None, 0.9)], [True, True], ("latency", "accuracy")),
        ([row(1.0, None, 0.9), row(2.0, None, 0.8)], [True, False], ("latency", "accuracy")),
        ([row(1.0), row(1.0)], [True, True], ("latency", "agreement")),
    ],
)
def test_a_front_is_judged_by_what_is_known_of_all(
    rows: list[FleetRow], marks: list[bool], by: tuple[str, ...]
) -> None:
    assert front(rows) == (marks, by)


def test_old_results_stay_readable_and_others_are_listed() -> None:
    gathered = gather([RESULTS])

    files = {Path(one.file).name for one in gathered.found}
    assert {"cpu_latency_batch1.json", "cpu_latency_int8_merge_batch1.json"} <= files
    reasons = {Path(one.file).name: one.reason for one in gathered.skipped}
    assert "kind 'crosscheck'" in reasons["crosscheck.json"]
    assert not files & set(reasons)
    assert all(not row.on_front for group in groups_of(gathered.found) for row in group.rows)


def test_a_foreign_file_is_refused_when_named_and_skipped_in_a_folder(tmp_path: Path) -> None:
    write_measurement(tmp_path / "a.latency.json", measurement())
    contents = {
        "list.json": "[1]", "empty.json": "", "deep.json": "[" * 100_000, "number.json": "3",
        "kind.json": '{"kind": "crosscheck"}', "other.json": '{"schema": 1}',
        "later.json": json.dumps(to_document(measurement()) | {"schema": 2}),
        "unknown.json": json.dumps(to_document(measurement()) | {"surprise": 2}),
        "bytes.json": "\udcff",
    }  # fmt: skip
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content.encode("utf-8", "surrogateescape"))
    (tmp_path / "notes.txt").write_text("no JSON")

    gathered = gather([tmp_path])

    assert [Path(one.file).name for one in gathered.found] == ["a.latency.json"]
    assert {Path(one.file).name for one in gathered.skipped} == set(contents)
    assert all(one.reason for one in gathered.skipped)
    for name in contents:
        with pytest.raises(InputError) as refused:
            gather([tmp_path / name])
        assert name in refused.value.where


def test_copies_count_once_and_links_are_not_followed(tmp_path: Path) -> None:
    write_measurement(tmp_path / "a/a.latency.json", measurement())
    shutil.copy(tmp_path / "a/a.latency.json", tmp_path / "copy.json")
    (tmp_path / "a/loop").symlink_to(tmp_path)

    gathered = gather([tmp_path, tmp_path / "a/a.latency.json"])

    assert len(gathered.found) == 1
    assert [one.reason.partition(" as ")[0] for one in gathered.skipped] == ["the same"]


def test_nothing_to_show_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no JSON file"):
        gather([tmp_path])
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(InputError, match="no measurement among 1 files"):
        gather([tmp_path])


def test_measurements_at_several_batches_are_one_file(tmp_path: Path) -> None:
    several = {"kind": "batches", "schema": 1, "measurements": [
        to_document(measurement(batch=batch)) for batch in (1, 8)
    ]}  # fmt: skip
    (tmp_path / "b.json").write_text(to_text(several))

    assert [one.measurement.batch for one in gather([tmp_path / "b.json"]).found] == [1, 8]


def test_the_document_of_several_boards_is_read(tmp_path: Path) -> None:
    boards = {"kind": "boards", "schema": 1, "boards": {"a": to_document(measurement())}}
    (tmp_path / "b.json").write_text(to_text(boards))

    assert len(gather([tmp_path / "b.json"]).found) == 1


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        assert tag not in ("script", "link", "iframe", "object", "img")
        assert not any(name in ("src", "href", "onload", "onclick") for name, _ in attrs)
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_page_of_200_results_is_small_whole_and_loads_nothing() -> None:
    h200 = {"board": None, "gpu": "NVIDIA H200", "target": "cuda"}
    few = [
        with_predictions(measurement(batch=batch, **place))  # type: ignore[arg-type]
        for batch in (1, 8)
        for place in ({}, h200)
    ]
    many = [few[index % 4] for index in range(200)]
    page = render_fleet(groups_of(found(*many)), (), title="Results <of> 200")

    assert len(page) < 5_000_000 / 10
    assert page.count('<th scope="row">') == 400
    assert "Results &lt;of&gt; 200" in page
    assert not re.search(r"https?://|@import", page)
    assert '<meta name="viewport"' in page
    tags = Tags()
    tags.feed(page)
    assert tags.open == []


def test_names_from_files_are_no_html_no_table_and_no_formula() -> None:
    evil = "<b>|=1+1"
    one = measurement()
    contenders = (one.contenders[0], dataclasses.replace(one.contenders[1], name=evil))
    groups = groups_of(found(dataclasses.replace(one, contenders=contenders)))

    assert "<b>" not in render_fleet(groups, (), title="t")
    assert "&lt;b>\\|=1+1" in markdown(groups)
    formula = dataclasses.replace(groups[0].rows[0], engine="=1+1")
    text = csv_text((dataclasses.replace(groups[0], rows=(formula,)),))
    assert next(iter(csv.DictReader(io.StringIO(text))))["engine"] == "'=1+1"


def test_csv_has_every_field_and_empty_is_unknown() -> None:
    groups = groups_of(found(measurement(5.0, 4.0)))

    (first, second) = csv.DictReader(io.StringIO(csv_text(groups)))
    assert set(first) == {field.name for field in dataclasses.fields(FleetRow)}
    assert float(first["p50_ms"]) == pytest.approx(4.0, rel=0.02)
    assert (first["on_front"], second["on_front"]) == ("yes", "no")
    assert first["energy_mj"] == ""


def test_the_picture_shows_predictions_as_bands_and_far_devices_on_one_axis() -> None:
    near = [one for one in rows_of(measurement(5.0, 4.0)) if one.on_front]
    slow = dataclasses.replace(near[0], p50_ms=400.0, p99_ms=410.0)
    guessed = dataclasses.replace(near[0], predicted_ms=(3.0, 8.0))

    assert "logarithmic" not in dots(near)
    assert "logarithmic" in dots([*near, slow])
    assert dots([guessed]).count("<rect") == 1
    assert dots(near).count("<rect") == 0


def test_the_sentence_counts() -> None:
    groups = groups_of(found(measurement(), measurement(findings=(NOISE,))))

    assert sentence(groups, ()) == "4 results on 1 device, from 2 files; 1 not valid."
