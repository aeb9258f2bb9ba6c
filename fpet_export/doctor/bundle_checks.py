"""Whether what an unpacked bundle holds can be built or run on this machine."""

from __future__ import annotations

import dataclasses
import platform
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from engines import verdict
from engines.backends._provenance import read_source
from engines.backends._trt.request import require_device, require_release
from engines.cuda.device import open_cuda
from engines.errors import FpetError, InputError, ParityError, UsageError
from engines.form import export_command
from engines.machine import processor
from engines.manifest import Manifest, Runtime, read_manifest
from engines.targets import Target
from engines.targets._lookup import known_target, load_target
from engines.tasks import index as task_index
from engines.tasks.folder import check_folder
from engines.transport.bundle import INDEX, read_index
from fpet_export.doctor.findings import Findings
from fpet_export.steps import trust

if TYPE_CHECKING:
    from benchmarks.conditions.environment import Environment
    from engines.machine.jetson import JetsonIdentity
    from engines.tasks.folder import TaskFolder


@dataclasses.dataclass(frozen=True)
class Unpacked:
    """A bundle's folder, its hashes checked.

    Attributes:
        artefact: The graph or the engine; of a folder of tasks, its first graph.
        manifest: Its own.
        target: What the bundle is for.
        tasks: The folder of tasks; None where the bundle is none.
    """

    artefact: Path
    manifest: Manifest
    target: Target
    tasks: TaskFolder | None = None

    @property
    def name(self) -> str:
        """What the user knows it as."""
        return self.artefact.name if self.tasks is None else "the folder of tasks"

    @property
    def sources(self) -> tuple[Path, ...]:
        """Every graph that is built, or the artefact."""
        if self.tasks is None:
            return (self.artefact,)
        return tuple(graph.path for graph in self.tasks.graphs)

    @property
    def size_bytes(self) -> int:
        """Of the artefact with what belongs to it."""
        return self.manifest.total_bytes if self.tasks is None else self.tasks.size_bytes


def open_bundle(findings: Findings, folder: Path) -> Unpacked | None:
    """Read and check what an unpacked bundle holds; None, and a finding, where it is damaged."""
    index = folder / INDEX
    try:
        if not index.is_file():
            raise InputError(
                f"there is no {INDEX}",
                where=str(folder),
                fix="name the folder that `tar xf X.bundle.tar` filled",
            )
        bundle = read_index(index)
        artefact = folder / bundle.artefact
        target = known_target(bundle.target)
        if artefact.name == task_index.FILE:
            return _open_tasks(findings, folder, target)
        manifest = read_manifest(artefact)
    except FpetError as error:
        _refuse(findings, error)
        findings.document["bundle"] = {"fits": False}
        return None
    findings.fact("bundle", f"{trust.describe(manifest)} for {target.name}, its hash is right")
    found = verdict.verdict_of(manifest)
    if found.state == "failed":
        fix = f"bundle what passes; {verdict.FLAG} with each verb uses it anyway"
        code = ParityError.exit_code
        findings.gap("bundle", found.in_words(artefact.name), fix, needed=True, exit_code=code)
    return Unpacked(artefact, manifest, target)


def _open_tasks(findings: Findings, folder: Path, target: Target) -> Unpacked:

    tasks = check_folder(folder, with_engines=False)
    findings.fact("bundle", f"{tasks.describe()}; every hash is right")
    first = tasks.graphs[0]
    return Unpacked(first.path, first.manifest, target, tasks)


def check_fit(
    findings: Findings,
    unpacked: Unpacked,
    machine: Environment,
    board: JetsonIdentity | None,
    versions: Mapping[str, str | None],
) -> None:
    """Say whether this machine is what the bundle is for, and what to do if not.

    Args:
        findings: Where to say it.
        unpacked: The bundle.
        machine: This machine.
        board: The Jetson that it is; None elsewhere.
        versions: Versions of the runtimes that can be imported here.
    """
    capability = _compute_capability()
    target = _target_here(findings, unpacked, board)
    if target is not None:
        version = versions.get(target.module)
        try:
            if unpacked.manifest.runtime is not None:
                _require_built_for(unpacked, unpacked.manifest.runtime, version, capability)
            else:
                _require_buildable(unpacked, target, version, capability, board)
        except FpetError as error:
            _refuse(findings, error)
        _check_room(findings, unpacked, target, machine)
    is_known = board is None or board.target is not None or not _is_for_jetson(unpacked.target)
    fits = False if findings.lacking else True if is_known else None
    findings.document["bundle"] = {
        "target": unpacked.target.name,
        "artefact": unpacked.artefact.name,
        "tasks": [] if unpacked.tasks is None else list(unpacked.tasks.tasks),
        "kind": unpacked.manifest.kind,
        "precision": unpacked.manifest.precision,
        "fits": fits,
    }
    if fits and target is not None:
        findings.fact("fits", f"{unpacked.name} suits this machine, as {target.name}")


