"""The demo: three deployments, each by the command that a user would type, and what they showed.

`make demo` runs it in the environment that it has made: `python -m examples.demo -o out`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

_WIDTH = 80
_DIGITS = Path("examples/digits")
_SIGNS = {True: "✓", False: "✗", None: "!"}

Run = Callable[[Sequence[str]], tuple[int, str]]
"""Runs a command, lets it print for people, and returns its exit code and its stdout."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """One deployment: the folder it leaves, what it shows, the words of `fpet-export deploy`."""

    folder: Path
    text: str
    words: tuple[str, ...]

    @property
    def command(self) -> list[str]:
        """What a user types."""
        return ["fpet-export", "deploy", *self.words, "-o", str(self.folder), "--force"]


def parts(out: Path, *, images: int, rounds: int) -> tuple[Part, ...]:
    """Return the deployments.

    Args:
        out: Where their folders go.
        images: How many test images the answers are compared on.
        rounds: How many paired rounds a measurement has.
    """
    run = (str(_DIGITS / "runs/lora"), "--backbone", str(_DIGITS / "backbone.safetensors"))
    data = ("--data", str(_DIGITS / "test.npz"), "--limit", str(images))
    shared = ("--target", "cpu,rtx", "--rounds", str(rounds))
    calibration = ("--calibration", str(_DIGITS / "calibration.npz"), "--images", "64")
    return (
        Part(
            folder=out / "digits",
            text="A fine-tuned run, in float32: a small ViT that reads digits",
            words=(*run, *shared, *data),
        ),
        Part(
            folder=out / "digits-int8",
            text="The same in INT8, calibrated on other images; half a point of accuracy may go",
            words=(*run, *shared, *data, "--precision", "int8", *calibration, "--max-drop", "0.5"),
        ),
        Part(
            folder=out / "vit-b",
            text="A full-size ViT-B/16 with random weights: good for its speed only",
            words=(
                "random:vit_base_patch16_224:0", "--method", "lora", "--merge-block", "6",
                *shared, "--limit", "4",
            ),
        ),
    )  # fmt: skip


def run_command(command: Sequence[str]) -> tuple[int, str]:
    """Run a command of this environment; see `Run`."""
    found = Path(sys.executable).with_name(command[0])
    done = subprocess.run([found, *command[1:], "--json"], stdout=subprocess.PIPE, text=True)
    return done.returncode, done.stdout


def say(text: str = "") -> None:
    """Print a line for people."""
    print(text, file=sys.stderr, flush=True)


def wrapped(text: str, *, first: str, rest: str) -> str:
    """Break a sentence at 80 columns; a command in it stays whole words."""
    return textwrap.fill(
        text, _WIDTH, initial_indent=first, subsequent_indent=rest,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def verdict_lines(part: Part, document: dict[str, Any]) -> list[str]:
    """Return what a deployment showed, from the JSON that it printed."""
    verdict = document["verdict"]
    said = [("answers", verdict["answers"]), ("accuracy", verdict["accuracy"])]
    said += [("speed", statement) for statement in verdict["speed"]]
    lines = [wrapped(part.text, first="", rest="")]
    for about, statement in said:
        head = f" {_SIGNS[statement['good']]} {about:<10} "
        lines.append(wrapped(statement["text"], first=head, rest=" " * len(head)))
        if statement["measure"]:  # in one line, to be pasted
            lines.append(f"   measure again: {statement['measure']}")
    return [*lines, f"   page       {document['report']}", ""]


def refusal(code: int, printed: str) -> str:
    """Return why a deployment failed, from the JSON that it printed, if it did."""
    try:
        error = json.loads(printed)["error"]
    except (ValueError, KeyError):
        return f"✗ this command failed with exit code {code}"
    return f"✗ error: {error['what']}\n  where: {error['where']}\n  fix:   {error['fix']}"


def main(
    arguments: Sequence[str] | None = None,
    *,
    run: Run = run_command,
    clock: Callable[[], float] = time.monotonic,
) -> int:
    """Run every part and say what was shown; return the exit code of the first that failed."""
    parser = argparse.ArgumentParser(prog="python -m examples.demo")
    parser.add_argument("-o", "--out", type=Path, default=Path("out"), help="folder to write")
    parser.add_argument("--images", type=int, default=1000, help="test images at most")
    parser.add_argument("--rounds", type=int, default=40, help="paired rounds of a measurement")
    options = parser.parse_args(arguments)
    deployments = parts(options.out, images=options.images, rounds=options.rounds)
    say(
        wrapped(
            f"{len(deployments)} deployments follow: up to 5 minutes on two quiet cores, 1 GB in "
            f"{options.out}/, nothing to download. A busy machine takes longer, and a timing that "
            "it spoils is taken again, twice at most.",
            first="", rest="",
        )
    )  # fmt: skip
    began, lines = clock(), []
    for number, part in enumerate(deployments, start=1):
        say()
        say(f"[{number}/{len(deployments)}] {part.text}")
        say(f"$ {shlex.join(part.command)}")
        code, printed = run(part.command)
        if code:
            say(refusal(code, printed))
            return code
        lines += verdict_lines(part, json.loads(printed))
    say()
    say(f"What was shown, in {clock() - began:.0f} s:")
    say()
    for line in lines:
        say(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
