"""Power mode, clocks, swap and GPU processes; the lines are those that owners posted."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.machine import clocks, state
from engines.machine.clocks import Clock
from engines.machine.state import GpuProcess, PowerMode, Swap

NANO_FREE = """\
SOC family:tegra210  Machine:jetson-nano
Online CPUs: 0-3
CPU Cluster Switching: Disabled
cpu0: Online=1 Governor=schedutil MinFreq=102000 MaxFreq=1479000 CurrentFreq=825600 \
IdleStates: WFI=1 c7=1
GPU MinFreq=76800000 MaxFreq=921600000 CurrentFreq=76800000
EMC MinFreq=204000000 MaxFreq=1600000000 CurrentFreq=1600000000 FreqOverride=0
Fan: PWM=0
NV Power Mode: MAXN
"""
NANO_HELD = """\
cpu0: Online=1 Governor=schedutil MinFreq=1479000 MaxFreq=1479000 CurrentFreq=1479000 \
IdleStates: WFI=0 c7=0
GPU MinFreq=921600000 MaxFreq=921600000 CurrentFreq=921600000
EMC MinFreq=204000000 MaxFreq=1600000000 CurrentFreq=1600000000 FreqOverride=1
Fan: PWM=0
NV Power Mode: MAXN
"""
ORIN_NX = """\
cpu1:  Online=1 Governor=schedutil MinFreq=729600 MaxFreq=1344000 CurrentFreq=729600 \
IdleStates: WFI=1 c7=1\x20
cpu7:  Online=0 Governor=schedutil MinFreq=729600 MaxFreq=1344000 CurrentFreq=1190400 \
IdleStates: WFI=1 c7=1\x20
GPU MinFreq=306000000 MaxFreq=918000000 CurrentFreq=306000000
Active GPU TPCs: 4
EMC MinFreq=204000000 MaxFreq=3199000000 CurrentFreq=2133000000 FreqOverride=0
FAN Dynamic Speed Control=nvfancontrol hwmon0_pwm1=69
NV Power Mode: 25W
"""
NVPMODEL_CONF = """\
# FORMAT:
# < POWER_MODEL ID=id_num NAME=mode_name >
< PARAM TYPE=FILE NAME=CPU_ONLINE >
CORE_0 /sys/devices/system/cpu/cpu0/online

