"""The model that a shared graph is traced from: the backbone with random parts.

A shared graph has the backbone's weights as constants and every weight of a task as an input. It is
traced from a template: the backbone with all parts that its tasks may bring, in random weights,
which tell one tensor from another. `fpet_export.tasks.recipes` says how each of them follows from a
task's; `fpet_export.tasks.graph` finds them in the trace by their values, so a recipe that is
wrong does not pass.

Two forms. "low-rank" keeps updates of the qkv projection as two small products: little memory, any
rank in one graph. "folded" takes the folded projection itself: a plan runs the same kernels as with
constants, for 3.5 MB of half-precision weights a block (ViT-B/16).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from engines.errors import ExportError
from fpet_export.model import methods
from fpet_export.model.adapt import adapt
from fpet_export.model.attached import attach
from fpet_export.model.backbones import Backbone
from fpet_export.model.checkpoints import Checkpoint, _records
from fpet_export.model.fold import fold
from fpet_export.model.merge_plan import at_block
from fpet_export.model.vit import Vit

Form = Literal["low-rank", "folded"]
HEAD, REFINEMENT = "head", "refinement"
_SEED = 20261121

OPEN_DIMS = (5, 7, 17, 19, 23)
"""Ranks and widths of an open template: extents that nothing else in a network has."""

_OPEN_CLASSES, _OPEN_REFINEMENT = 11, 13


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskLayout:
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


def open_layout(runs: Sequence[Checkpoint]) -> TaskLayout:
    """Return the layout of a graph that serves these runs, with any rank, width and classes."""
    names = sorted({run.method for run in runs} - {"none"})
    return TaskLayout(
        dims=dict(zip(names, OPEN_DIMS, strict=False)),
        merge_block=runs[0].merge_block,
        refined=any(run.refinement is not None for run in runs),
        classes=_OPEN_CLASSES,
        form="low-rank",
        is_open=True,
    )


def closed_layout(runs: Sequence[Checkpoint]) -> TaskLayout:
    """Return the layout of a graph with fixed extents, the largest of these runs' own."""
    dims: dict[str, int] = {}
    for run in runs:
        if run.dim is not None:
            dims[run.method] = max(run.dim, dims.get(run.method, 0))
    return TaskLayout(
        dims=dims,
        merge_block=runs[0].merge_block,
        refined=any(run.refinement is not None for run in runs),
        classes=max(len(run.head["head.weight"]) for run in runs),
        form="folded",
        is_open=False,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Template:
    """A model to trace, and its task's weights by the names of `engines.tasks.delta`."""

    model: Vit
    checkpoint: Checkpoint
    weights: dict[str, NDArray[np.float32]]
    layout: TaskLayout

    @property
    def parts(self) -> tuple[str, ...]:
        """Every part: the methods, the refinement and the head."""
        return (*self.layout.dims, *([REFINEMENT] if self.layout.refined else []), HEAD)


def make_template(backbone: Backbone, layout: TaskLayout) -> Template:
    """Return the backbone with random parts attached, folded where the form says so.

    Raises:
        ExportError: A method changes the keys of a graph that merges by them.
    """
    generator = torch.Generator().manual_seed(_SEED)
    spec = dataclasses.replace(backbone.spec, classes=layout.classes)
    _refuse_changed_keys(layout)
    head = {}
    for name in ("head", "head_dist") if spec.pool == "class+dist" else ("head",):
        head[f"{name}.weight"] = torch.randn(spec.classes, spec.features, generator=generator)
        head[f"{name}.bias"] = torch.randn(spec.classes, generator=generator)
    refinement = None
    if layout.refined and layout.merge_block is not None:
        width, _ = _records.refinement_layers(spec.head_width)[0].shape
        width = _OPEN_REFINEMENT if layout.is_open else width
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
        merge=at_block(layout.merge_block),
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
        for index in range(spec.depth):
            factors = {
                layer.name: torch.randn(layer.shape, generator=generator)
                for layer in entry.layers(spec.width, dim)
            }
            attach(model, entry.edits(index, factors, scale=1.0))
            weights |= {f"blocks.{index}.{name}": tensor for name, tensor in factors.items()}
    if layout.form == "folded":
        model, _ = fold(model)
    arrays = {name: tensor.numpy() for name, tensor in weights.items()}
    return Template(model=model, checkpoint=checkpoint, weights=arrays, layout=layout)


def _refuse_changed_keys(layout: TaskLayout) -> None:
    """Keep the averaged key weight of the match a constant."""
    for method in layout.dims:
        if layout.merge_block is not None and any(
            bypass.onto == "key" for bypass in methods.load(method).bypasses()
        ):
            raise ExportError(
                f"{method} changes the keys, by which this graph merges tokens; the match has them "
                "as a constant",
                where="fpet_export/tasks/template.py",
                fix="export these runs one by one: fpet-export export",
            )
