"""Signatures, and hashes before anything is opened: `sign` and `verify` with their requests."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from engines.commands import command
from engines.errors import UsageError
from engines.manifest import read_manifest
from engines.tasks.index import FILE, files_of
from engines.transport import signature
from engines.transport.bundle import INDEX, Bundle, check_unpacked, unpack
from fpet_export.reporter import SILENT, Reporter
from fpet_export.requests import AllowFailed, Writing
from fpet_export.steps import next_commands, trust, usable


@dataclasses.dataclass(frozen=True, kw_only=True)
class SignRequest(AllowFailed, Writing):
    """What is signed.

    Attributes:
        artefact: A graph, an engine or a bundle.
        key: A private SSH key, or the .pub file of one that the SSH agent holds.
    """

    artefact: Path
    key: Path


@dataclasses.dataclass(frozen=True, kw_only=True)
class Signed:
    """A signature.

    Attributes:
        artefact: What was signed.
        signature: The file that holds it.
        next: Commands to type next.
    """

    artefact: Path
    signature: Path
    next: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"artefact": str(self.artefact), "signature": str(self.signature)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class VerifyRequest(Writing):
    """What is verified.

    Attributes:
        artefact: A graph, an engine, a bundle, an unpacked bundle, or a folder of tasks.
        signers: Who may have signed it, in OpenSSH's ALLOWED SIGNERS format; None asks for no
            signature.
        identity: Who of them must have; None for any.
        unpack: Where a bundle's files are laid; None leaves them in it.
    """

    artefact: Path
    signers: Path | None = None
    identity: str | None = None
    unpack: Path | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verified:
    """Something whose every byte is as it was listed.

    Attributes:
        artefact: What to use: the file, the folder, or what was unpacked.
        files: What was compared, by name.
        target: What it runs on.
        signer: Who has signed it; None where no signature was asked for.
        tasks: The folder's tasks; None where it is not a folder of tasks.
        folder: Folder of a bundle that was unpacked before; None otherwise.
        next: Commands to type next.
    """

    artefact: Path
    files: tuple[str, ...]
    target: str
    signer: str | None = None
    tasks: tuple[str, ...] | None = None
    folder: Path | None = None
    next: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        tasks = {} if self.tasks is None else {"tasks": list(self.tasks)}
        return {
            "artefact": str(self.artefact),
            **tasks,
            "files": list(self.files),
            "target": self.target,
            "signer": self.signer,
        }


def sign(request: SignRequest, reporter: Reporter = SILENT) -> Signed:
    """Check an artefact or a bundle, then sign it with an SSH key.

    Raises:
        InputError: There is no such file, or it is neither.
        ParityError: What is in it failed its check.
        TrustError: It is not what its manifest or its list says.
    """
    artefact = request.artefact
    found = trust.check(artefact, reporter)
    for manifest in trust.judged(artefact, found):
        usable.require(artefact.with_name(manifest.file), manifest, request, reporter)
    out = signature.sign(artefact, request.key, force=request.force)
    reporter.step("sign", f"{out.name}, for {signature.NAMESPACE}")
    return Signed(artefact=artefact, signature=out, next=(command("verify", artefact),))


def verify(request: VerifyRequest, reporter: Reporter = SILENT) -> Verified:
    """Check the signature first, where one is asked for, then the bytes; open nothing.

    Raises:
        UsageError: What was asked for does not go with what the artefact is.
        TrustError: A hash or a signature does not fit.
    """
    artefact = request.artefact
    if request.identity and request.signers is None:
        raise UsageError(
            "--identity requires --signers", where="--identity", fix="add --signers FILE"
        )
    if request.unpack is not None and not trust.is_bundle(artefact):
        raise UsageError(
            "only a bundle can be unpacked", where="--unpack", fix="leave --unpack out"
        )
    if (artefact / INDEX).is_file():
        return _verify_unpacked(request, reporter)
    if artefact.is_dir():
        return _verify_tasks(request, reporter)
    signer = None
    if request.signers is not None:
        signer = signature.verify(artefact, request.signers, identity=request.identity)
        reporter.step("signature", f"of {signer}")
    found = trust.check(artefact, reporter)
    for manifest in trust.judged(artefact, found):
        usable.report(artefact.with_name(manifest.file), manifest, reporter)
    if signer is None:
        reporter.step("signature", "not checked: --signers was not given", passed=None)
    if request.unpack is not None:
        artefact = unpack(artefact, request.unpack, force=request.force)
        reporter.step("unpack", str(request.unpack))
    if artefact.name == FILE:
        artefact = artefact.parent
    names = [entry.name for entry in found.entries] if isinstance(found, Bundle) else [found.file]
    return Verified(
        artefact=artefact,
        files=tuple(names),
        target=found.target,
        signer=signer,
        next=tuple(_next(artefact)),
    )


def _next(artefact: Path) -> list[str]:
    """Return what to type with an artefact, or with the folder of an unpacked bundle of tasks."""
    if trust.is_bundle(artefact):
        return []

    if artefact.is_dir():
        return [command("inspect", artefact)]
    manifest = read_manifest(artefact, verify=False)
    if not next_commands.runs_here(manifest):
        return []
    has_answers = len(list(artefact.parent.glob("*.check.npz"))) == 1
    return [usable.go_on(command("check" if has_answers else "bench", artefact), manifest)]


def _verify_unpacked(request: VerifyRequest, reporter: Reporter) -> Verified:
    """Check every file of a bundle that was unpacked."""
    folder = request.artefact
    if request.signers is not None:
        raise UsageError(
            "the signature is of the archive, and this is the folder that it filled",
            where="--signers",
            fix="verify the archive, and let it be unpacked: --unpack DIR",
        )
    found = check_unpacked(folder)
    size = sum(entry.size_bytes for entry in found.entries)
    reporter.step("bundle", f"whole: {len(found.entries)} files, {size / 1e6:.1f} MB")
    return Verified(
        artefact=folder / found.artefact,
        files=tuple(entry.name for entry in found.entries),
        target=found.target,
        folder=folder,
        next=(command("doctor", "--bundle", folder),),
    )


def _verify_tasks(request: VerifyRequest, reporter: Reporter) -> Verified:
    """Check a folder of tasks, every byte."""
    folder = request.artefact
    if request.signers is not None:
        raise UsageError(
            "a folder of tasks has no signature of its own",
            where="--signers",
            fix=f"bundle it with --key, and verify that: {next_commands.bundle(folder)} --key KEY",
        )
    found = trust.check_tasks(folder, reporter)
    return Verified(
        artefact=folder,
        files=tuple(stored.file for stored in files_of(found.index)),
        target=found.index.target,
        tasks=tuple(found.index.names),
        next=(command("inspect", folder),),
    )
