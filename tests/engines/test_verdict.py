"""What a manifest says of the checks of an artefact and of those it was made from."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from engines.errors import ParityError
from engines.manifest import Manifest, Parent
from engines.verdict import failure_in, graph_as_parent, require_passed, verdict_of

PASSED: dict[str, Any] = {"rows": [{"stage": "onnx", "failures": []}]}
FAILED: dict[str, Any] = {
    "rows": [
        {"stage": "folded", "failures": []},
        {"stage": "onnx", "failures": ["logits that are not finite", "token audit 3, wanted 5"]},
        {"stage": "fp16", "failures": ["later"]},
    ]
}
WHY = "stage onnx: logits that are not finite; token audit 3, wanted 5"
GRAPH = Parent(role="graph", file="model.onnx", sha256="", verdict="passed")
FAILED_GRAPH = dataclasses.replace(GRAPH, verdict="failed", failure=WHY)
ROOT = dataclasses.replace(FAILED_GRAPH, file="a.onnx")


def manifest(parity: dict[str, Any] | None, *parents: Parent, file: str = "x.onnx") -> Manifest:
    return Manifest(
        kind="graph",
        file=file,
        inputs=(),
        outputs=(),
        precision="fp32",
        opset=20,
        target="cpu",
        weights="trained",
        parity=parity,
        parents=parents,
    )


@pytest.mark.parametrize(
    ("parity", "parents", "state", "file", "failure"),
    [
        (PASSED, (), "passed", "x.onnx", ""),
        (FAILED, (), "failed", "x.onnx", WHY),
        (None, (), "unchecked", "x.onnx", ""),
        ({"rows": []}, (), "unchecked", "x.onnx", ""),
        (PASSED, (GRAPH,), "passed", "x.onnx", ""),
        (PASSED, (FAILED_GRAPH,), "failed", "model.onnx", WHY),
        (PASSED, (dataclasses.replace(GRAPH, verdict="unchecked"),), "unchecked", "model.onnx", ""),
        (PASSED, (Parent(role="run", file="digits.pth", sha256=""),), "passed", "x.onnx", ""),
        # The root comes first: what is made of what failed cannot be right by itself.
        (FAILED, (GRAPH, ROOT), "failed", "a.onnx", WHY),
    ],
)
def test_the_checks_of_an_artefact_and_of_its_parents_decide(
    parity: dict[str, Any] | None, parents: tuple[Parent, ...], state: str, file: str, failure: str
) -> None:
    found = verdict_of(manifest(parity, *parents))
    assert (found.state, found.file, found.failure) == (state, file, failure)


def test_a_task_has_two_tables() -> None:
    assert failure_in({"reference": PASSED, "single": PASSED}) == ""
    assert failure_in({"reference": PASSED, "single": FAILED}) == WHY


def test_what_failed_is_refused_with_the_stage_and_the_way_on(tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    with pytest.raises(ParityError, match=r"x\.onnx failed its check: stage onnx: ") as caught:
        require_passed(path, manifest(FAILED))
    assert "--force-failed" in caught.value.fix
    assert "allow_failed=True" in caught.value.fix  # of engines.open
    assert "force_failed=True" in caught.value.fix  # of fpet_export's calls
    require_passed(path, manifest(FAILED), allow_failed=True)
    require_passed(path, manifest(PASSED))
    require_passed(path, manifest(None))
    with pytest.raises(ParityError, match=r"was made from model\.onnx, which failed its check"):
        require_passed(path, manifest(PASSED, FAILED_GRAPH))


@pytest.mark.parametrize(
    ("parity", "verdict"), [(PASSED, "passed"), (FAILED, "failed"), (None, "unchecked")]
)
def test_a_graph_hands_its_verdict_down(
    parity: dict[str, Any] | None, verdict: str, tmp_path: Path
) -> None:
    graph = tmp_path / "model.onnx"
    graph.write_bytes(b"graph")
    parent = graph_as_parent(graph, manifest(parity))
    assert (parent.role, parent.file, parent.verdict) == ("graph", "model.onnx", verdict)
    assert parent.failure == (WHY if verdict == "failed" else "")
    assert graph_as_parent(graph, None).verdict == "unchecked"
