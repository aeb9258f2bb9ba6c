"""`fpet-export verify X`: hashes and signature, before anything is opened."""

from __future__ import annotations

import argparse
from pathlib import Path

from fpet_export.cli.verbs import Outcome
from fpet_export.reporter import Reporter
from fpet_export.requests import made
from fpet_export.workflow import signing

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
    found = signing.verify(made(signing.VerifyRequest, vars(options)), reporter)
    result = str(found.folder or found.artefact)
    return Outcome(document=found.to_json(), result=result, next=found.next)
