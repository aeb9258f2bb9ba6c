"""Help inside the terminal's width: wrapped paragraphs, examples that a shell takes as printed."""

from __future__ import annotations

import argparse
import shlex

import pytest

from engines import registry
from fpet_export.cli import verbs
from fpet_export.cli.help_text import HelpText
from tests.fpet_export.command_line import call

COMMAND = "fpet-export bundle out/model.fp16.onnx --target jetson-orin-nano-8gb -o a.bundle.tar"


def printed(description: str) -> str:
    parser = argparse.ArgumentParser(
        prog="x", add_help=False, description=description, formatter_class=HelpText
    )
    return parser.format_help().partition("\n\n")[2].rstrip()


@pytest.fixture(autouse=True)
def terminal_of_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


@pytest.mark.parametrize("verb", ["", *registry.available(verbs)])
def test_help_fits_80_columns(verb: str) -> None:
    done = call(*[verb] * bool(verb), "--help")

    lines = done.out.splitlines()
    assert len(lines) > 10
    assert [line for line in lines if len(line) > 80] == []


def test_a_paragraph_is_filled_whatever_the_width_of_its_source() -> None:
    text = printed("one\ntwo\n" + "word " * 40 + "\n\nthe next")

    assert text.startswith("one two word")
    assert text.endswith("\n\nthe next")


def test_an_example_that_fits_stays_as_it_is() -> None:
    assert printed("Do it.\n\n  x a.onnx -o b.onnx\n  x c.onnx\n").endswith(
        "\n\n  x a.onnx -o b.onnx\n  x c.onnx"
    )


def test_a_long_example_is_broken_before_an_option_and_still_one_command() -> None:
    text = printed(f"Do it.\n\n  {COMMAND} --key id_ed25519\n")

    _, _, example = text.partition("\n\n")
    assert "\\\n      -o a.bundle.tar" in example
    assert shlex.split(example.replace("\\\n", "")) == shlex.split(f"{COMMAND} --key id_ed25519")
