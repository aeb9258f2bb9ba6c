"""A float32 graph to a strongly typed one: the graph gives every float tensor its type.

Everything is computed in half precision except one island per merge, from the averaged keys to
the one-hot match and the sizes of the merged tokens. Half precision has two or three decimal
digits, and the two best scores of a match can be closer than that: a flipped match moves a whole
token. So do the comparisons of gates. The sizes are whole numbers, and bfloat16 counts exactly only
up to 256.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from engines.errors import ExportError, UsageError
from engines.onnx_graph.files import Graph, Names, Node, Tensor, block_of, module_path
from engines.precisions import BF16, FP16, FP32, HalfName, InputOutput

FLOAT32 = np.dtype(np.float32)
HALVES = {FP16: np.dtype(np.float16), BF16: np.dtype(ml_dtypes.bfloat16)}
FLOATS = frozenset({FLOAT32, *HALVES.values()})

PIXEL_SCALE = 2.0**-8
"""Exact in every float type. Raw pixels are multiplied by it in the graph: weights that hold the
whole 1/255 are so small that half precision stores them with few digits."""


def cast_graph(
    graph: Graph,
    precision: HalfName,
    *,
    io: InputOutput,
    typed_inputs: Collection[str] = (),
) -> None:
    """Type `graph`, in place; its float tensors are float32 before.

    Args:
        graph: As exported, every node named after its module.
        precision: The type outside the island.
        io: fp32 keeps float32 pixels and logits, typed gives both the graph's type,
            uint8 takes raw pixels and gives float32 logits.
        typed_inputs: Names of inputs that take the graph's type whatever `io` says, such as
            weights. One that the island alone reads stays float32.

    Raises:
        ExportError: A weight is too large for the type.
        UsageError: The graph takes raw pixels and `io` asks for others.
    """
    half_dtype = HALVES[precision]
    names = Names(graph)
    if io == "uint8" or graph.inputs[0].dtype == np.uint8:
        take_raw_pixels(graph, io, names)
    island = float32_island(graph)
    for node in graph.nodes:
        for tensor in node.outputs:
            if tensor.dtype in FLOATS:
                tensor.dtype = FLOAT32 if id(node) in island else half_dtype
            if node.op == "Cast":
                node.attrs["to"] = onnx_type(node.outputs[0].dtype)
    for tensor in graph.inputs:
        if tensor.dtype not in FLOATS:
            continue
        is_outside = any(id(node) not in island for node in tensor.outputs)
        if io == "typed" or (tensor.name in typed_inputs and is_outside):
            tensor.dtype = half_dtype
    _type_constants(graph, island, half_dtype, names)
    made: dict[tuple[str, np.dtype[Any]], Tensor] = {}
    for node in list(graph.nodes):
        wanted = FLOAT32 if id(node) in island else half_dtype
        for index, tensor in enumerate(node.inputs):
            if node.op == "Cast" or tensor.dtype not in FLOATS or tensor.dtype == wanted:
                continue
            key = (tensor.name, wanted)
            if key not in made:
                # A cast out of the island belongs to what made the tensor: several blocks read it.
                owner = node if wanted == FLOAT32 or not tensor.inputs else tensor.inputs[0]
                name = names.new(f"{module_path(owner)}/Cast")
                made[key] = insert_cast(graph, tensor, wanted, name=name)
            node.inputs[index] = made[key]
    if io != "typed":
        for tensor in graph.outputs:
            if tensor.dtype in FLOATS:
                _keep_float32(graph, tensor, names)
    graph.cleanup().toposort()


_CHOICES = ("ArgMax", "Greater", "GreaterOrEqual")
_CHOOSING = ("/merge", "/decide")
"""Modules that choose: a rounding there changes an answer by a whole token."""


def _chooser(node: Node) -> str | None:
    """Return the path of the module that chooses to which a node belongs, or None."""
    path = module_path(node)
    return next((path[: path.index(role)] + role for role in _CHOOSING if role in path), None)


def float32_island(graph: Graph) -> set[int]:
    """Return the ids of the nodes that stay float32.

    Up from every choice, which is an ArgMax of a merge or a comparison of a gate, as far as its own
    module reaches, and down through everything that depends on nothing but that: the one-hot match,
    the sizes, their logarithm.
    """
    island: set[int] = set()
    open_nodes = [(node, _chooser(node)) for node in graph.nodes if node.op in _CHOICES]
    while open_nodes:
        node, chooser = open_nodes.pop()
        if id(node) in island or chooser is None or _chooser(node) != chooser:
            continue
        island.add(id(node))
        open_nodes += [(tensor.inputs[0], chooser) for tensor in node.inputs if tensor.inputs]
    for node in graph.nodes:  # in topological order
        variables = [tensor for tensor in node.inputs if isinstance(tensor, gs.Variable)]
        if variables and all(v.inputs and id(v.inputs[0]) in island for v in variables):
            island.add(id(node))
    return island


def take_raw_pixels(graph: Graph, io: str, names: Names) -> None:
    """Make the graph take uint8 pixels, scaled by `PIXEL_SCALE` before the patch embedding."""
    images = graph.inputs[0]
    convolutions = [node for node in graph.nodes if node.op == "Conv"]
    (embedding,) = (node for node in convolutions if block_of(node.name) is None)
    weight = embedding.inputs[1]
    if images.dtype != np.uint8:
        images.dtype = np.dtype(np.uint8)
        first = gs.Variable(names.new("pixels"), dtype=FLOAT32, shape=images.shape)
        for node in list(images.outputs):
            node.inputs = [first if tensor is images else tensor for tensor in node.inputs]
        graph.layer(
            name=names.new("graph/Cast"),
            op="Cast",
            inputs=[images],
            outputs=[first],
            attrs={"to": onnx.TensorProto.FLOAT},
        )
        factor = 1 / 255 / PIXEL_SCALE
    elif io != "uint8" and io != FP32:
        raise UsageError(
            "the graph takes raw pixels", where=f"--io {io}", fix="quantize with --io uint8"
        )
    else:
        factor = 1 / PIXEL_SCALE
    values = (weight.values.astype(np.float64) * factor).astype(np.float32)
    embedding.inputs[1] = gs.Constant(weight.name, values)
    pixels = embedding.inputs[0]
    scaled = gs.Variable(names.new("scaled_pixels"), dtype=FLOAT32, shape=pixels.shape)
    graph.layer(
        name=names.new("patches/Mul"),
        op="Mul",
        inputs=[pixels, gs.Constant(names.new("pixel_scale"), np.array(PIXEL_SCALE, np.float32))],
        outputs=[scaled],
    )
    embedding.inputs[0] = scaled
    graph.toposort()


def _type_constants(
    graph: Graph, island: set[int], half_dtype: np.dtype[Any], names: Names
) -> None:
    """Convert every constant that is read outside the island; one read on both sides is copied."""
    readers: dict[str, list[tuple[Node, int]]] = {}
    for node in graph.nodes:
        for index, tensor in enumerate(node.inputs):
            if isinstance(tensor, gs.Constant) and tensor.dtype in FLOATS:
                readers.setdefault(tensor.name, []).append((node, index))
    for uses in readers.values():
        outside = [(node, index) for node, index in uses if id(node) not in island]
        if not outside:
            continue
        tensor = outside[0][0].inputs[outside[0][1]]
        values = converted(tensor, half_dtype)
        if len(outside) == len(uses):
            tensor.values = values
            continue
        copied = gs.Constant(names.new(f"{tensor.name}.{half_dtype.name}"), values)
        for node, index in outside:
            node.inputs[index] = copied


def insert_cast(graph: Graph, tensor: Tensor, dtype: np.dtype[Any], *, name: str) -> Tensor:
    """Return a variable that holds `tensor` in another type; nobody reads it yet."""
    result = gs.Variable(name, dtype=dtype, shape=tensor.shape)
    graph.layer(
        name=name, op="Cast", inputs=[tensor], outputs=[result], attrs={"to": onnx_type(dtype)}
    )
    return result


def converted(tensor: Tensor, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return the values of a constant in another float type.

    Raises:
        ExportError: A value is too large for it, or a single factor would become zero.
    """
    values = tensor.values
    with np.errstate(over="ignore"):
        result: NDArray[Any] = values.astype(dtype)
    lost = ~np.isfinite(result.astype(np.float32)) & np.isfinite(values)
    if lost.any() or (values.size == 1 and np.any((values != 0) & (result == 0))):
        worst = float(values.flat[np.abs(values).argmax()])
        raise ExportError(
            f"{tensor.name} holds {worst:.4g}, which {dtype.name} cannot",
            where=tensor.name,
            fix="use --precision bf16, which has the range of float32",
        )
    return result


def onnx_type(dtype: np.dtype[Any]) -> int:
    """Return ONNX's number of a numpy type."""
    return int(onnx.helper.np_dtype_to_tensor_dtype(dtype))


def _keep_float32(graph: Graph, output: Tensor, names: Names) -> None:
    """Cast a graph output back to float32, under its own name."""
    producer = output.inputs[0]
    inner = gs.Variable(names.new(f"{output.name}_typed"), dtype=output.dtype, shape=output.shape)
    for reader in list(output.outputs):
        reader.inputs = [inner if tensor is output else tensor for tensor in reader.inputs]
    producer.outputs = [inner if tensor is output else tensor for tensor in producer.outputs]
    output.dtype = FLOAT32
    graph.layer(
        name=names.new(f"{module_path(producer)}/Cast"),
        op="Cast",
        inputs=[inner],
        outputs=[output],
        attrs={"to": onnx_type(FLOAT32)},
    )
