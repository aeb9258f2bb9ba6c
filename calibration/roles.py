"""What the nodes of an exported graph are: linears and attentions of blocks, found by structure.

A site is a tensor that may be quantized. It is named by what it is for ("blocks/3/fc2/input"),
not by the exporter's tensor name, so that a policy reads well and a table outlives an exporter.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import onnx_graphsurgeon as gs

from engines.errors import InputError
from engines.onnx_graph.files import Graph, Node, Tensor, block_of, module_path

LINEARS = ("qkv", "query", "key_value", "proj", "fc1", "fc2")
"""Last parts of the module paths of a block's linears; the last block may split qkv."""


@dataclasses.dataclass(frozen=True, eq=False)
class Linear:
    """One linear layer of a block.

    Attributes:
        name: Its module, as "blocks/3/fc1".
        block: Index of its block.
        product: The MatMul; its first input is the activation, its second the (in, out) weight.
    """

    name: str
    block: int
    product: Node

    @property
    def kind(self) -> str:
        """The last part of the name, one of `LINEARS`."""
        return self.name.rpartition("/")[2]

    @property
    def activation(self) -> Tensor:
        """The tensor that is multiplied."""
        return self.product.inputs[0]

    @property
    def weight(self) -> Tensor:
        """The constant (in, out)."""
        return self.product.inputs[1]


@dataclasses.dataclass(frozen=True, eq=False)
class Attention:
    """The two products of one block's attention.

    Attributes:
        name: Its module, as "blocks/3/attn".
        block: Index of its block.
        scores: MatMul of q and transposed k.
        softmax: Between the two.
        mix: MatMul of the probabilities and v.
    """

    name: str
    block: int
    scores: Node
    softmax: Node
    mix: Node

    def tensors(self) -> dict[str, Tensor]:
        """Return the four tensors that are multiplied, by role."""
        return {
            "q": self.scores.inputs[0],
            "k": self.scores.inputs[1],
            "probabilities": self.mix.inputs[0],
            "v": self.mix.inputs[1],
        }


@dataclasses.dataclass(frozen=True)
class Site:
    """A tensor that may be quantized.

    Attributes:
        name: What it is for.
        tensor: Its name in the graph.
        kind: "input" of a linear, or "q", "k", "v" or "probabilities" of an attention.
        consumer: The linear or attention that multiplies it.
    """

    name: str
    tensor: str
    kind: Literal["input", "q", "k", "v", "probabilities"]
    consumer: str


def linears(graph: Graph) -> list[Linear]:
    """Return the linears of all blocks, in the graph's order."""
    found = []
    for node in graph.nodes:
        path = module_path(node)
        block = block_of(path)
        if node.op != "MatMul" or block is None or path.rpartition("/")[2] not in LINEARS:
            continue
        if "/merge/" not in path and weight_of(node) is not None:
            found.append(Linear(path, block, node))
    return found


def attentions(graph: Graph) -> list[Attention]:
    """Return the attentions of all blocks, in the graph's order."""
    found = []
    for node in graph.nodes:
        block = block_of(node.name)
        if node.op != "Softmax" or block is None:
            continue
        mix = node.outputs[0].outputs[0]
        scores = node.inputs[0].inputs[0]
        if scores.op == "Add":  # the key bias
            scores = next(t.inputs[0] for t in scores.inputs if t.inputs and _is_scores(t))
        found.append(Attention(module_path(node), block, scores, node, mix))
    return found


def sites(graph: Graph) -> list[Site]:
    """Return every tensor that a policy may quantize; one that two linears share comes once.

    Raises:
        InputError: The graph has no linear of a block: it was not exported by this toolkit.
    """
    found: dict[str, Site] = {}
    for linear in linears(graph):
        tensor = linear.activation.name
        found.setdefault(tensor, Site(f"{linear.name}/input", tensor, "input", linear.name))
    if not found:
        raise InputError(
            "there is no linear layer of a block in this graph",
            where="the graph",
            fix="quantize a graph that `fpet-export export` wrote",
        )
    for attention in attentions(graph):
        for role, variable in attention.tensors().items():
            site = Site(f"{attention.name}/{role}", variable.name, role, attention.name)  # type: ignore[arg-type]  # keys of a literal dict
            found.setdefault(variable.name, site)
    return list(found.values())


def weight_of(product: Node) -> Tensor | None:
    """Return the constant weight of a MatMul, or None for a product of two activations."""
    second = product.inputs[1]
    return second if isinstance(second, gs.Constant) else None


def _is_scores(tensor: Tensor) -> bool:
    return bool(tensor.inputs[0].op == "MatMul")
