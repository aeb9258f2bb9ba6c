"""What one task adds to a shared backbone, in one small file: adapters, refinement, head.

`NAME.safetensors` holds every layer of the adapter stacked over the blocks. A layer whose weights
take few values (a run below 32 bit, and every refinement) is kept as that: codes, packed like
those of the `.bin` (the first weight in the lowest bits), and the value of each code, which is what
the authors' decoder gives. So nothing is rounded a second time. Dense layers are float32, or
float16 where that was asked for.

A board reads this with numpy alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines import precisions
from engines.errors import ExportError, TrustError
from engines.precisions import FactorName
from engines.tensor_file import Arrays, read_arrays, write_arrays

FORMAT = "fpet-export task 1"
FloatArray = NDArray[np.floating[Any]]

_CODES, _LEVELS = ".codes", ".levels"
_BLOCK = "blocks."


class Delta:
    """The tensors of one task.

    Attributes:
        task: The task's name.
        backbone: Fingerprint of the backbone that it belongs to.
    """

    def __init__(self, arrays: Arrays, facts: Mapping[str, str], *, where: str) -> None:
        self.task, self.backbone = facts["task"], facts["backbone"]
        self._arrays, self._facts, self._where = arrays, facts, where
        self._used: set[str] = set()

    def weight(self, name: str) -> FloatArray:
        """Return one (out, in) or (out,) weight, as `engines.tasks.inputs.Source` wants it.

        Args:
            name: Such as "blocks.3.adapter_mlp.adapter_up", "refinement.adapter_down" or
                "head.bias".

        Raises:
            TrustError: There is no such weight in the file.
        """
        is_stacked = name.startswith(_BLOCK)
        number, _, stack = name[len(_BLOCK) :].partition(".") if is_stacked else ("0", "", name)
        try:
            block = int(number)
            if stack in self._arrays:
                self._used.add(stack)
                array = self._arrays[stack]
                return np.asarray(array[block] if is_stacked else array)
            codes, levels = self._arrays[stack + _CODES], self._arrays[stack + _LEVELS]
            self._used |= {stack + _CODES, stack + _LEVELS}
            shape = tuple(int(extent) for extent in self._facts[stack].split(","))
            return unpack(codes[block], levels[block], shape)
        except (KeyError, IndexError, ValueError) as error:
            raise TrustError(
                f"the delta of {self.task!r} does not hold {name} ({error!r})",
                where=self._where,
                fix="export the tasks again",
            ) from error

    def require_all_used(self) -> None:
        """Refuse a delta with tensors that nothing has read.

        Raises:
            TrustError: There are such tensors.
        """
        rest = sorted(set(self._arrays) - self._used)
        if rest:
            raise TrustError(
                f"the delta of {self.task!r} holds what its graph does not take: "
                f"{', '.join(rest[:3])}",
                where=self._where,
                fix="export the tasks again, together",
            )


def write_delta(
    path: Path,
    *,
    task: str,
    backbone: str,
    blocks: Mapping[str, Sequence[FloatArray]],
    single: Mapping[str, FloatArray],
    bits: int | None,
    factor_precision: FactorName = precisions.FP32,
) -> None:
    """Write a task's tensors, atomically.

    Args:
        path: The `.safetensors` file.
        task: The task's name.
        backbone: Fingerprint of the backbone.
        blocks: The adapter's layers by name, one float32 (out, in) weight a block.
        single: Everything that exists once: the refinement's layers (1 bit) and the head's
            ("head.weight", "head.bias"), which stay float32.
        bits: Bits of the adapter; None or 32 keeps its layers dense.
        factor_precision: How dense layers of the adapter are kept.

    Raises:
        ExportError: A layer takes more values than its bits allow, or float16 cannot hold it.
    """
    arrays: Arrays = {}
    facts = {"format": FORMAT, "task": task, "backbone": backbone}
    for name, layers in blocks.items():
        if bits is None or bits >= 32:
            arrays[name] = _dense(name, np.stack(layers), factor_precision)
        else:
            _add_packed(arrays, facts, name, layers, bits)
    for name, weight in single.items():
        if name.startswith("refinement."):
            _add_packed(arrays, facts, name, [weight], 1)
        else:
            arrays[name] = weight
    write_arrays(path, arrays, facts)


def read_delta(path: Path, content: bytes | None = None) -> Delta:
    """Read a task's tensors.

    Args:
        path: The `.safetensors` file.
        content: Its bytes, where the caller has read and checked them.

    Raises:
        TrustError: It is not whole, or no delta of this version.
    """
    arrays, facts = read_arrays(path, content)
    if facts.get("format") != FORMAT or not {"task", "backbone"} <= set(facts):
        raise TrustError(
            f"its format is {facts.get('format')!r}, this version reads {FORMAT!r}",
            where=str(path),
            fix="export the tasks again",
        )
    return Delta(arrays, facts, where=str(path))


def pack(weight: FloatArray, bits: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return the codes of a weight that takes at most 2^bits values, and those values.

    Raises:
        ExportError: It takes more.
    """
    values, codes = np.unique(weight, return_inverse=True)
    if len(values) > 2**bits:
        raise ExportError(
            f"the weight takes {len(values)} values, {bits} bits hold {2**bits}",
            where="engines/tasks/delta.py",
            fix="report this with the run",
        )
    levels = np.zeros(2**bits, np.float32)
    levels[: len(values)] = values
    per_byte = 8 // bits
    lanes = np.zeros(-(-weight.size // per_byte) * per_byte, np.uint8)
    lanes[: weight.size] = codes.ravel()
    shifts = np.arange(per_byte, dtype=np.uint8) * np.uint8(bits)
    packed = (lanes.reshape(-1, per_byte) << shifts).sum(axis=1, dtype=np.uint8)
    return packed, levels


def unpack(
    codes: NDArray[np.uint8], levels: NDArray[np.float32], shape: tuple[int, ...]
) -> NDArray[np.float32]:
    """Return the weight of `shape` that `pack` took apart.

    Raises:
        ValueError: The codes are not as many as the shape needs.
    """
    bits = (len(levels) - 1).bit_length()
    if bits not in (1, 2, 4, 8) or 2**bits != len(levels):
        raise ValueError(f"{len(levels)} levels")
    count = math.prod(shape)
    if len(codes) != -(-count * bits // 8):
        raise ValueError(f"{len(codes)} bytes of codes for {count} weights of {bits} bit")
    shifts = np.arange(8 // bits, dtype=np.uint8) * np.uint8(bits)
    lanes = (codes[:, None] >> shifts) & np.uint8(2**bits - 1)
    weight: NDArray[np.float32] = levels[lanes.ravel()[:count]].reshape(shape)
    return weight


def _add_packed(
    arrays: Arrays, facts: dict[str, str], name: str, layers: Sequence[FloatArray], bits: int
) -> None:
    packed = [pack(layer, bits) for layer in layers]
    arrays[name + _CODES] = np.stack([codes for codes, _ in packed])
    arrays[name + _LEVELS] = np.stack([levels for _, levels in packed])
    facts[name] = ",".join(map(str, layers[0].shape))


def _dense(name: str, weight: FloatArray, factor_precision: FactorName) -> FloatArray:
    if factor_precision == precisions.FP32:
        return weight
    with np.errstate(over="ignore"):
        rounded = weight.astype(np.float16)
    if not np.isfinite(rounded).all():
        raise ExportError(
            f"{name} holds {np.abs(weight).max():.4g}, which float16 cannot",
            where=name,
            fix="keep the factors in float32: --half fp32",
        )
    return rounded
