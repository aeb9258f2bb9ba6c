"""PyTorch's exporter runs once in a test process for one and the same module.

It takes four fifths of every export, and many tests export the same tiny run. A module is the
same when everything it holds is, and when no test has replaced code that it runs. One that
differs in its weights alone is traced once (`tests/shared_captures.py`).
`@pytest.mark.fresh_exports` is for tests of the exporter itself.
"""

from __future__ import annotations

import collections
import functools
import hashlib
import io
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.onnx._internal.exporter import _core, _registration

from fpet_export.graph import to_onnx
from tests.shared_captures import SharedCaptures, code

_MOST = 64  # programs that are kept
_LARGEST = 12_000_000  # bytes of a module that is remembered


class SharedExports:
    """Stands in for `torch.onnx.export`: calls it, and remembers what it returned.

    Args:
        export: What is called and remembered.
        fresh: What is called while it is not on; `export` without one.
    """

    def __init__(
        self, export: Callable[..., Any], *, fresh: Callable[..., Any] | None = None
    ) -> None:
        self._export = export
        self._fresh = fresh or export
        self._known: collections.OrderedDict[bytes, Any] = collections.OrderedDict()
        self.is_on = True
        self.hits = self.misses = 0

    def __call__(self, module: Any, *words: Any, **named: Any) -> Any:
        if not self.is_on:
            return self._fresh(module, *words, **named)
        key = _key(module, words, named)
        if key is None:
            return self._export(module, *words, **named)
        if key in self._known:
            self.hits += 1
            self._known.move_to_end(key)
            return self._known[key]
        self.misses += 1
        program = self._known[key] = self._export(module, *words, **named)
        while len(self._known) > _MOST:
            self._known.popitem(last=False)
        return program


class _Pickler(pickle.Pickler):
    """Writes a tensor as its contents: torch itself writes where in memory it lies."""

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return NotImplemented
        content = value.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        return (tuple, ((str(value.dtype), tuple(value.shape), content),))


def _key(module: Any, words: Any, named: Any) -> bytes | None:
    """Return what decides the exporter's answer; None for what cannot be compared."""
    held = [*module.parameters(), *module.buffers()]
    if sum(tensor.nbytes for tensor in held) > _LARGEST:
        return None
    try:
        stream = io.BytesIO()
        pickler = _Pickler(stream)
        pickler.fast = True  # no short cuts for what is the same object by chance
        pickler.dump((module, words, named, code()))
    except (pickle.PicklingError, AttributeError, TypeError):  # a class of a test's own
        return None
    return hashlib.sha256(stream.getvalue()).digest()


def installed() -> Iterator[SharedExports]:
    """Put it in the place of `torch.onnx.export`, and of what an export does with its answer.

    The exporter's table of operators is kept, too.
    """
    with pytest.MonkeyPatch.context() as patch:
        fresh = torch.onnx.export
        captures = SharedCaptures(fresh, _core._prepare_exported_program_for_export)
        patch.setattr(_core, "_prepare_exported_program_for_export", captures.prepare)
        shared = SharedExports(captures.export, fresh=fresh)
        patch.setattr(torch.onnx, "export", shared)
        trace = to_onnx.trace
        graphs = SharedExports(trace)
        patch.setattr(
            to_onnx,
            "trace",
            lambda module, **named: (graphs if shared.is_on else trace)(module, **named),
        )
        table = functools.cache(_registration.ONNXRegistry.from_torchlib)
        patch.setattr(_registration.ONNXRegistry, "from_torchlib", staticmethod(table))
        yield shared
