"""The command line: parse, call one verb, print one result.

Verbs are the files of `fpet_export/verbs/`. A verb's module imports nothing heavy at its top, so
that `--help` answers at once and with numpy alone; what it needs is imported when it runs.
"""

from __future__ import annotations

import argparse
import importlib
import re
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from typing import NoReturn, cast

from engines import registry
from engines.errors import FpetError, UsageError
from fpet_export import __version__, verbs
from fpet_export.console import Console
from fpet_export.verbs import Outcome, Verb

PROGRAM = "fpet-export"
INTERRUPTED = 130
_OURS = ("calibration", "engines", "benchmarks")
_EXIT_CODES = """\
exit codes: 0 ok, 1 our bug, 2 usage, 3 input refused, 4 something is not installed or not there,
5 export failed, 6 build failed, 7 parity failed, 8 budget missed, 9 measurement invalid,
10 hash or signature refused, 11 remote failed, 130 interrupted"""


def main(
    arguments: Sequence[str] | None = None,
    *,
    complete: Callable[[list[str]], list[str]] = list,
    program: str = PROGRAM,
) -> int:
    """Run one command and return its exit code.

    Args:
        arguments: The words behind the program's name; None takes those of the process.
        complete: Fills in words that were left out.
        program: What was typed, for commands that are proposed.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    console, as_json = Console(), "--json" in words
    try:
        words = complete(words)
        options = _parse(words)
        as_json = options.json
        console = Console(quiet=options.quiet, verbose=options.verbose)
        check_provenance()
        options.command = (PROGRAM, *words)
        outcome = load_verb(options.verb).run(options, console)
        _print(outcome, console, program, as_json=as_json)
    except FpetError as error:
        return _refuse(error, console, program, as_json=as_json)
    except ModuleNotFoundError as error:
        return _refuse(_explained(error), console, program, as_json=as_json)
    except KeyboardInterrupt:
        return _interrupted(console, as_json=as_json)
    return outcome.exit_code


def _parse(words: Sequence[str]) -> argparse.Namespace:
    options, unknown = build_parser().parse_known_args(words)
    if unknown:
        named = f"see `fpet-export {options.verb} --help`"
        # argparse takes a list of files in one piece only.
        is_file = not unknown[0].startswith("-")
        raise UsageError(
            f"unrecognized arguments: {' '.join(unknown)}",
            where=f"fpet-export {options.verb}",
            fix=f"write all files before the options, or {named}" if is_file else named,
        )
    return options


def _explained(error: ModuleNotFoundError) -> FpetError:
    """Return which extra brings the missing package; a missing module of ours is raised again."""
    name = (error.name or "").partition(".")[0]
    if not name or name in (*_OURS, "fpet_export"):
        raise error
    try:
        registry.import_or_explain(name)
    except FpetError as explained:
        return explained
    raise error


class _Parser(argparse.ArgumentParser):
    """Refuses with a UsageError, which `--json` can show, where argparse prints and exits."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, where=self.prog, fix=f"see `{self.prog} --help`")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser with one sub-command a verb."""
    common = _Parser(add_help=False)
    common.add_argument("--json", action="store_true", help="print one JSON document on stdout")
    common.add_argument("-q", "--quiet", action="store_true", help="print errors only")
    common.add_argument("-v", "--verbose", action="store_true", help="print details")
    parser = _Parser(
        prog=PROGRAM,
        description="Export, verify, build and measure fine-tuned ViTs with FPET token merging.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"fpet-export {__version__}")
    commands = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name in registry.available(verbs):
        verb = load_verb(name)
        sub = commands.add_parser(
            name,
            help=verb.HELP,
            description=verb.DESCRIPTION,
            parents=[common],
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        verb.add_arguments(sub)
    return parser


def load_verb(name: str) -> Verb:
    """Import the verb `name`."""
    return cast(Verb, registry.load(verbs, name))


def check_provenance() -> None:
    """Refuse to run when another project's package hides one of ours.

    Three of our package names are common words; see docs/adr/0001.
    """
    home = Path(__file__).resolve().parents[1]
    for name in _OURS:
        if PathFinder.find_spec(name, [str(home)]) is None:
            continue  # the board agent leaves it at home
        found = Path(next(iter(importlib.import_module(name).__path__))).resolve().parent
        if found != home:
            raise FpetError(
                f"{name!r} was imported from another project",
                where=str(found),
                fix="run the installed `fpet-export` command, or leave that folder",
            )


def _refuse(error: FpetError, console: Console, program: str, *, as_json: bool) -> int:
    error = type(error)(error.what, where=error.where, fix=_as_typed(error.fix, program))
    if as_json:
        _print_error(
            console, type(error).__name__, error.exit_code, error.what, error.where, error.fix
        )
    else:
        console.error(str(error))
    return error.exit_code


def _interrupted(console: Console, *, as_json: bool) -> int:
    what = "interrupted; nothing half-written was left behind"
    if as_json:
        _print_error(console, "KeyboardInterrupt", INTERRUPTED, what, "", "run the command again")
    else:
        console.error(what)
    return INTERRUPTED


def _print_error(
    console: Console, name: str, exit_code: int, what: str, where: str, fix: str
) -> None:
    console.json(
        {
            "error": {
                "class": name, "exit_code": exit_code, "what": what, "where": where, "fix": fix,
            }
        }
    )  # fmt: skip


def _as_typed(text: str, program: str) -> str:
    """Return a text whose commands begin with the program that was typed, where it has the verb."""
    here = "|".join(registry.available(verbs))
    return re.sub(rf"\b{PROGRAM} (?=(?:{here})\b)", f"{program} ", text)


def _print(outcome: Outcome, console: Console, program: str, *, as_json: bool) -> None:
    if outcome.next:
        console.next_commands([_as_typed(command, program) for command in outcome.next])
    if as_json:
        console.json(outcome.document)
    elif outcome.result:
        console.result(outcome.result)


def run() -> NoReturn:
    """Entry point of the installed command."""
    sys.exit(main())


if __name__ == "__main__":
    run()
