"""The two functions that make an engine: `build` from a graph, `open_engine` from a file.

They look up the target and the side-car, and leave the rest to the backend; `engines.contract`
says what it offers.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from engines import backends, registry, storage
from engines.contract import Backend, BuildOptions, Engine, OpenOptions
from engines.errors import InputError, UsageError
from engines.fusion.report import fusion_path, write_fusion
from engines.manifest import (
    ENDINGS,
    EXECUTABLE,
    Manifest,
    manifest_path,
    read_manifest,
    refuse_shared_side_car,
    write_manifest,
)
from engines.targets import Target, _lookup
from engines.targets._lookup import load_target as load_target
from engines.transport import signature
from engines.verdict import require_passed

if TYPE_CHECKING:
    pass  # typing.Self needs Python 3.11


def backend(name: str) -> Backend:
    """Import the backend `name`; see `engines.registry.load` for the errors."""
    return cast(Backend, registry.load(backends, name))


def build(
    onnx: Path | str,
    *,
    target: str | Target,
    out: Path | str | None = None,
    options: BuildOptions | None = None,
) -> Path:
    """Build the engine of `target` from a graph and write it with its side-car.

    A plan gets its fusion report too. All of it appears at the end, the artefact last: whatever
    stops a build, what was there before is still there, and nothing is under its name half made.

    Args:
        onnx: A graph with its manifest beside it; a graph from elsewhere without one is
            accepted, the side-car then says so.
        target: A name that `engines.targets._lookup.load_target` knows, or a target of the
            caller's.
        out: The artefact to write; None takes `default_path`.
        options: See BuildOptions.

    Returns:
        The path of the artefact.

    Raises:
        TrustError: The graph does not match its manifest.
        ParityError: The graph's check failed, and `BuildOptions.allow_failed` is not set.
        InputError: The graph was written for a target of another form, and `BuildOptions.any_form`
            is not set; or the target does not take it at all.
        UsageError: See `refuse_output`.
        EngineError: The runtime refuses the graph; the message carries what it logged.
        MissingDependencyError: The runtime is not installed.
    """
    graph = Path(onnx)
    chosen = target if isinstance(target, Target) else load_target(target)
    options = options or BuildOptions()
    artefact = Path(out) if out else default_path(graph, chosen)
    refuse_output(artefact, chosen, force=options.force)
    earlier = fusion_path(artefact) if artefact.suffix == ".plan" else None
    if earlier is not None:
        storage.refuse_overwrite(earlier, force=options.force)
    with storage.atomic_path(artefact) as temporary:
        built = backend(chosen.backend).build(graph, chosen, temporary, options=options)
        manifest = write_manifest(temporary, built.manifest)
        if built.fusion is not None:
            write_fusion(temporary, manifest, built.fusion)
        elif earlier is not None:
            earlier.unlink(missing_ok=True)  # it describes the plan that is replaced now
    return artefact


def default_path(graph: Path, target: Target) -> Path:
    """Return where an engine lies unless somebody says otherwise: `model.cpu.onnx`.

    A release follows a hyphen: `model.jetson-orin-nano-8gb-jp6.2.plan`.
    """
    return graph.with_name(f"{graph.stem}.{target.file_name}{target.suffix}")


def refuse_output(artefact: Path, target: Target, *, force: bool) -> None:
    """Refuse a place for an engine before it is built.

    Raises:
        UsageError: It does not end as engines of the target do, exists already, cannot be written,
            or has the manifest of another file.
    """
    storage.refuse_overwrite(artefact, force=force)
    if artefact.suffix != target.suffix:
        raise UsageError(
            f"engines of {target.name} end in {target.suffix}, {artefact.name} does not",
            where=str(artefact),
            fix=f"call it {artefact.with_suffix(target.suffix)}",
        )
    refuse_shared_side_car(artefact)


def equivalent_command(
    onnx: Path | str,
    *,
    target: str | Target,
    out: Path | str | None = None,
    options: BuildOptions | None = None,
) -> str:
    """Return the line for NVIDIA's own tool that builds what `build` would; nothing is built.

    Raises:
        UsageError: The target is not of TensorRT, so there is no such tool.
    """
    graph = Path(onnx)
    chosen = target if isinstance(target, Target) else load_target(target)
    if chosen.suffix != ".plan":
        raise UsageError(
            f"{chosen.name} is built by {chosen.module}, which has no command of its own",
            where=chosen.name,
            fix="leave --print-trtexec out, or choose a TensorRT target",
        )
    artefact = Path(out) if out else default_path(graph, chosen)
    module: Any = backend(chosen.backend)
    line: str = module.equivalent_command(
        graph, chosen, artefact, options=options or BuildOptions()
    )
    return line


def open_engine(artefact: Path | str, *, options: OpenOptions | None = None) -> Engine:
    """Open an artefact after checking it against its side-car.

    An `.onnx` file without a manifest opens too (someone else's graph has none); a plan or a
    package does not, because it is executable code.

    Raises:
        TrustError: The artefact does not match its manifest, a plan or a package has none, or its
            signature is asked for and does not hold.
        InputError: There is no such file, or no backend opens files of its kind.
        ParityError: Its check failed, and `OpenOptions.allow_failed` is not set.
        EngineError: The runtime refuses it.
        MissingDependencyError: The runtime, its driver or its device is absent.
    """
    path = Path(artefact)
    if not path.is_file():
        raise InputError("there is no such file", where=str(path), fix="check the path")
    options = options or OpenOptions()
    if options.signers is not None:
        signature.verify(path, options.signers)
    if path.suffix in EXECUTABLE:
        manifest: Manifest | None = read_manifest(path)
    elif path.suffix == ".onnx":
        manifest = read_manifest(path) if manifest_path(path).exists() else None
    else:
        raise InputError(
            f"{path.suffix or 'no ending'} is none of {', '.join(ENDINGS)}",
            where=str(path),
            fix="give a graph, or an engine made by `fpet-export build`",
        )
    if manifest is not None:
        require_passed(path, manifest, allow_failed=options.allow_failed)
    name = _backend_of(path, manifest)
    return backend(name).open_engine(path, manifest, options=options)


def _backend_of(path: Path, manifest: Manifest | None) -> str:
    """Name the backend of an engine's runtime; a graph, which has none, runs in ONNX Runtime."""
    if path.suffix == ".plan":
        return "trt"
    if path.suffix == ".pt2":
        return "aoti"
    flavour = manifest.runtime.flavour if manifest and manifest.runtime else None
    for chosen in map(_lookup.entry, _lookup.target_names()):
        if isinstance(chosen, Target) and (chosen.suffix, chosen.module) == (path.suffix, flavour):
            return chosen.backend
    return "ort"
