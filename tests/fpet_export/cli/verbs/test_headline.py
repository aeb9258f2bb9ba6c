"""The sentence on top of a deployment's page, in every situation."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from benchmarks.measurement import Measurement
from benchmarks.paired_statistics import Verdict
from engines.imaging.class_names import BY_ORDER
from engines.parity.rows import ParityTable
from fpet_export.workflow import headline
from fpet_export.workflow.deployed import DeployedTarget
from tests.fpet_export.cli.verbs.test_verdict import GOOD, NOISE, measurement, row, table


def built(target: str = "cpu", **changes: Any) -> DeployedTarget:
    known: dict[str, Any] = {
        "graph": Path("out") / target / "model.onnx",
        "typed": Path("out") / target / "model.onnx",
        "engine": Path("out") / target / f"model.{target}.onnx",
        "rows": (),
        "runs_here": True,
        "row": row(f"{target} engine", agreement=1.0, accuracy=0.85),
    }
    return DeployedTarget(**{"target": target, **known, **changes})


RTX = built("rtx", row=None, runs_here=False, not_run="there is no usable CUDA device")


def sentence(
    *engines: DeployedTarget, rows: ParityTable = GOOD, found: tuple[Measurement, ...] | None = None
) -> str:
    return headline.sentence(
        rows, engines or (built(),), (measurement(),) if found is None else found
    )


def judged(ratio: float, verdict: Verdict) -> Measurement:
    """Return a measurement of the engine with this outcome."""
    one = measurement()
    return dataclasses.replace(
        one,
        contenders=tuple(
            result
            if result.against is None
            else dataclasses.replace(
                result,
                against=dataclasses.replace(
                    result.against, ratio=ratio, speedup=1 / ratio, verdict=verdict
                ),
            )
            for result in one.contenders
        ),
    )


def test_everything_is_well() -> None:
    assert sentence() == (
        "The cpu engine gives the same class as the fine-tuned model on all 20 images, keeps its "
        "accuracy (85.0%) and is 1.36x faster than the same ViT without merging on A CPU (CPU)."
    )


def test_other_answers_and_another_accuracy_are_said_with_both_numbers() -> None:
    one = built(row=row("cpu engine", agreement=0.95, accuracy=0.8))

    assert sentence(one).startswith(
        "The cpu engine gives the same class as the fine-tuned model on 19 of 20 images, has an "
        "accuracy of 80.0% (85.0% before) and is 1.36x faster"
    )


def test_an_accuracy_by_the_order_of_folders_is_not_called_kept() -> None:
    said = sentence(rows=dataclasses.replace(GOOD, labels=BY_ORDER["folders"]))

    assert "has an accuracy of 85.0% which may be wrong (labels by folder order)" in said
    assert "keeps" not in said


def test_without_labels_no_accuracy_is_said() -> None:
    one = built(row=row("cpu engine", agreement=1.0))

    assert "accuracy" not in sentence(one)
    assert "on all 20 images and is 1.36x faster" in sentence(one)


@pytest.mark.parametrize("found", [(), (measurement(NOISE),)])
def test_a_speed_that_is_not_known_has_no_factor(found: tuple[Measurement, ...]) -> None:
    said = sentence(found=found)

    assert said.endswith("keeps its accuracy (85.0%), but its speed is not known.")
    assert "faster" not in said


@pytest.mark.parametrize(
    ("ratio", "verdict", "end"),
    [
        (1.25, "slower", ", but is 1.25x slower than the same ViT without merging on A CPU (CPU)."),
        (
            0.995,
            "no difference shown",
            ", but shows no difference in speed to the same ViT without merging on A CPU (CPU).",
        ),
    ],
)
def test_bad_news_about_speed_begins_with_but(ratio: float, verdict: Verdict, end: str) -> None:
    assert sentence(found=(judged(ratio, verdict),)).endswith(f"(85.0%){end}")


def test_failed_parity_is_all_that_is_said() -> None:
    drifted = table(row("folded"), row("cpu onnx", failures=("relative difference 0.3",)))

    assert sentence(rows=drifted) == (
        "The answers are not equal: cpu onnx drifts from the reference (relative difference 0.3). "
        "Do not use what was built."
    )


def test_an_engine_that_did_not_run_is_named_and_lends_no_number() -> None:
    said = sentence(RTX, built())

    assert said.startswith("The cpu engine gives")
    assert said.endswith("; the rtx engine was built, not run.")


def test_where_no_engine_ran_the_graph_is_meant() -> None:
    rows = table(row("checkpoint f32", accuracy=0.85), row("rtx onnx", agreement=1, accuracy=0.85))

    assert sentence(RTX, rows=rows, found=()) == (
        "The graph gives the same class as the fine-tuned model on all 20 images and keeps its "
        "accuracy (85.0%), but its speed is not known; the rtx engine was built, not run."
    )


def test_a_board_compares_its_engine_with_the_graph() -> None:
    there = built(runs_here=False, row=row("cpu on orin1", agreement=1.0))

    assert "gives the same class as its graph on all 20 images" in sentence(there)


def test_the_speed_is_that_of_the_engine_which_is_named() -> None:
    other = built("openvino")

    assert "but its speed is not known" in sentence(other)
    assert "is 1.36x faster" in sentence(built(), other)


def test_a_gpu_is_named_where_it_ran() -> None:
    from benchmarks.conditions.gpu_state import Gpu
    from benchmarks.report.speed_words import measured_on

    one = measurement()
    result = dataclasses.replace(one.contenders[1], runtime={"compute_capability": "9.0"})
    with_gpu = dataclasses.replace(
        one, environment=dataclasses.replace(
            one.environment, gpus=(Gpu(name="NVIDIA H100", driver="570"),)
        ),
    )  # fmt: skip
    on_board = dataclasses.replace(
        one, environment=dataclasses.replace(one.environment, board="Jetson Orin Nano")
    )

    assert measured_on(with_gpu, result) == "NVIDIA H100 (GPU)"
    assert measured_on(on_board, result) == "Jetson Orin Nano (GPU)"
    assert measured_on(one, result) == "an unnamed one (GPU)"
    cpu = dataclasses.replace(result, runtime={"provider": "cpu", "threads": "1"})
    assert measured_on(with_gpu, cpu) == "A CPU (CPU, 1 thread)"
