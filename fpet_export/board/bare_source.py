"""A module's source without what only people read, every statement on the line where it was.

Comments and docstrings are a quarter of what the agent would weigh. A traceback of the agent still
names the lines of the sources.
"""

from __future__ import annotations

import ast
import functools
import io
import tokenize

_FIELDS = ("body", "orelse", "finalbody")
_NOTHING = b"..."


@functools.cache
def bare_source(source: bytes) -> bytes:
    """Return UTF-8 source without comments and without strings that stand alone.

    A block that holds nothing else keeps an ellipsis, for a block needs a statement.
    """
    lines = source.splitlines(keepends=True)
    for node in ast.walk(ast.parse(source)):
        for field in _FIELDS:
            block = getattr(node, field, None)
            if isinstance(block, list):
                _blank_strings(block, lines)
    bare = b"".join(lines)
    return _without_comments(bare.decode()).encode() if b"#" in bare else bare


def _blank_strings(block: list[ast.stmt], lines: list[bytes]) -> None:
    alone = [
        one
        for one in block
        if isinstance(one, ast.Expr)
        and isinstance(one.value, ast.Constant)
        and isinstance(one.value.value, str)
    ]
    for index, one in enumerate(alone):
        is_needed = len(alone) == len(block) and index == 0
        _blank(one, lines, _NOTHING if is_needed else b"")


def _blank(node: ast.stmt, lines: list[bytes], instead: bytes) -> None:
    """Replace a statement in its lines; its columns count bytes."""
    assert node.end_lineno is not None and node.end_col_offset is not None
    first, last = node.lineno - 1, node.end_lineno - 1
    before, after = lines[first][: node.col_offset], lines[last][node.end_col_offset :]
    lines[first : last + 1] = [before + instead + after] + [b"\n"] * (last - first)


def _without_comments(text: str) -> str:
    lines = text.splitlines(keepends=True)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column].rstrip() + "\n"
    return "".join(lines)
