"""Boards, GPUs and runtimes that engines are built for: `TargetsRequest`, `targets`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from engines.commands import command
from engines.precisions import FP16
from engines.targets import Device, Target, _lookup
from fpet_export.reporter import SILENT, Reporter
from fpet_export.requests import Request
from fpet_export.steps import next_commands
from fpet_export.workflow import target_facts

Entry = Target | Device
_EXAMPLE = "jetson-orin-nano-8gb"
_TRIAL = "random:vit_tiny_patch16_224:0"
_GROUPS = (
    ("board", "Jetson boards"),
    ("gpu", "NVIDIA GPUs"),
    ("tensorrt", "TensorRT, the GPU left open"),
    ("other", "other runtimes"),
)
_MEANINGS = (
    "SM: compute capability of the GPU, as NVIDIA numbers its generations",
    "usual release: the software that NAME alone means; `targets NAME` lists the others, with the "
    "hardware and its peaks",
    "opset: version of the ONNX operators that its graphs get, and the newest that it reads",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TargetsRequest(Request):
    """Which target is shown in full, as NAME or NAME@RELEASE; None lists all."""

    target: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class TargetList:
    """Every target, boards first.

    Attributes:
        entries: Boards and GPUs, with their releases, and runtimes.
        next: Commands to type next.
    """

    entries: tuple[Entry, ...]
    next: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Of the targets."""
        return tuple(one.name for one in self.entries)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"targets": [_document(one) for one in self.entries]}


@dataclasses.dataclass(frozen=True, kw_only=True)
class OneTarget:
    """One target with all that is known of it: it, and commands to type next."""

    target: Target
    next: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The target's name."""
        return (self.target.name,)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        device = self.target.device
        facts = dataclasses.asdict(self.target)
        return {
            "target": {name: value for name, value in facts.items() if name != "device"},
            "device": None if device is None else _document(device),
        }


def targets(
    request: TargetsRequest | None = None, reporter: Reporter = SILENT
) -> TargetList | OneTarget:
    """List the targets, or say everything about one.

    Raises:
        UnknownNameError: There is no such target or release.
    """
    if request is not None and request.target is not None:
        return _one(request.target, reporter)
    entries = [_lookup.entry(name) for name in _lookup.target_names()]
    listed: list[Entry] = []
    for kind, heading in _GROUPS:
        members = [one for one in entries if _kind(one) == kind]
        listed += members
        reporter.line()
        reporter.paragraph(heading)
        rows = target_facts.device_rows(_devices(members))
        reporter.table(rows or _rows(members), words=not rows)
        for member in members:
            for line in target_facts.facts(member):
                reporter.detail(f"{member.name}: {line}")
    reporter.line()
    reporter.explain(_MEANINGS)
    return TargetList(entries=tuple(listed), next=(command("targets", _an_example(listed)),))


def _one(name: str, reporter: Reporter) -> OneTarget:
    """Print everything about one target, with every release that its device has."""
    target = _lookup.known_target(name)
    device = target.device
    reporter.paragraph(f"{target.name}: {target.summary}")
    refused = target.release is not None and bool(target.release.refusal)
    if device is not None:
        reporter.line()
        reporter.table(target_facts.release_rows(device, target), words=True)
        reporter.paragraph("opset (newest): what its graphs get, and the newest that it reads")
        reporter.line()
    for line in target_facts.facts(device or target):
        reporter.bullet(line)
    for line in target_facts.build_facts(target):
        reporter.bullet(line)
    return OneTarget(target=target, next=() if refused else (_trial(target),))


def _an_example(listed: Sequence[Entry]) -> str:
    return next((one.name for one in listed if one.name == _EXAMPLE), listed[0].name)


def _trial(target: Target) -> str:
    """Return how to try a target with random weights, before there is a run."""
    half = ["--precision", FP16] if target.suffix == ".plan" and FP16 in target.precisions else []
    out = next_commands.free(Path("trial"))
    return command("export", _TRIAL, "--target", target.name, *half, "-o", out)


def _kind(one: Entry) -> str:
    if isinstance(one, Device):
        return "gpu" if one.board is None else "board"
    return "tensorrt" if one.backend == "trt" else "other"


def _devices(members: Sequence[Entry]) -> Iterator[Device]:
    return (one for one in members if isinstance(one, Device))


def _rows(members: Sequence[Entry]) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = [("target", "opset", "precisions", "what it is")]
    for one in members:
        if isinstance(one, Target):
            opset = f"{one.opset} (up to {one.opset_ceiling})"
            kinds = " ".join(one.precisions)
            rows.append((one.name, opset, kinds, one.summary))
    return rows


def _document(one: Entry) -> dict[str, Any]:
    return {"kind": _kind(one), **dataclasses.asdict(one)}
