"""Sources for Python 3.10 to sources for Python 3.8, for the board agent.

The packages are written for Python 3.10; a board may have an older system Python. What is newer in
them falls into few kinds, and each has a spelling that 3.8 knows and that means the same on every
version. What needs a function has it in `fpet_export._python38`. Anything newer that is not listed
here fails in the tests, which compile every file of the agent for 3.8 and run it there.
"""

from __future__ import annotations

import ast
import functools

SHIM = "fpet_export._python38"

_GENERICS = {name: name.capitalize() for name in ("tuple", "list", "dict", "set", "type")} | {
    "frozenset": "FrozenSet"
}
_NUMPY_GENERICS = ("np.dtype", "np.floating", "np.generic", "np.integer", "np.ndarray")
_METHODS = ("removeprefix", "removesuffix")


@functools.cache  # a folder of tasks, a remote deployment and a test session pack it again
def downlevel(source: str) -> str:
    """Return a module's source as Python 3.8 reads it; comments are lost."""
    tree = _Downlevel().visit(ast.parse(source))
    place = next(
        (
            index
            for index, node in enumerate(tree.body)
            if not isinstance(node, ast.ImportFrom) or node.module != "__future__"
            if not isinstance(node, ast.Expr)
        ),
        len(tree.body),
    )
    tree.body[place:place] = ast.parse(f"import typing as _typing\nimport {SHIM} as _python38").body
    return ast.unparse(ast.fix_missing_locations(tree)) + "\n"


class _Downlevel(ast.NodeTransformer):
    """Rewrites one module."""

    def __init__(self) -> None:
        self._in_annotation = False

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST:
        """Names of `collections.abc` take no subscript before 3.9; old numpy has no `typing`."""
        if node.module == "collections.abc":
            node.module = "typing"
        elif node.module == "numpy.typing":
            node.module = SHIM
        return node

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        """`tuple[int, ...]` becomes `typing.Tuple[int, ...]`, `np.dtype[Any]` just `np.dtype`."""
        value = node.value
        if ast.unparse(value) in _NUMPY_GENERICS:
            return value
        if isinstance(value, ast.Name) and value.id in _GENERICS:
            node.value = _typing(_GENERICS[value.id])
        self.generic_visit(node)
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        """`A | B` is a union of types in an annotation; elsewhere it may also be of mappings."""
        self.generic_visit(node)
        if not isinstance(node.op, ast.BitOr):
            return node
        if self._in_annotation:
            both = ast.Tuple([node.left, node.right], ast.Load())
            return ast.Subscript(_typing("Union"), both, ast.Load())
        return _call("union", node.left, node.right)

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.AST:
        """`a |= b` becomes `a = union(a, b)`."""
        self.generic_visit(node)
        if not isinstance(node.op, ast.BitOr):
            return node
        before = ast.parse(ast.unparse(node.target), mode="eval").body
        return ast.Assign([node.target], _call("union", before, node.value))

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """`zip(strict=…)`, `str.removeprefix`, and a union of types in `isinstance`."""
        if _is_name(node.func, "isinstance") and isinstance(node.args[1], ast.BinOp):
            node.args[1] = ast.Tuple(_operands(node.args[1]), ast.Load())
        self.generic_visit(node)
        if _is_name(node.func, "zip") and any(word.arg == "strict" for word in node.keywords):
            node.func = _shim("zip_strict")
        if isinstance(node.func, ast.Attribute):
            if node.func.attr in _METHODS:
                return _call(node.func.attr, node.func.value, *node.args)
            if node.func.attr == "dataclass" and _is_name(node.func.value, "dataclasses"):
                node.func = _shim("dataclass")
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        """`functools.cache` and `types.UnionType`."""
        self.generic_visit(node)
        if node.attr == "cache" and _is_name(node.value, "functools"):
            return _shim("cache")
        if node.attr == "UnionType" and _is_name(node.value, "types"):
            return _shim("UnionType")
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        """Annotations of fields are evaluated where a manifest is read."""
        node.annotation = self._annotation(node.annotation)
        node.target = self.visit(node.target)
        if node.value is not None:
            node.value = self.visit(node.value)
        return node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        """Annotations of arguments."""
        if node.annotation is not None:
            node.annotation = self._annotation(node.annotation)
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        """Annotations of results."""
        if node.returns is not None:
            node.returns = self._annotation(node.returns)
            returns, node.returns = node.returns, None
            self.generic_visit(node)
            node.returns = returns
        else:
            self.generic_visit(node)
        return node

    def _annotation(self, node: ast.expr) -> ast.expr:
        before, self._in_annotation = self._in_annotation, True
        result: ast.expr = self.visit(node)
        self._in_annotation = before
        return result


def _operands(node: ast.expr) -> list[ast.expr]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return [*_operands(node.left), *_operands(node.right)]
    return [node]


def _is_name(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _typing(name: str) -> ast.expr:
    return ast.Attribute(ast.Name("_typing", ast.Load()), name, ast.Load())


def _shim(name: str) -> ast.expr:
    return ast.Attribute(ast.Name("_python38", ast.Load()), name, ast.Load())


def _call(name: str, *arguments: ast.expr) -> ast.Call:
    return ast.Call(_shim(name), list(arguments), [])
