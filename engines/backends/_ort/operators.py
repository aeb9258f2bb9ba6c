"""ONNX Runtime's own operators in place of primitive ones, before its CUDA provider gets a graph.

That provider runs what it is given node by node. ONNX Runtime's own fusions do not find the
attention of this toolkit's graphs, so it is replaced here:

1. MatMul, Softmax, MatMul and the reshapes around them become one `MultiHeadAttention`, which the
   provider hands to a flash-attention kernel. Queries, keys and values come out of one product:
   its weights are reordered to (head, part, width), as the operator reads them packed, and the
   bias of the product moves into the operator.
2. The sum of a residual branch and the LayerNormalization behind it become one
   `SkipLayerNormalization`, together with the bias of the branch's last product.
3. The bias of a product and the GELU behind it become one `BiasGelu`.
4. The convolution that embeds patches becomes a product: patches do not overlap, so it is one. On
   an H200 cuDNN took 0.12 of the 1.03 ms of a merged ViT-B/16 at batch 8 for it. Its bias moves
   into the positions, where they are added next and are a constant.
5. The unit length of the keys that tokens are matched by becomes one `SimplifiedLayerNormalization`
   (x / sqrt(mean(x^2))) with 1 / sqrt(width) as its scale.

Each is exact up to rounding. Operators: ONNX Runtime, docs/ContribOperators.md.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engines.contract import Array
from engines.registry import import_or_explain

DOMAIN = "com.microsoft"
_HEADS_FIRST = (2, 0, 3, 1, 4)  # (B, N, parts, H, D) to (parts, B, H, N, D)
_IN_BLOCK = re.compile(r"blocks/(\d+)/")
_TINY = 1e-30
_SHORT = 1.001e-12  # below this squared length, what a key points to is rounding
_FLOAT = 1  # onnx.TensorProto.FLOAT
_EPSILON = 1e-5  # of an ONNX LayerNormalization that names none; SkipLayerNormalization has 1e-12
_LARGE_BYTES = 1_900_000_000  # a protobuf message holds 2 GiB
_SMALL = 64  # elements of a constant whose values decide something


@dataclasses.dataclass(frozen=True, kw_only=True)
class Replaced:
    """How many of each were replaced.

    Attributes:
        attentions: Attentions that are one operator now.
        attentions_left: Softmax operators that stay, because what is around them is unknown.
        skip_norms: Sums with the LayerNormalization behind them.
        bias_gelus: GELUs with the bias before them.
        patch_products: Convolutions that are a product now.
        unit_lengths: Divisions by a vector's own length.
    """

    attentions: int = 0
    attentions_left: int = 0
    skip_norms: int = 0
    bias_gelus: int = 0
    patch_products: int = 0
    unit_lengths: int = 0

    def facts(self) -> dict[str, str]:
        """Return what is recorded of them beside an engine."""
        whole = self.attentions + self.attentions_left
        return {
            "fused_attentions": f"{self.attentions} of {whole}",
            "fused_skip_norms": str(self.skip_norms),
            "fused_bias_gelus": str(self.bias_gelus),
            "patch_embedding": "product" if self.patch_products else "convolution",
        }


def with_contrib_operators(path: Path, folder: Path) -> tuple[Path, Replaced]:
    """Write a graph with ONNX Runtime's operators in place of primitive ones.

    Args:
        path: The graph, which stays as it is; weights beside it are read, too.
        folder: Where the new one goes.

    Returns:
        The new graph, with large weights beside it, and what was replaced.

    Raises:
        MissingDependencyError: The package onnx is not installed.
    """
    onnx: Any = import_or_explain("onnx")
    model = onnx.load(path)
    replaced = use_contrib_operators(model)
    out = folder / path.name
    large = sum(len(tensor.raw_data) for tensor in model.graph.initializer) > _LARGE_BYTES
    onnx.save(model, out, save_as_external_data=large, location=f"{out.name}.data")
    return out, replaced


def count_operators(path: Path) -> dict[str, str]:
    """Return what is recorded of the operators that ONNX Runtime left in a graph.

    Those of a block are counted by the names of nodes, which begin with `blocks/<index>/`.
    """
    onnx: Any = import_or_explain("onnx")
    nodes = onnx.load(path, load_external_data=False).graph.node
    blocks = Counter(found.group(1) for node in nodes if (found := _IN_BLOCK.match(node.name)))
    kinds = Counter(node.op_type for node in nodes)
    return {
        "operators": str(len(nodes)),
        "operators_per_block": " ".join(str(blocks[block]) for block in sorted(blocks, key=int)),
        "operator_types": ", ".join(f"{kind} {count}" for kind, count in kinds.most_common()),
    }


def use_contrib_operators(model: Any) -> Replaced:
    """Replace what has an operator of ONNX Runtime's, in place.

    Args:
        model: An `onnx.ModelProto` with its weights, whose shapes are inferred.
    """
    if any(attribute.HasField("g") for node in model.graph.node for attribute in node.attribute):
        return Replaced()  # what the branches of an If read is not known here
    graph = _Graph(model)
    softmaxes = [node for node in model.graph.node if node.op_type == "Softmax"]
    attentions = sum(_replace_attention(graph, node) for node in softmaxes)

    def replaced(operator: str, replace: Callable[[_Graph, Any], bool]) -> int:
        nodes = [node for node in model.graph.node if node.op_type == operator]
        return sum(replace(graph, node) for node in nodes)

    counts = Replaced(
        attentions=attentions,
        attentions_left=len(softmaxes) - attentions,
        skip_norms=replaced("LayerNormalization", _replace_skip_norm),
        bias_gelus=replaced("Gelu", _replace_bias_gelu),
        patch_products=replaced("Conv", _replace_patch_embedding),
        unit_lengths=replaced("Div", _replace_unit_length),
    )
    graph.finish()
    return counts


class _Graph:
    """A graph that is being changed: who makes a tensor, who reads it, what is constant."""

    def __init__(self, model: Any) -> None:
        self.onnx: Any = import_or_explain("onnx")
        self.model = model
        graph = model.graph
        defaults = {value.name for value in graph.input}  # a caller may give another value
        self.constants = {t.name: t for t in graph.initializer if t.name not in defaults}
        self._defaults = [t for t in graph.initializer if t.name in defaults]
        self.maker = {name: node for node in graph.node for name in node.output}
        self.readers: dict[str, list[Any]] = defaultdict(list)
        for node in graph.node:
            for name in node.input:
                self.readers[name].append(node)
        self.kept = {value.name for value in graph.output}
        values = (*graph.value_info, *graph.input, *graph.output)
        self.types = {value.name: value.type.tensor_type.elem_type for value in values}
        self.shapes = {
            value.name: [d.dim_value or d.dim_param for d in value.type.tensor_type.shape.dim]
            for value in values
        }
        self._names = {node.name for node in graph.node}
        self._added: list[Any] = []
        self._shared: dict[tuple[object, ...], str] = {}

    def made_by(self, name: str, operator: str) -> Any | None:
        """Return the node that makes a tensor, if it is of that kind."""
        node = self.maker.get(name)
        return node if node is not None and node.op_type == operator else None

    def values(self, name: str) -> Array | None:
        """Return the values of a constant."""
        tensor = self.constants.get(name)
        return None if tensor is None else np.asarray(self.onnx.numpy_helper.to_array(tensor))

    def numbers(self, name: str) -> list[int] | None:
        """Return a small constant's values."""
        tensor = self.constants.get(name)
        if tensor is None or int(np.prod(tensor.dims)) > _SMALL:
            return None
        found = self.values(name)
        return None if found is None else [int(value) for value in np.ravel(found)]

    def is_vector(self, name: str) -> bool:
        """Say whether a tensor is a constant of one dimension."""
        return name in self.constants and len(self.constants[name].dims) == 1

    def is_bias(self, name: str, of: str) -> bool:
        """Say whether a constant is one number for each channel of a tensor (B, N, C)."""
        shape = self.shapes.get(of, [])
        return self.is_vector(name) and [*self.constants[name].dims] == shape[-1:]

    def only_reader(self, name: str) -> Any | None:
        """Return the node that reads a tensor, if it is the only one and nobody else sees it."""
        readers = self.readers[name]
        return readers[0] if len(readers) == 1 and name not in self.kept else None

    def constant(self, name: str, values: Array) -> str:
        """Add a constant under a name that is still free."""
        while name in self.constants:
            name += "_"
        tensor = self.onnx.numpy_helper.from_array(np.ascontiguousarray(values), name)
        self.constants[name] = tensor
        self.model.graph.initializer.append(tensor)
        return name

    def shape_constant(self, *extents: int) -> str:
        """Return a constant of int64 values, one for all who need the same."""
        key = ("shape", *extents)
        if key not in self._shared:
            text = "_".join(map(str, extents)).replace("-", "minus")
            self._shared[key] = self.constant(f"shape_{text}", np.array(extents, np.int64))
        return self._shared[key]

    def shared(self, key: tuple[object, ...]) -> str | None:
        """Return a tensor that was made for the same purpose before."""
        return self._shared.get(key)

    def share(self, key: tuple[object, ...], name: str) -> str:
        """Keep a tensor for others with the same purpose, and return it."""
        self._shared[key] = name
        return name

    def add(
        self,
        operator: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        *,
        name: str,
        domain: str = "",
        **attributes: Any,
    ) -> str:
        """Add a node and return its first output; its makers and readers are known at once.

        Where another node has its name, as where the names of all have no path, it gets a number.
        """
        unique = next(
            free
            for free in itertools.chain([name], self._numbered(name))
            if free not in self._names
        )
        self._names.add(unique)
        node = self.onnx.helper.make_node(
            operator, list(inputs), list(outputs), name=unique, domain=domain, **attributes
        )
        for output in filter(None, outputs):  # an output that is left out has no name
            self.maker[output] = node
        for read in filter(None, inputs):
            self.readers[read].append(node)
        self._added.append(node)
        return outputs[0]

    @staticmethod
    def _numbered(name: str) -> Iterable[str]:
        return (f"{name}_{number}" for number in itertools.count(2))

    def finish(self) -> None:
        """Drop what nobody reads any more, and put the nodes into an order that can run."""
        nodes = [node for node in (*self.model.graph.node, *self._added) if self._is_current(node)]
        wanted, open_names = set(), list(self.kept)
        while open_names:
            node = self.maker.get(open_names.pop())
            if node is not None and id(node) not in wanted:
                wanted.add(id(node))
                open_names += node.input
        ordered = self._ordered([node for node in nodes if id(node) in wanted])
        del self.model.graph.node[:]
        self.model.graph.node.extend(ordered)
        read = {name for node in ordered for name in node.input}
        used = [tensor for name, tensor in self.constants.items() if name in read]
        del self.model.graph.initializer[:]
        self.model.graph.initializer.extend([*self._defaults, *used])
        del self.model.graph.value_info[:]  # ONNX Runtime infers them, its own operators' too
        if DOMAIN not in {entry.domain for entry in self.model.opset_import}:
            self.model.opset_import.append(self.onnx.helper.make_opsetid(DOMAIN, 1))

    def _is_current(self, node: Any) -> bool:
        """Say whether a node still makes its outputs; a replaced one does not."""
        return any(self.maker.get(name) is node for name in node.output)

    def _ordered(self, nodes: Sequence[Any]) -> Iterable[Any]:
        made = {name for node in nodes for name in node.output if name}
        waiting = {id(node): {n for n in node.input if n in made} for node in nodes}
        readers: dict[str, list[Any]] = defaultdict(list)
        for node in nodes:
            for name in waiting[id(node)]:
                readers[name].append(node)
        ready = [node for node in nodes if not waiting[id(node)]]
        ordered = []
        while ready:
            node = ready.pop(0)
            ordered.append(node)
            for name in node.output:
                for reader in readers[name]:
                    waiting[id(reader)].discard(name)
                    if not waiting[id(reader)]:
                        ready.append(reader)
                readers[name] = []
        return ordered


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Part:
    """Queries, keys or values as an attention reads them, and where they come from.

    Attributes:
        projected: The tensor (B, N, parts * H * D) that they are cut from.
        index: Which of its parts they are.
        parts: How many it has.
        heads: H.
        width: D.
        tokens: N.
    """

    projected: str
    index: int
    parts: int
    heads: int
    width: int
    tokens: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Projection:
    """A product with constant weights (C, parts * H * D) and a constant bias."""

    source: str
    weight: Array
    weight_name: str
    bias: str


