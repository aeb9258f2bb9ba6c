"""What decides the trace of a module: everything that it holds but the values of its weights."""

from __future__ import annotations

import hashlib
import io
import pickle
from typing import Any

import torch
from torch import nn


def held_by(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return the parameters and buffers by name; what is shared has several names."""
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


def structure_of(module: nn.Module, *more: Any) -> bytes | None:
    """Return a hash of all but the values of parameters and buffers; None where unknown.

    Args:
        module: The module to be traced.
        more: What else decides its trace; may be pickled.
    """
    held = held_by(module)
    shared: dict[int, list[str]] = {}
    for name, tensor in held.items():
        shared.setdefault(tensor.untyped_storage().data_ptr(), []).append(name)
    stream = io.BytesIO()
    pickler = _StructurePickler(stream, {id(tensor) for tensor in held.values()})
    try:
        pickler.dump((module, more, sorted(shared.values())))
    except (pickle.PicklingError, AttributeError, TypeError, ValueError):  # a lambda, or a circle
        return None
    return hashlib.sha256(stream.getvalue()).digest()


class _StructurePickler(pickle.Pickler):
    """Writes a module's own tensors as their kind, and every other one as its contents."""

    def __init__(self, stream: io.BytesIO, own: set[int]) -> None:
        super().__init__(stream)
        self.fast = True  # no short cuts for what is the same object by chance
        self._own = own

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return NotImplemented
        kind = (str(value.dtype), tuple(value.shape), value.stride(), str(value.device))
        if id(value) in self._own:
            return (tuple, ((*kind, type(value).__name__, value.requires_grad),))
        content = value.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        return (tuple, ((*kind, content),))
