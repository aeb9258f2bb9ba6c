"""Refuses options that a verb does not have, before argparse guesses what a word may be."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence

from engines.errors import UsageError
from engines.near_names import did_you_mean

_NUMBER = re.compile(r"-\.?\d.*")


def refuse_unknown_options(parser: argparse.ArgumentParser, argv: Sequence[str]) -> None:
    """Refuse the first word that looks like an option and is none of the parser's.

    argparse reads "-out" as "-o ut", and tells what is missing before what is misspelt.

    Args:
        parser: Parser of the verb.
        argv: Behind the verb.

    Raises:
        UsageError: There is such a word; near options are proposed.
    """
    known = list(parser._option_string_actions)
    for word in argv:
        if word == "--":
            return
        name = word.partition("=")[0]
        if not name.startswith("-") or name == "-" or " " in name or _NUMBER.fullmatch(name):
            continue
        is_long = name.startswith("--")
        if name in known if is_long else (name[:2] in known and f"-{name}" not in known):
            continue
        raise UsageError(
            f"unrecognized arguments: {name}",
            where=parser.prog,
            fix=did_you_mean(
                name, [one for one in known if one.startswith("--")], otherwise="leave it out"
            )
            + f" (`{parser.prog} --help` lists the options)",
        )
