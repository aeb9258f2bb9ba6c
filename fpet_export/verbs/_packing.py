"""A bundle made of an artefact: what `bundle` writes, and what `--remote` sends."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from engines.bundle import Bundle, Role, write_bundle
from engines.errors import UsageError
from engines.manifest import Manifest, manifest_path, read_manifest
from fpet_export.console import Console
from fpet_export.verbs import _trust

if TYPE_CHECKING:
    from engines.images import ImageSet
    from engines.parity import FloatArray
    from engines.targets import Target

DEFAULT_IMAGES = 8


def pack(
    artefact: Path,
    manifest: Manifest,
    target: Target,
    out: Path,
    console: Console,
    *,
    images: ImageSet | None = None,
    force: bool = False,
) -> Bundle:
    """Write the bundle of an artefact that was checked.

    Args:
        artefact: A graph or an engine.
        manifest: Its own.
        target: Where it will run.
        out: `NAME.bundle.tar`.
        console: Hears of each part.
        images: To record the graph's answers on; None for a few synthetic ones.
        force: Replace a file that exists.
    """
    with tempfile.TemporaryDirectory(prefix="fpet-export-") as folder:
        files = _made(artefact, manifest, target, images, console, Path(folder))
        files += [(artefact.with_name(one.file), "companion") for one in manifest.companions]
        files += [(manifest_path(artefact), "manifest"), (artefact, "artefact")]
        bundle = write_bundle(out, files, target=target.name, tools=manifest.tools, force=force)
    console.step("bundle", f"{out.name} {out.stat().st_size / 1e6:.1f} MB for {target.name}")
    return bundle


def checked(artefact: Path, target: str | None, console: Console) -> tuple[Manifest, Target]:
    """Check an artefact, and that the target takes it; None is what it was exported for.

    Raises:
        InputError: There is no such file, or the target cannot build the graph.
        TrustError: It is not what its manifest says.
        UsageError: It is a bundle, an engine of another target, or shared by tasks.
    """
    from engines.engine import load_target

    if _trust.is_bundle(artefact):
        raise UsageError(
            "this is a bundle already",
            where=str(artefact),
            fix="give the graph or the engine, or copy the bundle as it is",
        )
    found = _trust.check(artefact, console)
    assert isinstance(found, Manifest)
    if found.is_shared:
        raise UsageError(
            "many tasks share this artefact, and it runs with none of them here",
            where=str(artefact),
            fix=f"their folder travels whole: fpet-export bundle {artefact.parent}",
        )
    place = load_target(target or found.target)
    _require_suited(artefact, found, place)
    return found, place


def _require_suited(artefact: Path, manifest: Manifest, target: Target) -> None:
    """Refuse a graph that the target cannot build, and an engine of another target."""
    from engines.backends._provenance import read_source

    if manifest.kind == "graph":
        read_source(artefact, target)
    elif manifest.target != target.name:
        raise UsageError(
            f"the engine was built for {manifest.target}, not for {target.name}",
            where=f"--target {target.name}",
            fix="bundle its graph instead: the board builds the engine",
        )


def _made(
    artefact: Path,
    manifest: Manifest,
    target: Target,
    images: ImageSet | None,
    console: Console,
    folder: Path,
) -> list[tuple[Path, Role]]:
    """Write what is made for the bundle: README, agent and check file."""
    from fpet_export.agent import build_agent

    readme, agent = folder / "README.txt", folder / "agent.pyz"
    agent.write_bytes(build_agent())
    console.step("agent", f"{agent.name} {agent.stat().st_size / 1e3:.0f} kB")
    files: list[tuple[Path, Role]] = [(readme, "readme"), (agent, "agent")]
    check = _check_file(artefact, manifest, images, console, folder)
    if check is not None:
        files.append((check, "check"))
    readme.write_text(_readme(manifest, target, has_check=check is not None), "utf-8")
    return files


def _check_file(
    artefact: Path,
    manifest: Manifest,
    images: ImageSet | None,
    console: Console,
    folder: Path,
) -> Path | None:
    """Write what the graph says about a few images; None where there is no graph to ask."""
    from engines.check_file import write_check
    from engines.evidence import expected_of
    from engines.synthetic import synthetic_set
    from fpet_export.verify import check_labels

    graph = artefact if manifest.kind == "graph" else _graph_of(artefact, manifest)
    if graph is None or manifest.preprocessing is None:
        console.step(
            "check",
            "left out: the graph that the engine was built from is not beside it"
            if graph is None
            else "left out: the graph's preprocessing is unknown",
            passed=None,
        )
        return None
    if images is None:
        images = synthetic_set(manifest.preprocessing.size, DEFAULT_IMAGES)
    if manifest.model is not None:
        check_labels(images, manifest.model.classes)
    expected = dataclasses.replace(expected_of(graph, images), margin=_margin(graph, images))
    path = folder / f"{graph.stem}.check.npz"
    write_check(path, expected)
    said = f"{path.name}: {graph.name} on {images.description}"
    if expected.margin is not None:
        said += f", {expected.sure_images()} of them with a sure match"
    console.step("check", said, passed=None if expected.sure_images() == 0 else True)
    return path


def _margin(graph: Path, images: ImageSet) -> FloatArray | None:
    """Return (I, Na) how sure a float32 graph's match is; None where nobody need know.

    Rounded graphs are held to gates that a token merged elsewhere does not reach.
    """
    manifest = read_manifest(graph)
    if manifest.precision != "fp32" or "match" not in manifest.probes:
        return None
    from calibration.examine import examiner_for

    return examiner_for(graph, manifest, images).reference.margin


def _graph_of(engine: Path, manifest: Manifest) -> Path | None:
    """Return the graph that an engine was built from, if it is still beside it."""
    for parent in manifest.parents:
        graph = engine.with_name(parent.file)
        exists = parent.role == "graph" and graph.is_file() and manifest_path(graph).is_file()
        if exists and read_manifest(graph).sha256 == parent.sha256:
            return graph
    return None


def _readme(manifest: Manifest, target: Target, *, has_check: bool) -> str:
    build = "" if manifest.kind == "engine" else "  python3 agent.pyz build       the engine\n"
    check = (
        "" if not has_check else "  python3 agent.pyz check       are its answers the graph's?\n"
    )
    classes = "" if manifest.model is None else f", {manifest.model.classes} classes"
    return f"""\
{_trust.describe(manifest)}{classes}
for {target.name}: {target.summary}

On the board, with Python 3.8, numpy and {target.module}:

  python3 agent.pyz doctor      what this board has
{build}{check}\
  python3 agent.pyz bench       its latency
  python3 agent.pyz predict IMAGE

Each has --help and --json. bundle.json lists every file with its SHA-256. Whether the archive is
whole and who signed it, before anything of it is used:

  ssh-keygen -Y verify -f ALLOWED_SIGNERS -I SIGNER -n fpet-export \\
      -s X.bundle.tar.sig < X.bundle.tar
"""
