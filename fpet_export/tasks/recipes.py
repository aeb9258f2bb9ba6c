"""How the inputs of a shared graph follow from a task's tensors, written down as data.

The recipes name what lies in a task's file and where it goes; `engines.tasks.inputs` carries them
out, without knowing a method.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from engines.manifest import Dimension
from engines.tasks.inputs import Piece, TaskInput
from fpet_export.graph.freeze import FrozenVit
from fpet_export.model import methods
from fpet_export.model.checkpoints import _records
from fpet_export.model.methods import Bypass
from fpet_export.model.vit_spec import VitSpec
from fpet_export.tasks.template import HEAD, REFINEMENT, TaskLayout


def recipes(layout: TaskLayout, spec: VitSpec, module: FrozenVit) -> list[TaskInput]:
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
                projection = _Projection(method, index, spec.width, tuple(thirds), factor, cut)
                found += (
                    projection.folded() if layout.form == "folded" else projection.low_rank(layout)
                )
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

    def low_rank(self, layout: TaskLayout) -> list[TaskInput]:
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
                        column=columns.get(bypass.onto, 0),
                        # What acts elsewhere keeps its rows, so that they meet its columns above.
                        factor=self._factor(bypass) if bypass.onto in columns else 0.0,
                        scaled=True,
                    )
                    for bypass in self.thirds
                ),
            )
            for name, width, columns in self._parts("up", "query_up", "key_value_up")
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
                        column=columns[bypass.onto],
                        factor=self._factor(bypass),
                        scaled=True,
                    )
                    for bypass in self.thirds
                    if bypass.onto in columns
                ),
            )
            for name, width, columns in self._parts("qkv", "query", "key_value")
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


def _branch(
    method: str, block: int, width: int, bypass: Bypass, layout: TaskLayout
) -> list[TaskInput]:
    extent: Dimension = f"{method}_width" if layout.is_open else layout.dims[method]
    prefix = f"blocks.{block}"
    down = Piece(part=method, left=f"{prefix}.{bypass.down}")
    up = Piece(part=method, left=f"{prefix}.{bypass.up}", scaled=True)
    return [
        _single(f"{prefix}.{method}.down", (width, extent), down),
        _single(f"{prefix}.{method}.up", (extent, width), up),
    ]


def _refinement(head_width: int, layout: TaskLayout) -> list[TaskInput]:
    width, _ = _records.refinement_layers(head_width)[0].shape
    extent: Dimension = "refinement_width" if layout.is_open else width
    down = Piece(part=REFINEMENT, left=_records.REFINEMENT_DOWN)
    up = Piece(part=REFINEMENT, left=_records.REFINEMENT_UP)
    return [
        _single("refinement.down", (head_width, extent), down),
        _single("refinement.up", (extent, head_width), up),
    ]


def _head(spec: VitSpec, layout: TaskLayout) -> list[TaskInput]:
    """Return the head's inputs; two heads of a distilled model are averaged in one."""
    names = ("head", "head_dist") if spec.pool == "class+dist" else ("head",)
    extent: Dimension = "classes" if layout.is_open else layout.classes
    factor = 1 / len(names)
    weight = TaskInput(
        name="head.weight",
        shape=(extent, len(names) * spec.features),
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
