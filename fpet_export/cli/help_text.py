"""Help inside the terminal's width: paragraphs are wrapped, examples are broken as a shell allows.

A description is paragraphs and, indented by two spaces, examples; its source may have any width.
"""

from __future__ import annotations

import argparse
import re
import textwrap
from collections.abc import Collection, Mapping

_NEXT = " \\"  # a shell reads on behind it
_HELD = "\ue000"  # stands for a space between an option and its value


class HelpText(argparse.HelpFormatter):
    """Wraps the paragraphs of a description, and keeps its examples as commands."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        parts = []
        for paragraph in text.strip().split("\n\n"):
            if paragraph.startswith("  "):
                parts.append("\n".join(_example(line, width) for line in paragraph.split("\n")))
            else:
                parts.append(textwrap.fill(paragraph, width, break_on_hyphens=False))
        return "\n\n".join(textwrap.indent(part, indent) for part in parts)


class VerbsHelp(HelpText):
    """Lists the verbs by what they are for.

    Args:
        prog: The program.
        groups: The verbs of each heading; those that are not there are left out.
    """

    def __init__(self, prog: str, *, groups: Mapping[str, Collection[str]]) -> None:
        super().__init__(prog)
        self._groups = groups

    def add_argument(self, action: argparse.Action) -> None:
        """Make room for the longest verb, which stands one step to the right of its heading."""
        super().add_argument(action)
        if isinstance(action, argparse._SubParsersAction):
            left = self._current_indent + self._indent_increment
            lengths = [left + len(one.dest) for one in action._choices_actions]
            self._action_max_length = max(self._action_max_length, *lengths)

    def _format_action(self, action: argparse.Action) -> str:
        if not isinstance(action, argparse._SubParsersAction):
            return super()._format_action(action)
        parts = []
        for heading, names in self._groups.items():
            parts.append(f"{' ' * self._current_indent}{heading}:\n")
            self._indent()
            parts += [
                self._format_action(one) for one in action._choices_actions if one.dest in names
            ]
            self._dedent()
        return "".join(parts)


def _example(line: str, width: int) -> str:
    """Break a command before an option, with a backslash, where it is too long."""
    if len(line) <= width:
        return line
    lines = textwrap.wrap(
        re.sub(r"(?<= )(--?\S+) (?=[^-\s])", rf"\1{_HELD}", line),
        width - len(_NEXT),
        subsequent_indent="      ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    return f"{_NEXT}\n".join(lines).replace(_HELD, " ")
