"""`fpet-export doctor`: what this machine has, what is missing, and what mends it."""

from __future__ import annotations

import argparse
import platform
import shutil
import sys
from importlib import metadata, util
from typing import TYPE_CHECKING

from engines.engine import OpenOptions
from fpet_export.console import Console
from fpet_export.verbs import Outcome

if TYPE_CHECKING:
    from benchmarks.environment import Environment

HELP = "say what this machine can do and what is missing"
DESCRIPTION = "Check Python, packages, processor, memory, disk and GPU; name what mends each gap."

_PACKAGES = (
    # (import name, distribution, extra, what it is for)
    ("numpy", "numpy", "", "everything"),
    ("torch", "torch", "export", "reading and exporting runs"),
    ("timm", "timm", "export", "timm: backbones"),
    ("onnx", "onnx", "export", "writing graphs"),
    ("onnxscript", "onnxscript", "export", "PyTorch's exporter"),
    ("onnx_graphsurgeon", "onnx-graphsurgeon", "export", "graph passes"),
    ("safetensors", "safetensors", "export", "backbones in safetensors"),
    ("yaml", "pyyaml", "export", "the YAML of a run"),
    ("PIL", "pillow", "export", "images and pictures"),
    ("onnxruntime", "onnxruntime", "cpu", "the cpu target and every parity check"),
    ("tensorrt_rtx", "tensorrt-rtx-cu13", "rtx", "the rtx target, also without a GPU"),
    ("tensorrt", "tensorrt", "tensorrt", "the tensorrt and tensorrt8 targets"),
    ("jinja2", "jinja2", "report", "HTML reports"),
    ("matplotlib", "matplotlib", "report", "charts"),
    ("openvino", "openvino", "openvino", "the openvino target, and a peer in bench"),
)
_NEEDED = ("", "export", "cpu")
_LEAST_DISK_GB = 2
_LEAST_MEMORY_GB = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing."""


def run(options: argparse.Namespace, console: Console) -> Outcome:
    """Check one thing after the other; exit 4 when something that every job needs is missing."""
    packages = {name: _version(module, name) for module, name, _, _ in _PACKAGES}
    lacking = []
    console.step(
        "python", f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        passed=sys.version_info >= (3, 10),
    )  # fmt: skip
    for _, name, extra, purpose in _PACKAGES:
        version = packages[name]
        needed = extra in _NEEDED
        if version is not None:
            console.step(name, f"{version}, for {purpose}")
        else:
            fix = f"pip install 'fpet-export[{extra}]'"
            console.step(name, f"absent, for {purpose}: {fix}", passed=False if needed else None)
            lacking += [name] if needed else []
    from benchmarks.environment import read_environment

    place = read_environment()
    machine = _machine(place, console)
    gpus = _gpus(place, console)
    return Outcome(
        document={"packages": packages, "lacking": lacking, "machine": machine, "gpus": gpus},
        result="ready" if not lacking else f"lacking {', '.join(lacking)}",
        next=["fpet-export targets"] if not lacking else ["pip install 'fpet-export[export,cpu]'"],
        exit_code=4 if lacking else 0,
    )


def _version(module: str, distribution: str) -> str | None:
    if util.find_spec(module) is None:
        return None
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "unknown version"


def _machine(place: Environment, console: Console) -> dict[str, object]:
    from engines.processor import usable_cores

    cores = usable_cores()
    threads = OpenOptions().threads or cores
    console.step("cpu", f"{place.cpu} · {cores} cores usable, engines take {threads} threads")
    if place.load_1min is not None and place.load_1min > 0.5 * cores:
        console.step(
            "load", f"{place.load_1min:.1f}: other work runs, latencies would suffer", passed=None
        )
    memory = place.memory_bytes
    if place.container_memory_bytes is not None:
        memory = min(place.container_memory_bytes, memory or place.container_memory_bytes)
    memory_gb = None if memory is None else memory / 1e9
    if memory_gb is not None:
        enough = memory_gb > _LEAST_MEMORY_GB
        text = f"{memory_gb:.1f} GB" + ("" if enough else ", too little to export a ViT-B/16")
        console.step("memory", text, passed=enough or None)
    free_gb = shutil.disk_usage(".").free / 1e9
    console.step("disk", f"{free_gb:.0f} GB free here", passed=free_gb > _LEAST_DISK_GB)
    return {
        "cpu": place.cpu,
        "cores": cores,
        "memory_gb": None if memory_gb is None else round(memory_gb, 1),
        "free_disk_gb": round(free_gb, 1),
    }


def _gpus(place: Environment, console: Console) -> list[str]:
    gpus = place.gpus
    if not gpus:
        console.step(
            "gpu",
            "none that its driver shows: rtx plans can be built here, not run",
            passed=None,
        )
    for gpu in gpus:
        console.step("gpu", f"{gpu.name}, driver {gpu.driver}")
    return [gpu.name for gpu in gpus]
