"""What `sign`, `verify` and `bundle` check and say before anybody relies on a file."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from engines.commands import command
from engines.errors import InputError
from engines.manifest import ENDING, ENDINGS, Manifest, is_task_folder, manifest_path, read_manifest
from engines.plurals import counted
from engines.tasks.folder import check_folder
from engines.tasks.index import FILE
from engines.transport.bundle import SUFFIX, Bundle, read_bundle, read_files
from fpet_export.reporter import Reporter

if TYPE_CHECKING:
    from engines.tasks.folder import TaskFolder


def is_bundle(path: Path) -> bool:
    """Say whether a file's name is that of a bundle."""
    return path.name.endswith(SUFFIX)


def check(path: Path, reporter: Reporter) -> Bundle | Manifest:
    """Check every byte of a bundle, or of an artefact against its manifest, and say what it is.

    Nothing of it is loaded into a runtime.

    Raises:
        InputError: There is no such file, or it is neither.
        TrustError: It is not what its list or its manifest says.
    """
    if path.is_dir():
        raise InputError(
            "this is a folder",
            where=str(path),
            fix=f"bundle it with your --key: {command('bundle', path)} --key KEY"
            if is_task_folder(path)
            else "name a file in it",
        )
    if not path.is_file():
        raise InputError("there is no such file", where=str(path), fix="check the path")
    if is_bundle(path):
        bundle = read_bundle(path)
        size = sum(entry.size_bytes for entry in bundle.entries)
        reporter.step(
            "bundle",
            f"whole: {len(bundle.entries)} files, {size / 1e6:.1f} MB, {_held(bundle)} for "
            f"{bundle.target}",
        )
        return bundle
    if path.suffix not in ENDINGS:
        raise InputError(
            f"{path.name} is neither a graph, nor an engine, nor a bundle",
            where=str(path),
            fix=f"give a file that ends in {', '.join(ENDINGS)} or {SUFFIX}",
        )
    manifest = read_manifest(path)
    reporter.step("manifest", f"fits: {describe(manifest)}")
    return manifest


def judged(path: Path, found: Bundle | Manifest) -> Iterator[Manifest]:
    """Yield the manifests of what a file carries, which say whether it passed its checks.

    Args:
        path: The file.
        found: What `check` says it is.

    Raises:
        TrustError: The bundle is not what its list says, or a manifest in it is damaged.
    """
    yield from [found] if isinstance(found, Manifest) else _manifests_in(path)


def _manifests_in(path: Path) -> Iterator[Manifest]:
    with tempfile.TemporaryDirectory(prefix="fpet-export-") as folder:
        for number, content in enumerate(read_files(path, ENDING).values()):
            copy = Path(folder) / str(number)
            manifest_path(copy).write_bytes(content)
            yield read_manifest(copy, verify=False)


def check_tasks(path: Path, reporter: Reporter) -> TaskFolder:
    """Check every byte of a folder of tasks, and of the engines in it, and say what it is.

    Raises:
        TrustError: Something is not what its index says.
    """
    found = check_folder(path)
    reporter.step("tasks", f"whole: {found.describe()}")
    for graph in found.graphs:
        if graph.engine is not None:
            reporter.step("engine", f"fits: {graph.engine.name}, built from {graph.path.name}")
    return found


def _held(bundle: Bundle) -> str:
    """Name what a bundle carries."""
    if bundle.artefact != FILE:
        return bundle.artefact

    return f"{counted(len(bundle.names('check')), 'task')} on one backbone"


def describe(manifest: Manifest) -> str:
    """Return what an artefact is, from its manifest."""
    parts = [
        f"{manifest.kind} {manifest.file}",
        f"{manifest.total_bytes / 1e6:.1f} MB",
        f"{manifest.precision} for {manifest.target}",
    ]
    runtime = manifest.runtime
    if runtime is not None:
        parts.append(f"{runtime.flavour} {runtime.version}")
        if runtime.compute_capabilities:
            parts.append("SM " + ", ".join(runtime.compute_capabilities))
    if manifest.weights == "random":
        parts.append("random weights")
    return " · ".join(parts)
