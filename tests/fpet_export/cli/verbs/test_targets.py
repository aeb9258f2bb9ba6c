"""`targets`: every target with its facts, and one in full."""

from __future__ import annotations

import pytest

from engines.targets import Device, _lookup
from tests.fpet_export.command_line import call


def test_every_target_is_listed_in_words_and_json() -> None:
    names = _lookup.target_names()

    told, document = call("targets"), call("targets", "--json").document()

    assert sorted(told.out.split()) == names
    assert [target["name"] for target in document["targets"]] == told.out.split()
    assert all(name in told.err for name in names)


def test_the_groups_are_boards_gpus_and_runtimes() -> None:
    kinds = {t["name"]: t["kind"] for t in call("targets", "--json").document()["targets"]}

    assert kinds["jetson-orin-nano-8gb"] == "board"
    assert kinds["rtx-4090"] == "gpu"
    assert kinds["rtx"] == kinds["tensorrt"] == "tensorrt"
    assert kinds["cpu"] == "other"


def test_opsets_are_in_the_table() -> None:
    (row,) = [line for line in call("targets").err.splitlines() if line.split()[:1] == ["tensorrt"]]

    assert "20 (up to 20)" in row
    facts = {t["name"]: t for t in call("targets", "--json").document()["targets"]}
    assert facts["tensorrt"]["opset_ceiling"] == 20


def test_a_board_shows_its_usual_release() -> None:
    lines = call("targets").err.splitlines()
    (row,) = [line for line in lines if line.split()[:1] == ["jetson-orin-nano-8gb"]]

    assert row.split()[1:4] == ["8.7", "8", "GB"]
    assert row.endswith("  jp6.2")


def test_verbose_adds_the_sources() -> None:
    entry = _lookup.entry("jetson-orin-nano-8gb")

    assert entry.sources[0] not in call("targets").err
    assert entry.sources[0] in call("targets", "-v").err


def test_quiet_prints_the_names_only() -> None:
    assert call("targets", "-q").err == ""


def test_one_target_is_shown_with_every_release_and_fact() -> None:
    done = call("targets", "jetson-agx-orin-64gb@jp6.1")

    assert done.code == 0
    assert done.out == "jetson-agx-orin-64gb@jp6.1\n"
    board = _lookup.entry("jetson-agx-orin-64gb")
    assert isinstance(board, Device)
    assert all(f"@{release.name} " in done.err for release in board.releases)
    (chosen,) = [line for line in done.err.splitlines() if "← this one" in line]
    assert "@jp6.1" in chosen
    assert "total = VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0; VDDQ_VDD2_1V8AO are parts" in done.err
    assert "p3701-0005" in done.err
    assert "MODE_50W: – SMs, FP16 27 TFLOPS, INT8 54 TOPS, – GB/s" in done.err
    assert all(source in done.err for source in board.sources)
    assert "--target jetson-agx-orin-64gb@jp6.1 --precision fp16 -o trial" in done.err


def test_one_target_in_json() -> None:
    document = call("targets", "rtx-4090@rtx", "--json").document()

    assert document["target"]["name"] == "rtx-4090@rtx"
    assert document["target"]["compute_capabilities"] == ["8.9"]
    assert document["device"]["gpu"]["peaks"][0]["fp8_tflops"] == 330


def test_a_release_that_a_version_names_is_shown_too() -> None:
    done = call("targets", "rtx-4090@trt10.3")

    (chosen,) = [line for line in done.err.splitlines() if "← this one" in line]
    assert chosen.split()[:2] == ["@trt10.3", "10.3"]


def test_a_runtime_is_shown_without_releases() -> None:
    done = call("targets", "cpu")

    assert done.code == 0
    assert "release " not in done.err
    assert _lookup.entry("cpu").sources[0] in done.err


def test_facts_of_an_old_release_are_shown_although_nothing_is_built_for_it() -> None:
    done = call("targets", "jetson-orin-nano-8gb@jp5.1.2")

    assert done.code == 0
    assert "not built for: TensorRT 8.5 is too old, JetPack 6.1 or later" in done.err
    assert "next" not in done.err


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("jetson-orin-nano", "'jetson-orin-nano-8gb'"),
        ("jetson-orin-nano-8gb@jp6.4", "jetson-orin-nano-8gb@jp6.2"),
        ("rtx4090", "'rtx-4090'"),
    ],
)
def test_an_unknown_name_proposes_near_ones(name: str, near: str) -> None:
    done = call("targets", name, "--json")

    assert (done.code, done.error()["class"]) == (2, "UnknownNameError")
    assert near in done.error()["fix"]
