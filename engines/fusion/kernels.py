"""The kernels of a plan: which part of the network each belongs to, and what it does there.

TensorRT lists for every kernel its tensors and the ONNX nodes it holds. This toolkit names its
nodes `<module path>/<operator>` (`blocks/3/attn/qkv/MatMul`, `blocks/6/merge/ArgMax`, `head/Gemm`;
what lies in no module is `graph/…`), and quantization and casts stay under the path they belong
to, so path and operator tell section and role. For kernels of its code generator TensorRT lists the
operations in the name, four letters each, `__myl_SlicConcCast_myl0_67`: that tells a kernel that
computes from one that only moves data, which the nodes do not (the second half of a dequantized
matrix product names the product's nodes too). Abbreviations as TensorRT-RTX 1.7 writes them.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import re
from collections.abc import Collection, Iterable, Sequence
from typing import Literal

Section = Literal["embedding", "block", "merge", "head", "other"]
Work = Literal["attention", "product", "other"]

QUANTIZED = frozenset({"Int8", "FP8"})
FLOATS = frozenset({"Float", "Half", "BFloat16"}) | QUANTIZED

MATCH_INPUT = "match's input"

_FUSED_ATTENTION = re.compile(r"_gem[mv]_mha_v\d")
"""TensorRT fuses the attention of one query as a gemv."""
_PRODUCT_KINDS = ("gemm", "matrixmultiply", "convolution", "correlation", "fullyconnected")
_MOVING_KINDS = frozenset({"reformat", "shuffle", "slice", "concatenation", "gather"})
_MOVING = frozenset({"Resh", "Tran", "Slic", "Move", "Conc", "Gath"})
_GENERATED = re.compile(r"^__myl_((?:[A-Z][a-z0-9]*)+)_myl\d+_\d+$")
_NUMBERED = re.compile(r"_\d+$")
_SEARCHES = frozenset({"ArgMax", "TopK"})
_EMBEDDING, _HEAD = frozenset({"patches", "embed"}), frozenset({"norm", "head", "head_dist"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tensor:
    """What a kernel reads or writes.

    Attributes:
        name: TensorRT's name of it.
        dtype: TensorRT's name of the type: "Float", "Half", "BFloat16", "Int8", "FP8", "Int32", …
        shape: Extents; -1 for a dynamic one.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kernel:
    """One launch on the GPU; what stands behind `nodes` is found by `classify`.

    Attributes:
        name: TensorRT's name.
        kind: TensorRT's LayerType: "gemm", "kgen", "runtime_fusion", …
        inputs: Without constants.
        outputs: What it writes.
        constants: Weights and scales that it reads.
        nodes: ONNX nodes that it holds, by name; a node may lie in several kernels.
        dtype: What it computes in, spelled as in `Tensor`.
        section: The part of the network it belongs to; "other" where the names do not tell.
        block: Index of its block, also for a merge that lies in one; None elsewhere.
        role: What it does, in plain words.
        work: "attention" is one that was fused whole, "product" a matrix product or convolution.
        stray: Whether it computes nothing and only converts or moves data, other than splitting
            the heads or taking in and giving out the graph's inputs and outputs.
        at_border: Whether the only float32 it touches is the graph's inputs and outputs.
    """

    name: str
    kind: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    constants: tuple[Tensor, ...] = ()
    nodes: tuple[str, ...] = ()
    dtype: str = ""
    section: Section = "other"
    block: int | None = None
    role: str = ""
    work: Work = "other"
    stray: bool = False
    at_border: bool = False

    @property
    def row(self) -> str:
        """The part of the network, with its number: "block 3", "merge", "head"."""
        return f"block {self.block}" if self.section == "block" else self.section

    @property
    def touches_float32(self) -> bool:
        """Whether it reads or writes a float32 tensor that is no constant."""
        return any(tensor.dtype == "Float" for tensor in (*self.inputs, *self.outputs))


