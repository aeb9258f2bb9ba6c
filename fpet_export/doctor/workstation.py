"""What `doctor` asks of a machine that exports: packages, memory, compiler, GPU."""

from __future__ import annotations

from importlib import metadata, util
from typing import TYPE_CHECKING

from engines.backends._trt.module import UPDATE, is_too_old
from engines.machine.jetpack import NEEDED
from fpet_export.doctor import findings as _findings
from fpet_export.doctor import providers
from fpet_export.doctor.findings import Findings

if TYPE_CHECKING:
    from benchmarks.conditions.environment import Environment

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
    ("distributed", "distributed", "sweep", "sweep: grids of points on many processes"),
    ("openvino", "openvino", "openvino", "the openvino target, and a peer in bench"),
)
_NEEDED = ("", "export", "cpu")
_LEAST_MEMORY_GB = 3
NAMES = tuple(name for _, name, _, _ in _PACKAGES)
"""Of the packages, as they are installed."""


def check_workstation(findings: Findings, machine: Environment) -> None:
    """Say what exporting needs, and what is missing."""
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
    _findings.check_processor(findings, machine)
    memory = _findings.memory_bytes(machine)
    if memory is None:
        findings.unknown("memory", "the system does not state it")
    elif memory / 1e9 > _LEAST_MEMORY_GB:
        findings.fact("memory", f"{memory / 1e9:.1f} GB")
    else:
        findings.gap(
            "memory",
            f"{memory / 1e9:.1f} GB, too little to export a ViT-B/16",
            "export on a larger machine, or raise the container's limit",
            needed=False,
        )
    _findings.check_gpu(findings, machine)
    _findings.check_compiler(findings)
    _findings.check_ssh(
        findings,
        programs={"ssh": "build and bench on another machine", "ssh-keygen": "sign and verify"},
    )


def _version(module: str, distribution: str) -> str | None:
    if util.find_spec(module) is None:
        return None
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "unknown version"
