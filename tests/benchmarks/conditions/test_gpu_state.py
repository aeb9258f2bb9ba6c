"""Which GPU ran, and in what state, from what `nvidia-smi` prints.

The rows are in its csv format. Clocks, power, temperature and reasons are from public captures: an
H100 at its power limit (0x4, 1590 of 1980 MHz, 699.8 of 700 W, 71 degrees) and at rest, an RTX 3090
at rest (driver 591.86: 210 of 2100 MHz, 33.62 of 350 W), a GB10, whose memory clock and limit are
"[N/A]", and the sentence with which it refuses a field that it does not know. Addresses, UUIDs and
the other drivers were put in.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from benchmarks.conditions.environment import Environment
from benchmarks.conditions.gpu_state import (
    GpuUse,
    Listed,
    in_words,
    read_gpus,
    used_gpu,
)
from benchmarks.conditions.gpu_validity import GpuMeter, check_gpu
from benchmarks.latency import Schedule
from benchmarks.measurement_file import read_measurement, write_measurement
from benchmarks.report.page import render_report, report_of
from benchmarks.report.table import format_table

H100 = (
    "00000000:85:00.0, GPU-2f1c0d3e-aaaa-0000-0000-000000000001, NVIDIA H100 80GB HBM3, 580.159.04,"
    " 81559, 700.00, {power}, {heat}, {sm}, 1980, 2619, 2619, 9.0, {reasons}"
)
BUSY = H100.format(power="412.53", heat=54, sm=1980, reasons="0x0000000000000000")
CAPPED = H100.format(power="699.80", heat=71, sm=1590, reasons="0x0000000000000004")
HOT = H100.format(power="310.00", heat=90, sm=1980, reasons="0x0000000000000048")
IDLE = H100.format(power="72.11", heat=38, sm=1980, reasons="0x0000000000000001")
RTX3090 = (
    "00000000:01:00.0, GPU-01234567-89ab-cdef-0123-456789abcdef, NVIDIA GeForce RTX 3090, 591.86,"
    " 24576, 350.00, 33.62, 43, 210, 2100, 405, 9751, 8.6, 0x0000000000000001"
)
GB10 = (
    "0000000F:01:00.0, GPU-0000-gb10, NVIDIA GB10, 580.95.05, [N/A], [N/A], 12.40, 46, 2418, 3003,"
    " [N/A], [N/A], 12.1, 0x0000000000000000"
)
REFUSED = 'Field "{}" is not a valid field to query.\n\n'


def smi(text: str, *, unknown: Sequence[str] = ()) -> Callable[[Sequence[str]], str]:
    """Answer as a driver does that does not know some fields: its rows lack these columns."""

    def run(words: Sequence[str]) -> str:
        assert words[0] == "nvidia-smi"
        fields = words[1].partition("=")[2].split(",")
        refused = [field for field in fields if field in unknown]
        if refused:
            return REFUSED.format(refused[0])
        lines = []
        for line in text.splitlines():
            cells = line.split(", ")
            if "compute_cap" not in fields:
                del cells[-2]
            lines.append(", ".join(cells[: len(fields)]))
        return "\n".join(lines) + "\n"

    return run


def one(line: str) -> Listed:
    (found,) = read_gpus(smi(line))
    return found


def test_a_gpu_with_its_clocks_power_and_temperature() -> None:
    found = one(BUSY)

    assert found.gpu.name == "NVIDIA H100 80GB HBM3"
    assert (found.gpu.driver, found.gpu.compute_capability) == ("580.159.04", "9.0")
    assert (found.gpu.memory_mib, found.gpu.power_limit_w) == (81559, 700.0)
    assert dataclasses.astuple(found.state) == (1980, 1980, 2619, 2619, 412.53, 54, 0)
    assert in_words(found.gpu, found.state) == (
        "NVIDIA H100 80GB HBM3, SM 9.0, driver 580.159.04, SM 1980 of 1980 MHz, "
        "memory 2619 of 2619 MHz, 413 of 700 W, 54 °C"
    )


def test_what_the_driver_does_not_tell_is_none() -> None:
    found = one(GB10)

    assert found.gpu.memory_mib is found.gpu.power_limit_w is None
    assert found.state.memory_mhz is found.state.memory_max_mhz is None
    assert in_words(found.gpu, found.state) == (
        "NVIDIA GB10, SM 12.1, driver 580.95.05, SM 2418 of 3003 MHz, 12 W, 46 °C"
    )


@pytest.mark.parametrize(
    ("unknown", "capability", "reasons"),
    [
        ((), "9.0", 4),
        (("clocks_event_reasons.active",), "9.0", 4),
        (("clocks_event_reasons.active", "compute_cap"), None, 4),
        (
            ("clocks_event_reasons.active", "compute_cap", "clocks_throttle_reasons.active"),
            None, None,
        ),
    ],
)  # fmt: skip
def test_older_drivers_are_asked_for_what_they_know(
    unknown: tuple[str, ...], capability: str | None, reasons: int | None
) -> None:
    (found,) = read_gpus(smi(CAPPED, unknown=unknown))

    assert found.gpu.compute_capability == capability
    assert (found.state.sm_mhz, found.state.reasons) == (1590, reasons)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "No devices were found\n",
        "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure "
        "that the latest NVIDIA driver is installed and running.\n",
    ],
)
def test_without_a_gpu_or_a_driver_there_is_none(text: str) -> None:
    assert read_gpus(lambda words: text) == ()


def test_of_several_gpus_cuda_says_which_is_its_first() -> None:
    listed = read_gpus(smi(f"{RTX3090}\n{BUSY}"))

    def used(bus: str | None, **environ: str) -> str | None:
        found = used_gpu(listed, environ=environ, bus_id=lambda: bus)
        return None if found is None else found.gpu.name

    assert used("0000:85:00.0") == "NVIDIA H100 80GB HBM3"
    assert used("0000:01:00.0") == "NVIDIA GeForce RTX 3090"
    assert used("0000:99:00.0") is used(None) is None
    assert used(None, CUDA_VISIBLE_DEVICES="GPU-01234567,GPU-2f1c0d3e") == "NVIDIA GeForce RTX 3090"
    assert used(None, CUDA_VISIBLE_DEVICES="GPU-nothing") is None
    # A number is CUDA's own, in an order that the driver does not share.
    assert used("0000:85:00.0", CUDA_VISIBLE_DEVICES="0") == "NVIDIA H100 80GB HBM3"


def test_the_only_gpu_is_the_one_and_nobody_asks_cuda() -> None:
    def ask() -> str | None:
        raise AssertionError

    assert used_gpu(read_gpus(smi(BUSY)), environ={}, bus_id=ask) is not None
    assert used_gpu((), environ={}, bus_id=ask) is None


def use(before: str, after: str) -> GpuUse:
    return GpuUse(gpu=one(before).gpu, before=one(before).state, after=one(after).state)


@pytest.mark.parametrize(
    ("before", "after", "severity", "words"),
    [
        (BUSY, BUSY, None, ""),
        (IDLE, BUSY, None, ""),  # it fell asleep between two rounds
        (BUSY, CAPPED.replace("1590", "1980"), "doubtful", "held back by its power limit"),
        (HOT, HOT, "invalid", "held back by a slowdown by the hardware (HW slowdown) and its temp"),
        (BUSY, BUSY.replace("54, 1980", "54, 1755"), "doubtful", "went from 1980 to 1755 MHz"),
        (BUSY, BUSY.replace("54, 1980", "54, 1935"), None, ""),  # two steps of the clock
    ],
)
def test_what_speaks_against_a_measurement(
    before: str, after: str, severity: str | None, words: str
) -> None:
    found = check_gpu(use(before, after), board=None)

    assert [one.severity for one in found] == ([] if severity is None else [severity])
    assert all(words in one.what and one.fix for one in found)


def test_an_unknown_gpu_is_doubtful_but_not_on_a_board() -> None:
    (found,) = check_gpu(None, board=None)

    assert found.severity == "doubtful"
    assert "CUDA_VISIBLE_DEVICES" in found.fix
    assert check_gpu(None, board="NVIDIA Jetson AGX Orin Developer Kit") == ()


def test_it_is_read_after_the_first_measured_round_and_after_the_last() -> None:
    asked: list[str] = []
    states = iter((one(BUSY), one(CAPPED)))

    def read() -> Listed:
        asked.append("read")
        return next(states)

    def progress(phase: str, done: int, total: int) -> bool:
        asked.append(f"{phase} {done}")
        return True

    meter = GpuMeter(read)
    report = meter.watching(progress)
    for phase, done in (("warm up", 1), ("measure", 1), ("measure", 2)):
        assert report(phase, done, 0)

    found = meter.use()

    assert found is not None
    assert (found.before.sm_mhz, found.after.sm_mhz) == (1980, 1590)
    assert asked == ["warm up 1", "read", "measure 1", "measure 2", "read"]


def gpu_engine(engine: Any) -> Any:
    engine.describe = lambda: {"runtime": "onnxruntime", "provider": "cuda", "device": "cuda:0"}
    return engine


@pytest.fixture
def measured(
    clock: Any, quiet_machine: Any, watcher: Any, environment: Environment, make_engine: Any
) -> Any:
    """Measure two engines on a GPU whose states are given."""
    from benchmarks import bench

    def call(*lines: str) -> Any:
        states = iter([one(line) for line in lines])
        return bench(
            [gpu_engine(make_engine("ours", 3_000_000))],
            against=gpu_engine(make_engine("plain", 2_000_000)),
            schedule=Schedule(min_rounds=30, min_s=0.0, settle_s=0.0),
            clock=clock, pause=clock.pause, machine=quiet_machine, watcher=watcher,
            environment=lambda: environment, read_gpu=lambda: next(states, None),
        )  # fmt: skip

    return call


def test_a_measurement_names_the_gpu_everywhere_and_not_the_cpu(
    measured: Any, environment: Environment, tmp_path: Any
) -> None:
    found = measured(BUSY, BUSY)
    write_measurement(tmp_path / "x.json", found)
    table = format_table(found, width=200)
    page = render_report(report_of(found, title="x", again="again"))

    assert read_measurement(tmp_path / "x.json").gpu == found.gpu
    assert environment.cpu not in table
    assert "on NVIDIA H100 80GB HBM3, SM 9.0, driver 580.159.04, SM 1980 of 1980 MHz" in table
    assert "than plain on NVIDIA H100 80GB HBM3 (GPU)" in page
    assert "413 of 700 W, 54 °C" in page
    assert page.index("GPU, first round") < page.index("GPU, last round")


def test_a_slowdown_by_the_hardware_spoils_it_and_a_power_limit_is_said(measured: Any) -> None:
    with pytest.raises(Exception, match="HW slowdown"):
        measured(HOT, HOT)

    found = measured(CAPPED, CAPPED)

    assert found.valid
    assert "its power limit (SW power cap)" in format_table(found, width=200)


def test_a_measurement_on_the_cpu_asks_no_gpu(
    clock: Any, quiet_machine: Any, watcher: Any, environment: Environment, make_engine: Any
) -> None:
    from benchmarks import bench

    def ask() -> Listed | None:
        raise AssertionError

    found = bench(
        [make_engine("ours")], schedule=Schedule(min_rounds=30, min_s=0.0, settle_s=0.0),
        clock=clock, pause=clock.pause, machine=quiet_machine, watcher=watcher,
        environment=lambda: environment, read_gpu=ask,
    )  # fmt: skip

    assert found.gpu is None
    assert environment.cpu in format_table(found, width=200)