< POWER_MODEL ID=0 NAME=15W >
CPU_ONLINE CORE_0 1
< POWER_MODEL ID=1 NAME=25W >
<  POWER_MODEL ID=2 NAME=MAXN_SUPER >
< PM_CONFIG DEFAULT=1 >
"""
SWAPS = """\
Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority
/dev/zram0                              partition\t635320\t\t1024\t\t5
/swapfile                               file\t\t8388604\t\t0\t\t-2
"""


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("NV Power Mode: MAXN\n0\n", PowerMode("MAXN", 0)),
        ("NV Power Mode: 25W\n1\n", PowerMode("25W", 1)),
        ("NVPM WARN: fan mode is not set!\nNV Power Mode: MODE_15W_6CORE\n2\n",
         PowerMode("MODE_15W_6CORE", 2)),
        (
            "NVPM VERB: parsing done for /etc/nvpmodel.conf\n"
            "NVPM VERB: Current mode: NV Power Mode: 25W\n1\nNVPM VERB: PARAM CPU_ONLINE: ARG",
            PowerMode("25W", 1),
        ),
        (NANO_FREE, PowerMode("MAXN", None)),
        ("", None),
        ("NVPM ERROR: Error opening /sys/devices/system/cpu: 13", None),
    ],
)  # fmt: skip
def test_the_power_mode_has_a_name(text: str, mode: PowerMode | None) -> None:
    assert state.power_mode(text) == mode


def test_the_numbers_of_the_modes_come_from_the_board_s_own_file() -> None:
    assert state.power_modes(NVPMODEL_CONF) == {"15W": 0, "25W": 1, "MAXN_SUPER": 2}


def test_clocks_that_may_move_are_not_held() -> None:
    found = state.clocks(NANO_FREE)

    assert found == (
        Clock("cpu0", 102_000_000, 1_479_000_000, False, 825_600_000),
        Clock("GPU", 76_800_000, 921_600_000, False, 76_800_000),
        Clock("EMC", 204_000_000, 1_600_000_000, False, 1_600_000_000),
    )
    assert clocks.are_held(found) is False


def test_clocks_that_jetson_clocks_holds_are_held() -> None:
    assert clocks.are_held(state.clocks(NANO_HELD)) is True


def test_one_free_clock_is_enough() -> None:
    text = NANO_HELD.replace("FreqOverride=1", "FreqOverride=0")

    assert clocks.are_held(state.clocks(text)) is False


def test_a_processor_that_is_off_does_not_count() -> None:
    assert [clock.name for clock in state.clocks(ORIN_NX)] == ["cpu1", "GPU", "EMC"]


def test_without_the_gpu_s_clock_nothing_is_known() -> None:
    assert clocks.are_held(()) is None
    assert clocks.are_held((Clock("cpu0", 1, 1, True),)) is None


def write_clocks(root: Path, gpu: str, cpu: tuple[int, int], of_gpu: tuple[int, int]) -> None:
    policy = root / "sys/devices/system/cpu/cpufreq/policy0"
    devfreq = root / "sys/class/devfreq"
    for folder, names, values in (
        (policy, ("scaling_min_freq", "scaling_max_freq"), cpu),
        (devfreq / gpu, ("min_freq", "max_freq"), of_gpu),
        (devfreq / "15340000.vic", ("min_freq", "max_freq"), (1, 2)),
    ):
        folder.mkdir(parents=True)
        for name, value in zip(names, values, strict=True):
            (folder / name).write_text(f"{value}\n")


@pytest.mark.parametrize("gpu", ["17000000.gpu", "17000000.ga10b", "17000000.gv11b", "gpu-gpc-0"])
def test_the_kernel_shows_clocks_to_everybody(gpu: str, tmp_path: Path) -> None:
    write_clocks(tmp_path, gpu, (1_728_000, 1_728_000), (1_020_000_000, 1_020_000_000))

    found = clocks.read_clocks(tmp_path)

    assert [clock.name for clock in found] == ["cpu0", "GPU"]
    assert found[0].most_hz == 1_728_000_000
    assert clocks.are_held(found) is True


def test_a_gpu_clock_that_moves_is_seen(tmp_path: Path) -> None:
    write_clocks(tmp_path, "17000000.gpu", (1_728_000, 1_728_000), (306_000_000, 1_020_000_000))

    assert clocks.are_held(clocks.read_clocks(tmp_path)) is False


def test_a_machine_that_shows_nothing_has_no_clocks(tmp_path: Path) -> None:
    assert clocks.read_clocks(tmp_path) == ()


def test_swap_in_memory_and_on_disk_are_told_apart() -> None:
    found = state.swaps(SWAPS)

    assert found == (
        Swap("/dev/zram0", 635320 * 1024, 1024 * 1024),
        Swap("/swapfile", 8388604 * 1024, 0),
    )
    assert [area.is_zram for area in found] == [True, False]
    assert state.swaps("Filename Type Size Used Priority\n") == ()


def test_processes_on_a_gpu_are_listed_without_their_folders() -> None:
    text = "4242, /usr/bin/python3, 512\n77, /opt/a, b/server, [N/A]\n[Not Supported]\n\n"

    assert state.gpu_processes(text) == (
        GpuProcess(4242, "python3", 512),
        GpuProcess(77, "server", None),
    )


GPU_PROCESSES = "4242, /usr/bin/python3, 512\n77, /opt/a, b/server, [N/A]\n"
MODES_SAID = (
    "NV Power Mode: MAXN_SUPER\n12\n",
    "NVPM WARN: fan mode is not set!\nNV Power Mode: MODE_15W_6CORE\n2\n",
    "NVPM VERB: Current mode: NV Power Mode: 25W\n1\nNVPM VERB: PARAM CPU_ONLINE: ARG\n",
)
SAID: list[tuple[Callable[[str], Any], str]] = [
    *((state.power_mode, text) for text in (*MODES_SAID, NANO_FREE, ORIN_NX)),
    *((state.clocks, text) for text in (NANO_FREE, NANO_HELD, ORIN_NX)),
    (state.power_modes, NVPMODEL_CONF),
    (state.swaps, SWAPS),
    (state.gpu_processes, GPU_PROCESSES),
]


def parts(found: Any) -> list[Any]:
    """Return the facts of an answer: none, one, or each of several."""
    if found is None:
        return []
    if isinstance(found, PowerMode):
        return [("mode", found.name), *([] if found.number is None else [found])]
    return list(found.items()) if isinstance(found, dict) else list(found)


@pytest.mark.parametrize(("parse", "text"), SAID)
def test_an_answer_that_is_cut_off_is_right_or_unknown(
    parse: Callable[[str], Any], text: str
) -> None:
    """At every character: what is left says less, never something else."""
    whole = parts(parse(text))
    assert whole
    for end in range(len(text)):
        left = parts(parse(text[:end]))
        assert left == whole[: len(left)], text[:end]


@pytest.mark.parametrize(("parse", "text"), SAID)
def test_an_answer_with_a_foreign_character_is_right_or_unknown(
    parse: Callable[[str], Any], text: str
) -> None:
    """Each character replaced by one that no number has: some 2,000 answers."""
    whole = parts(parse(text))
    choice = random.Random(len(text))
    for place in range(len(text)):
        foreign = choice.choice("\x00\u00b2\ufffdx=,")
        changed = f"{text[:place]}{foreign}{text[place + 1 :]}"
        for one in parts(parse(changed)):
            assert one in whole or is_shorter(one, whole), changed


def is_shorter(one: Any, whole: list[Any]) -> bool:
    """Say whether a fact is that of another one with a part of it unknown or with another name."""
    numbers = {str(number) for fact in whole for number in numbers_of(fact)}
    held = {fact.is_held for fact in whole if isinstance(fact, Clock) and isinstance(one, Clock)
            and fact.name == one.name}  # fmt: skip
    same = not held or one.is_held in held
    return same and all(str(number) in numbers for number in numbers_of(one))


def numbers_of(fact: Any) -> list[int]:
    values = dataclasses.astuple(fact) if dataclasses.is_dataclass(fact) else tuple(fact)  # type: ignore[arg-type]
    return [value for value in values if isinstance(value, int) and not isinstance(value, bool)]


@given(st.text())
def test_any_text_is_read_without_a_crash(text: str) -> None:
    state.power_mode(text)
    state.power_modes(text)
    state.clocks(text)
    state.swaps(text)
    state.gpu_processes(text)
