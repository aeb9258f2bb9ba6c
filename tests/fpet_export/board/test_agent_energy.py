"""`agent.pyz bench --energy` as a board runs it: a fake sysfs of an Orin Nano, in real time."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engines.errors import MachineError
from fpet_export.board import session
from fpet_export.board.agent import build_agent
from fpet_export.board.session import RemoteSession
from fpet_export.reporter import SILENT
from tests.benchmarks.energy import trees
from tests.fpet_export.command_line import Exported

PROGRAM = """\
import dataclasses, itertools, pathlib, sys, threading

agent, root, *words = sys.argv[1:]
sys.path.insert(0, agent)
sys.argv = [agent, *words]

from benchmarks.conditions.validity import OtherLoad
from benchmarks.energy import meter
from engines.machine import sources
from fpet_export.cli.agent_main import command
from fpet_export.steps import measuring

assert agent in measuring.__file__
sources.ROOT = pathlib.Path(root)
current = next(sources.ROOT.rglob("curr1_input"))
plan = measuring.Plan(
    seconds=0.0, segments=4, steady_s=0.6, settle_s=0.2, idle_s=1.0, cool_s=0.1, warm_s=0.2
)
measuring.Plan, measuring.ATTEMPTS = lambda: plan, 1
meter.other_load = lambda before, after: OtherLoad(foreign=0.0, steal=0.0)

def live():
    for milliamperes in itertools.cycle((1990, 2000, 2010, 2005, 1995)):
        current.with_name("next").write_text(str(milliamperes))
        current.with_name("next").replace(current)
        if over.wait(0.03):
            return

over = threading.Event()
thread = threading.Thread(target=live)
thread.start()
code = command()
over.set()
thread.join()
sys.exit(code)
"""


def test_a_fake_orin_nano_tells_its_energy_and_which_rail_counts(
    exported: Exported, tmp_path: Path
) -> None:
    agent, root, out = tmp_path / "agent.pyz", tmp_path / "root", tmp_path / "a.json"
    agent.write_bytes(build_agent())
    trees.orin_nano(root)
    words = ("bench", exported.graph, "--rounds", "20", "--seconds", "0", "--threads", "1",
             "--allow-noise", "--energy", "-o", out)  # fmt: skip

    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, agent, root, *words],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    document = json.loads(out.read_text())
    assert document["energy"]["source"] == "INA sensors"
    assert document["energy"]["rule"] == "total = VDD_IN"
    assert document["energy"]["rails"] == ["VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"]
    (contender,) = document["contenders"]
    energy = contender["energy"]
    assert energy["why_not"] == ""
    assert energy["power_mw"] == pytest.approx(10_000, rel=0.01)  # 5 V x 2 A, and no part of it
    assert energy["rails_mw"]["VDD_CPU_GPU_CV"] == pytest.approx(4_000)
    assert energy["gross"]["value"] == pytest.approx(
        10.0 * 1e3 * energy["seconds"] / energy["images"], rel=0.01
    )
    assert "energy: INA sensors, the whole module (total = VDD_IN)" in done.stderr


@pytest.mark.parametrize(
    ("gpu", "cpu", "is_refused"),
    [(None, None, True), ({"source": "INA sensors"}, None, False), (None, {}, False)],
)
def test_a_board_is_asked_for_its_sensor_before_anything_is_built(
    gpu: Any, cpu: Any, is_refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    energy = {"gpu": gpu, "cpu": cpu, "missing": {"RAPL": "this is a board"}}
    asked: list[Any] = []

    def answer(remote: Any, argv: Any, reporter: Any) -> Any:
        asked.append(argv)
        return {"energy": energy}

    monkeypatch.setattr(session, "call_agent", answer)
    there: Any = SimpleNamespace(host="orin1")
    board = RemoteSession(remote=there, items=(), packed=there, reporter=SILENT)

    with contextlib.ExitStack() as stack:
        if is_refused:
            stack.enter_context(pytest.raises(MachineError, match=r"orin1: .* RAPL: this is"))
        board.require_sensor()

    assert asked == [["doctor"]]
