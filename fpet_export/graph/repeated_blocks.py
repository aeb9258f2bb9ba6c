"""Blocks of one kind are traced once, and their nodes repeated with the weights of each.

Tracing takes time for every operator of a network, and the blocks of a ViT are alike: up to a
merge, and again behind it, all run the same operators on tensors of the same shapes. So the
exporter sees a network with the last block of each such stretch; its nodes are repeated for the
blocks before it while the graph is as it was traced. From there on it is the graph of a trace of
the whole network, and everything that looks at values sees those of each block.
"""

from __future__ import annotations

import ast
import copy
from collections import Counter
from collections.abc import Iterable
from typing import cast

import onnx_ir
from onnx_ir.tensor_adapters import TorchTensor
from torch import nn

from engines.errors import ExportError
from fpet_export.graph.freeze import FrozenBlock, FrozenVit
from fpet_export.graph.structure import held_by, structure_of

SCOPES = "pkg.torch.onnx.name_scopes"
"""Where the exporter notes the modules that a node comes from, the outermost first."""


def traced_blocks(module: FrozenVit) -> tuple[int, ...]:
    """Return for each block the one whose trace serves it: itself, or the last of those alike.

    Blocks are alike where they hold the same but for the values of their weights, and read the
    same: as many tokens, turned by the same table. A block that merges, or that shares a tensor
    with another module, is traced itself.
    """
    uses = Counter(map(id, held_by(module).values()))
    blocks = [cast(FrozenBlock, block) for block in module.blocks]
    tables = [None] * len(blocks) if module.turns is None else module.turns.at
    kinds: list[object] = []
    merged = False
    for block, entering, table in zip(
        blocks, (module.spec.tokens, *module.tokens), tables, strict=False
    ):
        own = block.merge is not None or any(uses[id(one)] > 1 for one in held_by(block).values())
        structure = None if own else structure_of(block)
        kinds.append(structure and (structure, merged, entering, table))
        merged = merged or block.merge is not None
    traced = list(range(len(blocks)))
    for index in reversed(traced[:-1]):
        if kinds[index] is not None and kinds[index] == kinds[index + 1]:
            traced[index] = traced[index + 1]
    return tuple(traced)


def shortened(module: FrozenVit, traced: tuple[int, ...]) -> FrozenVit:
    """Return a module of the traced blocks alone, which keep their names and their weights."""
    short = copy.copy(module)
    short._modules = dict(module._modules)
    short.blocks = nn.ModuleList()
    for index in sorted(set(traced)):
        short.blocks.add_module(str(index), module.blocks[index])
    return short.eval()


def repeated(model: onnx_ir.Model, module: FrozenVit, traced: tuple[int, ...]) -> onnx_ir.Model:
    """Return a graph of all blocks.

    Args:
        model: Of the shortened module, as it was traced; it is the same afterwards.
        module: With all blocks.
        traced: From `traced_blocks`.

    Raises:
        ExportError: A traced block takes more than one tensor of tokens, or none.
    """
    whole = model.clone()
    for last in sorted(set(traced)):
        others = [index for index, one in enumerate(traced) if one == last != index]
        if others:
            _repeat(whole.graph, module, others, last)
    _sort_weights(whole.graph, module)
    return whole


def _repeat(graph: onnx_ir.Graph, module: FrozenVit, others: Iterable[int], last: int) -> None:
    nodes = [node for node in graph if f"blocks.{last}" in _scopes(node)]
    entering, leaving = _ends(nodes, (module.tokens[last], module.spec.width), last)
    tokens = entering
    for index in others:
        values = {entering: tokens, **_weights(graph, module, index, last)}
        graph.insert_before(nodes[0], [_copied(node, values, index, last) for node in nodes])
        tokens = values[leaving]
    for use in entering.uses():
        if use.node in nodes:
            use.node.replace_input_with(use.idx, tokens)


def _ends(
    nodes: list[onnx_ir.Node], shape: tuple[int, int], block: int
) -> tuple[onnx_ir.Value, onnx_ir.Value]:
    """Return the tokens (B, N, C) that enter a block, and those that leave it."""
    made = {value: None for node in nodes for value in node.outputs}
    read = {value: None for node in nodes for value in node.inputs if value is not None}
    own = set(nodes)
    ends = (
        [value for value in read if value not in made],
        [value for value in made if any(use.node not in own for use in value.uses())],
    )
    found = [[value for value in values if _is_tokens(value, shape)] for values in ends]
    if [len(values) for values in found] != [1, 1]:
        names = [[value.name for value in values] for values in found]
        raise ExportError(
            f"block {block} of the graph reads and leaves {names[0]} and {names[1]}, wanted is one "
            "tensor of tokens each",
            where="fpet_export/graph/repeated_blocks.py",
            fix="report this with the versions of torch, onnx and onnxscript",
        )
    return found[0][0], found[1][0]


def _is_tokens(value: onnx_ir.Value, shape: tuple[int, int]) -> bool:
    is_weight = value.is_initializer()
    return not is_weight and value.shape is not None and tuple(value.shape)[1:] == shape


def _weights(
    graph: onnx_ir.Graph, module: FrozenVit, index: int, last: int
) -> dict[onnx_ir.Value, onnx_ir.Value]:
    """Add the weights of a block; return them by those of the traced one."""
    held = held_by(module)
    found: dict[onnx_ir.Value, onnx_ir.Value] = {}
    for name, value in list(graph.initializers.items()):
        if name.startswith(f"blocks.{last}."):
            own = name.replace(f"blocks.{last}.", f"blocks.{index}.", 1)
            tensor = TorchTensor(held[own], name=own)
            found[value] = onnx_ir.Value(
                name=own, shape=value.shape, type=value.type, const_value=tensor
            )
            graph.register_initializer(found[value])
    return found


def _sort_weights(graph: onnx_ir.Graph, module: FrozenVit) -> None:
    """Put weights in the module's order: of those that are equal, the first stays."""
    place = {name: index for index, name in enumerate(held_by(module))}
    ordered = sorted(graph.initializers.items(), key=lambda item: place.get(item[0], len(place)))
    graph.initializers.clear()
    graph.initializers.update(ordered)


def _copied(
    node: onnx_ir.Node, values: dict[onnx_ir.Value, onnx_ir.Value], index: int, last: int
) -> onnx_ir.Node:
    """Return a node of another block, and add to `values` what it makes."""
    scopes = [
        f"blocks.{index}{scope.removeprefix(f'blocks.{last}')}"
        if scope == f"blocks.{last}" or scope.startswith(f"blocks.{last}.")
        else scope
        for scope in _scopes(node)
    ]
    made = onnx_ir.Node(
        node.domain,
        node.op_type,
        [value and values.get(value, value) for value in node.inputs],
        node.attributes,
        overload=node.overload,
        num_outputs=len(node.outputs),
        version=node.version,
        metadata_props={SCOPES: repr(scopes)},
    )
    for own, new in zip(node.outputs, made.outputs, strict=True):
        new.shape, new.type = own.shape, own.type
        values[own] = new
    return made


def _scopes(node: onnx_ir.Node) -> list[str]:
    found: list[str] = ast.literal_eval(node.metadata_props.get(SCOPES, "[]"))
    return found
