"""What the README prints: its commands parse, its links lead somewhere, its numbers are true."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fpet_export.board import agent
from fpet_export.cli import dispatch
from tests.fpet_export.command_line import call

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text("utf-8")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
CHEAP = ("targets", "doctor")


FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)


def blocks(language: str) -> list[str]:
    """The fenced blocks of the README in a language; "" is what a shell takes, or prints."""
    return [text for name, text in FENCED.findall(README) if name == language]


def commands(program: str) -> Iterator[list[str]]:
    """Every command of the README that begins with `program`, as words behind it."""
    shell = "\n".join(blocks("")).replace("\\\n", " ")
    inline = re.findall(r"`([^`]+)`", FENCED.sub("", README).replace("\n", " "))
    lines = [*shell.splitlines(), *inline]
    for line in lines:
        if line.strip().startswith(f"{program} "):
            yield shlex.split(line, comments=True)[len(program.split()) :]


def result(name: str) -> Any:
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text("utf-8"))


def test_every_command_of_the_readme_parses() -> None:
    parser = dispatch.build_parser()
    found = [words for words in commands("fpet-export") if len(words) > 1]

    assert len(found) > 15
    for words in found:
        assert parser.parse_args(words).verb == words[0], words


def test_a_wrong_command_would_be_found() -> None:
    from engines.errors import UsageError

    with pytest.raises(UsageError):
        dispatch.build_parser().parse_args(["bench", "a.onnx", "--agianst", "plain"])


def test_every_command_for_a_board_is_a_verb_of_the_agent() -> None:
    found = list(commands("python3 agent.pyz"))

    assert {"doctor", "build", "check", "bench"} <= {words[0] for words in found}
    assert {words[0] for words in found} <= set(agent.VERBS)


@pytest.mark.parametrize("verb", CHEAP)
def test_a_cheap_command_ends_well(verb: str) -> None:
    assert verb in README
    assert call(verb).code == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text("utf-8")):
        assert target.startswith("http") or (page.parent / target).exists(), target


def test_figures_are_those_of_the_committed_results() -> None:
    chart = (ROOT / "docs" / "speed.svg").read_text("utf-8")
    (measured,) = result("cpu_latency_int8_batch1")["measurements"][:1]
    ratios = {one["name"]: one["against"]["ratio"] for one in measured["contenders"][1:]}
    for name in ("frozen", "frozen_openvino", "frozen_int8", "frozen_int8_openvino"):
        assert f"{ratios[name]:.2f} · " in chart

    rows = {row["name"]: row for row in result("cpu_latency_batch1")["summary"]}
    low, high = rows["frozen"]["interval_to_plain_ort"]
    assert f"{rows['frozen']['ratio_to_plain_ort']:.2f} [{low:.2f}, {high:.2f}]" in README
    assert f"{rows['frozen_openvino']['ratio_to_plain_ort']:.2f} with OpenVINO" in README
    assert f"{ratios['frozen_int8']:.2f} in INT8" in README
