"""Which tensors of a file are meant: sets of weights beside each other, and prefixes of names.

Training scripts save more than one set of weights in a file (raw and averaged, teacher and
student), and wrappers put words in front of every name (`module.`, `_orig_mod.`, `model.`). A
single set is taken and its prefix is stripped, and both are said; where several sets differ, the
user says which one. No tensor is left out silently.
"""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch

from engines.errors import CheckpointError
from engines.plurals import counted
from fpet_export.model import torch_files
from fpet_export.model.facts import Fact
from fpet_export.model.foreign_names import whose

_DEEPEST = 6
"""How many dictionaries and lists deep a set of weights may lie."""

_READ = (torch.float64, torch.float32, torch.float16, torch.bfloat16)

_COUNTER = ".num_batches_tracked"
"""How the counter of a BatchNorm ends, the one tensor of whole numbers that is passed over."""

_ROLES = {"ema": r"ema", "teacher": r"teacher", "student": r"student"}
"""Words of `--weights`, and what betrays them in the names around a set; "raw" has none."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StateDict:
    """One set of weights.

    Attributes:
        tensors: Names without their common prefix to floating tensors.
        facts: What was chosen: "weights", "prefix" and "stored as", as far as there was a choice.
        names: What `--weights` may call this set.
        settings: What a training script has written into the file about the model: `arch`, `args`.
    """

    tensors: dict[str, torch.Tensor]
    facts: dict[str, Fact[str]]
    names: frozenset[str]
    settings: dict[str, object] = dataclasses.field(default_factory=dict)


_SETTINGS = ("arch", "args")
"""Where timm's `CheckpointSaver` keeps what its training script was called with."""

_UNPREFIXED = "unprefixed"
"""What `--weights` calls a set at the top of a file whose names have no prefix."""

_Keys = tuple[str | int, ...]
"""The way to a dictionary: keys of those around it, and indices of lists."""

_Found = tuple[_Keys, dict[str, torch.Tensor], dict[str, object]]
"""A dictionary with tensors: the way to it, its tensors, and what else it holds."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Candidate:
    """A set of weights in a file.

    Attributes:
        keys: Keys of the dictionaries and lists around it, outermost first.
        prefix: What stands in front of each of its names.
        tensors: All tensors of its dictionary, under their full names.
        beside: What else stands in its dictionary, by its key.
        within: Prefixes of other sets in the same dictionary that begin like its own.
    """

    keys: _Keys
    prefix: str
    tensors: Mapping[str, torch.Tensor]
    beside: Mapping[str, object] = dataclasses.field(default_factory=dict)
    within: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Where it lies: "state_dict", "model.", "checkpoint/teacher.backbone."."""
        parts = [*map(str, self.keys), *([self.prefix] if self.prefix else [])]
        return "/".join(parts) or _UNPREFIXED

    @property
    def role(self) -> str:
        """The word for it: "ema", "teacher", "student" or "raw"."""
        for role, pattern in _ROLES.items():
            if re.search(rf"(?<![a-z]){pattern}(?![a-z])", self.name.lower()):
                return role
        return "raw"

    def stripped(self) -> dict[str, torch.Tensor]:
        start = len(self.prefix)
        return {
            name[start:]: tensor
            for name, tensor in self.tensors.items()
            if name.startswith(self.prefix) and not (self.within and name.startswith(self.within))
        }


