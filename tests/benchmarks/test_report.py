from __future__ import annotations

import dataclasses
import re
import struct
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from benchmarks.comparison import bench
from benchmarks.environment import Environment
from benchmarks.latency import Schedule
from benchmarks.measurement import Absent, Measurement
from benchmarks.report import (
    Headline,
    ParityRow,
    Picture,
    Report,
    Step,
    render_report,
    write_report,
)
from benchmarks.validity import Finding
from engines.errors import MissingDependencyError, UsageError

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
def report(make_engine: Any, clock: Any, quiet_machine: Any, environment: Environment) -> Report:
    measurement = bench(
        [make_engine("plain", 190_000_000), make_engine("frozen", 140_000_000)],
        schedule=Schedule(min_rounds=30, min_s=0.0),
        clock=clock,
        pause=clock.pause,
        machine=quiet_machine,
        environment=lambda: environment,
    )
    measurement = dataclasses.replace(
        measurement, absent=(Absent(name="torch_eager", reason="not installed", fix="pip it"),)
    )
    return Report(
        title="digits <on> cpu",
        warnings=("random weights",),
        headlines=(Headline(value="1.36x", label="faster"),),
        steps=(
            Step(name="fold", state="done", detail="24 pairs, 3.1e-6", duration_s=1.25),
            Step(name="build", state="failed", detail="no TensorRT"),
        ),
        parity=(
            ParityRow(stage="folded", passed=True, largest_logit_difference=3.14e-6, agreement=1.0),
            ParityRow(
                stage="engine", passed=False, largest_logit_difference=0.37, agreement=0.9981
            ),
        ),
        measurements=(measurement, measurement),
        pictures=(Picture(png=tiny_png(), caption="merged patches", alternative="lines"),),
        next_commands=("fpet-export predict model.onnx cat.jpg",),
    )


class Tags(HTMLParser):
    """Collects tags, ids and everything that would load or run something."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
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


def test_page_shows_steps_numbers_absent_peers_and_the_next_command(report: Report) -> None:
    page = render_report(report)

    for words in (
        "digits &lt;on&gt; cpu", "✓", "✗", "24 pairs, 3.1e-6", "1.2 s", "3.1e-6", "3.7e-1", "100 %",
        "99.81 %", "x faster", "torch_eager did not take part: not installed", "A CPU of a test",
        "fpet-export predict model.onnx cat.jpg", "merged patches",
    ):  # fmt: skip
        assert words in page, words


def test_columns_without_a_number_are_left_out(report: Report) -> None:
    page = render_report(report)

    assert "agreement" in page
    assert "SQNR" not in page
    assert "accuracy" not in page


def test_the_gpus_own_time_has_a_column_where_there_is_one(report: Report) -> None:
    assert "GPU p50" not in render_report(report)
    measurement = report.measurements[0]
    timed = [dataclasses.replace(r, device_p50_ns=1_500_000) for r in measurement.contenders]
    timed[0] = dataclasses.replace(timed[0], device_p50_ns=None)
    shown = dataclasses.replace(measurement, contenders=tuple(timed))
    page = render_report(dataclasses.replace(report, measurements=(shown,)))
    assert "<th>GPU p50</th>" in page
    assert page.count("<td>1.5") == len(timed) - 1


def test_almost_all_is_not_rounded_to_all(report: Report) -> None:
    row = ParityRow(stage="engine", passed=True, agreement=0.99999)

    page = render_report(dataclasses.replace(report, parity=(row,)))

    assert "99.99 %" in page
    assert "100.00 %" not in page


def test_an_invalid_measurement_says_so_on_top(report: Report) -> None:
    spoiled: Measurement = dataclasses.replace(
        report.measurements[0],
        findings=(Finding(severity="invalid", what="others used 50%", fix="close them"),),
    )

    page = render_report(dataclasses.replace(report, measurements=(spoiled,)))

    assert "This measurement does not count:</b> others used 50%" in page
    measured = page[page.index("Is it faster?") :]
    assert not re.search(r"[0-9.]+x (faster|slower)|0\.73", measured)
    assert "not valid" in measured
    assert "x faster" in render_report(report)[page.index("Is it faster?") :]  # negative control


def test_a_report_of_steps_alone_has_no_empty_sections() -> None:
    page = render_report(Report(title="t", steps=(Step(name="a", state="skipped", detail="b"),)))

    assert page.count("<section>") == 1


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
