from __future__ import annotations

import inspect

import pytest

from engines import errors
from engines.errors import FpetError
from tests.engines.exit_codes import EXIT_CODES

CLASSES = [kind for _, kind in inspect.getmembers(errors, inspect.isclass)]
OURS = [kind for kind in CLASSES if issubclass(kind, FpetError)]


def test_the_message_says_what_where_and_fix() -> None:
    error = FpetError("found 3, wanted 4", where="model.onnx", fix="export it again")

    assert str(error) == "found 3, wanted 4\n  where: model.onnx\n  fix:   export it again"
    assert (error.what, error.where, error.fix) == (
        "found 3, wanted 4",
        "model.onnx",
        "export it again",
    )


@pytest.mark.parametrize("kind", OURS, ids=lambda kind: kind.__name__)
def test_every_error_has_the_exit_code_of_the_contract(kind: type[FpetError]) -> None:
    assert kind.exit_code == EXIT_CODES[kind.__name__]


@pytest.mark.parametrize("kind", OURS, ids=lambda kind: kind.__name__)
def test_the_tree_in_the_docstring_names_every_error(kind: type[FpetError]) -> None:
    assert kind.__name__ in (errors.__doc__ or "")
