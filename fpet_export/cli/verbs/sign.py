"""`fpet-export sign X --key K`: a signature that `verify` checks on another machine."""

from __future__ import annotations

import argparse
from pathlib import Path

from fpet_export.cli import arguments
from fpet_export.cli.verbs import Outcome
from fpet_export.reporter import Reporter
from fpet_export.requests import made
from fpet_export.workflow import signing

DESCRIPTION = """\
Check an artefact against its manifest, or a bundle against its list, and sign it with an SSH key.

Leaves X.bundle.tar.sig beside a bundle and X.manifest.json.sig beside a graph or an engine, whose
manifest holds the hashes. A key with a passphrase is used through the agent: name its .pub file.

  fpet-export sign out/model.bundle.tar --key ~/.ssh/id_ed25519
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("artefact", type=Path, metavar="X", help="a graph, an engine or a bundle")
    parser.add_argument("--key", type=Path, required=True, help="private SSH key, or .pub file")
    parser.add_argument("--force", action="store_true", help="replace a signature that exists")
    arguments.add_failed(parser)


def run(options: argparse.Namespace, reporter: Reporter) -> Outcome:
    """Check, then sign."""
    found = signing.sign(made(signing.SignRequest, vars(options)), reporter)
    return Outcome(document=found.to_json(), result=str(found.signature), next=found.next)