@dataclasses.dataclass(frozen=True)
class _Node:
    """An ONNX node by its name."""

    path: tuple[str, ...]
    operator: str

    @property
    def block(self) -> int | None:
        numbered = self.path[:1] == ("blocks",) and len(self.path) > 1 and self.path[1].isdigit()
        return int(self.path[1]) if numbered else None

    @property
    def in_merge(self) -> bool:
        return self.path[2:3] == ("merge",)

    @property
    def module(self) -> str:
        """The last module of its path that is no tensor of a quantization."""
        return self.path[-1] if self.path else ""


def node_of(name: str) -> _Node:
    """Take a node's name apart: `blocks/3/attn/MatMul_2` is a MatMul in (blocks, 3, attn)."""
    *path, operator = name.split("/")
    return _Node(tuple(path), _NUMBERED.sub("", operator))


def classify(kernels: Sequence[Kernel]) -> tuple[Kernel, ...]:
    """Return the kernels, in their order, with type, section and role."""
    flow = _Flow(kernels)
    placed = _place(kernels, flow)
    searches = [k for k in placed if _SEARCHES & _operators(k) and k.section == "merge"]
    before_search = flow.ancestors(searches)
    named = [_named(kernel, flow, kernel.name in before_search) for kernel in placed]
    return tuple(_number_parts(named))


def _named(kernel: Kernel, flow: _Flow, before_search: bool) -> Kernel:
    float32 = [t for t in (*kernel.inputs, *kernel.outputs) if t.dtype == "Float"]
    role, work = _role(kernel, flow, before_search)
    return dataclasses.replace(
        kernel,
        dtype=_compute_type(kernel),
        role=role,
        work=work,
        stray=role.endswith(("cast", "reformat")),
        at_border=bool(float32) and all(map(flow.is_border, float32)),
    )


class _Flow:
    """Who writes what another reads."""

    def __init__(self, kernels: Sequence[Kernel]) -> None:
        self.writer = {tensor.name: k for k in kernels for tensor in k.outputs}
        self.readers: dict[str, list[Kernel]] = collections.defaultdict(list)
        for kernel in kernels:
            for tensor in kernel.inputs:
                self.readers[tensor.name].append(kernel)

    def is_border(self, tensor: Tensor) -> bool:
        """Whether it is an input or an output of the graph."""
        return tensor.name not in self.writer or not self.readers.get(tensor.name)

    def ancestors(self, kernels: Iterable[Kernel]) -> set[str]:
        """Return the names of these kernels and of all that they depend on."""
        found: set[str] = set()
        todo = list(kernels)
        while todo:
            kernel = todo.pop()
            if kernel.name not in found:
                found.add(kernel.name)
                inputs = (tensor.name for tensor in kernel.inputs)
                todo += [self.writer[name] for name in inputs if name in self.writer]
        return found

    def after(self, kernel: Kernel) -> list[Kernel]:
        """Return the kernels that read what this one writes."""
        return [reader for tensor in kernel.outputs for reader in self.readers[tensor.name]]


def _place(kernels: Sequence[Kernel], flow: _Flow) -> list[Kernel]:
    """Place every kernel by its nodes; what holds no telling node belongs where it is read."""
    sections = {kernel.name: _section_by_nodes(kernel) for kernel in kernels}
    blocks = [i for i, kernel in enumerate(kernels) if sections[kernel.name][0] == "block"]
    for index, kernel in enumerate(kernels):
        if not blocks or sections[kernel.name][0] != "other":
            continue
        if index < blocks[0]:
            sections[kernel.name] = ("embedding", None)
        elif index > blocks[-1]:
            sections[kernel.name] = ("head", None)
        else:
            readers = [sections[reader.name] for reader in flow.after(kernel)]
            sections[kernel.name] = next((p for p in readers if p[0] != "other"), ("other", None))
    return [
        dataclasses.replace(
            kernel, section=sections[kernel.name][0], block=sections[kernel.name][1]
        )
        for kernel in kernels
    ]


