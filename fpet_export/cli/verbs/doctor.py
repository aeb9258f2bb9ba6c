"""`fpet-export doctor`: what this machine has, what is missing, and what mends it."""

from __future__ import annotations

import argparse
import platform
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING

from fpet_export.cli.console import Console
from fpet_export.cli.verbs import Outcome
from fpet_export.doctor import findings as _doctor
from fpet_export.doctor.findings import Findings

if TYPE_CHECKING:
    from benchmarks.conditions.environment import Environment
    from engines.machine.jetson import Board

GROUP = "machine"
HELP = "say what this machine can do and what is missing"
DESCRIPTION = """\
Check Python, packages, processor, memory, disk and GPU; name what mends each gap.

On a Jetson, or with --board, it asks for what running needs: numpy and one runtime, not torch. It
says which board this is, its power mode, clocks and swap, and with --bundle whether what an
unpacked bundle holds fits this machine. What cannot be known is said to be unknown.

  fpet-export doctor
  python3 agent.pyz doctor
"""

_PACKAGES = (
    # (import name, distribution, extra, what it is for)
    ("numpy", "numpy", "", "everything"),
    ("torch", "torch", "export", "runs, and the torch-cpu and torch-cuda targets"),
    ("timm", "timm", "export", "timm: backbones"),
    ("onnx", "onnx", "export", "writing graphs"),
    ("onnxscript", "onnxscript", "export", "PyTorch's exporter"),
    ("onnx_graphsurgeon", "onnx-graphsurgeon", "export", "graph passes"),
    ("safetensors", "safetensors", "export", "backbones in safetensors"),
    ("yaml", "pyyaml", "export", "the YAML of a run"),
    ("PIL", "pillow", "export", "images and pictures"),
    ("onnxruntime", "onnxruntime", "cpu", "the cpu target and every parity check"),
    ("tensorrt_rtx", "tensorrt-rtx-cu13", "rtx", "the rtx target, also without a GPU"),
    ("tensorrt", "tensorrt", "tensorrt", "the tensorrt target"),
    ("jinja2", "jinja2", "report", "HTML reports"),
    ("matplotlib", "matplotlib", "report", "charts"),
    ("openvino", "openvino", "openvino", "the openvino target, and a peer in bench"),
)
_NEEDED = ("", "export", "cpu")
_LEAST_MEMORY_GB = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "--board", action="store_true", help="ask for what running needs, not exporting"
    )
    parser.add_argument(
        "--bundle", type=Path, metavar="DIR", help="an unpacked bundle: does it fit this machine?"
    )


def run(options: argparse.Namespace, console: Console) -> Outcome:
    """Check one thing after the other; exit 4 when something that every job needs is missing."""
    from benchmarks.conditions.environment import read_environment
    from engines.machine.jetson import read_board
    from engines.targets import _lookup

    findings = Findings(console)
    place, board = read_environment(), read_board(_lookup.modules())
    version, system = platform.python_version(), f"{platform.system()} {platform.machine()}"
    of_a_board = options.board or options.bundle is not None or board is not None
    if not of_a_board:
        console.name_width = max(len(name) for _, name, _, _ in _PACKAGES)
    findings.fact("python", f"{version} on {system}")
    if of_a_board:
        return _check_board(findings, place, board, options.bundle)
    return _check_host(findings, place)


def _check_board(
    findings: Findings, place: Environment, board: Board | None, bundle: Path | None
) -> Outcome:
    from fpet_export.doctor import board as _doctor_board
    from fpet_export.doctor import bundle as _doctor_bundle

    unpacked = None if bundle is None else _doctor_bundle.open_bundle(findings, bundle)
    module = None if unpacked is None else unpacked.target.module
    versions = _doctor_board.check_packages(findings, board, module)
    _doctor_board.check_board(findings, board, versions.get("tensorrt"))
    _doctor.check_processor(findings, place)
    _doctor_board.check_memory(findings, place, board)
    _doctor_board.check_gpu(findings, place, board, of_a_bundle=bundle is not None)
    _doctor.check_ssh(findings, programs={"ssh-keygen": "verify, of signed bundles"})
    if unpacked is not None:
        _doctor_bundle.check_fit(findings, unpacked, place, board, versions)
    builds = unpacked is not None and unpacked.manifest.kind == "graph"
    return _outcome(findings, "fpet-export build" if builds else "fpet-export targets")


def _check_host(findings: Findings, place: Environment) -> Outcome:
    from engines.backends._trt.module import UPDATE, is_too_old
    from engines.machine.jetpack import NEEDED
    from fpet_export.doctor import providers

    packages = {name: _version(module, name) for module, name, _, _ in _PACKAGES}
    if packages["onnxruntime"] is not None:
        packages["onnxruntime"] = providers.version() or packages["onnxruntime"]
    lacking: list[str] = []
    for _, name, extra, purpose in _PACKAGES:
        version = packages[name]
        if version is not None and is_too_old(name, version):
            findings.gap(name, f"{version}, for {purpose}: {NEEDED}", UPDATE, needed=False)
            continue
        if version is not None:
            findings.fact(name, f"{version}, for {purpose}")
            continue
        needed = extra in _NEEDED
        lacking += [extra] if needed else []
        fix = f"pip install 'fpet-export[{extra}]'" if extra else f"pip install {name}"
        findings.gap(name, f"absent, for {purpose}", fix, needed=needed)
    extras = ",".join(extra for extra in _NEEDED if extra and extra in lacking)
    if extras:  # one command for all of them
        findings.commands[:] = [f"pip install 'fpet-export[{extras}]'"]
    findings.document["packages"] = packages
    providers.check_providers(findings)
    _doctor.check_processor(findings, place)
    memory = _doctor.memory_bytes(place)
    if memory is None:
        findings.unknown("memory", "the system does not tell")
    elif memory / 1e9 > _LEAST_MEMORY_GB:
        findings.fact("memory", f"{memory / 1e9:.1f} GB")
    else:
        findings.gap(
            "memory",
            f"{memory / 1e9:.1f} GB, too little to export a ViT-B/16",
            "export on a larger machine, or raise the container's limit",
            needed=False,
        )
    _doctor.check_gpu(findings, place)
    _doctor.check_compiler(findings)
    _doctor.check_ssh(
        findings,
        programs={"ssh": "build and bench on another machine", "ssh-keygen": "sign and verify"},
    )
    return _outcome(findings, "fpet-export targets")


def _outcome(findings: Findings, ready: str) -> Outcome:
    lacking = findings.lacking
    return Outcome(
        document={**findings.document, "lacking": lacking, "problems": findings.problems},
        result=f"lacking {', '.join(lacking)}" if lacking else "ready",
        next=findings.commands or ([] if lacking else [ready]),
        exit_code=findings.exit_code,
    )


def _version(module: str, distribution: str) -> str | None:
    if util.find_spec(module) is None:
        return None
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "unknown version"
