"""Boards by what they say of themselves; the lines are those that owners posted."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.machine import jetpack, jetson, state
from engines.machine.jetson import JetsonIdentity
from engines.targets import _lookup

MODULES = _lookup.modules()

ORIN_NANO_JP5 = (  # rbonghi/jetson_stats issue 400
    "# R35 (release), REVISION: 3.1, GCID: 32827747, BOARD: t186ref, EABI: aarch64, "
    "DATE: Sun Mar 19 15:19:21 UTC 2023",
    "NVIDIA Orin Nano Developer Kit",
    "nvidia,p3768-0000+p3767-0003\0nvidia,p3768-0000+p3767-0005\0nvidia,p3767-0003\0"
    "nvidia,p3767-0005\0nvidia,tegra234\0nvidia,tegra23x\0",
)
ORIN_NANO_SUPER = (  # NVIDIA/jetson-gpio, boards with the suffix -super
    "# R36 (release), REVISION: 4.7, GCID: 42132812, BOARD: generic, EABI: aarch64, "
    "DATE: Thu Sep 18 22:54:44 UTC 2025\n# KERNEL_VARIANT: oot",
    "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
    "nvidia,p3768-0000+p3767-0005-super\0nvidia,p3767-0005\0nvidia,tegra234\0",
)
THOR = (  # rbonghi/jetson_stats issue 772, NVIDIA/jetson-gpio issue 135
    "# R38 (release), REVISION: 2.0, GCID: 41844464, BOARD: generic, EABI: aarch64, "
    "DATE: Fri Aug 22 00:55:42 UTC 2025",
    "NVIDIA Jetson AGX Thor Developer Kit",
    "nvidia,p4071-0000+p3834-0008\0nvidia,p3834-0008\0nvidia,tegra264\0",
)
AGX_ORIN_FIRST_KIT = (  # rbonghi/jetson_stats issue 864
    "# R39 (release), REVISION: 2.0, GCID: 45755727, BOARD: generic, EABI: aarch64, "
    "DATE: Mon Jun  1 09:28:48 PM UTC 2026",
    "NVIDIA Jetson AGX Orin Developer Kit",
    "nvidia,p3737-0000+p3701-0000\0nvidia,p3701-0000\0nvidia,tegra234\0",
)


def board_at(tmp_path: Path, lines: tuple[str, str, str]) -> JetsonIdentity | None:
    release, model, compatible = lines
    tree = tmp_path / "proc/device-tree"
    tree.mkdir(parents=True)
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nv_tegra_release").write_text(release + "\n")
    (tree / "model").write_text(model + "\0")
    (tree / "compatible").write_text(compatible)
    return jetson.read_board(MODULES, tmp_path)


@pytest.mark.parametrize(
    ("lines", "l4t", "jetpack", "target"),
    [
        (ORIN_NANO_JP5, "35.3.1", "5.1.1", "jetson-orin-nano-8gb@jp5.1.1"),
        (ORIN_NANO_SUPER, "36.4.7", "6.2.1", "jetson-orin-nano-8gb@jp6.2.1"),
        (THOR, "38.2.0", "7.0", "jetson-thor-t5000@jp7.0"),
    ],
)
def test_a_real_board_is_recognised(
    lines: tuple[str, str, str], l4t: str, jetpack: str, target: str, tmp_path: Path
) -> None:
    found = board_at(tmp_path, lines)

    assert found is not None
    assert (found.l4t, found.jetpack, found.target, found.doubt) == (l4t, jetpack, target, "")
    assert found.model == lines[1]
    assert _lookup.known_target(target).name == target


def test_a_module_that_is_not_known_is_not_guessed(tmp_path: Path) -> None:
    """The first AGX Orin kit has 32 GB and the GPU of the 64 GB module."""
    found = board_at(tmp_path, AGX_ORIN_FIRST_KIT)

    assert found is not None
    assert (found.l4t, found.jetpack, found.target) == ("39.2.0", "7.2", None)
    assert found.doubt == (
        "no module of p3737-0000, p3701-0000 is known; alike are jetson-agx-orin-32gb, "
        "jetson-agx-orin-64gb"
    )


def test_an_unknown_release_leaves_the_jetpack_open(tmp_path: Path) -> None:
    release = "# R36 (release), REVISION: 9.9, GCID: 1, BOARD: generic"

    found = board_at(tmp_path, (release, *ORIN_NANO_SUPER[1:]))

    assert found is not None
    assert (found.l4t, found.jetpack, found.target) == ("36.9.9", None, "jetson-orin-nano-8gb")


def test_numbers_of_two_targets_are_not_decided() -> None:
    target, doubt = jetson.identify(("p3767-0000", "p3767-0001"), MODULES)

    assert target is None
    assert doubt == (
        "its part numbers belong to jetson-orin-nx-16gb and jetson-orin-nx-8gb: name one of them"
    )


def test_a_board_without_numbers_is_still_a_board(tmp_path: Path) -> None:
    found = board_at(tmp_path, (THOR[0], "a carrier of ours", "nvidia,tegra264\0"))

    assert found is not None
    assert (found.numbers, found.target) == ((), None)
    assert found.doubt == "it states no part number"


def test_this_machine_without_such_files_is_no_board(tmp_path: Path) -> None:
    assert jetson.read_board(MODULES, tmp_path) is None


@pytest.mark.parametrize(
    ("line", "release"),
    [
        ("# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref", "35.4.1"),
        ("# R36 (release), REVISION: 5.2, GCID: 46426093, BOARD: generic", "36.5.2"),
        ("# R32 (release), REVISION: 6.1, GCID: 27863751, BOARD: t186ref", "32.6.1"),
        ("", None),
        ("Ubuntu 22.04", None),
    ],
)
def test_the_release_is_in_the_first_line(line: str, release: str | None) -> None:
    assert jetson.l4t_release(line) == release


def test_no_l4t_release_belongs_to_two_jetpacks() -> None:
    releases = [l4t for one in jetpack.JETPACKS for l4t in one.l4t]

    assert len(releases) == len(set(releases))
    assert [one.name for one in jetpack.JETPACKS] == sorted(
        (one.name for one in jetpack.JETPACKS), key=lambda name: [*map(int, name.split("."))]
    )
    assert jetpack.of_l4t("36.4.3") in jetpack.on_tensorrt("orin")
    assert jetpack.of_l4t("99.0.0") is None


@pytest.mark.parametrize("module", [jetson, jetpack, state])
def test_it_runs_on_the_python_of_a_board(module: object) -> None:
    """JetPack 6 has Python 3.10: its syntax, and nothing but the standard library."""
    text = Path(str(module.__file__)).read_text("utf-8")  # type: ignore[attr-defined]

    tree = ast.parse(text, feature_version=(3, 10))

    names = {
        name.partition(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert names - {"engines", "__future__"} <= set(sys.stdlib_module_names)


@given(st.lists(st.sampled_from([*MODULES, "p3701-0000", "p9999-0000", "nvidia,", "\0"])))
def test_a_target_is_named_only_where_all_numbers_agree(parts: list[str]) -> None:
    target, doubt = jetson.identify(jetson.module_numbers("+".join(parts)), MODULES)

    meant = {MODULES[part] for part in parts if part in MODULES}
    assert target == (meant.pop() if len(meant) == 1 else None)
    assert (target is None) == (doubt != "")
