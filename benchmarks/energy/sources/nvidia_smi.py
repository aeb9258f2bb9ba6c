"""An NVIDIA GPU through nvidia-smi, which every driver brings along."""

from __future__ import annotations

import math

from benchmarks.conditions.gpu_state import read_used_gpu
from benchmarks.energy.sensor import Missing, Sensor
from benchmarks.energy.sources._gpu import CHOOSE, COVERS, IS_CUT, WHICH
from benchmarks.energy.sources._lines import Lines
from benchmarks.energy.sources._machine import Device, Machine
from engines.machine.sources import program, run_command

NAME = "nvidia-smi"
SERVES: frozenset[Device] = frozenset({"gpu"})
_INTERVAL_MS = 100
_WITHIN_S = 5.0
_FIELDS = (("power.draw.instant", 0.1), ("power.draw", 1.0))
"""With the seconds that each averages over: the second does from Ampere on."""
_MIG = "mig.mode.current"


def open_sensor(machine: Machine) -> Sensor | Missing:
    """Return the used GPU's power, or why there is none."""
    command = program("nvidia-smi")
    if command is None:
        return Missing(source=NAME, reason="there is no nvidia-smi: no driver of an NVIDIA GPU")
    used = read_used_gpu()
    if used is None:
        return Missing(source=NAME, reason=WHICH, fix=CHOOSE)
    query = [command, f"--id={used.uuid}", "--format=csv,noheader,nounits"]
    if run_command([*query, f"--query-gpu={_MIG}"]).strip() == "Enabled":
        return Missing(source=NAME, reason=IS_CUT)
    said = []
    for field, averaging_s in _FIELDS:
        words = [*query, f"--query-gpu={field}"]
        text = run_command(words).strip()
        if not math.isnan(_milliwatts(text)):
            return _started(words, field, averaging_s)
        said.append(f"{field}: {text.splitlines()[0] if text else 'no answer'}")
    return Missing(source=NAME, reason=f"it gives no power ({'; '.join(said)})")


def _started(words: list[str], field: str, averaging_s: float) -> Sensor | Missing:
    try:
        lines = Lines([*words, f"--loop-ms={_INTERVAL_MS}"])
    except OSError as error:
        return Missing(source=NAME, reason=f"it cannot be started: {error}")
    return Sensor(
        source=NAME,
        covers=COVERS,
        rails=("GPU",),
        total=(0,),
        rule=f"samples of {field}",
        read=lambda: [_milliwatts(lines.next(within_s=_WITHIN_S))],
        interval_s=0.0,
        averaging_s=averaging_s,
        close=lines.close,
    )


def _milliwatts(text: str) -> float:
    """Return the power of a line in watts; NaN for "[N/A]" and its like."""
    try:
        watts = float(text)
    except ValueError:
        return math.nan
    return watts * 1e3 if 0 <= watts < math.inf else math.nan
