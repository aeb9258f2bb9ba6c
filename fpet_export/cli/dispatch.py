"""The command line: parse, call one verb, print one result.

Verbs are the files of `fpet_export/cli/verbs/`. A verb's module imports nothing heavy at its top,
so that `--help` answers at once and with numpy alone; what it needs is imported when it runs.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import re
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NoReturn, cast

from fpet_export import provenance

provenance.stop_if_foreign()  # before any package of ours is imported but this one

from engines import registry
from engines.errors import FpetError, InputError, UsageError
from engines.machine.shortage import shortage
from engines.near_names import did_you_mean, near_names
from fpet_export.cli import stop_signals, streams, verbs
from fpet_export.cli.arguments_check import refuse_unknown_options
from fpet_export.cli.console import Console
from fpet_export.cli.help_text import HelpText, VerbsHelp
from fpet_export.cli.verbs import Outcome, Verb
from fpet_export.steps.given_kinds import require_kinds
from fpet_export.steps.given_paths import require_files, require_outputs
from fpet_export.version import __version__

PROGRAM = "fpet-export"
_EXIT_CODES = """\
exit codes: 0 ok, 1 our bug, 2 usage, 3 input refused (or left out, with --skip-bad),
4 something is not installed or not there, 5 export failed, 6 build failed, 7 parity failed,
8 budget missed, 9 measurement invalid, 10 hash or signature refused, 11 remote failed, 129 hung
up, 130 interrupted, 141 nobody reads stdout, 143 terminated (docs/command-line.md)"""


def main(
    arguments: Sequence[str] | None = None,
    *,
    complete: Callable[[list[str]], list[str]] = list,
    program: str = PROGRAM,
) -> int:
    """Run one command and return its exit code.

    Args:
        arguments: Arguments behind the program's name; None takes those of the process.
        complete: Fills in arguments that were left out.
        program: What was typed, for commands that are proposed.
    """
    argv = list(sys.argv[1:] if arguments is None else arguments)
    console, as_json = Console(), "--json" in argv
    try:
        if not argv:
            console.line(build_parser(program).format_help())
            return UsageError.exit_code
        argv = complete(argv)
        _refuse_empty(argv)
        options = _parse(argv, program)
        as_json = options.json
        console = Console(quiet=options.quiet, verbose=options.verbose)
        require_files(options.verb, vars(options))
        require_kinds(options.verb, vars(options))
        require_outputs(options.verb, vars(options))
        options.command = (PROGRAM, *argv)
        with console.alive():
            outcome = load_verb(options.verb).run(options, console)
        outcome = _with_unreadable(outcome, console)
        _print(outcome, console, program, as_json=as_json)
    except streams.ReaderGoneError:
        return streams.NO_READER
    except streams.StreamError as error:
        return _refuse(error, console, program, as_json=False)
    except FpetError as error:
        return _refuse(error, console, program, as_json=as_json)
    except ModuleNotFoundError as error:
        return _refuse(registry.explained(error), console, program, as_json=as_json)
    except (OSError, MemoryError) as error:
        known = shortage(error)
        if known is None:
            raise
        return _refuse(known, console, program, as_json=as_json)
    except KeyboardInterrupt as error:
        return _interrupted(error, console, as_json=as_json)
    return outcome.exit_code


def _parse(argv: Sequence[str], program: str) -> argparse.Namespace:
    verb, behind = argv[0], argv[1:]
    parser = build_parser(program, filled=(verb,))
    parser_of = parsers_of_verbs(parser)
    if verb in parser_of and not {"-h", "--help"} & {*behind}:
        refuse_unknown_options(parser_of[verb], behind)
    elif verb not in parser_of and verb not in parser._option_string_actions:
        raise _no_verb(verb, program, parser_of)
    options, unknown = parser.parse_known_args(argv)
    if unknown:
        named = f"see `{program} {options.verb} --help`"
        # argparse takes a list of files in one piece only.
        is_file = not unknown[0].startswith("-")
        raise UsageError(
            f"unrecognized arguments: {' '.join(unknown)}",
            where=f"{program} {options.verb}",
            fix=f"write all files before the options, or {named}" if is_file else named,
        )
    return options


def _refuse_empty(argv: Sequence[str]) -> None:
    """Refuse an empty argument: of an empty path, pathlib makes the current folder.

    Raises:
        UsageError: There is one.
    """
    for before, word in zip(("", *argv), argv, strict=False):
        if not word or (word.startswith("--") and word.endswith("=")):
            where = word or (before if before.startswith("-") else f"behind {before!r}")
            raise UsageError(
                f"an argument is empty: {where}",
                where=where,
                fix="fill it in ('.' is the current folder); was a variable of the shell not set?",
            )


def _no_verb(word: str, program: str, verbs_: Iterable[str]) -> UsageError:
    see = f"`{program} --help` lists the verbs"
    if program != PROGRAM:
        see += f" of this file; {PROGRAM} on the workstation has more"
    if word.startswith("-"):
        return UsageError(
            f"the first word is the option {word}, wanted a verb",
            where=program,
            fix=f"write options behind the verb; {see}",
        )
    near = [f"{program} {one}" for one in near_names(word, verbs_)]
    return UsageError(
        f"{word!r} is not a verb",
        where=program,
        fix=f"did you mean `{'` or `'.join(near)}`? {see}" if near else see,
    )


class _Parser(argparse.ArgumentParser):
    """Refuses with a UsageError, which `--json` can show, where argparse prints and exits.

    Options are not abbreviated: what "--pre" means would change with every new option.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)

    def _print_message(self, message: str, file: object = None) -> None:
        """Print a help or the version; argparse itself says nothing when it cannot."""
        streams.answer(message.rstrip("\n"))

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, where=self.prog, fix=f"see `{self.prog} --help`")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Propose a near choice; argparse calls this for every value."""
        if action.choices is None or value in action.choices:
            return
        choices = [str(choice) for choice in action.choices]
        name = "/".join(action.option_strings) or action.metavar or action.dest
        see = f"see `{self.prog} --help`"
        near = did_you_mean(str(value), choices, otherwise="")
        raise UsageError(
            f"argument {name}: invalid choice: {value!r} (choose from {', '.join(choices)})",
            where=self.prog,
            fix=f"{near} Or {see}" if near else see,
        )


def build_parser(
    program: str = PROGRAM, *, filled: Collection[str] | None = None
) -> argparse.ArgumentParser:
    """Return the parser with one sub-command a verb.

    Args:
        program: What was typed.
        filled: Verbs that get their arguments, for which they are imported; None fills all.
    """
    common = _Parser(add_help=False)
    common.add_argument("--json", action="store_true", help="print one JSON document on stdout")
    common.add_argument("-q", "--quiet", action="store_true", help="print errors only")
    common.add_argument("-v", "--verbose", action="store_true", help="print details")
    groups = grouped_verbs()
    parser = _Parser(
        prog=program,
        description="Export, verify, build and measure fine-tuned ViTs with FPET token merging.",
        epilog=_EXIT_CODES,
        formatter_class=functools.partial(VerbsHelp, groups=groups),
    )
    parser.add_argument("--version", action="version", version=f"fpet-export {__version__}")
    commands = parser.add_subparsers(title="verbs", dest="verb", metavar="VERB", required=True)
    for name, summary in sorted(item for group in groups.values() for item in group.items()):
        if filled is not None and name not in filled:
            commands.add_parser(name, help=summary)
            continue
        verb = load_verb(name)
        sub = commands.add_parser(
            name,
            help=summary,
            description=_as_typed(verb.DESCRIPTION, program),
            parents=[common],
            formatter_class=HelpText,
        )
        verb.add_arguments(sub)
    return parser


def parsers_of_verbs(parser: argparse.ArgumentParser) -> Mapping[str, argparse.ArgumentParser]:
    """Return the parser of each verb."""
    return next(
        action.choices
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)
    )


def grouped_verbs() -> dict[str, dict[str, str]]:
    """Return the verbs that are here with what each does, under the headings of `verbs.VERBS`."""
    here = registry.available(verbs)
    groups = {
        heading: {name: summary for name, summary in group.items() if name in here}
        for heading, group in verbs.VERBS.items()
    }
    return {heading: group for heading, group in groups.items() if group}


def load_verb(name: str) -> Verb:
    """Import the verb `name`."""
    return cast(Verb, registry.load(verbs, name))


def _refuse(error: FpetError, console: Console, program: str, *, as_json: bool) -> int:
    error = type(error)(error.what, where=error.where, fix=_as_typed(error.fix, program))
    if as_json:
        _print_error(
            console, type(error).__name__, error.exit_code, error.what, error.where, error.fix
        )
    else:
        console.error(str(error))
    return error.exit_code


def _interrupted(error: KeyboardInterrupt, console: Console, *, as_json: bool) -> int:
    name, code, how = stop_signals.told(error)
    what, again = f"{how}; nothing half-written was left behind", "run the command again"
    if console.keeps is not None and console.keeps.exists():
        what += f", and {console.keeps} keeps what was calibrated"
        again += ": it goes on from there; or remove that file"
    if as_json:
        _print_error(console, name, code, what, "", again)
    else:
        console.error(f"{what}\n  fix:   {again}" if console.keeps is not None else what)
    return code


def _print_error(
    console: Console, name: str, exit_code: int, what: str, where: str, fix: str
) -> None:
    """Print an error as JSON; where stdout takes nothing, for people."""
    told = {"class": name, "exit_code": exit_code, "what": what, "where": where, "fix": fix}
    try:
        console.json({"error": told})
    except (streams.StreamError, streams.ReaderGoneError):
        console.error(f"{what}\n  where: {where}\n  fix:   {fix}")


def _as_typed(text: str, program: str) -> str:
    """Return a text whose commands begin with the program that was typed, where it has the verb."""
    here = "|".join(registry.available(verbs))
    return re.sub(rf"\b{PROGRAM} (?=(?:{here})\b)", f"{program} ", text)


def _is_here(command: str) -> bool:
    """Say whether a command can be typed here: the board agent has few verbs."""
    program, _, words = command.partition(" ")
    return program != PROGRAM or words.partition(" ")[0] in registry.available(verbs)


def _print(outcome: Outcome, console: Console, program: str, *, as_json: bool) -> None:
    commands = [_as_typed(one, program) for one in outcome.next if _is_here(one)]
    if commands:
        console.next_commands(commands)
    if as_json:
        warned = {"warnings": console.warnings} if console.warnings else {}
        console.json({**outcome.document, **warned})
    elif outcome.result:
        console.result(outcome.result)


def _with_unreadable(outcome: Outcome, console: Console) -> Outcome:
    """List the images that a verb left out, in words and in its document.

    The exit code becomes that of an `InputError`, unless the verb has one already.
    """
    if not console.left_out:
        return outcome
    for name in console.left_out:
        console.line(f" ! unreadable {name}")
    return dataclasses.replace(
        outcome,
        document={**outcome.document, "unreadable": list(console.left_out)},
        exit_code=outcome.exit_code or InputError.exit_code,
    )
