"""A primitive ONNX graph as a torch module whose attention is one operator.

The graph stays the only source of an engine's weights and types: what was exported, typed and
checked is what is compiled, also in half precision. The graphs of this toolkit hold about forty
operators (`_torch_operators.py`); another one is refused, nothing is approximated.

Two things are written differently, both exact up to rounding:

* MatMul, an optional additive bias, Softmax and MatMul become `scaled_dot_product_attention` with
  scale 1 (the scale sits in the graph's weights or products already). Its mask, which all blocks
  behind a merge share, lies in rows whose length is a multiple of 8, once: with 99 keys PyTorch's
  kernels would each copy it, or not be reached.
* MatMul with constant weights and an Add of a constant bias become one linear layer, whose weights
  lie as PyTorch's do.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from torch import nn

from engines.backends._aoti.operators import OPERATORS, Node, Values, tensor
from engines.errors import InputError

ALIGNED = 8
"""Elements that the strides of a mask are multiples of; see `aligned`."""

_ATTENTION, _LINEAR = "fused attention", "fused linear"


class OnnxModule(nn.Module):
    """Runs the nodes of a graph in their order.

    Attributes:
        attentions: How many attentions are one operator.
        linears: How many products with constant weights are linear layers.
    """

    def __init__(self, path: Path) -> None:
        """Read a graph and its weights.

        Raises:
            InputError: It has an operator, or a form of one, that is not known here.
        """
        super().__init__()
        model = onnx.load(str(path))  # with external weights, which lie beside it
        graph = model.graph
        self._where = str(path)
        self._constants: dict[str, Any] = {}
        self._buffers_of: dict[str, str] = {}
        self._registered = 0
        for initializer in graph.initializer:
            self._keep(initializer.name, initializer)
        nodes = []
        for proto in graph.node:
            node = _node(proto)
            if node.op == "Constant":
                self._keep(node.outputs[0], node.attributes["value"])
            else:
                nodes.append(node)
        self._refuse_unknown(nodes)
        names = {initializer.name for initializer in graph.initializer}
        self._inputs = [value.name for value in graph.input if value.name not in names]
        self._outputs = [value.name for value in graph.output]
        self._nodes = self._fused(nodes)
        self._last_use = _last_uses(self._nodes, self._outputs)
        self.attentions = sum(node.op == _ATTENTION for node in self._nodes)
        self.linears = sum(node.op == _LINEAR for node in self._nodes)

    def forward(self, *inputs: torch.Tensor) -> Any:
        """Return the graph's output, or a tuple of them, for inputs in the graph's order."""
        values: dict[str, Any] = dict(self._constants)
        for name, buffer in self._buffers_of.items():
            values[name] = getattr(self, buffer)
        values |= dict(zip(self._inputs, inputs, strict=True))
        masks: dict[str, torch.Tensor] = {}
        for index, node in enumerate(self._nodes):
            given = [values[name] if name else None for name in node.inputs]
            if node.op == "Expand":  # of a constant, nothing else says on which device
                given[0] = tensor(given[0], inputs[0])
            try:
                found = self._run(node, given, masks)
            except (TypeError, KeyError) as error:
                raise InputError(
                    f"{node.op} {node.name!r} has a form that the PyTorch backend does not "
                    f"translate: {error}",
                    where=self._where,
                    fix="build the graph for the target cpu or cuda",
                ) from error
            several = found if isinstance(found, (list, tuple)) and len(node.outputs) > 1 else None
            for index, name in enumerate(node.outputs):
                values[name] = found if several is None else several[index]
            for name in self._last_use.get(index, ()):
                del values[name]
        results = tuple(values[name] for name in self._outputs)
        return results[0] if len(results) == 1 else results

    def _run(self, node: Node, given: Values, masks: dict[str, torch.Tensor]) -> Any:
        if node.op == _LINEAR:
            return F.linear(*given)
        if node.op != _ATTENTION:
            return OPERATORS[node.op](node, given)
        q, keys, v = given[:3]
        mask = None
        if len(given) > 3:
            name = node.inputs[3]
            if name not in masks:
                masks[name] = aligned(given[3])
            mask = masks[name]
        return F.scaled_dot_product_attention(
            q, keys.transpose(-2, -1), v, attn_mask=mask, scale=1.0
        )

    def _keep(self, name: str, proto: Any) -> None:
        """Keep a constant: integers of few elements as numpy arrays, all else as a buffer."""
        if proto.data_type == onnx.TensorProto.BFLOAT16:
            bits = np.frombuffer(proto.raw_data, np.int16).reshape(tuple(proto.dims))
            found = torch.from_numpy(bits.copy()).view(torch.bfloat16)
        else:
            array = onnx.numpy_helper.to_array(proto)
            if array.dtype.kind in "iub" or array.ndim == 0:
                self._constants[name] = array.copy()  # writable, as torch wants it
                return
            found = torch.from_numpy(array.copy())
        self._register(name, found)

    def _register(self, name: str, value: torch.Tensor) -> None:
        """Keep a tensor as a buffer, whose name torch restricts."""
        self._registered += 1
        buffer = f"constant_{self._registered}"
        self.register_buffer(buffer, value)
        self._buffers_of[name] = buffer

    def _refuse_unknown(self, nodes: Sequence[Node]) -> None:
        unknown = sorted({node.op for node in nodes} - set(OPERATORS))
        if unknown:
            raise InputError(
                f"operators that the PyTorch backend does not translate: {', '.join(unknown)}",
                where=self._where,
                fix="build the graph for the target cpu or cuda; a quantized graph is for those "
                "and for TensorRT",
            )

    def _fused(self, nodes: Sequence[Node]) -> list[Node]:
        """Return the nodes with attentions and linear layers as one node each."""
        maker = {name: node for node in nodes for name in node.outputs}
        readers = collections.Counter(name for node in nodes for name in node.inputs)
        readers.update(self._outputs)
        replaced: dict[int, Node | None] = {}
        for node in nodes:
            if node.op == "MatMul":
                for gone in self._attention(node, maker, readers, replaced):
                    replaced[id(gone)] = None
        for node in nodes:
            if node.op == "Add" and id(node) not in replaced:
                product = self._linear(node, maker, readers, replaced)
                if product is not None:
                    replaced[id(product)] = None
        kept = (replaced.get(id(node), node) for node in nodes)
        return [node for node in kept if node is not None]

    def _attention(
        self,
        last: Node,
        maker: Mapping[str, Node],
        readers: Mapping[str, int],
        replaced: dict[int, Node | None],
    ) -> Iterator[Node]:
        """Replace the product with the values by attention, and yield what that makes needless."""
        softmax = maker.get(last.inputs[0])
        if softmax is None or softmax.op != "Softmax" or softmax.get("axis", -1) not in (-1, 3):
            return
        logits, bias = maker.get(softmax.inputs[0]), None
        added = None
        if logits is not None and logits.op == "Add":
            added = logits
            for product, other in (added.inputs, added.inputs[::-1]):
                found = maker.get(product)
                if found is not None and found.op == "MatMul":
                    logits, bias = found, other
                    break
        if logits is None or logits.op != "MatMul":
            return
        inner = [node for node in (logits, added, softmax) if node is not None]
        if any(readers[node.outputs[0]] != 1 for node in inner):
            return
        inputs = (*logits.inputs, last.inputs[1], *(() if bias is None else (bias,)))
        replaced[id(last)] = Node(_ATTENTION, last.name, inputs, last.outputs, {})
        yield from inner

    def _linear(
        self,
        add: Node,
        maker: Mapping[str, Node],
        readers: Mapping[str, int],
        replaced: dict[int, Node | None],
    ) -> Node | None:
        """Replace the Add of a bias by a linear layer; return the product that it contains."""
        for source, bias in (add.inputs, add.inputs[::-1]):
            product = maker.get(source)
            if product is None or product.op != "MatMul" or id(product) in replaced:
                continue
            weight = self._buffer(product.inputs[1])
            vector = self._buffer(bias)
            if weight is None or vector is None or readers[source] != 1:
                continue
            if weight.dim() != 2 or vector.shape != weight.shape[1:]:
                continue
            name = f"{product.inputs[1]} transposed"
            if name not in self._buffers_of:
                self._register(name, weight.t().contiguous())
            readers_left = readers[product.inputs[1]]
            if readers_left == 1:
                self._forget(product.inputs[1])
            inputs = (product.inputs[0], name, bias)
            replaced[id(add)] = Node(_LINEAR, product.name, inputs, add.outputs, {})
            return product
        return None

    def _buffer(self, name: str) -> torch.Tensor | None:
        buffer = self._buffers_of.get(name)
        return None if buffer is None else cast(torch.Tensor, getattr(self, buffer))

    def _forget(self, name: str) -> None:
        """Drop a constant that nothing reads any more."""
        delattr(self, self._buffers_of.pop(name))


def aligned(bias: torch.Tensor) -> torch.Tensor:
    """Return a (..., N) bias in memory whose rows begin at multiples of `ALIGNED` elements."""
    keys = bias.shape[-1]
    return F.pad(bias, (0, -keys % ALIGNED))[..., :keys]


def _node(proto: Any) -> Node:
    if proto.domain not in ("", "ai.onnx"):
        return Node(f"{proto.domain}.{proto.op_type}", proto.name, (), (), {})
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in proto.attribute}
    if proto.op_type == "Constant" and "value" not in attributes:
        raise InputError(
            "a Constant holds no tensor", where=proto.name, fix="export the graph again"
        )
    return Node(proto.op_type, proto.name, tuple(proto.input), tuple(proto.output), attributes)


def _last_uses(nodes: Sequence[Node], outputs: Sequence[str]) -> dict[int, list[str]]:
    """Map the index of a node to the values of nodes that nothing reads after it."""
    made = {name for node in nodes for name in node.outputs}
    last: dict[str, int] = {}
    for index, node in enumerate(nodes):
        for name in (*node.inputs, *node.outputs):
            if name in made:
                last[name] = index
    found: dict[int, list[str]] = {}
    for name, index in last.items():
        if name not in outputs:
            found.setdefault(index, []).append(name)
    return found
