"""The match of a rounded graph must follow from the keys that it compared, in every block."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from calibration.casts import cast_graph
from calibration.evaluator import GraphEvaluator, evaluator_for
from calibration.merge_evidence import Evidence, decided, evidence_of, unsupported
from engines.manifest import MergeStep, read_manifest
from engines.onnx_graph.files import Graph, Names, Node, read_graph
from tests.calibration.exports import DEPTH, Exports, images_of

IMAGES = images_of(12)
PRUNES = "diffrate:14-14,12-12,10-9"
"""Tokens are only pruned: nothing is searched for, and the match says which ones stay."""
BLOCKS = {"fpet@1": 1, "tome:r=2": 2, "diffrate:16-14,13-11,10-9": 2, PRUNES: 2}
"""Merges of a network of three blocks, and how many of them do something that is read."""


@pytest.fixture(scope="module", params=BLOCKS)
def merging(request: pytest.FixtureRequest, exports: Exports) -> tuple[Path, GraphEvaluator]:
    path = exports(merge=request.param)
    assert len(evidence_in(path)) == BLOCKS[request.param]
    return path, evaluator_for(path, read_manifest(path), IMAGES)


def evidence_in(path: Path) -> tuple[Evidence, ...]:
    model = read_manifest(path).model
    assert model is not None
    return evidence_of(read_graph(path), model)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_what_rounding_moved_is_explained(
    precision: str, merging: tuple[Path, GraphEvaluator]
) -> None:
    path, evaluator = merging
    graph = read_graph(path)
    cast_graph(graph, precision, io="fp32")  # type: ignore[arg-type]

    row = evaluator.row(precision, evaluator.outputs(graph, read_manifest(path)), precision)

    assert row.failures == ()
    assert row.unexplained_flips == 0
    assert row.same_partner is not None and row.explained_flips is not None
    assert (row.same_partner < 1) == (row.explained_flips > 0)


def negated(graph: Graph, node: Node) -> None:
    """The least similar token instead of the most similar one."""
    between(graph, node, ("Neg", ()))


def rounded(graph: Graph, node: Node) -> None:
    """Scores with two digits after the point: half precision where float32 is promised."""
    between(graph, node, ("Mul", (20.0,)), ("Round", ()), ("Div", (20.0,)))


def between(graph: Graph, node: Node, *operators: tuple[str, tuple[float, ...]]) -> None:
    names = Names(graph)
    for op, constants in operators:
        source, name = node.inputs[0], names.new(f"{node.name}/{op}")
        result = gs.Variable(name, dtype=source.dtype, shape=source.shape)
        others = [gs.Constant(names.new("c"), np.array(c, np.float32)) for c in constants]
        graph.layer(name=name, op=op, inputs=[source, *others], outputs=[result])
        node.inputs[0] = result
    graph.toposort()


@pytest.mark.parametrize("spoil", [negated, rounded])
@pytest.mark.parametrize("merge", [name for name in BLOCKS if name != PRUNES])
def test_another_search_fails_although_the_keys_were_rounded(
    merge: str, spoil: Callable[[Graph, Node], None], exports: Exports
) -> None:
    path = exports(merge=merge)
    evaluator = evaluator_for(path, read_manifest(path), IMAGES)
    graph = read_graph(path)
    cast_graph(graph, "fp16", io="fp32")
    last = [node for node in graph.nodes if node.op == "ArgMax"][-1]  # behind other merges
    spoil(graph, last)

    row = evaluator.row("int8", evaluator.outputs(graph, read_manifest(path)), "int8")

    assert row.unexplained_flips
    assert any("unexplained flip" in failure for failure in row.failures)


@pytest.mark.parametrize("merge", [name for name in BLOCKS if not name.startswith("fpet")])
def test_another_choice_of_tokens_fails(merge: str, exports: Exports) -> None:
    """The r least similar pairs, or the tokens that the class token attends to least."""
    path = exports(merge=merge)
    evaluator = evaluator_for(path, read_manifest(path), IMAGES)
    graph = read_graph(path)
    last = [node for node in graph.nodes if node.op == "Greater"][-1]
    last.inputs = last.inputs[::-1]

    row = evaluator.row("int8", evaluator.outputs(graph, read_manifest(path)), "int8")

    assert row.unexplained_flips is not None
    assert row.unexplained_flips > len(IMAGES)


def test_margins_are_those_of_the_merge_itself(merging: tuple[Path, GraphEvaluator]) -> None:
    """A decision that is won by more than rounding is the one that the graph made."""
    found = merging[1].reference.outputs
    assert found.margin is not None and found.match is not None
    assert found.margin.shape == found.match.shape
    assert (found.margin > -1e-5).all()
    assert (found.margin > 1e-5).mean() > 0.9


def test_the_best_of_two_sets_join() -> None:
    """Two of three sources, by hand: cosines 0.8 and 0.6, 1 and 0, 0.6 and 0.8."""
    found = {
        "s": np.array([[[9.0, 9.0], [0.8, 0.6], [2.0, 0.0], [0.3, 0.4]]]),
        "t": np.array([[[1.0, 0.0], [0.0, 5.0]]]),
    }
    step = MergeStep(block=0, before=6, merged=2, sources=3)

    match, margin = decided(Evidence(step, "s", "t", None), found, 1)

    assert match.tolist() == [[0, 0, -1]]
    assert margin[0, 0] == pytest.approx(0.0)  # as similar as the third, which may join as well
    assert margin[0, 1] == pytest.approx(0.2)
    all_join = MergeStep(block=0, before=6, merged=3, sources=3)
    match, margin = decided(Evidence(all_join, "s", "t", None), found, 1)
    assert match.tolist() == [[0, 0, 1]]
    assert margin.tolist() == [pytest.approx([0.2, 1.0, 0.2])]


def test_the_least_important_are_pruned_and_the_next_ones_join() -> None:
    found = {
        "x": np.array([[[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [1.0, 1.0]]]),
        "i": np.array([[3.0, 2.0, 1.5, 1.0]]),
    }
    found["y"] = found["x"].transpose(0, 2, 1)
    step = MergeStep(block=0, before=5, merged=1, sources=4, pruned=1, whole=False)

    match, margin = decided(Evidence(step, "x", "y", "i"), found, 1)
    alone, _ = decided(Evidence(step, None, None, "i"), found, 1)

    assert match.tolist() == [[0, 1, 1, -1]]
    assert margin.tolist() == [pytest.approx([1.5, 0.5, 0.2, 0.5])]
    assert alone.tolist() == [[0, 1, -1, -1]]


def test_a_tie_is_no_mistake() -> None:
    match, own = np.array([[0, 1]]), np.array([[1, 0]])

    assert unsupported(match, own, np.array([[1e-6, 1e-4]])).tolist() == [[False, True]]


def test_of_one_target_there_is_no_doubt() -> None:
    found = {"s": np.ones((1, 2, 3)), "t": np.ones((1, 3, 1))}
    step = MergeStep(block=0, before=4, merged=2, sources=2)

    assert np.isinf(decided(Evidence(step, "s", "t", None), found, 1)[1]).all()


def test_every_block_is_judged(exports: Exports) -> None:
    """Two blocks merge, and the second one's mistake is seen where the first differs, too."""
    path = exports(merge="tome:r=2")
    model = read_manifest(path).model
    assert model is not None and len(model.merges) == DEPTH - 1
    evaluator = evaluator_for(path, read_manifest(path), IMAGES)
    actual = evaluator.outputs(read_graph(path), read_manifest(path))
    assert actual.match is not None and actual.unsupported is not None
    assert actual.unsupported.shape == (len(IMAGES), sum(step.sources for step in model.merges))
