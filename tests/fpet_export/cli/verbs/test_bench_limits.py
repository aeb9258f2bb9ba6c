"""Limits of `bench` from the command line: refused early, judged late, exit 8 where missed."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.measurement import Measurement
from benchmarks.measurement_file import write_measurement
from fpet_export.requests import BenchRequest
from fpet_export.workflow import bench
from tests.benchmarks.made_measurements import NOISE, measurement
from tests.benchmarks.report.test_fleet import changed
from tests.fpet_export.command_line import Exported, call


@pytest.mark.parametrize(
    ("words", "code", "what"),
    [
        (("--budget", "p99=12"), 2, "'p99=12' is no limit"),
        (("--budget", "p99=12ms,energy=90mJ"), 2, "what energy=90mJ limits would not be measured"),
        (("--budget", "memory=1GB"), 2, "would not be measured"),
        (("--max-regress", "3%"), 2, "asked for together"),
        (("--max-regress", "three"), 2, "'three' is not a number of per cent"),
        (("--baseline", "absent.json", "--max-regress", "3%"), 3, "no such file"),
        (("--budget", "p99=1ms", "--batches", "1,8"), 2, "a limit is for one batch"),
    ],
)
def test_limits_that_cannot_be_judged_are_refused_at_once(
    exported: Exported, words: tuple[str, ...], code: int, what: str
) -> None:
    done = call("bench", exported.graph, *words, "--json")

    assert what in done.error()["what"]
    assert done.code == code


def test_a_baseline_without_its_limit_is_refused(exported: Exported, tmp_path: Path) -> None:
    write_measurement(tmp_path / "old.json", measurement())

    done = call("bench", exported.graph, "--baseline", tmp_path / "old.json", "--json")
    assert "asked for together" in done.error()["what"]
    assert "--max-regress 3%" in done.error()["fix"]


def test_a_baseline_is_of_one_board(exported: Exported, tmp_path: Path) -> None:
    write_measurement(tmp_path / "old.json", measurement())
    words = ("--baseline", tmp_path / "old.json", "--max-regress", "3", "--remote", "a,b")

    assert "is of one device" in call("bench", exported.graph, *words, "--json").error()["what"]


def test_a_board_that_misses_its_budget_is_named(
    exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    def there(request: BenchRequest, reporter: object) -> Measurement:
        return measurement(5.0, 4.0 if request.remote == "fast" else 4.9)

    monkeypatch.setattr("fpet_export.board.bench.bench_there", there)

    done = call("bench", exported.graph, "--remote", "fast,slow", "--budget", "p50=4.5ms", "--json")
    assert done.code == 8
    assert done.error()["what"].startswith("slow: the budget is missed by merged")


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Measurement]:
    """What the rounds come to, instead of a measurement under an unknown load."""
    found = [measurement(5.0, 4.0)]
    monkeypatch.setattr(bench, "_here", lambda request, reporter: found[0])
    return found


def test_a_budget_decides_the_exit_code_and_the_evidence_is_written(
    exported: Exported, tmp_path: Path, measured: list[Measurement]
) -> None:
    out, badge = tmp_path / "a.latency.json", tmp_path / "a.svg"
    words = ("bench", exported.graph, "-o", out, "--badge", badge, "--force")

    kept = call(*words, "--budget", "p99=5ms")
    missed = call(*words, "--budget", "p99=3ms")

    assert kept.code == 0
    assert "of p99=5ms" in kept.err
    assert "ViT-B/16 merged, FP16, Orin Nano 8 GB" in kept.err
    assert missed.code == 8
    assert "the budget is missed by merged" in missed.err
    assert out.exists()
    assert "ViT-B/16 merged on Orin Nano 8 GB" in badge.read_text()


def test_noise_keeps_no_budget(exported: Exported, measured: list[Measurement]) -> None:
    measured[0] = measurement(findings=(NOISE,))

    assert call("bench", exported.graph, "--budget", "p99=1s").code == 9
    done = call("bench", exported.graph, "--budget", "p99=1s", "--allow-noise", "--json")
    assert done.code == 8
    assert "not valid" in done.error()["what"]


@pytest.mark.parametrize(("before", "code"), [(4.0, 0), (3.5, 8)])
def test_a_regression_decides_the_exit_code(
    exported: Exported, tmp_path: Path, measured: list[Measurement], before: float, code: int
) -> None:
    old = changed(measurement(5.0, before, seed=1), "merged", sha256="1" * 64)
    write_measurement(tmp_path / "old.json", old)
    words = ("--baseline", tmp_path / "old.json", "--max-regress", "3%")

    done = call("bench", exported.graph, *words)
    assert done.code == code
    assert "measured apart" in done.err
