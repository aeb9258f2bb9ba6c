"""`fpet-export verify X`: hashes and signature, before anything is opened."""

from __future__ import annotations

import argparse
from pathlib import Path

from engines.commands import command
from engines.errors import UsageError
from engines.tasks.index import FILE, files_of
from engines.transport.bundle import INDEX, Bundle
from fpet_export.cli.verbs import Outcome
from fpet_export.reporter import Reporter
from fpet_export.workflow import next_commands, trust, usable

GROUP = "pack"
HELP = "check hashes and signature of an artefact or a bundle, and open nothing"
DESCRIPTION = """\
Check a graph or an engine against its manifest, a bundle against its list, a folder of tasks and
its engines against its index, and with --signers the signature too. An engine is executable code:
this is to be done before it is opened, and nothing of it is loaded here. Exits 10 when something
does not fit.

--signers is a file in OpenSSH's ALLOWED SIGNERS format (ssh-keygen(1)), one line a signer:
NAME ssh-ed25519 AAAA…

  fpet-export verify cifar.bundle.tar --signers allowed_signers --unpack board/
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "artefact",
        type=Path,
        metavar="X",
        help="a graph, an engine, a bundle, or a folder of tasks",
    )
    parser.add_argument("--signers", type=Path, metavar="FILE", help="who may have signed it")
    parser.add_argument("--identity", metavar="NAME", help="who of them must have (default: any)")
    parser.add_argument("--unpack", type=Path, metavar="DIR", help="lay a bundle's files there")
    parser.add_argument("--force", action="store_true", help="replace files that exist")


def run(options: argparse.Namespace, reporter: Reporter) -> Outcome:
    """Check the signature first, where one is asked for, then the bytes."""
    from engines.transport import signature
    from engines.transport.bundle import unpack

    if options.identity and options.signers is None:
        raise UsageError(
            "a name alone proves nothing", where="--identity", fix="add --signers FILE"
        )
    if options.unpack is not None and not trust.is_bundle(options.artefact):
        raise UsageError(
            "only a bundle can be unpacked", where="--unpack", fix="leave --unpack out"
        )
    if (options.artefact / INDEX).is_file():
        return _verify_unpacked(options, reporter)
    if options.artefact.is_dir():
        return _verify_tasks(options, reporter)
    signer = None
    if options.signers is not None:
        signer = signature.verify(options.artefact, options.signers, identity=options.identity)
        reporter.step("signature", f"of {signer}")
    found = trust.check(options.artefact, reporter)
    artefact = options.artefact
    for manifest in trust.judged(artefact, found):
        usable.say(artefact.with_name(manifest.file), manifest, reporter)
    if signer is None:
        reporter.step("signature", "not checked: --signers was not given", passed=None)
    if options.unpack is not None:
        artefact = unpack(options.artefact, options.unpack, force=options.force)
        reporter.step("unpack", str(options.unpack))
    if artefact.name == FILE:
        artefact = artefact.parent
    names = [entry.name for entry in found.entries] if isinstance(found, Bundle) else [found.file]
    return Outcome(
        document={
            "artefact": str(artefact),
            "files": names,
            "target": found.target,
            "signer": signer,
        },
        result=str(artefact),
        next=_next(artefact),
    )


def _next(artefact: Path) -> list[str]:
    """Return what to type with an artefact, or with the folder of an unpacked bundle of tasks."""
    if trust.is_bundle(artefact):
        return []
    from engines.manifest import read_manifest

    if artefact.is_dir():
        return [command("inspect", artefact)]
    manifest = read_manifest(artefact, verify=False)
    if not next_commands.runs_here(manifest):
        return []
    has_answers = len(list(artefact.parent.glob("*.check.npz"))) == 1
    return [usable.go_on(command("check" if has_answers else "bench", artefact), manifest)]


def _verify_unpacked(options: argparse.Namespace, reporter: Reporter) -> Outcome:
    """Check every file of a bundle that was unpacked."""
    from engines.transport.bundle import check_unpacked

    folder = options.artefact
    if options.signers is not None:
        raise UsageError(
            "the signature is of the archive, and this is the folder that it filled",
            where="--signers",
            fix="verify the archive, and let it be unpacked: --unpack DIR",
        )
    found = check_unpacked(folder)
    size = sum(entry.size_bytes for entry in found.entries)
    reporter.step("bundle", f"whole: {len(found.entries)} files, {size / 1e6:.1f} MB")
    return Outcome(
        document={
            "artefact": str(folder / found.artefact),
            "files": [entry.name for entry in found.entries],
            "target": found.target,
            "signer": None,
        },
        result=str(folder),
        next=[command("doctor", "--bundle", folder)],
    )


def _verify_tasks(options: argparse.Namespace, reporter: Reporter) -> Outcome:
    """Check a folder of tasks, every byte."""
    folder = options.artefact
    if options.signers is not None:
        raise UsageError(
            "a folder of tasks has no signature of its own",
            where="--signers",
            fix=f"bundle it with --key, and verify that: {next_commands.bundle(folder)} --key KEY",
        )
    found = trust.check_tasks(folder, reporter)
    return Outcome(
        document={
            "artefact": str(folder),
            "tasks": list(found.index.names),
            "files": [stored.file for stored in files_of(found.index)],
            "target": found.index.target,
            "signer": None,
        },
        result=str(folder),
        next=[command("inspect", folder)],
    )
