"""The model that a shared graph is traced from, and how tasks fill the graph's inputs.

A shared graph has the backbone's weights as constants and every weight of a task as an input. It is
traced from a template: the backbone with all parts that its tasks may bring, in random weights,
which tell one tensor from another. `recipes` says how each of those tensors follows from a task's;
`fpet_export.task_graph` finds them in the trace by their values, so a recipe that is wrong does not
pass.

Two forms. "low-rank" keeps updates of the qkv projection as two small products: little memory, any
rank in one graph. "folded" takes the folded projection itself: a plan runs the same kernels as with
constants, for 3.5 MB of half-precision weights a block (ViT-B/16).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from engines.errors import ExportError
from engines.manifest import Dimension
from engines.task_inputs import Piece, TaskInput
from fpet_export import methods
from fpet_export.adapt import adapt
from fpet_export.backbones import Backbone
from fpet_export.checkpoints import Checkpoint, _records
from fpet_export.freeze import FrozenVit
from fpet_export.mergers.fpet import REFINEMENT_WIDTH
from fpet_export.methods import Bypass
from fpet_export.vit import Vit, VitSpec

Form = Literal["low-rank", "folded"]
HEAD, REFINEMENT = "head", "refinement"
_SEED = 20261121

OPEN_DIMS = (5, 7, 17, 19, 23)
"""Ranks and widths of an open template: extents that nothing else in a network has."""

_OPEN_CLASSES, _OPEN_REFINEMENT = 11, 13


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """What tasks that share a graph have in common.

    Attributes:
        dims: Rank or bottleneck width of each method in the template.
        merge_block: 0-based block after whose attention tokens merge, or None.
        refined: Whether any of them refines the match.
        classes: Logits of the template.
        form: See the top of this file.
        is_open: Whether ranks, widths and the number of classes may differ between tasks; else the
            graph has those of the template, and smaller ones are filled up with zeros.
    """

    dims: Mapping[str, int]
    merge_block: int | None
    refined: bool
    classes: int
    form: Form
    is_open: bool


def open_layout(runs: Sequence[Checkpoint]) -> Layout:
    """Return the layout of a graph that serves these runs, with any rank, width and classes."""
    names = sorted({run.method for run in runs} - {"none"})
    return Layout(
        dims=dict(zip(names, OPEN_DIMS, strict=False)),
        merge_block=runs[0].merge_block,
        refined=any(run.refinement is not None for run in runs),
        classes=_OPEN_CLASSES,
        form="low-rank",
        is_open=True,
    )


def closed_layout(runs: Sequence[Checkpoint]) -> Layout:
    """Return the layout of a graph with fixed extents, the largest of these runs' own."""
    dims: dict[str, int] = {}
    for run in runs:
        if run.dim is not None:
            dims[run.method] = max(run.dim, dims.get(run.method, 0))
    return Layout(
        dims=dims,
        merge_block=runs[0].merge_block,
        refined=any(run.refinement is not None for run in runs),
        classes=max(len(run.head["head.weight"]) for run in runs),
        form="folded",
        is_open=False,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Template:
    """A model to trace, and its task's weights by the names of `engines.task_delta`."""

    model: Vit
    checkpoint: Checkpoint
    weights: dict[str, NDArray[np.float32]]
    layout: Layout

    @property
    def parts(self) -> tuple[str, ...]:
        """Every part: the methods, the refinement and the head."""
        return (*self.layout.dims, *([REFINEMENT] if self.layout.refined else []), HEAD)


def make_template(backbone: Backbone, layout: Layout) -> Template:
    """Return the backbone with random parts attached, folded where the form says so.

    Raises:
        ExportError: A method changes the keys of a graph that merges by them.
    """
    generator = torch.Generator().manual_seed(_SEED)
    spec = dataclasses.replace(backbone.spec, classes=layout.classes)
    _refuse_changed_keys(layout)
    head = {}
    for name in ("head", "head_dist") if spec.pool == "class+dist" else ("head",):
        head[f"{name}.weight"] = torch.randn(spec.classes, spec.width, generator=generator)
        head[f"{name}.bias"] = torch.randn(spec.classes, generator=generator)
    refinement = None
    if layout.refined and layout.merge_block is not None:
        width = _OPEN_REFINEMENT if layout.is_open else REFINEMENT_WIDTH
        refinement = (
            torch.randn(width, spec.head_width, generator=generator),
            torch.randn(spec.head_width, width, generator=generator),
        )
    checkpoint = Checkpoint(
        name="tasks",
        method="none",
        bit=None,
        dim=None,
        scale=None,
        merge_block=layout.merge_block,
        factors=(),
        refinement=refinement,
        head=head,
        quality="trained",
        files=(),
        facts={},
    )
    model = adapt(backbone, checkpoint)
    weights = dict(head)
    if refinement is not None:
        weights |= {_records.REFINEMENT_DOWN: refinement[0], _records.REFINEMENT_UP: refinement[1]}
    for method, dim in layout.dims.items():
        entry = methods.load(method)
        for index, block in enumerate(model.each_block()):
            factors = {
                layer.name: torch.randn(layer.shape, generator=generator)
                for layer in entry.layers(spec.width, dim)
            }
            entry.attach(block, factors, scale=1.0)
            if layout.form == "folded":
                entry.fold(block)
            weights |= {f"blocks.{index}.{name}": tensor for name, tensor in factors.items()}
    arrays = {name: tensor.numpy() for name, tensor in weights.items()}
    return Template(model=model, checkpoint=checkpoint, weights=arrays, layout=layout)


def _refuse_changed_keys(layout: Layout) -> None:
    """Keep the averaged key weight of the match a constant."""
    for method in layout.dims:
        if layout.merge_block is not None and any(
            bypass.onto == "key" for bypass in methods.load(method).bypasses()
        ):
            raise ExportError(
                f"{method} changes the keys, by which this graph merges tokens; the match has them "
                "as a constant",
                where="fpet_export/task_template.py",
                fix="export these runs one by one: fpet-export export",
            )


def recipes(layout: Layout, spec: VitSpec, module: FrozenVit) -> list[TaskInput]:
    """Return every input of the graph besides the images, in the order of the network.

    Args:
        layout: What the tasks have in common.
        spec: The backbone.
        module: The template, frozen: it says where the attention scale sits and what the last
            block computes.
    """
    found: list[TaskInput] = []
    factor = 1.0 if module.options.attention_scale == "split" else spec.head_width**-0.5
    for index in range(spec.depth):
        block: Any = module.blocks[index]
        for method in layout.dims:
            bypasses = methods.load(method).bypasses()
            thirds = [bypass for bypass in bypasses if bypass.onto != "branch"]
            if thirds:
                cut = block.attn.queries is not None
                place = _Projection(method, index, spec.width, tuple(thirds), factor, cut)
                found += place.folded() if layout.form == "folded" else place.low_rank(layout)
            for bypass in bypasses:
                if bypass.onto == "branch":
                    found += _branch(method, index, spec.width, bypass, layout)
        if index == layout.merge_block and layout.refined:
            found += _refinement(spec.head_width, layout)
    return [*found, *_head(spec, layout)]


@dataclasses.dataclass(frozen=True)
class _Projection:
    """The inputs of one block's qkv projection, which may be cut into query and the rest."""

    method: str
    block: int
    width: int
    thirds: tuple[Bypass, ...]
    query_factor: float
    cut: bool

    def low_rank(self, layout: Layout) -> list[TaskInput]:
        """Return the common down product and an up product for each part of the projection."""
        rank = len(self.thirds) * layout.dims[self.method]
        extent: Dimension = f"{self.method}_rank" if layout.is_open else rank
        prefix = f"blocks.{self.block}.attn.{self.method}"
        down = TaskInput(
            name=f"{prefix}.down",
            shape=(self.width, extent),
            dtype="float32",
            stack="columns",
            pieces=tuple(Piece(part=self.method, left=self._name(b.down)) for b in self.thirds),
        )
        ups = [
            TaskInput(
                name=f"{prefix}.{name}",
                shape=(extent, width),
                dtype="float32",
                stack="rows",
                pieces=tuple(
                    Piece(
                        part=self.method,
                        left=self._name(bypass.up),
                        column=places.get(bypass.onto, 0),
                        # What acts elsewhere keeps its rows, so that they meet its columns above.
                        factor=self._factor(bypass) if bypass.onto in places else 0.0,
                        scaled=True,
                    )
                    for bypass in self.thirds
                ),
            )
            for name, width, places in self._parts("up", "query_up", "key_value_up")
        ]
        return [down, *ups]

    def folded(self) -> list[TaskInput]:
        """Return the folded weights of the projection."""
        return [
            TaskInput(
                name=f"blocks.{self.block}.attn.{name}.weight",
                shape=(self.width, width),
                dtype="float32",
                base=f"blocks.{self.block}.attn.{name}.weight",
                pieces=tuple(
                    Piece(
                        part=self.method,
                        left=self._name(bypass.up),
                        right=self._name(bypass.down),
                        column=places[bypass.onto],
                        factor=self._factor(bypass),
                        scaled=True,
                    )
                    for bypass in self.thirds
                    if bypass.onto in places
                ),
            )
            for name, width, places in self._parts("qkv", "query", "key_value")
        ]

    def _parts(self, whole: str, query: str, rest: str) -> list[tuple[str, int, dict[str, int]]]:
        """Return (name, width, column of each third) of the projections that a block has."""
        width = self.width
        if not self.cut:
            return [(whole, 3 * width, {"query": 0, "key": width, "value": 2 * width})]
        return [(query, width, {"query": 0}), (rest, 2 * width, {"key": 0, "value": width})]

    def _factor(self, bypass: Bypass) -> float:
        return self.query_factor if bypass.onto == "query" else 1.0

    def _name(self, layer: str) -> str:
        return f"blocks.{self.block}.{layer}"


def _branch(method: str, block: int, width: int, bypass: Bypass, layout: Layout) -> list[TaskInput]:
    extent: Dimension = f"{method}_width" if layout.is_open else layout.dims[method]
    prefix = f"blocks.{block}"
    down = Piece(part=method, left=f"{prefix}.{bypass.down}")
    up = Piece(part=method, left=f"{prefix}.{bypass.up}", scaled=True)
    return [
        _single(f"{prefix}.{method}.down", (width, extent), down),
        _single(f"{prefix}.{method}.up", (extent, width), up),
    ]


def _refinement(head_width: int, layout: Layout) -> list[TaskInput]:
    width = REFINEMENT_WIDTH
    extent: Dimension = "refinement_width" if layout.is_open else width
    down = Piece(part=REFINEMENT, left=_records.REFINEMENT_DOWN)
    up = Piece(part=REFINEMENT, left=_records.REFINEMENT_UP)
    return [
        _single("refinement.down", (head_width, extent), down),
        _single("refinement.up", (extent, head_width), up),
    ]


def _head(spec: VitSpec, layout: Layout) -> list[TaskInput]:
    """Return the head's inputs; two heads of a distilled model are averaged in one."""
    names = ("head", "head_dist") if spec.pool == "class+dist" else ("head",)
    extent: Dimension = "classes" if layout.is_open else layout.classes
    factor = 1 / len(names)
    weight = TaskInput(
        name="head.weight",
        shape=(extent, len(names) * spec.width),
        dtype="float32",
        stack="columns",
        pieces=tuple(
            Piece(part=HEAD, left=f"{name}.weight", transposed=False, factor=factor)
            for name in names
        ),
    )
    bias = TaskInput(
        name="head.bias",
        shape=(extent,),
        dtype="float32",
        pieces=tuple(
            Piece(part=HEAD, left=f"{name}.bias", transposed=False, factor=factor) for name in names
        ),
    )
    return [weight, bias]


def _single(name: str, shape: tuple[Dimension, ...], piece: Piece) -> TaskInput:
    return TaskInput(name=name, shape=shape, dtype="float32", pieces=(piece,))
