"""What a deployment says last: answers, accuracy and speed, and nothing that was not shown."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks.conditions.environment import read_environment
from benchmarks.conditions.validity import Finding, OtherLoad
from benchmarks.latency import Schedule
from benchmarks.measurement import Artefact, ContenderResult, Measurement
from benchmarks.paired_statistics import Comparison, LatencySummary, decide
from engines.parity.rows import ParityTable, StageParity
from fpet_export.cli.console import Console
from fpet_export.workflow import deployment_verdict

NOISE = Finding(severity="invalid", what="other programs used 50%", fix="close them")
AGAIN = "fpet-export bench out/cpu/model.cpu.onnx --against plain"


def row(stage: str, **changes: Any) -> StageParity:
    known: dict[str, Any] = {"largest_logit_difference": 3e-6, "relative": 1e-6, "sqnr_db": 120.0}
    return StageParity(**{"stage": stage, "images": 20, "agreement": 0.95, **known, **changes})


def table(*rows: StageParity) -> ParityTable:
    return ParityTable(images="20 images", reference="float64", rows=rows)


def measurement(*findings: Finding) -> Measurement:
    summary = LatencySummary(
        min_ns=1, p50_ns=1, p90_ns=1, p95_ns=1, p99_ns=1, mean_ns=1.0, cov=0.0, images_per_s=1.0
    )
    faster = Comparison(
        baseline="plain.cpu", ratio=0.735, low=0.72, high=0.75, confidence=0.95,
        speedup=1 / 0.735, verdict="faster",
    )  # fmt: skip
    artefact = Artefact(
        file="model.cpu.onnx", sha256="", precision="fp32", weights="trained", target="cpu"
    )
    plain, ours, peer = (
        ContenderResult(
            name=name, latency=summary, against=against, agreement=None, runtime={},
            artefact=artefact, samples_ns=(1,),
        )
        for name, against in (("plain.cpu", None), ("model.cpu", faster), ("torch_eager", faster))
    )  # fmt: skip
    place = read_environment(root=Path("/nonexistent"))
    return Measurement(
        baseline="plain.cpu", batch=1, findings=findings, schedule=Schedule(), rounds=40, absent=(),
        contenders=(plain, ours, dataclasses.replace(peer, artefact=None)), warmup_rounds=6,
        duration_ns=1, other_load=OtherLoad(foreign=0.0, steal=0.0),
        environment=dataclasses.replace(place, cpu="A CPU"),
    )  # fmt: skip


def verdict(
    rows: ParityTable, *measurements: Measurement, unmeasured: str = "", **not_run: str
) -> deployment_verdict.Verdict:
    return deployment_verdict.of_deployment(
        rows, measurements, not_run=not_run, again=AGAIN, unmeasured=unmeasured
    )


GOOD = table(row("checkpoint f32", accuracy=0.85), row("cpu onnx"), row("cpu engine", accuracy=0.8))


def test_everything_that_was_shown_is_said() -> None:
    found = verdict(GOOD, measurement())

    assert found.answers.text == (
        "equal within the gates: cpu engine gives the same class on 19 of 20 images, "
        "largest logit difference 3.0e-06"
    )
    assert found.accuracy.text == (
        "80.0% on 20 labelled images (cpu engine), 85.0% before the export (checkpoint f32)"
    )
    (speed,) = found.speed  # a peer is none of ours
    assert speed.text == (
        "model.cpu: 1.36x faster against plain.cpu, ratio 0.735 [0.720, 0.750] "
        "(batch 1, on A CPU (CPU))"
    )
    assert (found.answers.good, found.accuracy.good, speed.good) == (True, True, True)


def test_a_noisy_measurement_is_no_speed_but_a_command() -> None:
    (speed,) = verdict(GOOD, measurement(NOISE)).speed

    assert (speed.text, speed.measure) == ("not known: other programs used 50%", AGAIN)
    assert speed.measure == AGAIN
    assert speed.good is None
    assert not re.search(r"faster|1\.36|0\.735", str(verdict(GOOD, measurement(NOISE)).to_json()))


def test_a_drift_is_not_called_equal() -> None:
    drifted = table(row("folded"), row("cpu onnx", failures=("relative difference 0.3",)))

    found = verdict(drifted, unmeasured="the answers are not equal")

    assert found.answers.text == "not equal: cpu onnx drifts, relative difference 0.3"
    assert found.answers.good is False
    assert found.speed[0].text == "not known: the answers are not equal"


def test_what_did_not_run_and_what_nobody_knows_is_said() -> None:
    found = verdict(table(row("rtx onnx")), rtx="no GPU", unmeasured="nothing runs here")

    assert found.answers.text.endswith("; the rtx engine was not run: no GPU")
    assert found.answers.good is None
    assert found.accuracy.text == "not known: the images have no labels"
    assert found.speed[0].text == "not known: nothing runs here"


def test_it_is_printed_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    verdict(GOOD, measurement(NOISE)).show(Console())

    *lines, command = (line for line in capsys.readouterr().err.splitlines() if line)
    marked = [line[1:13].strip() for line in lines if line[1:2].strip()]
    assert marked == ["✓ answers", "✓ accuracy", "! speed"]
    assert command == f"   measure again: {AGAIN}"  # whole, to be pasted


def test_a_folder_with_a_space_can_be_pasted() -> None:
    command = deployment_verdict.bench_command([Path("my out/a.onnx")], "--remote orin1")

    assert command == "fpet-export bench 'my out/a.onnx' --against plain --remote orin1"


@pytest.mark.parametrize(
    ("low", "high", "good", "words"),
    [
        (0.72, 0.75, True, "Merging pays at batch 1 on A CPU: 0.73 [0.72, 0.75] of plain"),
        (1.16, 1.19, False, "Merging does not pay at batch 1 on A CPU: 1.17 [1.16, 1.19] of plain"),
        (0.97, 1.02, False, "Merging does not pay at batch 1 on A CPU: 0.99 [0.97, 1.02] of plain"),
    ],
)
def test_it_says_whether_merging_pays_and_how_to_find_the_batch(
    low: float, high: float, good: bool, words: str
) -> None:
    one = measurement()
    ours = one.result("model.cpu")
    assert ours.artefact is not None
    assert ours.against is not None
    against = dataclasses.replace(
        ours.against, ratio=(low + high) / 2 - 1e-4, low=low, high=high,
        verdict=decide(low, high, margin=0.01),
    )  # fmt: skip
    ours = dataclasses.replace(
        ours, against=against, artefact=dataclasses.replace(ours.artefact, merges=True)
    )
    found = dataclasses.replace(one, plain="plain.cpu", contenders=(one.contenders[0], ours))
    said = deployment_verdict.of_deployment(
        GOOD, [found], not_run={}, again=AGAIN, hint="export --batch dyn:1-64"
    )

    (merging,) = said.merging
    assert (merging.text, merging.good) == (words, good)
    assert merging.measure == ("" if good else "export --batch dyn:1-64")
    assert ("merging", merging) in said.lines()
    spoiled = dataclasses.replace(found, findings=(NOISE,))
    assert deployment_verdict.of_deployment(GOOD, [spoiled], not_run={}, again=AGAIN).merging == ()