def _target_here(
    findings: Findings, unpacked: Unpacked, board: JetsonIdentity | None
) -> Target | None:
    """Return what the artefact becomes here: its own target, or this Jetson where that suits."""
    target = unpacked.target
    if not _is_for_jetson(target):
        return target
    if board is None:
        what = f"the bundle is for {target.name}, and this is not a Jetson"
        findings.gap("fits", what, "copy it to that board", needed=True)
        findings.commands.clear()  # nothing that is installed here would help
        return None
    if board.target is None:
        findings.unknown(
            "fits", f"the bundle is for {target.name}, and this Jetson is not recognised"
        )
        return target
    device, _, _ = target.name.partition("@")
    if board.target.partition("@")[0] == device:
        return target
    what = f"the bundle is for {target.name}, this is {board.target}"
    other = _other_target(unpacked, board.target)
    if other is None:
        here = known_target(board.target)
        if here.release is not None and here.release.refusal:
            what, fix = f"{what}: {here.release.refusal}", "update JetPack"
        else:
            fix = f"on the workstation: {export_command(unpacked.manifest, here)}"
        findings.gap("fits", what, fix, needed=True)
    else:
        fix = (
            f"python3 agent.pyz build --target {other.name}"
            if unpacked.tasks is None
            else f"on the workstation, bundle the folder of tasks with --target {other.name}"
        )
        findings.gap("fits", f"{what}, which takes its graph too", fix, needed=False)
    return other


def _is_for_jetson(target: Target) -> bool:
    return target.device is not None and target.device.board is not None


def _other_target(unpacked: Unpacked, name: str) -> Target | None:
    """Return the target of this name where it takes the graph; an engine fits one board."""
    if unpacked.manifest.kind != "graph":
        return None
    try:
        other = load_target(name)
        _read(unpacked, other)
    except FpetError:
        return None
    return other


def _require_built_for(
    unpacked: Unpacked, runtime: Runtime, version: str | None, capability: str | None
) -> None:
    """Refuse an engine that was built for another runtime, CPU or GPU."""
    what, built = "", runtime.compute_capabilities
    other_cpu = processor.difference_from(
        runtime.machine, runtime.settings.get("instruction_sets", "").split()
    )
    if version is not None and version != runtime.version:
        what = f"{runtime.flavour} {runtime.version}, installed is {version}"
    elif runtime.flavour == "tensorrt" and runtime.machine != platform.machine():
        what = f"{runtime.machine}, this is {platform.machine()}"
    elif runtime.flavour in ("onnxruntime", "torch") and other_cpu:
        what = f"another CPU: {other_cpu}"
    elif capability is not None and built and capability not in built:
        what = f"compute capability {', '.join(built)}, this GPU has {capability}"
    if what:
        raise UsageError(
            f"the engine was built for {what}",
            where=str(unpacked.artefact),
            fix="bundle its graph on the workstation, and build here",
        )


def _require_buildable(
    unpacked: Unpacked,
    target: Target,
    version: str | None,
    capability: str | None,
    board: JetsonIdentity | None,
) -> None:
    """Refuse a graph that the runtime or the GPU of this machine does not take."""
    _read(unpacked, target)
    if version is not None:
        require_release(version, target)
    if capability is not None and target.module == "tensorrt":
        require_device(capability, board, target)


def _check_room(
    findings: Findings, unpacked: Unpacked, target: Target, machine: Environment
) -> None:
    """Warn of too little memory or disk to build."""
    if unpacked.manifest.kind != "graph":
        return
    # The builder holds the weights twice.
    memory = 2 * unpacked.size_bytes + (target.workspace_bytes or 0)
    free = machine.available_bytes
    if free is not None and free < memory:
        findings.gap(
            "memory",
            f"{free / 1e9:.1f} GB free, a build may take {memory / 1e9:.1f} GB",
            "close other programs, such as the desktop: sudo systemctl isolate multi-user.target",
            needed=False,
        )
    folder = unpacked.artefact.resolve().parent
    disk = shutil.disk_usage(folder).free
    if disk < 2 * unpacked.size_bytes:
        findings.gap(
            "disk",
            f"{disk / 1e6:.0f} MB free in {folder}, an engine and its copy while it is written "
            f"take {2 * unpacked.size_bytes / 1e6:.0f} MB",
            "free space there, or unpack on another disk",
            needed=True,
        )


def _read(unpacked: Unpacked, target: Target) -> None:

    for source in unpacked.sources:
        read_source(source, target, allow_failed=True, any_form=True)


def _refuse(findings: Findings, error: FpetError) -> None:
    findings.gap("bundle", error.what, error.fix, needed=True, exit_code=error.exit_code)


def _compute_capability() -> str | None:

    try:
        return open_cuda().compute_capability()
    except FpetError:
        return None
