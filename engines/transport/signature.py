"""Signatures of artefacts, made and checked by OpenSSH with keys that people have already.

`ssh-keygen -Y sign` and `-Y verify` exist since OpenSSH 8.2; who may sign is a file in the format
"ALLOWED SIGNERS" of ssh-keygen(1). Nothing here asks for a passphrase: a key that has one is used
through the agent, by naming its public half.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from engines import storage
from engines.commands import command
from engines.errors import EngineError, InputError, MissingDependencyError, TrustError
from engines.manifest import ENDINGS, manifest_path

NAMESPACE = "fpet-export"
"""What the signature is for; one made for git or a mail is not taken for it."""

_TIMEOUT_S = 60


def signed_file(artefact: Path) -> Path:
    """Return the file whose bytes are signed.

    A graph or an engine is signed through its manifest, which holds the hashes of it and of its
    companions; everything else, such as a bundle, by itself.
    """
    return manifest_path(artefact) if artefact.suffix in ENDINGS else artefact


def signature_path(artefact: Path) -> Path:
    """Return where the signature lies: `model.bundle.tar.sig`, `model.manifest.json.sig`."""
    file = signed_file(artefact)
    return file.with_name(file.name + ".sig")


def sign(artefact: Path, key: Path, *, force: bool = False) -> Path:
    """Sign an artefact; the caller has checked it against its manifest.

    Args:
        artefact: A graph, an engine or a bundle.
        key: A private key without a passphrase, or the public half of one in the agent.
        force: Replace a signature that exists.

    Returns:
        The signature's path.

    Raises:
        InputError: There is no such key, or it cannot sign.
        MissingDependencyError: There is no ssh-keygen.
        UsageError: There is a signature already.
    """
    out = signature_path(artefact)
    storage.refuse_overwrite(out, force=force)
    require_key(key)
    done = _ssh_keygen("sign", "-f", str(key), "-n", NAMESPACE, data=signed_file(artefact))
    if done.returncode or not done.stdout.startswith(b"-----BEGIN SSH SIGNATURE-----"):
        raise InputError(
            f"the key cannot sign: {_said(done)}",
            where=str(key),
            fix="name a private key without a passphrase, or load it into the agent (ssh-add) and "
            "name its .pub file",
        )
    storage.write_bytes(out, done.stdout)
    return out


def require_key(key: Path) -> None:
    """Refuse a key that is not there, before the work.

    Raises:
        InputError: There is no such file.
    """
    if not key.is_file():
        raise InputError(
            "there is no such key", where=str(key), fix="make one: ssh-keygen -t ed25519"
        )


def verify(artefact: Path, signers: Path, *, identity: str | None = None) -> str:
    """Check the signature of an artefact, not the artefact against its manifest.

    Args:
        artefact: A graph, an engine or a bundle.
        signers: Who may sign, in the format of ssh-keygen(1).
        identity: Who must have signed; None for anybody in `signers`.

    Returns:
        Who signed.

    Raises:
        InputError: There is no file of allowed signers.
        MissingDependencyError: There is no ssh-keygen.
        TrustError: There is no signature, it is not of this file, or not of an allowed signer.
    """
    where = signature_path(artefact)
    sign = f"{command('sign', artefact)} --key KEY"
    fix = f"ask who made it for a signature, or do not use it ({sign})"
    if not signers.is_file():
        raise InputError(
            "there is no such file of allowed signers",
            where=str(signers),
            fix="write one line for each signer: NAME ssh-ed25519 AAAA…, as in the .pub file",
        )
    if not where.is_file():
        raise TrustError("it is not signed", where=str(where), fix=fix)
    if not signed_file(artefact).is_file():
        raise TrustError("the signed file is missing", where=str(signed_file(artefact)), fix=fix)
    named = [identity] if identity else _principals(where, signers)
    said = "no allowed signer has this key"
    for name in named:
        done = _ssh_keygen(
            "verify", "-f", str(signers), "-I", name, "-n", NAMESPACE, "-s", str(where),
            data=signed_file(artefact),
        )  # fmt: skip
        if done.returncode == 0:
            return name
        said = _said(done)
    raise TrustError(f"the signature is not valid: {said}", where=str(where), fix=fix)


def _principals(signature: Path, signers: Path) -> list[str]:
    """Return the allowed signers whose key made the signature, whatever it signs."""
    done = _ssh_keygen("find-principals", "-s", str(signature), "-f", str(signers))
    return done.stdout.decode("utf-8", "replace").splitlines() if done.returncode == 0 else []


def _ssh_keygen(
    action: str, *words: str, data: Path | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run `ssh-keygen -Y action` on `data`; it can ask nobody anything."""
    quiet = {"SSH_ASKPASS_REQUIRE": "never", "LC_ALL": "C"}
    with Path(os.devnull if data is None else data).open("rb") as content:
        try:
            return subprocess.run(
                ["ssh-keygen", "-Y", action, *words],
                stdin=content,
                capture_output=True,
                check=False,
                env={**os.environ, **quiet},
                start_new_session=True,  # no terminal to ask for a passphrase on
                timeout=_TIMEOUT_S,
            )
        except FileNotFoundError:
            raise MissingDependencyError(
                "there is no ssh-keygen",
                where="PATH",
                fix="install OpenSSH's client, 8.2 or newer: apt-get install openssh-client",
            ) from None
        except subprocess.TimeoutExpired:
            raise EngineError(
                f"ssh-keygen did not answer in {_TIMEOUT_S} s",
                where=f"ssh-keygen -Y {action}",
                fix="try it by hand: does the key wait for a touch or an agent?",
            ) from None


def _said(done: subprocess.CompletedProcess[bytes]) -> str:
    lines = (done.stderr + done.stdout).decode("utf-8", "replace").strip().splitlines()
    return lines[-1].strip() if lines else f"ssh-keygen ended with {done.returncode}"