def _replace_attention(graph: _Graph, softmax: Any) -> bool:
    """Replace the attention around a softmax; return whether it has the known form."""
    if _attribute(softmax, "axis") not in (None, -1, 3):
        return False
    score, bias = softmax.input[0], ""
    added = graph.made_by(score, "Add")
    if added is not None:
        score, bias = added.input
        if graph.made_by(score, "MatMul") is None:
            score, bias = bias, score
        if len(graph.shapes.get(bias, ())) != 4:
            return False
    product = graph.made_by(score, "MatMul")
    mixing = graph.only_reader(softmax.output[0])
    if product is None or mixing is None or mixing.op_type != "MatMul":
        return False
    query, query_scale = _without_scale(graph, product.input[0])
    columns, column_scale = _without_scale(graph, product.input[1])
    key, key_scale = _without_scale(graph, _before_turn(graph, columns))
    scale = query_scale * column_scale * key_scale
    q, k, v = (_part(graph, name) for name in (query, key, mixing.input[1]))
    back = graph.only_reader(mixing.output[0])
    if back is None or _attribute(back, "perm") != [0, 2, 1, 3]:
        return False
    flat = graph.only_reader(back.output[0])
    if q is None or k is None or v is None or flat is None or flat.op_type != "Reshape":
        return False
    if k.projected != v.projected or (k.index + 1, v.index + 1) != (v.index, v.parts):
        return False
    if len({(part.heads, part.width) for part in (q, k, v)}) > 1 or k.tokens != v.tokens:
        return False
    if len(graph.shapes.get(flat.output[0], ())) != 3:
        return False
    if bias and bias not in graph.maker:
        return False  # a caller's, whose type and extents are not ours to say
    name = "/".join([*softmax.name.split("/")[:-1], "MultiHeadAttention"])
    output = flat.output[0]
    options: dict[str, Any] = {"num_heads": q.heads, "scale": scale, "domain": DOMAIN, "name": name}
    bias = _for_each_query(graph, bias, q.tokens) if bias else ""
    if (q.projected, q.index, q.parts) == (k.projected, 0, 3):
        found = _projection(graph, q.projected)
        if found is not None:
            inputs = [_reordered(graph, q, found), "", "", found.bias, "", bias]
        else:
            inputs = [*_split(graph, q), "", "", bias]
        graph.add("MultiHeadAttention", inputs, [output], **options)
        return True
    if (q.parts, k.parts) != (1, 2):
        return False
    found = _projection(graph, k.projected)
    if found is None:
        inputs = [q.projected, *_split(graph, k), "", "", bias]
        graph.add("MultiHeadAttention", inputs, [output], **options)
        return True
    # One constant added to all scores of a query changes no softmax, so the bias of the keys has
    # no effect; that of the values is added to what they are mixed to, as their weights sum to 1.
    mixed = graph.add(
        "MultiHeadAttention",
        [q.projected, _reordered(graph, k, found), "", "", "", bias],
        [f"{output}/mixed"],
        **options,
    )
    values = graph.values(found.bias)
    assert values is not None
    shift = graph.constant(f"{name}/value_bias", values[values.size // 2 :])
    graph.add("Add", [mixed, shift], [output], name=f"{name}/Add")
    return True


def _split(graph: _Graph, part: _Part) -> list[str]:
    """Cut a projection that is not one product and a bias, as a task's is, into its parts."""
    key = ("split", part.projected)
    outputs = [f"{part.projected}/{index}" for index in range(part.parts)]
    if graph.shared(key) is None:
        sizes = graph.shape_constant(*[part.heads * part.width] * part.parts)
        name = f"{part.projected}/Split"
        graph.share(key, graph.add("Split", [part.projected, sizes], outputs, name=name, axis=2))
    return outputs


def _reordered(graph: _Graph, part: _Part, found: _Projection) -> str:
    """Multiply by weights in the order (H, parts, D); return (B, N, H, parts, D), without bias."""
    order = (part.parts, part.heads, part.width)
    key = ("packed", part.projected)
    known = graph.shared(key)
    if known is not None:
        return known
    rows = len(found.weight)
    weight = found.weight.reshape(rows, *order).transpose(0, 2, 1, 3).reshape(rows, -1)
    name = found.weight_name.removesuffix(".weight")
    base = part.projected
    product = graph.add(
        "MatMul",
        [found.source, graph.constant(f"{name}.packed_weight", weight)],
        [f"{base}/packed"],
        name=f"{name.replace('.', '/')}/MatMul",
    )
    shape = graph.shape_constant(0, 0, part.heads, part.parts, part.width)
    reshaped = graph.add(
        "Reshape",
        [product, shape],
        [f"{base}/packed_heads"],
        name=f"{name.replace('.', '/')}/Reshape",
    )
    return graph.share(key, reshaped)


def _projection(graph: _Graph, name: str) -> _Projection | None:
    """Return the product and the bias that make a tensor."""
    added = graph.made_by(name, "Add")
    if added is None:
        return None
    product, bias = added.input
    if graph.is_vector(product):
        product, bias = bias, product
    node = graph.made_by(product, "MatMul")
    if node is None or not graph.is_vector(bias):
        return None
    weight = graph.values(node.input[1])
    if weight is None or weight.ndim != 2 or not graph.is_bias(bias, name):
        return None
    return _Projection(source=node.input[0], weight=weight, weight_name=node.input[1], bias=bias)


def _part(graph: _Graph, name: str) -> _Part | None:
    """Follow (B, H, N, D) back to the projection it was cut from."""
    squeezed = graph.made_by(name, "Squeeze")
    cut = squeezed and graph.made_by(squeezed.input[0], "Slice")
    turned = cut and graph.made_by(cut.input[0], "Transpose")
    shaped = turned and graph.made_by(turned.input[0], "Reshape")
    if not cut or len(cut.input) < 4:
        return None
    if (
        not shaped
        or len(graph.shapes.get(shaped.input[0], ())) != 3
        or tuple(_attribute(turned, "perm") or ()) != _HEADS_FIRST
    ):
        return None
    begin, end, axis = (graph.numbers(given) for given in cut.input[1:4])
    shape = graph.numbers(shaped.input[1])
    if axis != [0] or not begin or not end or not shape or end[0] - begin[0] != 1:
        return None
    _, tokens, parts, heads, width = shape
    if min(shape[1:]) < 1:  # 0 and -1 leave an extent to be found
        return None
    return _Part(
        projected=shaped.input[0],
        index=begin[0],
        parts=parts,
        heads=heads,
        width=width,
        tokens=tokens,
    )


def _before_turn(graph: _Graph, name: str) -> str:
    """Return the keys (B, H, N, D) of (B, H, D, N); "" where that is not how they were made.

    PyTorch's exporter turns them with a Transpose of four dimensions, or of three between two
    Reshapes.
    """
    turned = graph.made_by(name, "Transpose")
    if turned is not None:
        return str(turned.input[0]) if _attribute(turned, "perm") == [0, 1, 3, 2] else ""
    shaped = graph.made_by(name, "Reshape")
    turned = shaped and graph.made_by(shaped.input[0], "Transpose")
    flat = turned and graph.made_by(turned.input[0], "Reshape")
    if not shaped or not flat or _attribute(turned, "perm") != [0, 2, 1]:
        return ""
    after, before = graph.numbers(shaped.input[1]), graph.numbers(flat.input[1])
    if not after or not before or len(after) != 4 or len(before) != 3:
        return ""
    return str(flat.input[0]) if after[2:] == before[:0:-1] else ""


def _without_scale(graph: _Graph, name: str) -> tuple[str, float]:
    """Return a tensor before its multiplication with one number, and the number."""
    node = graph.made_by(name, "Mul")
    if node is None:
        return name, 1.0
    for tensor, factor in (node.input, reversed(node.input)):
        values = graph.values(factor) if factor in graph.constants else None
        if values is not None and values.size == 1:
            return tensor, float(values.reshape(()))
    return name, 1.0


def _for_each_query(graph: _Graph, bias: str, queries: int) -> str:
    """Repeat (B, 1, 1, N) for each query, once for all blocks: (B, 1, queries, N)."""
    if queries == 1:
        return bias
    key = ("bias", bias, queries)
    known = graph.shared(key)
    if known is not None:
        return known
    dtype = graph.onnx.helper.tensor_dtype_to_np_dtype(graph.types[bias])
    rows = graph.constant("rows_of_the_key_bias", np.zeros((1, 1, queries, 1), dtype))
    repeated = graph.add("Add", [bias, rows], [f"{bias}/rows"], name="graph/KeyBiasRows")
    return graph.share(key, repeated)


def _replace_skip_norm(graph: _Graph, norm: Any) -> bool:
    """Replace a LayerNormalization and the sum of two like tensors that it reads."""
    total = norm.input[0]
    added = graph.made_by(total, "Add")
    if added is None or len(norm.input) != 3 or _attribute(norm, "axis") not in (None, -1, 2):
        return False
    if len(norm.output) > 1 or not all(graph.is_bias(name, total) for name in norm.input[1:]):
        return False
    one, other = added.input
    shape = graph.shapes.get(one)
    if not shape or len(shape) != 3 or shape != graph.shapes.get(other):
        return False
    branch, bias = _before_bias(graph, other)
    skip = one
    if not bias:
        branch, bias = _before_bias(graph, one)
        skip = other if bias else one
        branch = branch if bias else other
    outputs = [norm.output[0], "", "", total]
    if graph.only_reader(total) is norm:
        outputs = outputs[:1]
    graph.add(
        "SkipLayerNormalization",
        [branch, skip, *norm.input[1:], *([bias] if bias else [])],
        outputs,
        name=norm.name.replace("LayerNormalization", "SkipLayerNormalization"),
        domain=DOMAIN,
        epsilon=_EPSILON if (epsilon := _attribute(norm, "epsilon")) is None else epsilon,
    )
    return True


def _before_bias(graph: _Graph, name: str) -> tuple[str, str]:
    """Return a tensor before its constant bias, and the bias; "" where others read it, too."""
    node = graph.made_by(name, "Add")
    if node is None or graph.only_reader(name) is None:
        return name, ""
    tensor, bias = node.input
    if graph.is_vector(tensor):
        tensor, bias = bias, tensor
    return (tensor, bias) if graph.is_bias(bias, tensor) else (name, "")


def _replace_bias_gelu(graph: _Graph, gelu: Any) -> bool:
    """Replace an exact GELU and the constant bias before it."""
    if _attribute(gelu, "approximate") not in (None, b"none"):
        return False
    tensor, bias = _before_bias(graph, gelu.input[0])
    if not bias:
        return False
    name = gelu.name.replace("Gelu", "BiasGelu")
    graph.add("BiasGelu", [tensor, bias], [gelu.output[0]], name=name, domain=DOMAIN)
    return True


def _replace_patch_embedding(graph: _Graph, conv: Any) -> bool:
    """Replace a convolution whose windows do not overlap, with what turns it into tokens.

    (B, C, H, W) becomes (B, H/p * W/q, C * p * q), patch by patch, and then a product.
    """
    weight, bias = graph.values(conv.input[1]), graph.values((*conv.input, "", "")[2])
    image = graph.shapes.get(conv.input[0])
    kernel = None if weight is None else list(weight.shape[2:])
    flat = graph.only_reader(conv.output[0])
    turned = flat and graph.only_reader(flat.output[0])
    if bias is None and any(conv.input[2:]):
        return False  # it is computed
    if weight is None or not image or not flat or not turned or len(kernel or ()) != 2:
        return False
    tokens = turned.output[0]
    rows, columns = image[2], image[3]
    known = isinstance(rows, int) and isinstance(columns, int)
    if not known or flat.op_type != "Reshape" or _attribute(turned, "perm") != [0, 2, 1]:
        return False
    if _attribute(conv, "strides") != kernel or (_attribute(conv, "group") or 1) != 1:
        return False
    if any(_attribute(conv, "pads") or ()) or set(_attribute(conv, "dilations") or [1]) != {1}:
        return False
    height, width = weight.shape[2:]
    grid = (rows // height, columns // width)
    if graph.shapes.get(tokens, ())[1:] != [grid[0] * grid[1], len(weight)]:
        return False
    if (rows % height, columns % width) != (0, 0):
        return False
    if bias is not None and _add_to_positions(graph, tokens, bias):
        bias = None
    name = conv.name.rpartition("/")[0] or "patches"
    cut = graph.add(
        "Reshape",
        [conv.input[0], graph.shape_constant(0, 0, grid[0], height, grid[1], width)],
        [f"{tokens}/cut"],
        name=f"{name}/Reshape",
    )
    ordered = graph.add(
        "Transpose", [cut], [f"{tokens}/ordered"], name=f"{name}/Transpose", perm=[0, 2, 4, 1, 3, 5]
    )
    pixels = int(np.prod(weight.shape[1:]))
    patches = graph.add(
        "Reshape",
        [ordered, graph.shape_constant(0, grid[0] * grid[1], pixels)],
        [f"{tokens}/patches"],
        name=f"{name}/Reshape_2",
    )
    product = graph.constant(f"{name}.product_weight", weight.reshape(len(weight), pixels).T)
    out = tokens if bias is None else f"{tokens}/product"
    graph.add("MatMul", [patches, product], [out], name=f"{name}/MatMul")
    if bias is not None:  # as in a plain model, whose class token may not be a constant
        graph.add(
            "Add", [out, graph.constant(f"{name}.product_bias", bias)], [tokens], name=f"{name}/Add"
        )
    return True


def _add_to_positions(graph: _Graph, tokens: str, bias: Array) -> bool:
    """Add (C,) to the positions that are added to these tokens next; say whether there are any."""
    reader = graph.only_reader(tokens)
    if reader is not None and reader.op_type == "Gather":
        reader = graph.only_reader(reader.output[0])
    before = 0
    if reader is not None and reader.op_type == "Concat":
        others = [graph.values(name) for name in reader.input[:-1]]
        if any(other is None for other in others):
            return False
        before = sum(other.shape[1] for other in others if other is not None)
        reader = graph.only_reader(reader.output[0])
    if reader is None or reader.op_type != "Add":
        return False
    place = int(reader.input[0] not in graph.constants)
    positions = graph.values(reader.input[place])
    whole = graph.shapes.get(reader.output[0], ())
    if positions is None or positions.ndim != 3 or [*positions.shape[1:]] != whole[1:]:
        return False
    moved = positions.astype(np.float64)
    moved[:, before:] += bias
    name = graph.constant(f"{reader.input[place]}.with_bias", moved.astype(positions.dtype))
    reader.input[place] = name
    return True


def _replace_unit_length(graph: _Graph, division: Any) -> bool:
    """Replace x / sqrt(max(sum(x * x), tiny)) over the last axis."""
    vector, length = division.input
    root = graph.made_by(length, "Sqrt")
    limited = root and graph.made_by(root.input[0], "Clip")
    total = limited and graph.made_by(limited.input[0], "ReduceSum")
    square = total and graph.made_by(total.input[0], "Mul")
    shape = graph.shapes.get(vector)
    if not limited or not _is_tiny(graph, limited) or graph.types.get(vector) != _FLOAT:
        return False
    if not total or not square or list(square.input) != [vector, vector] or not shape:
        return False
    if graph.numbers(total.input[1]) not in ([-1], [len(shape) - 1]):
        return False
    width = shape[-1]
    if not isinstance(width, int) or _attribute(total, "keepdims") != 1:
        return False
    name = division.name.rpartition("/")[0]
    scale = np.full(width, width**-0.5, np.float32)
    graph.add(
        "SimplifiedLayerNormalization",
        [vector, graph.constant(f"{name}.unit_length".replace("/", "."), scale)],
        [division.output[0]],
        name=f"{name}/UnitLength",
        axis=-1,
        epsilon=_TINY,
        stash_type=1,
    )
    return True


def _is_tiny(graph: _Graph, clip: Any) -> bool:
    """Say whether a Clip only keeps its input off zero."""
    smallest = graph.values((*clip.input, "")[1])
    return smallest is not None and 0 < smallest.max() <= _SHORT and not any(clip.input[2:])


def _attribute(node: Any, name: str) -> Any:
    """Return an attribute of a node, None where it has none."""
    for attribute in node.attribute:
        if attribute.name == name:
            kinds = {1: "f", 2: "i", 3: "s", 7: "ints"}
            found = getattr(attribute, kinds[attribute.type])
            return list(found) if attribute.type == 7 else found
    return None
