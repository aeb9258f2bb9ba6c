"""The page on targets says what the data files say."""

from __future__ import annotations

from pathlib import Path

from engines.machine import jetpack
from engines.targets import Device, _lookup

PAGE = (Path(__file__).parents[3] / "docs" / "targets.md").read_text("utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.splitlines()
    if line.startswith("|")
]


def test_the_releases_of_boards_are_those_of_the_code() -> None:
    told = {row[0]: row[1:4] for row in ROWS}

    for one in {*jetpack.on_tensorrt("orin"), *jetpack.on_tensorrt("thor")}:
        if one.name != "5.0.2":  # older than what any target offers
            assert one.tensorrt is not None
            span = " to ".join(dict.fromkeys(one.tensorrt))
            assert told[one.name] == [", ".join(one.l4t), span, one.python]


def test_the_graph_of_each_release_is_the_one_that_is_written() -> None:
    told = {row[0]: row[5] for row in ROWS if len(row) == 6}
    orin, thor = _lookup.entry("jetson-orin-nano-8gb"), _lookup.entry("jetson-thor-t5000")
    assert isinstance(orin, Device)
    assert isinstance(thor, Device)

    for release in (*orin.releases, *thor.releases):
        words = told.get(release.name[2:])
        if release.refusal:
            assert words == "refused"
        elif words is not None:
            assert words.startswith(f"opset {release.opset}")
            reads = f"(reads up to {release.opset_ceiling})"
            assert (reads in words) == (release.opset_ceiling != release.opset)
    assert {"6.0", "6.2", "7.2"} <= set(told)


def test_the_releases_of_gpus_are_named() -> None:
    names = {
        release.name
        for device in map(_lookup.entry, _lookup.target_names())
        if isinstance(device, Device) and device.board is None
        for release in device.releases
    }

    assert all(f"`{name}`" in PAGE for name in names - {"trt10.8"})  # GeForce 50 starts there
    assert "10.8 for GeForce 50" in PAGE
