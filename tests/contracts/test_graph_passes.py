"""Every graph pass: what it needs, what it leaves, and that `holds` sees a broken promise."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from engines import registry
from engines.errors import ExportError
from fpet_export.graph import passes
from fpet_export.graph.passes import (
    fit_opset,
    keep_static,
    name_probes,
    name_tensors,
    name_weights,
    share_constants,
)


def variable(name: str, *shape: int) -> Any:
    return gs.Variable(name, dtype=np.float32, shape=shape)


def chain(*operators: str, constants: dict[str, np.ndarray] | None = None) -> Any:
    """A graph in which each operator reads the one before it, plus a constant where given."""
    nodes, now = [], variable("images", 1, 4)
    first = now
    for index, operator in enumerate(operators):
        out = variable(f"value_{index}", 1, 4)
        inputs = [now]
        name = f"blocks/{index}/{operator}"
        if constants and operator in constants:
            inputs.append(gs.Constant(f"val_{index}", constants[operator]))
        nodes.append(gs.Node(operator, name=name, inputs=inputs, outputs=[out]))
        now = out
    return gs.Graph(nodes=nodes, inputs=[first], outputs=[now], opset=20)


def test_every_pass_runs_in_the_stated_order() -> None:
    assert sorted(passes.ORDER) == registry.available(passes)
    assert passes.ORDER[-1] == "keep_static"


def test_a_clean_graph_passes_all() -> None:
    assert passes.run(chain("ArgMax", "Relu", "Log")) == {
        "fit_opset": 0,
        "name_weights": 0,
        "name_tensors": 2,
        "name_probes": 2,
        "share_constants": 0,
        "keep_static": 0,
    }


@pytest.mark.parametrize("operator", sorted(keep_static.FORBIDDEN))
def test_a_forbidden_operator_stops_the_export(operator: str) -> None:
    graph = chain("Relu", operator)

    assert keep_static.apply(graph) == 0
    assert operator in str(keep_static.holds(graph))
    with pytest.raises(ExportError, match=operator) as caught:
        passes.run(graph)
    assert caught.value.exit_code == 5


def test_an_operator_of_a_foreign_domain_stops_the_export() -> None:
    graph = chain("Relu")
    graph.nodes[0].domain = "com.microsoft"

    assert "com.microsoft" in str(keep_static.holds(graph))
    assert keep_static.holds(chain("Relu", "Add")) is None


def of_opset(opset: int, operator: str, *constants: list[int], parts: int = 1, **attrs: Any) -> Any:
    """A graph of one node that reads (1, 4) and some constants."""
    images = variable("images", 1, 4)
    outputs = [variable(f"part_{index}", 1, 4 // parts) for index in range(parts)]
    inputs = [gs.Constant(f"c_{i}", np.array(value)) for i, value in enumerate(constants)]
    node = gs.Node(
        operator, name="blocks/0/only", inputs=[images, *inputs], outputs=outputs, attrs=attrs
    )
    return gs.Graph(nodes=[node], inputs=[images], outputs=outputs, opset=opset)


@pytest.mark.parametrize("operator", ["ReduceMax", "ReduceMean", "ReduceProd"])
def test_the_axes_of_a_reduction_are_an_attribute_before_opset_18(operator: str) -> None:
    graph = of_opset(17, operator, [-1, 1], keepdims=0, noop_with_empty_axes=0)
    assert "has 2 inputs" in str(fit_opset.holds(graph))

    assert fit_opset.apply(graph) == 1

    assert fit_opset.holds(graph) is None
    (node,) = graph.nodes
    assert node.attrs == {"axes": [-1, 1], "keepdims": 0}
    assert len(node.inputs) == 1


@pytest.mark.parametrize(("opset", "operator"), [(18, "ReduceMax"), (17, "ReduceSum")])
def test_axes_stay_an_input_where_the_opset_has_them_so(opset: int, operator: str) -> None:
    graph = of_opset(opset, operator, [1])

    assert fit_opset.apply(graph) == 0
    assert fit_opset.holds(graph) is None
    assert len(graph.nodes[0].inputs) == 2


@pytest.mark.parametrize("spoil", ["computed", "no-operation"])
def test_axes_that_opset_17_cannot_say_are_refused(spoil: str) -> None:
    graph = of_opset(17, "ReduceMax", [1], noop_with_empty_axes=int(spoil == "no-operation"))
    if spoil == "computed":
        graph.nodes[0].inputs[1] = gs.Variable("axes", dtype=np.int64, shape=(1,))

    assert fit_opset.apply(graph) == 0
    assert "ReduceMax" in str(fit_opset.holds(graph))


def test_a_split_states_its_sizes_before_opset_18() -> None:
    graph = of_opset(17, "Split", parts=2, axis=1, num_outputs=2)
    assert "num_outputs" in str(fit_opset.holds(graph))

    assert fit_opset.apply(graph) == 1

    assert fit_opset.holds(graph) is None
    (node,) = graph.nodes
    assert node.attrs == {"axis": 1}
    assert node.inputs[1].values.tolist() == [2, 2]


def test_a_split_of_unknown_extents_is_refused() -> None:
    graph = of_opset(17, "Split", parts=2, axis=1, num_outputs=2)
    graph.nodes[0].outputs[0].shape = (1, "tokens")

    assert fit_opset.apply(graph) == 0
    assert "num_outputs" in str(fit_opset.holds(graph))


def test_an_operator_of_a_later_opset_is_refused() -> None:
    assert fit_opset.holds(of_opset(19, "Gelu")) == (
        "blocks/0/only is a Gelu, which opset 19 does not have"
    )
    assert fit_opset.holds(of_opset(20, "Gelu")) is None


def test_probes_get_their_names() -> None:
    graph = chain("ArgMax", "Relu", "Log", "Relu")
    assert name_probes.holds(graph) is not None

    assert name_probes.apply(graph) == 2

    assert name_probes.holds(graph) is None
    assert graph.nodes[0].outputs[0].name == "match"
    assert graph.nodes[2].inputs[0].name == "size"


def test_a_graph_without_a_merge_has_no_probes() -> None:
    graph = chain("Relu")

    assert name_probes.apply(graph) == 0
    assert name_probes.holds(graph) is None
    graph.nodes[0].outputs[0].name = "match"
    assert "match" in str(name_probes.holds(graph))


def test_the_matches_of_several_blocks_are_named_by_block() -> None:
    graph = chain("ArgMax", "Relu", "ArgMax", "Log", "Relu", "Log")
    searches = [node for node in graph.nodes if node.op == "ArgMax"]
    for node, block in zip(searches, (3, 5), strict=True):
        node.name = f"blocks/{block}/merge/ArgMax"
    name_probes.apply(graph)

    assert name_probes.holds(graph) is None
    assert {"match.3", "match.5", "size"} <= set(graph.tensors())
    assert graph.nodes[-1].inputs[0].name == "size"


def test_two_searches_of_one_block_cannot_be_named() -> None:
    graph = chain("ArgMax", "Relu", "ArgMax")
    for node in graph.nodes:
        node.name = f"blocks/3/merge/{node.op}"
    name_probes.apply(graph)

    assert "2 decisions in 1 blocks" in str(name_probes.holds(graph))


def test_weights_get_the_name_of_their_module() -> None:
    graph = chain("MatMul", "Add", constants={"MatMul": np.ones((30, 10), np.float32)})
    assert "val_0" in str(name_weights.holds(graph))

    assert name_weights.apply(graph) == 1

    assert name_weights.holds(graph) is None
    assert graph.nodes[0].inputs[1].name == "blocks.0.weight"


def test_two_weights_of_one_module_keep_apart() -> None:
    graph = chain("MatMul", constants={"MatMul": np.ones((30, 10), np.float32)})
    second = gs.Constant("val_9", np.zeros((30, 10), np.float32))
    graph.nodes[0].inputs.append(second)

    name_weights.apply(graph)

    names = [tensor.name for tensor in graph.nodes[0].inputs[1:]]
    assert names == ["blocks.0.weight", "blocks.0.weight_2"]
    assert name_weights.holds(graph) is None


def test_tensors_are_named_after_their_nodes() -> None:
    graph = chain("MatMul", "Clip", "Relu", constants={"Clip": np.ones(1, np.float32)})
    graph.nodes[0].inputs.append(gs.Constant("blocks.0.weight", np.ones((4, 4), np.float32)))
    graph.nodes[2].inputs.append(graph.nodes[1].inputs[1])
    assert "value_0 is made by blocks/0/MatMul" in str(name_tensors.holds(graph))

    assert name_tensors.apply(graph) == 3

    assert name_tensors.holds(graph) is None
    assert sorted(graph.tensors()) == [
        "blocks.0.weight",
        "blocks/0/MatMul_output_0",
        "blocks/1/Clip_input_1",
        "blocks/1/Clip_output_0",
        "images",
        "value_2",
    ]


def test_what_an_audit_reads_may_keep_its_name() -> None:
    graph = chain("ArgMax", "Relu", "Log")
    name_tensors.apply(graph)
    name_probes.apply(graph)

    assert name_tensors.holds(graph) is None


def test_small_constants_keep_their_names() -> None:
    graph = chain("MatMul", constants={"MatMul": np.ones(name_weights.LARGE, np.float32)})

    assert name_weights.apply(graph) == 0
    assert name_weights.holds(graph) is None


def twins(second: np.ndarray) -> Any:
    graph = chain("Add", "Mul", constants={"Add": np.ones(4, np.float32)})
    graph.nodes[1].inputs.append(gs.Constant("other", second))
    return graph


def test_equal_constants_become_one() -> None:
    graph = twins(np.ones(4, np.float32))
    assert share_constants.holds(graph) is not None

    assert share_constants.apply(graph) == 1

    assert share_constants.holds(graph) is None
    assert graph.nodes[0].inputs[1] is graph.nodes[1].inputs[1]


@pytest.mark.parametrize(
    "second",
    [np.zeros(4, np.float32), np.ones((1, 4), np.float32), np.ones(4, np.int64)],
    ids=["values", "shape", "type"],
)
def test_constants_that_differ_in_anything_stay_apart(second: np.ndarray) -> None:
    graph = twins(second)

    assert share_constants.apply(graph) == 0
    assert graph.nodes[0].inputs[1] is not graph.nodes[1].inputs[1]


def test_a_named_weight_is_never_shared() -> None:
    graph = twins(np.ones(4, np.float32))
    graph.nodes[1].inputs[1].name = "blocks.1.norm.weight"

    assert share_constants.apply(graph) == 0


@pytest.mark.parametrize("name", passes.ORDER)
def test_running_a_pass_again_changes_nothing(name: str) -> None:
    graph = chain(
        "MatMul", "ArgMax", "Relu", "Log", constants={"MatMul": np.ones((30, 10), np.float32)}
    )
    entry = registry.load(passes, name)
    entry.apply(graph)
    before = [(n.op, [t.name for t in n.inputs]) for n in graph.nodes]

    entry.apply(graph)

    assert [(n.op, [t.name for t in n.inputs]) for n in graph.nodes] == before
    assert entry.holds(graph) is None
