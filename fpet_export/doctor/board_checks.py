"""What running an engine needs, and how a Jetson is set."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING

from engines.backends._trt.module import UPDATE, is_too_old
from engines.backends._trt.request import require_release
from engines.errors import FpetError
from engines.machine import jetpack, snapshot, sources
from engines.machine.clocks import are_held
from engines.machine.installing import FROM_JETPACK, FROM_PIP
from engines.machine.jetpack import NEEDED
from engines.targets._lookup import known_target
from fpet_export.doctor import findings as _doctor
from fpet_export.doctor.findings import Findings

if TYPE_CHECKING:
    from benchmarks.conditions.environment import Environment
    from engines.machine.jetson import JetsonIdentity
    from engines.machine.snapshot import Snapshot

_RUNTIMES = ("tensorrt", "tensorrt_rtx", "onnxruntime")
_SMALL_MEMORY_BYTES = 9 << 30
_IMPORT_SECONDS = 120


def check_packages(
    findings: Findings, board: JetsonIdentity | None, wanted: str | None
) -> dict[str, str | None]:
    """Import what running needs, each in a process of its own; return the versions.

    Args:
        findings: Where to say it.
        board: The Jetson that this is; None elsewhere.
        wanted: Package of the runtime that is needed; None where any will do.
    """
    commands = dict(FROM_PIP if board is None else FROM_JETPACK)
    if not _doctor.has_rtx() and wanted != "tensorrt_rtx":
        commands.pop("tensorrt_rtx", None)
    if wanted is not None:
        commands.setdefault(wanted, f"python3 -m pip install {wanted}")
    if wanted is not None:  # another runtime is nothing to this bundle
        commands = {name: commands[name] for name in ("numpy", wanted, "PIL")}
    versions: dict[str, str | None] = {}
    troubles = {}
    for module in commands:
        versions[module], troubles[module] = _imported(module)
    if wanted is None:
        usual = "onnxruntime" if board is None else "tensorrt"
        has_one = any(versions.get(module) for module in _RUNTIMES)
        needed = {"numpy"} if has_one else {"numpy", usual}
    else:
        needed = {"numpy", wanted}
    for module, command in commands.items():
        version = versions[module]
        purpose = "image files" if module == "PIL" else "everything"
        purpose = "running engines" if module in _RUNTIMES else purpose
        if version is not None and is_too_old(module, version):
            what = f"{version}, for {purpose}: {NEEDED}"
            findings.gap(module, what, UPDATE, needed=module in needed)
            continue
        if version is not None:
            findings.fact(module, f"{version}, for {purpose}")
            continue
        text, fix = f"{troubles[module]}, for {purpose}", command
        seen = None if board is None or module != "tensorrt" else _in_system(module)
        if seen is not None:
            text = f"in {seen.parent}, and {sys.executable} does not see it"
            fix = "run the system's Python: /usr/bin/python3"
        findings.gap(module, text, fix, needed=module in needed)
    findings.document["packages"] = versions
    return versions


def check_board(
    findings: Findings, board: JetsonIdentity | None, tensorrt: str | None, now: Snapshot
) -> None:
    """Say which board this is and how it is set; nothing on another machine.

    Args:
        findings: Where to say it.
        board: The Jetson that this is.
        tensorrt: Version that is installed.
        now: How it is set.
    """
    if board is None:
        findings.document["board"] = None
        return
    findings.document["board"] = board._asdict()
    parts = f" · {', '.join(board.numbers)}" if board.numbers else ""
    findings.fact("board", f"{board.model or 'a Jetson that states no model'}{parts}")
    if board.jetpack is not None:
        findings.fact("jetpack", f"{board.jetpack}, Jetson Linux {board.l4t}")
    else:
        release = "it states no release" if board.l4t is None else f"Jetson Linux {board.l4t}"
        findings.unknown("jetpack", f"no known JetPack has this: {release}")
    fastest = _check_target(findings, board, tensorrt)
    _check_power_mode(findings, fastest, now)
    _check_clocks(findings, now)
    _check_heat(findings, now)


def check_memory(
    findings: Findings, machine: Environment, board: JetsonIdentity | None, now: Snapshot
) -> None:
    """Say how much memory there is and is free, and whether there is swap."""
    memory = _doctor.memory_bytes(machine)
    if memory is None:
        findings.unknown("memory", "the system does not state it")
    else:
        free = machine.available_bytes
        rest = "" if free is None else f", {free / 1e9:.1f} GB free"
        findings.fact("memory", f"{memory / 1e9:.1f} GB{rest}")
    areas = now.swap
    if areas is None:
        findings.unknown("swap", "there is no /proc/swaps")
        return
    findings.document["swap"] = [dataclasses.asdict(area) for area in areas]
    if areas:
        kinds = ((True, "in memory (zram)"), (False, "on disk"))
        sizes = {
            kind: sum(area.size_bytes for area in areas if area.is_zram is is_zram)
            for is_zram, kind in kinds
        }
        text = ", ".join(f"{size / 1e9:.1f} GB {kind}" for kind, size in sizes.items() if size)
        findings.fact("swap", text)
    elif board is not None and (memory is None or memory < _SMALL_MEMORY_BYTES):
        findings.gap(
            "swap",
            "none: a build that runs out of memory is killed",
            "sudo sh -c 'fallocate -l 8G /swapfile && chmod 600 /swapfile && mkswap /swapfile "
            "&& swapon /swapfile'",
            needed=False,
        )
    else:
        findings.fact("swap", "none")


def check_gpu(
    findings: Findings, machine: Environment, board: JetsonIdentity | None, *, of_a_bundle: bool
) -> None:
    """Say which GPU there is and who else works on it."""
    if board is None:
        _doctor.check_gpu(findings, machine, of_a_bundle=of_a_bundle)
        return
    findings.document["gpus"] = [gpu.name for gpu in machine.gpus]
    findings.document["gpu_users"] = None
    findings.unknown("gpu users", "a Jetson's driver keeps no list of them; look at tegrastats")


def _check_target(findings: Findings, board: JetsonIdentity, tensorrt: str | None) -> str | None:
    """Say which target this is; return the fastest of its power modes that this board offers."""
    findings.document["fastest_power_mode"] = None
    if board.target is None:
        found = None if board.l4t is None else jetpack.of_l4t(board.l4t)
        oldest = None if found is None or found.tensorrt is None else found.tensorrt[0]
        if oldest is not None and is_too_old("tensorrt", oldest):
            what = f"JetPack {board.jetpack} has TensorRT {oldest}: {NEEDED}"
            findings.gap("target", what, "update JetPack", needed=True)
            return None
        findings.gap(
            "target",
            f"unknown: {board.doubt}",
            "choose one yourself (python3 agent.pyz targets lists them)",
            needed=False,
        )
        return None
    if board.jetpack is None:
        findings.unknown("target", f"{board.target}, with an unknown JetPack")
        return None
    try:
        target = known_target(board.target)
    except FpetError as error:
        findings.unknown("target", f"{error.what}")
        return None
    if target.release is not None and target.release.refusal:
        refusal = target.release.refusal
        findings.gap("target", f"{target.name}: {refusal}", "update JetPack", needed=True)
    else:
        findings.fact("target", target.name)
    if tensorrt is not None:
        _check_release(findings, tensorrt, board.target)
    offered = {mode.name for mode in snapshot.power_modes(sources.ROOT)}
    peaks = target.device.gpu.peaks if target.device is not None else ()
    fastest = next((one.mode for one in peaks if one.mode in offered), None)
    findings.document["fastest_power_mode"] = fastest
    return fastest


def _check_release(findings: Findings, tensorrt: str, name: str) -> None:

    try:
        require_release(tensorrt, known_target(name))
    except FpetError as error:
        findings.gap("tensorrt", error.what, error.fix, needed=False)


def _check_power_mode(findings: Findings, fastest: str | None, now: Snapshot) -> None:
    mode = now.power_mode
    offered = snapshot.power_modes(sources.ROOT)
    findings.document["power_mode"] = mode
    findings.document["power_modes"] = [one.name for one in offered]
    if mode is None:
        findings.unknown("power mode", "nvpmodel -q names none; try sudo nvpmodel -q")
    elif fastest is None or mode == fastest:
        others = ", ".join(one.name for one in offered if one.name != mode)
        rest = f" (--power-mode of bench also takes {others})" if others else ""
        findings.fact("power mode", mode + ("" if fastest is None else ", the fastest") + rest)
    else:
        modes = {one.name: one.number for one in offered}
        findings.gap(
            "power mode",
            f"{mode}, the fastest is {fastest}",
            f"sudo nvpmodel -m {modes[fastest]}",
            needed=False,
        )


def _check_heat(findings: Findings, now: Snapshot) -> None:
    """Say how warm the board is, and what slows it down."""
    findings.document["temperatures"] = {
        name: round(at / 1000, 1) for name, at in now.temperatures_mc.items()
    }
    findings.document["slowed_by"] = list(now.slowed_by)
    if not now.temperatures_mc:
        findings.unknown("heat", "no temperature can be read")
        return
    warmest = max(now.temperatures_mc, key=lambda name: now.temperatures_mc[name])
    text = f"{now.temperatures_mc[warmest] / 1000:.0f} °C ({warmest})"
    if now.slowed_by:
        slowed = f"{text}, slowed down by {', '.join(now.slowed_by)}"
        findings.gap("heat", slowed, "let it cool down, or cool it better", needed=False)
    else:
        findings.fact("heat", f"{text}, nothing slows it down")


def _check_clocks(findings: Findings, now: Snapshot) -> None:
    found = now.clocks
    held = are_held(found)
    findings.document["clocks"] = {
        "held": held, **{clock.name: [clock.least_hz, clock.most_hz] for clock in found},
    }  # fmt: skip
    if held is None:
        findings.unknown("clocks", "the GPU's limits are not readable; sudo jetson_clocks --show")
        return
    has_memory = any(clock.name == "EMC" for clock in found)
    rest = "" if has_memory else " (the memory's clock only root may read)"
    gpu = next(clock for clock in found if clock.name == "GPU")
    if held:
        findings.fact("clocks", f"held, the GPU at {gpu.most_hz / 1e6:.0f} MHz{rest}")
    else:
        findings.gap(
            "clocks",
            f"not held, the GPU between {gpu.least_hz / 1e6:.0f} and {gpu.most_hz / 1e6:.0f} "
            f"MHz, latencies would scatter{rest}",
            "sudo jetson_clocks",
            needed=False,
        )


def _imported(module: str) -> tuple[str | None, str]:
    """Return a package's version, or why it cannot be imported; a crash stays in its process."""
    if util.find_spec(module) is None:
        return None, "absent"
    # "" would import what lies in the current folder
    program = (
        f"import sys; sys.path[:] = [path for path in sys.path if path]; "
        f"import {module}; print('version', {module}.__version__)"
    )
    command = [sys.executable, "-c", program]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=_IMPORT_SECONDS,
            check=False,
            env={**os.environ, "ORT_DISABLE_TELEMETRY": "1"},  # ONNX Runtime writes into the home
        )
    except (OSError, subprocess.SubprocessError) as error:
        return None, f"cannot be imported ({type(error).__name__})"
    _, found, version = done.stdout.rpartition("version ")
    if done.returncode == 0 and found:
        return version.strip(), ""
    lines = done.stderr.strip().splitlines()
    why = lines[-1] if lines else f"it ended with {done.returncode}"
    return None, f"cannot be imported ({why})"


def _in_system(module: str) -> Path | None:
    """Return where the system's Python has a package that JetPack installed."""
    found = sorted((sources.ROOT / "usr/lib").glob(f"python3*/dist-packages/{module}"))
    return found[-1] if found and shutil.which("/usr/bin/python3") else None
