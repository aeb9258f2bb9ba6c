"""`fpet-export bundle X`: everything that a board needs, in one archive."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from engines import storage
from engines.manifest import Manifest, manifest_path, read_manifest
from fpet_export.console import Console
from fpet_export.verbs import Outcome, _arguments, _trust

if TYPE_CHECKING:
    from engines.bundle import Role
    from engines.targets import Target

HELP = "pack a graph or an engine for another machine, with the agent that builds and checks it"
DESCRIPTION = """\
Pack a graph (better) or an engine with its manifest, a few images with what the graph says about
them, the board agent and a README into one archive. On the board the system's Python, numpy and
TensorRT or ONNX Runtime are enough:

  tar xf model.bundle.tar; python3 agent.pyz doctor; python3 agent.pyz build

`check` there compares the engine with this machine's graph, `bench` measures it, `predict` uses it.
With --key the archive is signed too; `verify` checks hashes and signature.

  fpet-export bundle out/model.fp16.onnx --target jetson-orin-nano-8gb --data val/ --key id_ed25519
"""
DEFAULT_IMAGES = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("artefact", type=Path, metavar="X", help="a graph or an engine")
    parser.add_argument("--target", help="where it will run (default: what it was exported for)")
    _arguments.add_output(parser, what="archive to write (default: X.bundle.tar beside it)")
    _arguments.add_data(parser, limit=16)
    parser.add_argument("--key", type=Path, help="SSH key to sign the archive with")


def run(options: argparse.Namespace, console: Console) -> Outcome:
    """Check, collect, write, and sign where asked to."""
    from engines import signature
    from engines.bundle import SUFFIX, write_bundle
    from engines.engine import load_target

    artefact: Path = options.artefact
    out: Path = options.out or artefact.with_name(artefact.stem + SUFFIX)
    for path in (out, *((signature.signature_path(out),) if options.key else ())):
        storage.refuse_overwrite(path, force=options.force)
    if options.key is not None:
        signature.require_key(options.key)
    manifest = _checked(artefact, console)
    target = load_target(options.target or manifest.target)
    _require_suited(artefact, manifest, target)
    with tempfile.TemporaryDirectory(prefix="fpet-export-") as folder:
        files = _made(artefact, manifest, target, options, console, Path(folder))
        files += [(artefact.with_name(one.file), "companion") for one in manifest.companions]
        files += [(manifest_path(artefact), "manifest"), (artefact, "artefact")]
        bundle = write_bundle(
            out, files, target=target.name, tools=manifest.tools, force=options.force
        )
    console.step("bundle", f"{out.name} {out.stat().st_size / 1e6:.1f} MB for {target.name}")
    signed = None
    if options.key is not None:
        signed = signature.sign(out, options.key, force=options.force)
        console.step("sign", signed.name)
    return Outcome(
        document={
            "bundle": str(out),
            "signature": None if signed is None else str(signed),
            "target": bundle.target,
            "files": {entry.name: entry.size_bytes for entry in bundle.entries},
        },
        result=str(out),
        next=[f"fpet-export verify {out}", f"scp {out} BOARD:"],
    )


def _checked(artefact: Path, console: Console) -> Manifest:
    from engines.errors import UsageError

    if _trust.is_bundle(artefact):
        raise UsageError(
            "this is a bundle already",
            where=str(artefact),
            fix="give the graph or the engine, or copy the bundle as it is",
        )
    found = _trust.check(artefact, console)
    assert isinstance(found, Manifest)
    return found


def _require_suited(artefact: Path, manifest: Manifest, target: Target) -> None:
    """Refuse a graph that the target cannot build, and an engine of another target."""
    from engines.backends._provenance import read_source
    from engines.errors import UsageError

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
    options: argparse.Namespace,
    console: Console,
    folder: Path,
) -> list[tuple[Path, Role]]:
    """Write what is made for the bundle: README, agent and check file."""
    from fpet_export.agent import build_agent

    readme, agent = folder / "README.txt", folder / "agent.pyz"
    agent.write_bytes(build_agent())
    console.step("agent", f"{agent.name} {agent.stat().st_size / 1e3:.0f} kB")
    files: list[tuple[Path, Role]] = [(readme, "readme"), (agent, "agent")]
    check = _check_file(artefact, manifest, options, console, folder)
    if check is not None:
        files.append((check, "check"))
    readme.write_text(_readme(manifest, target, has_check=check is not None), "utf-8")
    return files


def _check_file(
    artefact: Path,
    manifest: Manifest,
    options: argparse.Namespace,
    console: Console,
    folder: Path,
) -> Path | None:
    """Write what the graph says about a few images; None where there is no graph to ask."""
    from engines.check_file import write_check
    from engines.evidence import expected_of
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
    images = _arguments.images_for(options, manifest.preprocessing, default=DEFAULT_IMAGES)
    if manifest.model is not None:
        check_labels(images, manifest.model.classes)
    expected = expected_of(graph, images)
    path = folder / f"{graph.stem}.check.npz"
    write_check(path, expected)
    console.step("check", f"{path.name}: {graph.name} on {images.description}")
    return path


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

On the board, with Python 3.10, numpy and {target.module}:

  python3 agent.pyz doctor      what this board has
{build}{check}\
  python3 agent.pyz bench       its latency
  python3 agent.pyz predict IMAGE

Each has --help and --json. bundle.json lists every file with its SHA-256. Whether the archive is
whole and who signed it, before anything of it is used:

  ssh-keygen -Y verify -f ALLOWED_SIGNERS -I SIGNER -n fpet-export \\
      -s X.bundle.tar.sig < X.bundle.tar
"""
