"""What each ONNX operator of the graphs that are exported here is in PyTorch.

An operator takes its node and its inputs. A tensor of the network is a torch.Tensor. What decides
shapes (the value of `Shape`, and what is computed from it) is a tuple of integers, which may be
symbolic, so that a dynamic batch stays one. Constants of integers are numpy arrays.

Source: ONNX operators, opsets 17 to 23 (onnx/docs/Operators.md).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

Values = Sequence[Any]
Operator = Callable[["Node", Values], Any]

_DTYPES = {
    1: torch.float32,
    2: torch.uint8,
    3: torch.int8,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    10: torch.float16,
    11: torch.float64,
    16: torch.bfloat16,
}


@dataclasses.dataclass(frozen=True)
class Node:
    """One operator of a graph.

    Attributes:
        op: Its ONNX name.
        name: Its name in the graph.
        inputs: Names of values; "" for one that is left out.
        outputs: Likewise.
        attributes: By name.
    """

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]

    def get(self, name: str, default: Any) -> Any:
        """Return an attribute, or what ONNX says where it is left out."""
        return self.attributes.get(name, default)


def numbers(value: Any) -> tuple[Any, ...]:
    """Return the integers of a constant, or of what was computed from a shape."""
    if isinstance(value, tuple):
        return value
    if isinstance(value, torch.Tensor):
        raise TypeError("a shape is computed from values of the network")
    return tuple(int(number) for number in np.atleast_1d(value))


def tensor(value: Any, like: torch.Tensor) -> torch.Tensor:
    """Return a constant as a tensor beside another one."""
    if isinstance(value, torch.Tensor):
        return value
    return torch.as_tensor(np.asarray(value), device=like.device)


def dtype_of(code: int) -> torch.dtype:
    """Return the type that ONNX numbers so."""
    return _DTYPES[code]


def _pair(function: Callable[[Any, Any], Any]) -> Operator:
    def operator(_: Node, values: Values) -> Any:
        first, second = values
        like = first if isinstance(first, torch.Tensor) else second
        if not isinstance(like, torch.Tensor):
            raise TypeError("arithmetic with shapes")
        return function(tensor(first, like), tensor(second, like))

    return operator


def _single(function: Callable[[Any], Any]) -> Operator:
    return lambda _, values: function(values[0])


def _variadic(function: Callable[[Any, Any], Any]) -> Operator:
    def operator(_: Node, values: Values) -> Any:
        found = values[0]
        for value in values[1:]:
            found = function(found, tensor(value, found))
        return found

    return operator


def _conv(node: Node, values: Values) -> Any:
    x, weight = values[:2]
    bias = values[2] if len(values) > 2 else None
    pads = node.get("pads", [0] * (2 * (weight.dim() - 2)))
    auto = node.get("auto_pad", b"NOTSET")
    half = len(pads) // 2
    if auto not in (b"NOTSET", "NOTSET", b"VALID", "VALID") or pads[:half] != pads[half:]:
        raise TypeError(f"padding {auto!r} {pads}")
    kernel, strides = list(weight.shape[2:]), list(node.get("strides", [1] * half))
    dilations, group = list(node.get("dilations", [1] * half)), node.get("group", 1)
    if half == 2 and kernel == strides and not any(pads) and group == 1 and dilations == [1, 1]:
        return _patches(x, weight, bias)
    return F.conv2d(x, weight, bias, strides, pads[:half], dilations, group)


def _patches(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Embed patches that do not overlap: one product, whose result needs no transposition."""
    outer, channels, height, width = weight.shape
    batch, _, rows, columns = x.shape[0], x.shape[1], x.shape[2] // height, x.shape[3] // width
    x = x[:, :, : rows * height, : columns * width]
    cut = x.reshape(batch, channels, rows, height, columns, width).permute(0, 2, 4, 1, 3, 5)
    flat = cut.reshape(batch, rows * columns, channels * height * width)
    embedded = F.linear(flat, weight.reshape(outer, -1), bias)
    return embedded.transpose(1, 2).reshape(batch, outer, rows, columns)


