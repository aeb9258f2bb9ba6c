"""What people read fits a terminal of 80 columns, except paths and commands, which stay whole."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from engines.targets import _lookup
from tests.fpet_export.command_line import Done, Exported, call

Command = Callable[[Exported], Done]
COMMANDS: dict[str, Command] = {
    "targets": lambda made: call("targets"),
    "targets -v": lambda made: call("targets", "-v"),
    "doctor": lambda made: call("doctor"),
    "doctor --board": lambda made: call("doctor", "--board"),
    "inspect": lambda made: call("inspect", *made.words, "-v"),
    "compare": lambda made: call("compare", made.words[0], made.graph, *made.words[1:]),
    "estimate": lambda made: call(
        "estimate", made.graph, "--target", "jetson-orin-nano-8gb", "--precision", "fp16", "-v"
    ),
    "verify": lambda made: call("verify", made.graph),
    "an unknown verb": lambda made: call("exprot"),
    "an unknown option": lambda made: call("bench", made.graph, "--agianst", "plain"),
    "a missing file": lambda made: call("compare", made.graph, made.out / "absent.onnx"),
    "a backbone of another shape": lambda made: call(
        "inspect", made.words[0], "--backbone", "random:vit_base_patch16_224:0"
    ),
    "an unknown target": lambda made: call("targets", "jetson-orin-nano-8bg"),
}  # fmt: skip


def too_long(done: Done) -> list[str]:
    """The lines beyond 80 columns that could have been broken: two words of prose or more."""
    return [
        line
        for line in [*done.err.splitlines(), *done.out.splitlines()]
        if len(line) > 80 and "fpet-export " not in line and not any(
            len(word) > 60 or "/" in word for word in line.split()
        )
    ]  # fmt: skip


@pytest.fixture(autouse=True)
def terminal_of_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


@pytest.mark.parametrize("name", COMMANDS)
def test_output_fits(name: str, exported: Exported) -> None:
    done = COMMANDS[name](exported)

    assert len(done.err) > 60
    assert too_long(done) == []


@pytest.mark.parametrize("name", _lookup.target_names())
def test_every_target_fits(name: str) -> None:
    assert too_long(call("targets", name)) == []


def test_a_long_line_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")

    assert too_long(call("targets", "jetson-orin-nano-8gb"))


def test_the_parity_table_explains_its_columns(exported: Exported) -> None:
    done = COMMANDS["compare"](exported)

    for word in ("largest logit difference:", "signal to noise (SQNR):", "agreement:"):
        assert done.err.count(f"   {word} ") == 1
