"""Arguments of the verbs that another machine can do."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add where the work is done."""
    group = parser.add_argument_group("another machine, through ssh")
    group.add_argument(
        "--remote",
        metavar="HOST",
        help="do it on that machine, named as for ssh; "
        "`bench` takes several, with commas between them",
    )
    group.add_argument(
        "--remote-dir", metavar="DIR", help="folder there (default: below ~/.cache/fpet-export)"
    )
    group.add_argument("--ssh-config", type=Path, metavar="FILE", help="instead of ~/.ssh/config")
    group.add_argument("--keep-remote", action="store_true", help="leave the folder there")