def _gemm(node: Node, values: Values) -> Any:
    a, b = values[:2]
    a = a.t() if node.get("transA", 0) else a
    b = b if node.get("transB", 0) else b.t()
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    bias = values[2] if len(values) > 2 else None
    if alpha == 1.0 and beta == 1.0:
        return F.linear(a, b, bias)
    product = alpha * F.linear(a, b)
    return product if bias is None else product + beta * bias


def _reshape(node: Node, values: Values) -> Any:
    x, shape = values[0], list(numbers(values[1]))
    if not node.get("allowzero", 0):
        shape = [x.shape[axis] if n == 0 else n for axis, n in enumerate(shape)]
    return x.reshape(shape)


def _transpose(node: Node, values: Values) -> Any:
    x = values[0]
    return x.permute(node.get("perm", list(range(x.dim()))[::-1]))


def _gather(node: Node, values: Values) -> Any:
    x, index = values
    axis = node.get("axis", 0)
    if isinstance(x, tuple):
        picked = tuple(x[place] for place in numbers(index))
        return picked if np.ndim(index) else picked[0]
    places = tensor(index, x)
    places = torch.where(places < 0, places + x.shape[axis], places)
    if places.dim() == 1:
        return x.index_select(axis, places)
    flat = x.index_select(axis, places.reshape(-1))
    axis %= x.dim()
    return flat.reshape(*x.shape[:axis], *places.shape, *x.shape[axis + 1 :])


def _concat(node: Node, values: Values) -> Any:
    if not any(isinstance(value, torch.Tensor) for value in values):
        return tuple(number for value in values for number in numbers(value))
    like = next(value for value in values if isinstance(value, torch.Tensor))
    parts = [tensor(value, like) for value in values]
    # A constant part, such as the class token, is one row for the whole batch.
    return torch.cat(parts, dim=node.attributes["axis"])


def _slice(_: Node, values: Values) -> Any:
    x, starts, ends = values[0], numbers(values[1]), numbers(values[2])
    axes = numbers(values[3]) if len(values) > 3 and values[3] is not None else range(len(starts))
    steps = numbers(values[4]) if len(values) > 4 and values[4] is not None else [1] * len(starts)
    if isinstance(x, tuple):
        return x[starts[0] : ends[0] : steps[0]]
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        if step < 1:
            raise TypeError(f"a slice with the step {step}")
        x = torch.ops.aten.slice.Tensor(x, axis, start, min(end, 2**63 - 1), step)
    return x


def _squeeze(_: Node, values: Values) -> Any:
    x = values[0]
    if isinstance(x, tuple):
        return x[0]
    axes = numbers(values[1]) if len(values) > 1 else None
    return x.squeeze() if axes is None else x.squeeze(tuple(axis % x.dim() for axis in axes))


def _unsqueeze(_: Node, values: Values) -> Any:
    x, axes = values[0], numbers(values[1])
    if not isinstance(x, torch.Tensor):
        return x if isinstance(x, tuple) else (x,)
    rank = x.dim() + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


def _split(node: Node, values: Values) -> Any:
    x, axis = values[0], node.get("axis", 0)
    if len(values) > 1 and values[1] is not None:
        return x.split(list(numbers(values[1])), dim=axis)
    count = len(node.outputs)
    return x.split(math.ceil(x.shape[axis] / count), dim=axis)


def _expand(_: Node, values: Values) -> Any:
    x, shape = values[0], list(numbers(values[1]))
    shape = [1] * (x.dim() - len(shape)) + shape
    lead = len(shape) - x.dim()
    wanted = [
        x.shape[axis - lead] if isinstance(n, int) and n == 1 and axis >= lead else n
        for axis, n in enumerate(shape)
    ]
    return x.expand(wanted)


