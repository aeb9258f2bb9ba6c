from __future__ import annotations

import dataclasses
import html
import math
import re
import struct
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from benchmarks.comparison import bench
from benchmarks.conditions.environment import Environment
from benchmarks.conditions.validity import Finding
from benchmarks.latency import Schedule
from benchmarks.measurement import Absent
from benchmarks.report.page import (
    EngineRow,
    File,
    Picture,
    Report,
    Statement,
    StepLine,
    Tile,
    Verdict,
    render_report,
    report_of,
    write_report,
)
from engines.errors import MissingDependencyError, UsageError
from engines.parity import table as parity_table
from engines.parity.rows import ParityTable, StageParity

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

VOID = {"meta", "img", "br", "link", "path", "use", "rect"}


def tiny_png() -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    pixels = zlib.compress(b"\0\0")
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


@pytest.fixture
def report(
    make_engine: Any, clock: Any, quiet_machine: Any, watcher: Any, environment: Environment
) -> Report:
    measurement = bench(
        [make_engine("plain", 190_000_000), make_engine("frozen", 140_000_000)],
        schedule=Schedule(min_rounds=30, min_s=0.0),
        clock=clock,
        pause=clock.pause,
        machine=quiet_machine,
        watcher=watcher,
        environment=lambda: environment,
    )
    measurement = dataclasses.replace(
        measurement, absent=(Absent(name="torch_eager", reason="not installed", fix="pip it"),)
    )
    return Report(
        title="digits <on> cpu",
        verdict=Verdict(
            sentence="The cpu engine is right <and> fast.",
            state="good",
            statements=(
                Statement(about="answers", text="equal", state="good"),
                Statement(about="speed", text="not known", state="open"),
            ),
        ),
        warnings=("random weights",),
        tiles=(Tile(value="1.36×", label="faster"), Tile(value="–", label="none", state="open")),
        engines=(
            EngineRow(
                name="model.cpu.onnx", about="fp32", answers="ran", state="good", accuracy="92.2%",
                speed="1.36x faster",
            ),
            EngineRow(
                name="model.rtx.plan", about="fp16", answers="not run: no GPU", state="open"
            ),
        ),
        parity=(
            ParityTable(
                images="20 images",
                reference="float64 model",
                rows=(
                    stage("folded"),
                    stage("engine", agreement=0.95, failures=("relative difference 0.3",)),
                ),
            ),
        ),
        measurements=(measurement, measurement),
        measure_again="fpet-export bench model.cpu.onnx",
        pictures=(
            Picture(
                title="The merge",
                pngs=((tiny_png(), "before", "an image"), (tiny_png(), "after", "its patches")),
                caption="merged patches",
            ),
        ),
        steps=(
            StepLine(name="fold", state="done", detail="24 pairs, 3.1e-6", duration_s=1.25),
            StepLine(name="build", state="failed", detail="no TensorRT"),
        ),
        files=(
            File(name="cpu/model.onnx", purpose="the graph", size_bytes=10_100_000),
            File(name="parity.json", purpose="for programs", size_bytes=2765),
        ),
        next_commands=("fpet-export predict model.onnx cat.jpg",),
    )  # fmt: skip


def stage(name: str, **changes: Any) -> StageParity:
    known: dict[str, Any] = {
        "images": 20, "largest_logit_difference": 3.14e-6, "relative": 1e-6, "sqnr_db": 120.0,
        "agreement": 1.0,
    }  # fmt: skip
    return StageParity(**{"stage": name, **known, **changes})


def spoiled(report: Report) -> Report:
    """Return the report with measurements that noise has made invalid."""
    noise = Finding(severity="invalid", what="others used 50%", fix="close them")
    return dataclasses.replace(
        report,
        measurements=tuple(
            dataclasses.replace(one, findings=(noise,)) for one in report.measurements
        ),
    )


class Tags(HTMLParser):
    """Collects tags, ids and everything that would load or run something."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.seen: set[str] = set()
        self.elements: list[tuple[str, dict[str, str]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "srcset", "data", "action"):
                self.references.append(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


def test_page_loads_nothing_and_runs_nothing(report: Report) -> None:
    page = render_report(report)
    tags = Tags()
    tags.feed(page)

    assert not re.search(r"https?://", page)
    assert not re.search(r"@import|url\((?!#)", page)
    assert all(
        reference.startswith(("#", "data:image/png;base64,")) for reference in tags.references
    )
    assert tags.references
    assert not tags.seen & {"script", "link", "iframe", "object"}


def test_page_is_well_formed_and_its_ids_are_unique(report: Report) -> None:
    tags = Tags()
    tags.feed(render_report(report))

    assert tags.open == []
    assert len(tags.ids) == len(set(tags.ids))
    assert tags.ids


def elements(page: str, tag: str) -> list[dict[str, str]]:
    tags = Tags()
    tags.feed(page)
    return [attributes for name, attributes in tags.elements if name == tag]


def text_of(page: str) -> str:
    """Return the page's text without its tags and its style."""
    body = page[page.index("<body>") :]
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body)))