def read(path: Path, anchors: Sequence[str], *, weights: str | None = None) -> StateDict:
    """Read the one set of weights in `path` that has one of the `anchors`.

    Args:
        path: A file of PyTorch or of safetensors.
        anchors: Names that such a set has; the first that occurs in the file shows the prefixes.
        weights: Which set, where the file holds several: "raw", "ema", "teacher", "student", or
            the name that the refusal gives it.

    Raises:
        CheckpointError: The file cannot be read, holds several sets that differ, tensors beside
            the set, or a tensor that is not of floating point numbers.
    """
    content = torch_files.read_content(path)
    every = list(_dictionaries(content, ()))
    candidates = _anchored(every, anchors)
    if not candidates:
        found = [(keys, tensors) for keys, tensors, beside in every if not beside]
        if not found:
            raise _no_tensors(content, path)
        if len(found) > 1:
            raise _several_without(found, anchors, path)
        (keys, tensors), *_ = found
        candidates = [_Candidate(keys=keys, prefix="", tensors=tensors)]
    names = _names(candidates)
    chosen = _choose(candidates, names, weights, path)
    _refuse_others(chosen, path)
    _refuse_outsiders(chosen, candidates, path)
    stripped = chosen.stripped()
    facts = {}
    for name in [name for name in stripped if name.endswith(_COUNTER)]:
        del stripped[name]
        facts["left out"] = Fact(name, "a counter of training that no inference reads")
    check_kinds(stripped, path)
    if len(candidates) > 1 or chosen.keys:
        said = names[candidates.index(chosen)]
        source = f"{chosen.name} in {path.name}"
        equal = len(candidates) > 1 and weights is None
        facts["weights"] = Fact(said, f"{source}; all sets in it are equal" if equal else source)
    if chosen.prefix:
        facts["prefix"] = Fact(chosen.prefix, f"stripped from every name in {path.name}")
    kinds = Counter(str(tensor.dtype).removeprefix("torch.") for tensor in stripped.values())
    if set(kinds) != {"float32"}:
        facts["stored as"] = Fact(" and ".join(sorted(kinds)), path.name)
    own = {names[candidates.index(chosen)], chosen.role, chosen.name}
    settings = {}
    if isinstance(content, dict):
        settings = {key: content[key] for key in _SETTINGS if key in content}
    return StateDict(tensors=stripped, facts=facts, names=frozenset(own), settings=settings)


def _dictionaries(content: object, keys: _Keys) -> Iterator[_Found]:
    """Yield every dictionary with tensors, with the keys that lead to it."""
    if len(keys) > _DEEPEST:
        return
    if isinstance(content, dict):
        inside = {key: value for key, value in content.items() if isinstance(key, str)}
        tensors = {k: v for k, v in inside.items() if isinstance(v, torch.Tensor)}
        beside = {str(k): v for k, v in content.items() if k not in tensors}
        if tensors:
            yield keys, tensors, beside
        for key, value in inside.items():
            yield from _dictionaries(value, (*keys, key))
    elif isinstance(content, list | tuple):
        for index, value in enumerate(content):
            yield from _dictionaries(value, (*keys, index))


def _anchored(found: list[_Found], anchors: Sequence[str]) -> list[_Candidate]:
    for anchor in anchors:
        candidates = []
        for keys, tensors, beside in found:
            prefixes = [
                name[: len(name) - len(anchor)]
                for name in tensors
                if name == anchor or name.endswith("." + anchor)
            ]
            candidates += [
                _Candidate(
                    keys=keys,
                    prefix=prefix,
                    tensors=tensors,
                    beside=beside,
                    within=tuple(p for p in prefixes if p != prefix and p.startswith(prefix)),
                )
                for prefix in prefixes
            ]
        if candidates:
            return candidates
    return []


def _names(candidates: list[_Candidate]) -> list[str]:
    """Return what `--weights` calls each: its role, or where it lies if two have that role."""
    roles = Counter(candidate.role for candidate in candidates)
    return [c.role if roles[c.role] == 1 else c.name for c in candidates]


def _choose(
    candidates: list[_Candidate], names: list[str], weights: str | None, path: Path
) -> _Candidate:
    if len(candidates) == 1:
        only = candidates[0]
        # A set that is called raw, or by nothing, may lie beside a file that has the choice.
        if weights not in (None, only.role, only.name) and only.role != "raw":
            raise CheckpointError(
                f"--weights says {weights!r}, but this file holds {only.role} weights alone "
                f"({only.name})",
                where=str(path),
                fix=f"say --weights {only.role}, or give the file with the others",
            )
        return only
    for name, candidate in zip(names, candidates, strict=True):
        if weights is not None and weights in (name, candidate.name):
            return candidate
    listed = ", ".join(f"{n} ({c.name})" for n, c in zip(names, candidates, strict=True))
    fix = "say which: " + " or ".join(f"--weights {shlex.quote(name)}" for name in names)
    if weights is not None:
        raise CheckpointError(
            f"{weights!r} is none of the sets of weights in this file: {listed}",
            where=str(path),
            fix=fix,
        )
    first = candidates[0].stripped()
    if all(_equal(first, candidate.stripped()) for candidate in candidates[1:]):
        return candidates[0]
    raise CheckpointError(
        f"the file holds {len(candidates)} sets of weights that differ: {listed}",
        where=str(path),
        fix=fix,
    )


def _refuse_others(chosen: _Candidate, path: Path) -> None:
    """Refuse a set in whose dictionary something else stands: it may belong to the model."""
    for key, value in chosen.beside.items():
        kind = type(value).__name__
        raise CheckpointError(
            f"wanted a dictionary of tensors, found tensors beside {key!r}, which is {kind}",
            where=str(path),
            fix=f"if the model does not need it, keep only the tensors: {_cut(chosen, path)}",
        )