def _reduce(function: Callable[..., Any]) -> Operator:
    def operator(node: Node, values: Values) -> Any:
        x = values[0]
        given = len(values) > 1 and values[1] is not None
        axes = numbers(values[1]) if given else tuple(node.get("axes", ()))
        if not axes:
            if node.get("noop_with_empty_axes", 0):
                return x
            axes = tuple(range(x.dim()))
        return function(x, dim=axes, keepdim=bool(node.get("keepdims", 1)))

    return operator


def _clip(node: Node, values: Values) -> Any:
    low, high = [*values[1:], None, None][:2]
    if not values[1:]:
        low, high = node.get("min", None), node.get("max", None)
    return values[0].clamp(_scalar(low), _scalar(high))


def _scalar(value: Any) -> Any:
    if value is None or isinstance(value, (int, float)):
        return value
    return value.item()


def _argmax(node: Node, values: Values) -> Any:
    if node.get("select_last_index", 0):
        raise TypeError("ArgMax with select_last_index")
    return values[0].argmax(dim=node.get("axis", 0), keepdim=bool(node.get("keepdims", 1)))


def _shape(node: Node, values: Values) -> Any:
    return tuple(values[0].shape)[node.get("start", 0) : node.get("end", None)]


def _layer_norm(node: Node, values: Values) -> Any:
    x, weight = values[:2]
    bias = values[2] if len(values) > 2 else None
    axis = node.get("axis", -1) % x.dim()
    return F.layer_norm(x, x.shape[axis:], weight, bias, node.get("epsilon", 1e-5))


def _cast(node: Node, values: Values) -> Any:
    x, to = values[0], node.attributes["to"]
    return x if isinstance(x, tuple) else x.to(dtype_of(to))


def _where(_: Node, values: Values) -> Any:
    like = next(value for value in values if isinstance(value, torch.Tensor))
    given = [tensor(value, like) for value in values]
    return torch.where(given[0], given[1], given[2])


def _gelu(node: Node, values: Values) -> Any:
    kind = node.get("approximate", "none")
    return F.gelu(values[0], approximate=kind.decode() if isinstance(kind, bytes) else kind)


OPERATORS: Mapping[str, Operator] = {
    "Add": _pair(torch.add),
    "And": _pair(torch.logical_and),
    "ArgMax": _argmax,
    "Cast": _cast,
    "Clip": _clip,
    "Concat": _concat,
    "Conv": _conv,
    "Div": _pair(torch.div),
    "Equal": _pair(torch.eq),
    "Erf": _single(torch.erf),
    "Exp": _single(torch.exp),
    "Expand": _expand,
    "Gather": _gather,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "Greater": _pair(torch.gt),
    "GreaterOrEqual": _pair(torch.ge),
    "Identity": _single(lambda x: x),
    "LayerNormalization": _layer_norm,
    "Less": _pair(torch.lt),
    "LessOrEqual": _pair(torch.le),
    "Log": _single(torch.log),
    "MatMul": _pair(torch.matmul),
    "Max": _variadic(torch.maximum),
    "Min": _variadic(torch.minimum),
    "Mul": _pair(torch.mul),
    "Neg": _single(torch.neg),
    "Not": _single(torch.logical_not),
    "Or": _pair(torch.logical_or),
    "Pow": _pair(torch.pow),
    "ReduceMax": _reduce(torch.amax),
    "ReduceMean": _reduce(torch.mean),
    "ReduceSum": _reduce(torch.sum),
    "Relu": _single(torch.relu),
    "Reshape": _reshape,
    "Shape": _shape,
    "Sigmoid": _single(torch.sigmoid),
    "Slice": _slice,
    "Softmax": lambda node, values: values[0].softmax(dim=node.get("axis", -1)),
    "Split": _split,
    "Sqrt": _single(torch.sqrt),
    "Squeeze": _squeeze,
    "Sub": _pair(torch.sub),
    "Tanh": _single(torch.tanh),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Where": _where,
}