def test_page_shows_steps_numbers_absent_peers_files_and_the_next_command(report: Report) -> None:
    text = text_of(render_report(report))

    for words in (
        "digits <on> cpu", "24 pairs, 3.1e-6", "1.2 s", "3.1e-06", "100.0%", "95.0%", "x faster",
        "torch_eager did not take part: not installed", "A CPU of a test",
        "fpet-export predict model.onnx cat.jpg", "merged patches",
        "cpu/model.onnx the graph 10.1 MB", "parity.json for programs 2.8 kB",
    ):  # fmt: skip
        assert words in text, words


def test_the_verdict_stands_before_everything_but_the_title(report: Report) -> None:
    page = render_report(report)
    text = text_of(page)

    order = (
        "digits <on> cpu",
        "is right <and> fast",
        "equal",
        "random weights",
        "1.36×",
        "What was",
    )
    places = [text.index(words) for words in order]
    assert places == sorted(places)
    assert '<section class="verdict good"' in page
    assert "Measure again" not in text


def test_a_failed_verdict_is_loud_and_its_stage_says_why(report: Report) -> None:
    failed = Verdict(sentence="The answers are not equal.", state="bad")
    page = render_report(dataclasses.replace(report, verdict=failed))

    assert '<section class="verdict bad"' in page
    style = page[page.index("<style>") : page.index("</style>")]
    assert ".verdict.bad h2 { color: var(--bad); }" in style
    row = page[page.index('aria-label="not equal"') :]
    assert row.index("relative difference 0.3") < row.index("</tbody>")


def test_a_stage_without_numbers_has_no_tick_although_nobody_judged_it(report: Report) -> None:
    rows = (stage("checkpoint f32", largest_logit_difference=math.inf, sqnr_db=-math.inf),)
    tables = (dataclasses.replace(report.parity[0], rows=rows),)
    page = render_report(dataclasses.replace(report, parity=tables))

    row = page[page.index('aria-label="not equal"') :].partition("</tbody>")[0]
    assert "checkpoint f32" in row
    assert "logits that are not finite" in row
    assert 'aria-label="equal"' not in page


def test_an_engine_that_did_not_run_has_a_row_with_the_reason(report: Report) -> None:
    page = render_report(report)

    row = page[page.index("model.rtx.plan") :].partition("</tr>")[0]
    assert "not run: no GPU" in row
    assert 'aria-label="not known"' in row
    assert "faster" not in row


def test_columns_without_a_number_are_left_out(report: Report) -> None:
    page = render_report(dataclasses.replace(report, engines=()))

    assert "signal to noise (SQNR)" in page
    assert "same partner" not in page
    assert "accuracy" not in text_of(page)


@pytest.mark.parametrize(
    "figures",
    [
        {"accuracy": 0.9, "same_partner": 0.99},
        {"agreement": None, "cosine": 0.999, "same_partner": 0.99},
    ],
)
def test_every_column_is_named_and_explained_as_on_the_terminal(
    figures: dict[str, Any], report: Report
) -> None:
    rows = (stage("engine", **figures),)
    tables = (dataclasses.replace(report.parity[0], rows=rows),) * 2
    page = render_report(dataclasses.replace(report, parity=tables))

    shown = parity_table.shown(rows)
    assert len(shown) == 6 - ("cosine" in figures)
    for figure in shown:
        headings = [one for one in elements(page, "th") if one.get("title") == figure.meaning]
        assert len(headings) == 2, figure.name
        assert page.count(f"<dt>{figure.name}</dt><dd>{figure.meaning}</dd>") == 1


def test_accuracy_and_verdict_are_the_columns_that_a_phone_shows(report: Report) -> None:
    rows = (stage("engine", accuracy=0.9, same_partner=0.99),)
    page = render_report(
        dataclasses.replace(report, parity=(dataclasses.replace(report.parity[0], rows=rows),))
    )
    headings = [re.findall(r"<th[^>]*>([^<]+)</th>", part) for part in page.split("<thead>")[1:]]

    speed, parity = headings[1], headings[3]
    assert speed[:3] == ["contender", "verdict", "p50, ms"]
    assert parity[:3] == ["stage", "agreement", "accuracy"]


def test_nothing_is_wider_than_a_phone(report: Report) -> None:
    page = render_report(report)
    style = page[page.index("<style>") : page.index("</style>")]

    assert 'name="viewport" content="width=device-width, initial-scale=1"' in page
    # every table either scrolls in its own box or becomes a stack of lines
    for table in re.finditer(r"<table(.*?)>", page):
        before = page[: table.start()].rstrip()
        is_boxed = before.endswith('tabindex="0">') and 'class="scroll"' in before[-160:]
        assert is_boxed or 'class="stack"' in table[1]
    assert re.search(r"\.scroll \{[^}]*overflow-x: auto", style)
    assert re.search(r"pre \{[^}]*white-space: pre-wrap", style)
    assert re.search(r"figure img \{[^}]*width: 100%", style)
    widths = re.findall(r"(?:min-width|minmax\(|[^-]width): ?([\d.]+)rem", style)
    assert all(float(width) < 20 for width in widths), widths
    assert not [
        one for tag in ("img", "table", "div") for one in elements(page, tag) if "width" in one
    ]


