from __future__ import annotations

import ast

from fpet_export.board.agent import _files
from fpet_export.board.bare_source import bare_source

TRICKY = '''\
"""Module."""  # a comment behind it
import sys  # "not a string"

LIMIT = 3  # é is two bytes
"""What it limits: é, # and more."""


class Empty(Exception):
    """Nothing else."""


class Asked:
    """Has a method."""

    def ask(self) -> str:
        """Say.

        Twice.
        """

    def tell(self) -> str:
        "é"
        return "# kept"


TEXT = """
# kept, too
"""
if LIMIT:
    """Alone."""
else:
    "Alone too."  # with a comment
'''


def without_strings(tree: ast.AST) -> ast.AST:
    """Return a tree as it must be: no string is a statement, an empty block has an ellipsis."""
    for node in ast.walk(tree):
        for field in ("body", "orelse", "finalbody"):
            block = getattr(node, field, None)
            if not isinstance(block, list):
                continue
            kept = [
                one
                for one in block
                if not (
                    isinstance(one, ast.Expr)
                    and isinstance(one.value, ast.Constant)
                    and isinstance(one.value.value, str)
                )
            ]
            if block and not kept:
                kept = [ast.Expr(ast.Constant(...))]
            setattr(node, field, kept)
    return tree


def lines_of(source: bytes) -> dict[str, list[int]]:
    """Return at which lines each kind of statement begins."""
    found: dict[str, list[int]] = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.stmt) and not isinstance(node, ast.Expr):
            found.setdefault(type(node).__name__, []).append(node.lineno)
    return found


def test_tricky_source_means_the_same_and_has_no_words_left() -> None:
    bare = bare_source(TRICKY.encode())

    assert ast.dump(ast.parse(bare)) == ast.dump(without_strings(ast.parse(TRICKY)))
    assert lines_of(bare) == lines_of(TRICKY.encode())
    text = bare.decode()
    assert "# kept, too" in text
    assert '"# kept"' in text
    for gone in ("Module", "comment", "limits", "Nothing else", "Twice", "two bytes", "Alone"):
        assert gone not in text


def test_every_module_of_the_agent_means_the_same() -> None:
    count = 0
    for name, path in _files():
        source = path.read_bytes()
        if name.endswith(".py"):
            bare, count = bare_source(source), count + 1
            assert ast.dump(ast.parse(bare)) == ast.dump(without_strings(ast.parse(source))), name
            assert lines_of(bare) == lines_of(source), name
    assert count > 100
