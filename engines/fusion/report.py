"""What TensorRT made of a graph, kernel by kernel: the fusion report beside a plan.

`NAME.fusion.json` lies beside `NAME.plan`. This file alone writes and reads it. It says which
plan it describes by that plan's SHA-256, so the report of an earlier build is not taken for one
of this build. The plan opens without it.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from engines import storage
from engines.commands import rebuild
from engines.errors import InputError, TrustError
from engines.fusion.kernels import FLOATS, MATCH_INPUT, QUANTIZED, Kernel, Tensor, classify, node_of
from engines.manifest import Manifest, from_json

SCHEMA = 1

Source = Literal["verbose log", "engine inspector"]
Reason = Literal["match", "normalisation", "graph input or output", "float32 graph", "unexpected"]

_REASONS: dict[Reason, str] = {
    "match": "of the match",
    "normalisation": "of a LayerNorm",
    "graph input or output": "at the graph's input or output",
    "unexpected": "unexpected",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attention:
    """An attention that became one kernel.

    Attributes:
        kernel: Name of the kernel.
        block: Index of its block, where known.
        dtype: Type of the queries: "Half", "BFloat16", "Int8" or "FP8".
        key_bias: Whether a bias is added to its scores.
    """

    kernel: str
    block: int | None
    dtype: str
    key_bias: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Float32:
    """A kernel that reads or writes float32, and why.

    Attributes:
        kernel: Name of the kernel.
        reason: "match" is the merge's island, where float32 is wanted, and what reads it; a
            "normalisation" computes in float32, and passes it on where two kernels share it or
            the match reads it; "unexpected" is for nothing that this toolkit knows.
    """

    kernel: str
    reason: Reason


@dataclasses.dataclass(frozen=True, kw_only=True)
class Uneven:
    """A block with another number of kernels than its neighbours.

    Attributes:
        block: Its index.
        kernels: How many it has.
        neighbours: How many the blocks beside it have.
        only_here: Roles that the neighbour most like it lacks, with the ONNX nodes of each.
        only_there: Roles that only that neighbour has.
    """

    block: int
    kernels: int
    neighbours: tuple[int, ...]
    only_here: tuple[str, ...]
    only_there: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FusionReport:
    """The kernels of a plan and what they say about its fusions.

    Attributes:
        source: Where TensorRT listed them.
        kernels: In the order of execution.
        per_block: Kernels of each block, without those of a merge in it.
        elsewhere: Kernels of the other parts: "embedding", "merge", "head", "other".
        attentions: Those that became one kernel each.
        attentions_in_graph: Attentions whose ONNX nodes were found; None where the names of the
            nodes do not tell.
        quantized_gemms: Matrix products that multiply Int8 or FP8 activations.
        weight_only: Names of the products of quantized weights that multiply in a float type.
        float32: Kernels that read or write float32.
        stray: Names of the kernels that only convert or only move data.
        uneven: Blocks that differ from their neighbours.
        engine: File name of the plan; empty until it is written.
        sha256: SHA-256 of the plan.
        runtime: Name and version of the TensorRT that built it.
        schema: Version of this layout.
    """

    source: Source
    kernels: tuple[Kernel, ...]
    per_block: tuple[int, ...]
    elsewhere: dict[str, int]
    attentions: tuple[Attention, ...]
    attentions_in_graph: int | None
    quantized_gemms: int
    weight_only: tuple[str, ...]
    float32: tuple[Float32, ...]
    stray: tuple[str, ...]
    uneven: tuple[Uneven, ...]
    engine: str = ""
    sha256: str = ""
    runtime: str = ""
    schema: int = SCHEMA

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON has it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, document: Any) -> FusionReport:
        """Read what `to_json` gave.

        Raises:
            TypeError: A value has another type, or a key is unknown or missing.
        """
        return from_json(cls, document)

    def as_settings(self) -> dict[str, str]:
        """Return the counts as the manifest of the plan stores them."""
        histogram = sorted(collections.Counter(kernel.kind for kernel in self.kernels).items())
        return {
            "kernels": str(len(self.kernels)),
            "fused_attentions": str(len(self.attentions)),
            "kernel_types": ", ".join(f"{kind} {count}" for kind, count in histogram),
        }

    @property
    def leaks(self) -> tuple[str, ...]:
        """Names of the kernels that are in float32 for no reason that this toolkit knows."""
        return tuple(one.kernel for one in self.float32 if one.reason == "unexpected")

    def rows(self) -> dict[str, list[Kernel]]:
        """Return the kernels by part of the network, the merge behind its block."""
        rows: dict[str, list[Kernel]] = {}
        for kernel in self.kernels:
            rows.setdefault(kernel.row, []).append(kernel)

        def position(row: str) -> tuple[float, int]:
            first = rows[row][0]
            ends = {"embedding": -1.0, "head": 1e6, "other": 2e6}
            return ends.get(first.section, first.block or 0), int(first.section == "merge")

        return {row: rows[row] for row in sorted(rows, key=position)}

    def summary(self) -> list[str]:
        """Return two lines: where the kernels are, and how they compute."""
        how = [self._attentions()]
        if self.quantized_gemms:
            kinds = {k.dtype for k in self.kernels if k.work == "product"} & QUANTIZED
            how.append(f"{self.quantized_gemms} quantized GEMMs ({', '.join(sorted(kinds))})")
        if self.weight_only:
            how.append(f"{len(self.weight_only)} of the GEMMs multiply quantized weights as floats")
        how.append(self._float32())
        if self.stray:
            how.append(_stray(len(self.stray)))
        return [f"{len(self.kernels)} kernels: {self._places()}", "; ".join(how)]

    def in_words(self) -> list[str]:
        """Return the whole report, line by line."""
        lines = [*self.summary(), f"listed by the {self.source}"]
        for uneven in self.uneven:
            others = " and ".join(map(str, sorted(set(uneven.neighbours))))
            lines.append(f"block {uneven.block}: {uneven.kernels} kernels, its neighbours {others}")
            lines += [f"  only here: {role}" for role in uneven.only_here]
            lines += [f"  only there: {role}" for role in uneven.only_there]
        for reason, words in _REASONS.items():
            names = [one.kernel for one in self.float32 if one.reason == reason]
            if names:
                lines += [f"float32 {words}:", *self._lines(names)]
        if self.stray:
            lines += [f"{_stray(len(self.stray))}:", *self._lines(self.stray)]
        if self.weight_only:
            lines += ["quantized weights multiplied as floats:", *self._lines(self.weight_only)]
        lines.append("every kernel:")
        alike: dict[str, list[str]] = {}
        for row, kernels in self.rows().items():
            roles = " · ".join(f"{kernel.role} ({kernel.dtype})" for kernel in kernels)
            alike.setdefault(roles, []).append(row)
        lines += [f"  {', '.join(rows)}: {roles}" for roles, rows in alike.items()]
        return lines

    def _places(self) -> str:
        flagged = {uneven.block for uneven in self.uneven}
        usual = collections.Counter(
            count for block, count in enumerate(self.per_block) if block not in flagged
        )
        parts = [f"{blocks} blocks of {count}" for count, blocks in usual.items()]
        parts += [f"block {block} of {self.per_block[block]}" for block in sorted(flagged)]
        parts += [f"{section} {count}" for section, count in self.elsewhere.items()]
        return ", ".join(parts)

    def _attentions(self) -> str:
        fused, total = len(self.attentions), self.attentions_in_graph
        facts = sorted({attention.dtype for attention in self.attentions})
        bias = sum(attention.key_bias for attention in self.attentions)
        facts += [f"{bias} with a key bias"] if bias else []
        share = f"{fused}" if total is None else f"{fused}/{total}"
        return f"{share} attentions fused" + (f" ({', '.join(facts)})" if facts else "")

    def _float32(self) -> str:
        counts = collections.Counter(one.reason for one in self.float32)
        if not counts:
            return "no float32"
        if "float32 graph" in counts:
            return "all in float32, as the graph is"
        words = [
            f"{counts[reason]} {words}" for reason, words in _REASONS.items() if counts[reason]
        ]
        return f"float32: {', '.join(words)}"

    def _lines(self, names: Iterable[str]) -> list[str]:
        """Say what these kernels are; one line for what is alike in several blocks."""
        known = {kernel.name: kernel for kernel in self.kernels}
        alike: dict[str, list[str]] = {}
        for kernel in (known[name] for name in names):
            types = f"{_types(kernel.inputs)} to {_types(kernel.outputs)}"
            text = f"{kernel.row}: {kernel.role}, {types}: {', '.join(kernel.nodes) or 'no node'}"
            alike.setdefault(re.sub(r"\bblock(s/| )\d+", r"block\1*", text), []).append(text)
        return [
            f"  {texts[0]}" if len(texts) == 1 else f"  {len(texts)} x {text}"
            for text, texts in alike.items()
        ]


def report_on(kernels: Sequence[Kernel], source: Source) -> FusionReport:
    """Return the report on the kernels as TensorRT listed them."""
    named = classify(kernels)
    sections = collections.Counter(kernel.section for kernel in named)
    own = collections.Counter(
        k.block for k in named if k.section == "block" and k.block is not None
    )
    products = [kernel for kernel in named if kernel.work == "product"]
    softmaxes = {name for k in named for name in k.nodes if node_of(name).operator == "Softmax"}
    attentions = tuple(
        Attention(
            kernel=kernel.name,
            block=kernel.block,
            dtype=kernel.dtype,
            key_bias="key bias" in kernel.role,
        )
        for kernel in named
        if kernel.work == "attention"
    )
    per_block = tuple(own[block] for block in range(max(own, default=-1) + 1))
    return FusionReport(
        source=source,
        kernels=named,
        per_block=per_block,
        elsewhere={
            str(section): sections[section]
            for section in ("embedding", "merge", "head", "other")
            if sections[section]
        },
        attentions=attentions,
        attentions_in_graph=len(softmaxes) or None,
        quantized_gemms=sum(kernel.dtype in QUANTIZED for kernel in products),
        weight_only=_weight_only(named),
        float32=_float32(named),
        stray=tuple(kernel.name for kernel in named if kernel.stray),
        uneven=_uneven(named, per_block),
    )


def _weight_only(kernels: Sequence[Kernel]) -> tuple[str, ...]:
    """Find products of quantized weights that convert them, themselves or in a kernel before."""
    converted = {
        tensor.name
        for kernel in kernels
        if not kernel.inputs and _holds_quantized(kernel)
        for tensor in kernel.outputs
    }
    return tuple(
        kernel.name
        for kernel in kernels
        if kernel.work == "product"
        and kernel.dtype not in QUANTIZED
        and (_holds_quantized(kernel) or converted & {tensor.name for tensor in kernel.inputs})
    )


def _holds_quantized(kernel: Kernel) -> bool:
    return any(constant.dtype in QUANTIZED for constant in kernel.constants)


def _float32(kernels: Sequence[Kernel]) -> tuple[Float32, ...]:
    types = {tensor.dtype for kernel in kernels for tensor in (*kernel.inputs, *kernel.outputs)}
    whole = types & FLOATS == {"Float"}
    of_match = {tensor.name for k in kernels if k.role.startswith("match ") for tensor in k.outputs}

    def reason(kernel: Kernel) -> Reason:
        if whole:
            return "float32 graph"
        if kernel.at_border:
            return "graph input or output"
        wide = {t.name for t in (*kernel.inputs, *kernel.outputs) if t.dtype == "Float"}
        if kernel.role.startswith("match ") or wide <= of_match:
            return "match"
        shared = re.match(r"LayerNorm \d+ of ", kernel.role) or kernel.role.endswith(MATCH_INPUT)
        return "normalisation" if shared else "unexpected"

    return tuple(
        Float32(kernel=kernel.name, reason=reason(kernel))
        for kernel in kernels
        if kernel.touches_float32
    )


def _uneven(kernels: Sequence[Kernel], per_block: Sequence[int]) -> tuple[Uneven, ...]:
    """Find the blocks whose count is that of neither neighbour (at an end: of the next two)."""
    found = []
    for block, count in enumerate(per_block):
        first = min(max(block - 1, 0), max(len(per_block) - 3, 0))
        beside = [index for index in range(first, min(first + 3, len(per_block))) if index != block]
        if not beside or count in [per_block[index] for index in beside]:
            continue
        here = _roles(kernels, block)
        there = min(
            (_roles(kernels, index) for index in beside),
            key=lambda roles: (here - roles).total() + (roles - here).total(),
        )
        nodes = {k.role: k.nodes for k in kernels if k.section == "block" and k.block == block}
        found.append(
            Uneven(
                block=block,
                kernels=count,
                neighbours=tuple(per_block[index] for index in beside),
                only_here=tuple(f"{r}: {', '.join(nodes[r])}" for r in (here - there).elements()),
                only_there=tuple((there - here).elements()),
            )
        )
    return tuple(found)


def _roles(kernels: Sequence[Kernel], block: int) -> collections.Counter[str]:
    return collections.Counter(k.role for k in kernels if k.section == "block" and k.block == block)


def fusion_path(artefact: Path) -> Path:
    """Return the report's path: `model.fp16.rtx.plan` has `model.fp16.rtx.fusion.json`."""
    return artefact.with_name(artefact.stem + ".fusion.json")