def _section_by_nodes(kernel: Kernel) -> tuple[Section, int | None]:
    """A block's own nodes decide first, then the merge's, then those before and after the blocks.

    A kernel with nodes of two blocks (the end of one fused with the norm of the next) belongs to
    the one of which it holds more.
    """
    nodes = [node_of(name) for name in kernel.nodes]
    own = collections.Counter(n.block for n in nodes if n.block is not None and not n.in_merge)
    if own:
        most = max(own.values())
        return "block", min(block for block, count in own.items() if count == most)
    merge = [node.block for node in nodes if node.in_merge]
    if merge:
        return "merge", merge[0]
    tops = {node.path[0] for node in nodes if node.path}
    if tops & _EMBEDDING:
        return "embedding", None
    return ("head", None) if tops & _HEAD else ("other", None)


def _operators(kernel: Kernel) -> set[str]:
    return {node_of(name).operator for name in kernel.nodes}


def _operations(kernel: Kernel) -> list[str]:
    """Return what a kernel of the code generator does, in TensorRT's four letters."""
    match = _GENERATED.match(kernel.name)
    return re.findall(r"[A-Z][a-z0-9]*", match[1]) if match else []


def _compute_type(kernel: Kernel) -> str:
    """The type of the first float that it reads; of what it writes where it reads none.

    Constants do not count: a product of half activations with quantized weights computes in half.
    They decide only where a product reads a residual of another type than its activations.
    """
    floats = [tensor.dtype for tensor in kernel.inputs if tensor.dtype in FLOATS]
    if _is_product(kernel) and len(set(floats)) > 1:
        quantized = [dtype for dtype in floats if dtype in QUANTIZED]
        sizes = {tensor.dtype: math.prod(tensor.shape) for tensor in kernel.constants}
        weights = max(sizes, key=lambda dtype: sizes[dtype], default="")
        floats = quantized or [weights] * (weights in floats) + floats
    floats += [tensor.dtype for tensor in kernel.outputs if tensor.dtype in FLOATS]
    others = [tensor.dtype for tensor in (*kernel.inputs, *kernel.outputs)]
    return next(iter(floats + others), "")


def _is_attention(kernel: Kernel) -> bool:
    return _FUSED_ATTENTION.search(kernel.name) is not None


def _is_product(kernel: Kernel) -> bool:
    kind = kernel.kind.lower()
    return any(word in kind for word in _PRODUCT_KINDS) or "Fc" in _operations(kernel)


def _computes_nothing(kernel: Kernel) -> bool:
    operations = _operations(kernel)
    if operations:
        return set(operations) <= _MOVING | {"Cast"}
    return kernel.kind.lower() in _MOVING_KINDS | {"cast"}


def _role(kernel: Kernel, flow: _Flow, before_search: bool) -> tuple[str, Work]:
    """Say what a kernel does, in plain words."""
    part = ""
    if kernel.section == "merge":
        matches = before_search or {"Equal", "OneHot"} & _operators(kernel)
        part = "match " if matches else "merge "
    if _is_attention(kernel):
        bias = "Add" in _operators(kernel) or len(kernel.inputs) > 3
        return "attention" + " + key bias" * bias, "attention"
    if _is_product(kernel):
        return part + _product(kernel), "product"
    if not _computes_nothing(kernel):
        return part + _computation(kernel, before_search), "other"
    if _splits_heads(kernel):
        return "split heads", "other"
    does = "cast" if _recasts(kernel) else "reformat"
    if any(map(flow.is_border, kernel.inputs)):
        return f"{does} of the graph's input", "other"
    if any(map(flow.is_border, kernel.outputs)):
        return f"{does} of the graph's output", "other"
    return part + does, "other"


