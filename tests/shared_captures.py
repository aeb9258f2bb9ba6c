"""Modules that differ in their weights alone are traced once in a test process.

`torch.export` traces with tensors that have a shape and no values, and takes three quarters of
an export. What it found is used again with the weights of the next module; the translation to
ONNX and its optimizer, which do see values, run each time.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from typing import Any

from torch.export import ExportedProgram

from fpet_export import stages
from fpet_export.graph import freeze, frozen_attention, repeated_blocks, to_onnx
from fpet_export.graph.structure import held_by, structure_of
from fpet_export.model import vit
from fpet_export.steps import naive_export

_CODE = (freeze, frozen_attention, stages, naive_export, repeated_blocks, to_onnx, vit)

Held = dict[str, Any]
"""Parameters and buffers by name; None for those of a program that waits for them."""


class SharedCaptures:
    """Stands in for `torch.onnx.export`, and for the step in it that decomposes a program."""

    def __init__(self, export: Callable[..., Any], prepare: Callable[..., Any]) -> None:
        self._export = export
        self._prepare = prepare
        self._known: dict[bytes, ExportedProgram] = {}
        self._prepared: ExportedProgram | None = None
        self.hits = 0

    def export(self, module: Any, *words: Any, **named: Any) -> Any:
        key = structure_of(module, words, named, code())
        if key is not None and key in self._known:
            self.hits += 1
            self._prepared = _with_weights(self._known[key], held_by(module))
            return self._export(self._prepared, *words, **named)
        self._prepared = None
        program = self._export(module, *words, **named)
        if key is not None and self._prepared is not None:
            nothing: Held = dict.fromkeys(held_by(module))  # the weights are not kept
            self._known[key] = _with_weights(self._prepared, nothing)
        return program

    def forget(self) -> None:
        """Trace everything anew."""
        self._known.clear()

    def prepare(self, program: ExportedProgram, **named: Any) -> ExportedProgram:
        if program is not self._prepared:
            self._prepared = self._prepare(program, **named)
        assert self._prepared is not None
        return self._prepared


def _with_weights(program: ExportedProgram, held: Held) -> ExportedProgram:
    """Return a copy of a traced program whose parameters and buffers are those of a module."""
    own = copy.copy(program)
    # A copy, as the translation names nodes anew.
    own._graph_module = copy.deepcopy(program.graph_module)
    own._state_dict = {name: held.get(name, value) for name, value in program.state_dict.items()}
    own._constants = {name: held.get(name, value) for name, value in program.constants.items()}
    return own


def code() -> list[tuple[str, int]]:
    """Return the identity of every function that a module may run, as tests find it now."""
    modules = [
        *_CODE,
        *(one for name, one in sys.modules.items() if "fpet_export.model.mergers" in name),
    ]
    found = []
    for module in modules:
        for name, value in vars(module).items():
            if isinstance(value, type):
                own = vars(value).items()
                found += [(f"{name}.{at}", id(one)) for at, one in own if at != "__slotnames__"]
            found.append((name, id(value)))
    return found