def write_fusion(artefact: Path, manifest: Manifest, report: FusionReport) -> FusionReport:
    """Write the report beside the plan that `manifest` describes; return it with the plan's hash.

    Call it last: a report without its plan would say something about nothing.
    """
    runtime = manifest.runtime
    complete = dataclasses.replace(
        report,
        engine=artefact.name,
        sha256=manifest.sha256,
        runtime="" if runtime is None else f"{runtime.flavour} {runtime.version}",
    )
    text = json.dumps(complete.to_json(), separators=(",", ":"))
    a_line_a_kernel = re.sub(r'(?=\{"name":"[^"]*","kind":)', "\n", text)
    storage.write_text(fusion_path(artefact), a_line_a_kernel + "\n")
    return complete


def read_fusion(path: Path) -> FusionReport:
    """Read a `.fusion.json`.

    Raises:
        InputError: There is no such file.
        TrustError: It is not ours or not whole.
    """
    fix = "build the plan again: `build` with --force writes its report too"
    try:
        document = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise InputError("there is no fusion report", where=str(path), fix=fix) from None
    except (OSError, ValueError, RecursionError) as error:
        raise TrustError(
            f"the fusion report cannot be read: {error}", where=str(path), fix=fix
        ) from error
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        found = document.get("schema") if isinstance(document, dict) else type(document).__name__
        raise TrustError(
            f"the fusion report has schema {found!r}, this version reads {SCHEMA}",
            where=str(path),
            fix=fix,
        )
    try:
        report = FusionReport.from_json(document)
    except TypeError as error:
        raise TrustError(
            f"the fusion report is damaged: {error}", where=str(path), fix=fix
        ) from error
    named = {*report.stray, *report.weight_only, *(one.kernel for one in report.float32)}
    unknown = sorted(named - {kernel.name for kernel in report.kernels})
    if unknown or not report.kernels:
        raise TrustError(
            f"the fusion report is damaged: it does not list {', '.join(unknown) or 'a kernel'}",
            where=str(path),
            fix=fix,
        )
    return report


def fusion_of(artefact: Path, manifest: Manifest) -> FusionReport:
    """Read the report beside a plan.

    Raises:
        InputError: There is none.
        TrustError: It is damaged, or of another build.
    """
    path = fusion_path(artefact)
    report = read_fusion(path)
    if report.sha256 != manifest.sha256:
        raise TrustError(
            f"the fusion report is of another build of {artefact.name}",
            where=str(path),
            fix=rebuild(artefact, manifest),
        )
    return report


def _stray(count: int) -> str:
    verb = "kernel only converts or moves" if count == 1 else "kernels only convert or move"
    return f"{count} {verb} data"


def _types(tensors: Sequence[Tensor]) -> str:
    return "+".join(dict.fromkeys(tensor.dtype for tensor in tensors)) or "nothing"