def _recasts(kernel: Kernel) -> bool:
    return {t.dtype for t in kernel.inputs} != {t.dtype for t in kernel.outputs}


def _product(kernel: Kernel) -> str:
    """Name a matrix product by its module, and what was fused behind it."""
    nodes = [node_of(name) for name in kernel.nodes]
    if any(node.operator == "Conv" for node in nodes):
        return "patch embedding" if kernel.section == "embedding" else "convolution"
    own = [node for node in nodes if node.operator in ("MatMul", "Gemm")]
    modules = list(dict.fromkeys(n.module for n in own if n.module != "merge"))
    fused = [word for word in _fused(nodes, kernel.section) if word in ("bias", "residual", "GELU")]
    return " + ".join([" ".join(["GEMM", *modules]), *fused])


def _computation(kernel: Kernel, before_search: bool) -> str:
    """Name any other kernel by the heaviest thing in it, and what was fused with that."""
    nodes = [node_of(name) for name in kernel.nodes]
    operators = {node.operator for node in nodes}
    main = {
        "LayerNorm": "LayerNormalization" in operators,
        "softmax": "Softmax" in operators,
        "split heads": _splits_heads(kernel),
        "argmax": bool(_SEARCHES & operators),
        "one-hot": bool({"Equal", "OneHot"} & operators),
        "log size": "Log" in operators,
        "normalise": {"ReduceSum", "Sqrt"} <= operators,
    }
    words = [word for word, holds in main.items() if holds][:1]
    words += [word for word in _fused(nodes, kernel.section) if word not in words]
    if any(node.in_merge for node in nodes) and kernel.section == "block":
        words.append(MATCH_INPUT if before_search else "merge")
    return " + ".join(words) or "elementwise"


def _fused(nodes: Collection[_Node], section: Section) -> list[str]:
    """Say what else the nodes do, in the order in which a block does it."""
    adds = [node for node in nodes if node.operator == "Add" and not node.in_merge]
    operators = {node.operator for node in nodes}
    holds = {
        "embedding": section == "block"
        and any(node.path == ("graph",) and node.operator == "Concat" for node in nodes),
        "dequantize": "DequantizeLinear" in operators,
        "key bias": any(node.path[2:] == ("attn",) for node in adds),
        "bias": any(len(n.path) > 2 and n.path[2:] != ("attn",) for n in adds)
        or "Gemm" in operators,
        "residual": any(node.block is not None and len(node.path) == 2 for node in adds),
        "GELU": "Gelu" in operators,
        "quantize": "QuantizeLinear" in operators,
    }
    return [word for word, is_held in holds.items() if is_held]


def _splits_heads(kernel: Kernel) -> bool:
    nodes = [node_of(name) for name in kernel.nodes]
    return any(node.path[2:] == ("attn",) and node.operator in ("Slice", "Split") for node in nodes)


def _number_parts(kernels: Sequence[Kernel]) -> list[Kernel]:
    """Mark the kernels that share one LayerNorm or one splitting of heads between them."""
    shared: dict[str, list[str]] = collections.defaultdict(list)
    for kernel in kernels:
        word = kernel.role.partition(" + ")[0]
        if word in ("LayerNorm", "split heads"):
            wanted = "LayerNormalization" if word == "LayerNorm" else "Slice"
            key = next((name for name in kernel.nodes if node_of(name).operator == wanted), "")
            shared[key.rpartition("/")[0] + word].append(kernel.name)
    parts = {
        name: (index, len(names))
        for names in shared.values()
        if len(names) > 1
        for index, name in enumerate(names, 1)
    }
    return [
        dataclasses.replace(kernel, role=_with_part(kernel.role, *parts[kernel.name]))
        if kernel.name in parts
        else kernel
        for kernel in kernels
    ]


def _with_part(role: str, index: int, count: int) -> str:
    main, plus, rest = role.partition(" + ")
    return f"{main} {index} of {count}{plus}{rest}"
