from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.experiments import export_cost
from benchmarks.experiments.export_cost import Cost, TimedStep, format_costs, measure, steps
from engines.errors import BudgetError, EngineError, MissingDependencyError


def step_of(program: str, **changes: object) -> TimedStep:
    return TimedStep(name="a step", words=("one",), program=program, **changes)  # type: ignore[arg-type]


def test_a_command_runs_in_the_folder_with_its_arguments(tmp_path: Path) -> None:
    program = "import sys, pathlib; pathlib.Path('seen').write_text(sys.argv[1])"

    cost = measure(step_of(program), tmp_path)

    assert (tmp_path / "seen").read_text() == "one"
    assert cost.wall_s > 0
    assert cost.cpu_s > 0


def test_the_peak_is_the_commands_own(tmp_path: Path) -> None:
    """In a small process: a child's peak starts at what its parent held."""
    program = (
        "import sys; from pathlib import Path\n"
        "from benchmarks.experiments.export_cost import TimedStep, measure\n"
        "for words in ('pass', 'x = bytes([1]) * 200_000_000'):\n"
        "    step = TimedStep(name='a', words=(), program=words)\n"
        "    print(measure(step, Path(sys.argv[1])).peak_bytes)\n"
        "print('torch' in sys.modules)\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=True
    )

    small, large, torch = done.stdout.split()
    assert int(large) - int(small) > 150_000_000
    assert torch == "False"


@pytest.mark.parametrize(("code", "kind"), [(4, MissingDependencyError), (7, EngineError)])
def test_a_failure_says_the_last_words(tmp_path: Path, code: int, kind: type[Exception]) -> None:
    program = f"import sys; print('error: no luck', file=sys.stderr); sys.exit({code})"

    with pytest.raises(kind, match=f"exit code {code}: error: no luck"):
        measure(step_of(program), tmp_path)


def test_a_missed_goal_is_named() -> None:
    cost = Cost(
        name="export", command=("fpet-export",), wall_s=50.0, cpu_s=70.0,
        peak_bytes=3_000_000_000, goal_s=40.0, goal_bytes=2_500_000_000,
    )  # fmt: skip

    assert cost.missed() == ["export took 50.0 s, goal 40 s", "export took 3.00 GB, goal 2.5"]
    assert "50.0" in format_costs([cost])


def test_the_steps_are_commands_that_exist() -> None:
    pytest.importorskip("fpet_export")
    from fpet_export.cli.dispatch import build_parser

    for step in steps():
        if step.command[0] == "fpet-export":
            assert build_parser().parse_args(step.words).verb in ("export", "quantize", "build")


def test_the_document_keeps_what_ran(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fine = step_of("pass", goal_s=600.0)
    absent = step_of("import sys; print('error: no tensorrt'); sys.exit(4)")
    monkeypatch.setattr(export_cost, "steps", lambda: [fine, absent])
    path = tmp_path / "cost.json"

    assert export_cost.main(["-o", str(path)]) == 0

    document = json.loads(path.read_text())
    assert [cost["missed"] for cost in document["costs"]] == [[]]
    assert document["absent"] == ["a step: exit code 4: error: no tensorrt"]
    assert str(tmp_path) not in json.dumps(document["costs"])

    monkeypatch.setattr(export_cost, "steps", lambda: [step_of("pass", goal_bytes=1)])
    assert export_cost.main(["-o", str(path), "--force"]) == BudgetError.exit_code
    assert "goal" in capsys.readouterr().err