def _equal(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    return set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)


def _refuse_outsiders(chosen: _Candidate, candidates: list[_Candidate], path: Path) -> None:
    """Refuse tensors that belong to no set of weights: they may be part of the model."""
    others = [c.prefix.partition(".")[0] + "." for c in candidates if c.prefix and c is not chosen]
    inside = (chosen.prefix, *(other for other in others if not chosen.prefix.startswith(other)))
    if any(c.tensors is chosen.tensors and not c.prefix for c in candidates):
        return  # all others are the set whose names have no prefix
    outside = sorted(name for name in chosen.tensors if not name.startswith(inside))
    if outside:
        raise CheckpointError(
            f"{counted(len(outside), 'tensor')} outside {chosen.prefix!r}, where the model is: "
            f"{', '.join(outside[:3])}",
            where=str(path),
            fix=f"if the model does not need them, keep only the others: {_cut(chosen, path)}",
        )


def _cut(chosen: _Candidate, path: Path) -> str:
    """Return a command that writes the tensors below the prefix into a file of their own."""
    out = path.with_name(path.name.partition(".")[0] + "-vit.pth")
    if torch_files.is_safetensors(path):
        load = f"__import__('safetensors.torch').torch.load_file({str(path)!r})"
    else:
        load = f"torch.load({str(path)!r}, map_location='cpu', weights_only=True)"
    keys = "".join(f"[{key!r}]" for key in chosen.keys)
    tensors = " and torch.is_tensor(v)" if chosen.beside else ""
    program = (
        f"import torch; p = {chosen.prefix!r}; s = {load}{keys}; "
        f"torch.save({{k[len(p):]: v for k, v in s.items() if k.startswith(p){tensors}}}, "
        f"{str(out)!r})"
    )
    return f"python -c {shlex.quote(program)}"


def check_kinds(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Refuse whatever is not dense, on the CPU and of floating point numbers."""
    odd = sorted(name for name, tensor in tensors.items() if not _is_plain(tensor))
    if odd:
        raise CheckpointError(
            f"{odd[0]} is not a plain tensor of real numbers",
            where=str(path),
            fix="save dense tensors on the CPU, neither quantized nor sparse nor complex",
        )
    wrong = sorted(name for name, tensor in tensors.items() if tensor.dtype not in _READ)
    if wrong:
        kind = str(tensors[wrong[0]].dtype).removeprefix("torch.")
        more = f", and {len(wrong) - 1} more are not floats either" if len(wrong) > 1 else ""
        raise CheckpointError(
            f"{wrong[0]} holds {kind}{more}; float64, float32, float16 and bfloat16 are read. "
            "Quantized weights mean nothing without their scales, so they are not cast",
            where=str(path),
            fix="give the weights from before they were quantized",
        )


def _is_plain(tensor: torch.Tensor) -> bool:
    return (
        tensor.layout == torch.strided
        and tensor.device.type == "cpu"
        and not tensor.is_quantized
        and not tensor.is_complex()
    )


def _no_tensors(content: object, path: Path) -> CheckpointError:
    kind = type(content).__name__
    if isinstance(content, dict):
        other = [key for key, value in content.items() if not isinstance(value, torch.Tensor)]
        if 0 < len(other) < len(content):
            kind = f"tensors beside {other[0]!r}, which is {type(content[other[0]]).__name__}"
        elif other:
            kind = f"a dictionary of {', '.join(repr(key) for key in other[:4])} without tensors"
    return CheckpointError(
        f"wanted a dictionary of tensors, found {kind}",
        where=str(path),
        fix="save plain tensors: torch.save(model.state_dict(), path)",
    )


def _several_without(
    found: list[tuple[_Keys, dict[str, torch.Tensor]]], anchors: Sequence[str], path: Path
) -> CheckpointError:
    listed = "; ".join(
        f"{'/'.join(map(str, keys)) or 'the file'} ({len(tensors)} tensors such as "
        f"{next(iter(tensors))})"
        for keys, tensors in found[:4]
    )
    known = next((whose(tensors) for _, tensors in found if whose(tensors)), None)
    return CheckpointError(
        f"no {anchors[0]} in any of {len(found)} dictionaries of tensors: {listed}",
        where=str(path),
        fix=known or "save the one that holds the model: torch.save(model.state_dict(), path)",
    )
