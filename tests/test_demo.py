"""The demo says what it will take, which commands it runs, and at the end what was shown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from examples import demo
from fpet_export.cli import dispatch
from fpet_export.workflow.deployment_verdict import Statement, Verdict

NOISY = Statement(text="not known: noise", good=None, measure="fpet-export bench out/x --against y")


def document(speed: Statement) -> str:
    verdict = Verdict(
        answers=Statement(text="equal " * 30, good=True),
        accuracy=Statement(text="85.0%", good=True),
        speed=(speed,),
    )
    return json.dumps({"report": "out/report.html", "verdict": verdict.to_json()})


def run_demo(*answers: tuple[int, str], words: Sequence[str] = ()) -> tuple[int, list[list[str]]]:
    left, commands = list(answers), []

    def run(command: Sequence[str]) -> tuple[int, str]:
        commands.append(list(command))
        return left.pop(0)

    return demo.main(words, run=run, clock=iter((0.0, 151.0)).__next__), commands


def test_the_verdict_of_every_deployment_comes_last(capsys: pytest.CaptureFixture[str]) -> None:
    fast = Statement(text="1.36x faster", good=True)

    code, commands = run_demo((0, document(fast)), (0, document(fast)), (0, document(NOISY)))

    said = capsys.readouterr().err
    lines = said.splitlines()
    assert code == 0
    assert len(commands) == 3
    assert "up to 5 minutes on two quiet cores" in lines[0]
    verdict = lines[lines.index("What was shown, in 151 s:") :]
    assert len([line for line in verdict if line.startswith(" ✓ answers")]) == 3
    assert f"   measure again: {NOISY.measure}" in verdict  # whole, to be pasted
    assert all(len(line) <= 80 for line in verdict)


def test_a_failure_is_explained_and_ends_the_demo(capsys: pytest.CaptureFixture[str]) -> None:
    error = {"error": {"what": "no backbone", "where": "a.pth", "fix": "give one"}}

    code, commands = run_demo((3, json.dumps(error)))

    assert code == 3
    assert len(commands) == 1
    assert "✗ error: no backbone\n  where: a.pth\n  fix:   give one" in capsys.readouterr().err
    assert "exit code 5" in demo.refusal(5, "Traceback")


def test_what_a_reader_sees_can_be_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    parser = dispatch.build_parser()

    for part in demo.parts(Path("my out"), images=16, rounds=20):
        options: Any = parser.parse_args(part.command[1:])
        assert options.out == part.folder
        assert options.rounds == 20


def test_a_command_runs_in_the_demo_s_own_environment() -> None:
    code, printed = demo.run_command(["fpet-export", "targets"])

    assert code == 0
    assert json.loads(printed)