def test_the_gpus_own_time_has_a_column_where_there_is_one(report: Report) -> None:
    assert "GPU p50" not in render_report(report)
    measurement = report.measurements[0]
    timed = [dataclasses.replace(r, device_p50_ns=1_500_000) for r in measurement.contenders]
    timed[0] = dataclasses.replace(timed[0], device_p50_ns=None)
    shown = dataclasses.replace(measurement, contenders=tuple(timed))
    page = render_report(dataclasses.replace(report, measurements=(shown,)))
    assert ">GPU p50</th>" in page
    assert page.count("<td>1.5") == len(timed) - 1


def test_an_invalid_measurement_is_grey_and_claims_nothing(report: Report) -> None:
    page = render_report(dataclasses.replace(spoiled(report), engines=(), tiles=()))
    section = page[page.index('<section class="void">') :].partition("</section>")[0]
    valid = render_report(report)

    assert "This measurement is not valid.</b> Others used 50%: close them." in section
    assert "Measure again: <code>fpet-export bench model.cpu.onnx</code>" in section
    assert not re.search(r"faster|slower|0\.73|ratio|images a second", text_of(page))
    assert "var(--accent)" not in section
    assert "x faster" in text_of(valid) and "ratio" in text_of(valid)  # negative control
    assert 'class="void"' not in valid


def test_a_page_of_a_measurement_alone(report: Report) -> None:
    measurement = report.measurements[0]

    page = render_report(report_of(measurement, title="Latency", again="bench again"))
    noisy = render_report(
        report_of(spoiled(report).measurements[0], title="L", again="bench again")
    )

    assert "frozen is 1.3" in text_of(page)
    assert "faster than plain on A CPU of a test (CPU) (batch 1)." in text_of(page)
    assert '<section class="verdict good"' in page
    assert "bench again" not in page
    assert "Its speed is not known" in text_of(noisy)
    assert '<section class="verdict open"' in noisy
    assert "Measure again: <code>bench again</code>" in noisy


def test_the_steps_are_folded(report: Report) -> None:
    page = render_report(report)

    folded = re.findall(r"<details>(.*?)</details>", page, re.DOTALL)
    assert any("24 pairs, 3.1e-6" in part for part in folded)
    assert "24 pairs" not in re.sub(r"<details>.*?</details>", "", page, flags=re.DOTALL)


def test_a_report_of_steps_alone_has_no_empty_sections() -> None:
    page = render_report(
        Report(title="t", steps=(StepLine(name="a", state="warning", detail="b"),))
    )

    assert page.count("<section>") == 1
    assert page.count("<section") == 1


def test_pictures_and_signs_say_what_they_show(report: Report) -> None:
    page = render_report(report)

    assert [one["alt"] for one in elements(page, "img")] == ["an image", "its patches"]
    signs = [one for one in elements(page, "span") if one.get("role") == "img"]
    assert signs and all(one["aria-label"] for one in signs)
    assert all(one["aria-label"] for one in elements(page, "svg"))
    headings = re.findall(r"<h([1-6])", page)
    assert headings[0] == "1" and set(headings[1:]) == {"2"}
    assert [one.get("scope") for one in elements(page, "th")].count(None) == 0


def contrast(one: str, other: str) -> float:
    """Return the ratio that WCAG 2 defines, of two colours such as "#1b2330"."""

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_text_is_readable_in_light_and_in_dark(report: Report) -> None:
    page = render_report(report)
    light, dark = re.findall(r":root \{(.*?)\}", page, re.DOTALL)[:2]

    for palette in (light, dark):
        colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", palette))
        for ink in ("ink", "muted", "accent", "good", "bad", "open"):
            for ground in ("page", "card"):
                assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
        for state in ("good", "bad", "open"):
            for ink in ("ink", state):
                assert contrast(colours[ink], colours[f"{state}-card"]) >= 4.5, (ink, state)


def test_paper_is_always_light(report: Report) -> None:
    page = render_report(report)

    assert page.count("prefers-color-scheme: dark") == 1
    assert "@media screen and (prefers-color-scheme: dark)" in page
    assert "@media print" in page


def test_charts_take_their_colours_from_the_page(report: Report) -> None:
    page = render_report(report)
    drawings = "".join(re.findall(r"<svg.*?</svg>", page, re.DOTALL))

    assert "var(--accent)" in drawings
    assert "var(--ink)" in drawings
    assert not re.search(r"#0[1-6]0[1-6]0[1-6]", drawings)


def test_a_page_is_not_overwritten_unless_forced(report: Report, tmp_path: Path) -> None:
    path = tmp_path / "out" / "report.html"
    write_report(path, report)

    with pytest.raises(UsageError, match="exists already"):
        write_report(path, report)
    write_report(path, report, force=True)


def test_a_missing_library_names_its_extra(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "jinja2", None)

    with pytest.raises(MissingDependencyError, match=r"fpet-export\[report\]"):
        render_report(report)
