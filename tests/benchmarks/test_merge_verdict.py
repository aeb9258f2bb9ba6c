"""Whether merging pays is said in words: at one batch, and from which of several."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from benchmarks import bench
from benchmarks.batches import batches_document, format_batches, report_of_batches, write_batches
from benchmarks.conditions.environment import Environment
from benchmarks.conditions.gpu_state import Gpu, GpuState, GpuUse
from benchmarks.conditions.validity import Finding
from benchmarks.contenders import Opened
from benchmarks.latency import Schedule
from benchmarks.measurement import Artefact, Measurement
from benchmarks.measurement_file import to_document
from benchmarks.merge_verdict import merge_verdicts
from benchmarks.paired_statistics import Comparison, decide
from benchmarks.report.page import render_report, report_of
from engines.errors import UsageError

NAME = "NVIDIA H100 80GB HBM3"
OFF = GpuState(
    sm_mhz=None, sm_max_mhz=None, memory_mhz=None, memory_max_mhz=None, power_w=None,
    temperature_c=None, reasons=None,
)  # fmt: skip
NOISE = Finding(severity="invalid", what="other programs used 50%", fix="close them")


def artefact(*, merges: bool, precision: str = "fp16") -> Artefact:
    return Artefact(
        file="x.onnx", sha256="", precision=precision, weights="random", target="cuda",
        merges=merges,
    )  # fmt: skip


@pytest.fixture
def measure(
    clock: Any, quiet_machine: Any, watcher: Any, environment: Environment, make_engine: Any
) -> Any:
    """A real measurement of fakes, at one batch, with its ratio replaced by that of a test."""

    def call(
        batch: int,
        low: float,
        high: float,
        *,
        findings: tuple[Finding, ...] = (),
        names: tuple[str, ...] = ("model",),
        merges: bool = True,
        precision: str = "fp16",
        against_plain: bool = True,
    ) -> Measurement:
        def opened(name: str, ns: int, found: Artefact) -> Opened:
            engine = make_engine(name, ns)
            engine.describe = lambda: {"provider": "cuda"}
            return Opened(name=name, engine=engine, artefact=found)

        own = artefact(merges=merges, precision=precision)
        found = bench(
            [opened(name, 2_000_000, own) for name in names],
            against=opened("plain.fp16", 2_000_000, artefact(merges=False)),
            against_plain=against_plain,
            batch=batch,
            schedule=Schedule(min_rounds=30, min_s=0.0, settle_s=0.0),
            clock=clock, pause=clock.pause, machine=quiet_machine, watcher=watcher,
            environment=lambda: environment, read_gpu=lambda: None,
        )  # fmt: skip
        ratio = (low + high) / 2
        against = Comparison(
            baseline="plain.fp16", ratio=ratio, low=low, high=high, confidence=0.95,
            speedup=1 / ratio, verdict=decide(low, high, margin=0.01),
        )  # fmt: skip
        contenders = tuple(
            result if result.against is None else dataclasses.replace(result, against=against)
            for result in found.contenders
        )
        gpu = GpuUse(gpu=Gpu(name=NAME, driver="580"), before=OFF, after=OFF)
        return dataclasses.replace(found, contenders=contenders, findings=findings, gpu=gpu)

    return call


def said(*measurements: Measurement) -> list[str]:
    return [one.sentence() for one in merge_verdicts(measurements)]


def test_it_does_not_pay_at_one_batch_and_does_from_another(measure: Any) -> None:
    found = said(measure(64, 0.83, 0.85), measure(1, 1.03, 1.09), measure(8, 0.91, 0.93))

    assert found == [
        f"Merging does not pay at batch 1 on {NAME}; it pays from batch 8: 0.92 [0.91, 0.93] "
        "of plain"
    ]


@pytest.mark.parametrize(
    ("ratios", "words", "pays", "start"),
    [
        (((1.163, 1.184),), "does not pay at batch 1 on {}: 1.17 [1.16, 1.18]", False, None),
        # An interval that includes 1 shows no gain, nor does one that lies within one per cent.
        (((0.98, 1.01),), "does not pay at batch 1 on {}: 0.99 [0.98, 1.01] of plain", False, None),
        (((0.992, 0.996),), "does not pay at batch 1 on {}: 0.994 [0.992, 0.996]", False, None),
        (((0.91, 0.93),), "pays at batch 1 on {}: 0.92 [0.91, 0.93] of plain", True, 1),
        (
            ((0.91, 0.93), (0.8, 0.82)),
            "pays at batch 1 and 2 on {}: 0.92 [0.91, 0.93] and 0.81 [0.80, 0.82] of plain",
            True, 1,
        ),
        (
            ((0.8, 0.82), (1.1, 1.2)),
            "does not pay at batch 2 on {}: 1.15 [1.10, 1.20] of plain; it pays at batch 1: "
            "0.81 [0.80, 0.82] of plain",
            False, None,
        ),
        (
            ((0.8, 0.82), (1.1, 1.2), (0.9, 0.92)),
            "does not pay at batch 2 on {}; it pays at batch 1, and from batch 3: "
            "0.91 [0.90, 0.92] of plain",
            False, 3,
        ),
    ],
)  # fmt: skip
def test_every_pattern_has_its_words(
    ratios: tuple[tuple[float, float], ...], words: str, pays: bool, start: int | None, measure: Any
) -> None:
    (found,) = merge_verdicts([measure(n, *ratio) for n, ratio in enumerate(ratios, start=1)])

    assert words.format(NAME) in found.sentence()
    assert found.sentence().startswith("Merging ")
    assert (found.pays, found.pays_from) == (pays, start)


def test_an_interval_that_holds_a_gain_and_none_is_no_answer(measure: Any) -> None:
    wide = measure(8, 0.53, 1.21)
    (alone,) = merge_verdicts([wide])
    (both,) = merge_verdicts([measure(1, 1.03, 1.09), wide])

    assert (alone.pays, alone.pays_from, both.pays) == (None, None, False)
    assert alone.sentence() == (
        f"Whether merging pays on {NAME} is not known at batch 8: 0.87 [0.53, 1.21] of plain "
        "allows both, more rounds would tell"
    )
    assert both.sentence().startswith(f"Merging does not pay at batch 1 on {NAME}: ")
    assert "; not known at batch 8: 0.87 [0.53, 1.21] of plain" in both.sentence()


def test_noise_is_never_an_answer(measure: Any) -> None:
    spoiled = measure(64, 0.8, 0.82, findings=(NOISE,))
    (alone,) = merge_verdicts([spoiled])
    (both,) = merge_verdicts([measure(1, 0.9, 0.92), spoiled])

    assert (alone.pays, alone.pays_from, both.pays, both.pays_from) == (None, None, None, None)
    assert "is not known at batch 64" in alone.sentence()
    assert "0.8" not in alone.sentence()
    assert both.sentence().endswith("not known at batch 64, where the measurement is not valid")


def test_integers_are_named_beside_a_plain_model_without_them(measure: Any) -> None:
    (found,) = said(measure(1, 0.5, 0.52, precision="int8"))

    assert found.startswith("Merging with INT8 pays at batch 1")


def test_two_contenders_are_told_apart(measure: Any) -> None:
    first, second = said(measure(1, 0.9, 0.92, names=("a/model", "b/model")))

    assert first.startswith("a/model: Merging pays")
    assert second.startswith("b/model: Merging pays")


@pytest.mark.parametrize("changes", [{"merges": False}, {"against_plain": False}])
def test_what_does_not_merge_or_is_not_beside_the_plain_model_is_not_judged(
    changes: dict[str, bool], measure: Any
) -> None:
    assert said(measure(1, 1.1, 1.2, **changes)) == []


def test_json_and_page_say_it_too(measure: Any) -> None:
    found = measure(8, 1.163, 1.184)
    (stored,) = to_document(found)["merging"]
    page = render_report(report_of(found, title="x", again="again"))

    sentence = f"Merging does not pay at batch 8 on {NAME}: 1.17 [1.16, 1.18] of plain"
    assert (stored["sentence"], stored["pays"], stored["pays_from"]) == (sentence, False, None)
    assert f"{sentence}." in page


def test_batches_have_a_table_a_file_and_a_page(measure: Any, tmp_path: Any) -> None:
    found = [measure(1, 1.03, 1.09), measure(8, 0.91, 0.93)]
    path = tmp_path / "batches.json"
    write_batches(path, found)
    table = format_batches(found)
    page = render_report(report_of_batches(found, title="x", again="again"))

    document = json.loads(path.read_text())
    assert document == json.loads(json.dumps(batches_document(found)))
    assert document["valid"] is True
    assert [one["batch"] for one in document["measurements"]] == [1, 8]
    (verdict,) = document["merging"]
    assert (verdict["pays"], verdict["pays_from"]) == (False, 8)
    rows = [line.split() for line in table.splitlines() if line.strip()[:1].isdigit()]
    rows = [row for row in rows if "model" in row]
    assert [(row[0], row[1]) for row in rows] == [("1", "model"), ("8", "model")]
    assert "slower" in rows[0][-1]
    assert "faster" in rows[1][-1]
    assert all(len(line) <= 80 for line in table.splitlines())
    assert "it pays from batch 8: 0.92 [0.91, 0.93] of plain." in page
    assert "By batch size" in page
    with pytest.raises(UsageError):
        write_batches(path, found)
