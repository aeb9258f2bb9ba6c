"""`fpet-export targets`: where an engine can run."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from engines import places
from engines.targets import Device, Target
from fpet_export.console import Console
from fpet_export.verbs import Outcome, _target_facts

HELP = "list the places an engine can run"
DESCRIPTION = """\
List the boards, GPUs and runtimes that a graph can be written and an engine be built for.

A board or a GPU may have several releases of software; `NAME@RELEASE` names one, `NAME` alone means
its usual one. -v adds every fact with its source.

  fpet-export targets jetson-orin-nano-8gb
  fpet-export build out/model.onnx --target jetson-orin-nano-8gb@jp6.2
"""

Entry = Target | Device
_GROUPS = (
    ("board", "Jetson boards"),
    ("gpu", "NVIDIA GPUs"),
    ("tensorrt", "TensorRT, the GPU left open"),
    ("other", "other runtimes"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's argument."""
    parser.add_argument("target", nargs="?", metavar="NAME[@RELEASE]", help="show this one in full")


def run(options: argparse.Namespace, console: Console) -> Outcome:
    """Print the tables, or one target in full."""
    if options.target is not None:
        return _one(options.target, console)
    entries = [places.entry(name) for name in places.target_names()]
    listed = []
    for kind, heading in _GROUPS:
        members = [one for one in entries if _kind(one) == kind]
        listed += members
        console.line()
        console.line(f"   {heading}")
        console.table(_target_facts.device_rows(_devices(members)) or _rows(members))
        for member in members:
            for line in _target_facts.facts(member):
                console.detail(f"{member.name}: {line}")
    console.line()
    return Outcome(
        document={"targets": [_document(one) for one in listed]},
        result=" ".join(one.name for one in listed),
        next=["fpet-export targets NAME", "fpet-export build MODEL.onnx --target NAME[@RELEASE]"],
    )


def _one(name: str, console: Console) -> Outcome:
    """Print everything about one target, with every release that its device has."""
    target = places.known_target(name)
    device = target.device
    console.line(f"   {target.name}: {target.summary}")
    refused = target.release is not None and bool(target.release.refusal)
    if device is not None:
        console.line()
        console.table(_target_facts.release_rows(device, target))
        console.line()
    for line in _target_facts.facts(device or target):
        console.line(f"   · {line}")
    for line in _target_facts.build_facts(target):
        console.line(f"   · {line}")
    return Outcome(
        document={
            "target": {k: v for k, v in dataclasses.asdict(target).items() if k != "device"},
            "device": None if device is None else _document(device),
        },
        result=target.name,
        next=[] if refused else [f"fpet-export export RUN --target {target.name} -o OUT"],
    )


def _kind(one: Entry) -> str:
    if isinstance(one, Device):
        return "gpu" if one.board is None else "board"
    return "tensorrt" if one.backend == "trt" else "other"


def _devices(members: Sequence[Entry]) -> Iterator[Device]:
    return (one for one in members if isinstance(one, Device))


def _rows(members: Sequence[Entry]) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = [
        ("target", "runtime", "opset", "typing", "last block", "precisions", "summary")
    ]
    for one in members:
        if isinstance(one, Target):
            opset = f"{one.opset} (up to {one.opset_ceiling})"
            kinds = ",".join(one.precisions)
            rows.append(
                (one.name, one.module, opset, one.typing, one.last_block, kinds, one.summary)
            )
    return rows


def _document(one: Entry) -> dict[str, Any]:
    return {"kind": _kind(one), **dataclasses.asdict(one)}
