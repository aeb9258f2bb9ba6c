"""JetPack releases: which Jetson Linux (L4T), TensorRT and Python each one has.

Standard library only, because it also runs on boards.

Source: NVIDIA's JetPack archive; where it names no L4T revision, the tables of jetson_stats
(rbonghi/jetson_stats, `jetson_variables.py`) and the recipes of OE4T/meta-tegra, which agree.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["JETPACKS", "NEEDED", "JetPack", "of_l4t", "on_tensorrt"]

NEEDED = "JetPack 6.1 or later (TensorRT 10.3) is needed"
"""What is said where a TensorRT is too old to take every precision from the graph's types."""


class JetPack(NamedTuple):
    """One release.

    Attributes:
        name: As NVIDIA writes it, "6.2".
        l4t: Revisions of Jetson Linux that belong to it.
        tensorrt: Oldest and newest TensorRT that NVIDIA published for it; None where no page that
            we know says so.
        python: Version of its Python.
        families: Jetson modules it runs on.
    """

    name: str
    l4t: tuple[str, ...]
    tensorrt: tuple[str, str] | None
    python: str
    families: tuple[str, ...]


_XAVIER, _ORIN, _THOR = ("xavier",), ("orin",), ("thor",)

JETPACKS = (
    JetPack("4.6", ("32.6.1",), ("8.0", "8.0"), "3.6", _XAVIER),
    JetPack("4.6.1", ("32.7.1",), ("8.2", "8.2"), "3.6", _XAVIER),
    JetPack("5.0.2", ("35.1.0",), ("8.4", "8.4"), "3.8", _XAVIER + _ORIN),
    JetPack("5.1", ("35.2.1",), ("8.5", "8.5"), "3.8", _XAVIER + _ORIN),
    JetPack("5.1.1", ("35.3.1",), ("8.5", "8.5"), "3.8", _XAVIER + _ORIN),
    JetPack("5.1.2", ("35.4.1",), ("8.5", "8.5"), "3.8", _XAVIER + _ORIN),
    JetPack("5.1.3", ("35.5.0",), ("8.5", "8.5"), "3.8", _XAVIER + _ORIN),
    JetPack("5.1.4", ("35.6.0",), ("8.5", "8.5"), "3.8", _XAVIER + _ORIN),
    JetPack("5.1.5", ("35.6.1", "35.6.2"), ("8.5", "8.5"), "3.8", _XAVIER + _ORIN),
    JetPack("6.0", ("36.3.0",), ("8.6", "8.6"), "3.10", _ORIN),
    JetPack("6.1", ("36.4.0",), ("10.3", "10.7"), "3.10", _ORIN),
    JetPack("6.2", ("36.4.3",), ("10.3", "10.7"), "3.10", _ORIN),
    JetPack("6.2.1", ("36.4.4", "36.4.7"), ("10.3", "10.7"), "3.10", _ORIN),
    JetPack("6.2.2", ("36.5.0",), ("10.3", "10.7"), "3.10", _ORIN),
    JetPack("6.2.3", ("36.5.2",), None, "3.10", _ORIN),
    JetPack("7.0", ("38.2.0", "38.2.1", "38.2.2"), ("10.13", "10.13"), "3.12", _THOR),
    JetPack("7.1", ("38.4.0",), ("10.13", "10.13"), "3.12", _THOR),
    JetPack("7.2", ("39.2.0",), ("10.16", "10.16"), "3.12", _THOR + _ORIN),
    JetPack("7.2.1", ("39.2.1",), None, "3.12", _THOR + _ORIN),
)
"""From old to new. TensorRT 10.4, 10.5 and 10.7 exist for JetPack 6 as archives beside its 10.3."""


def of_l4t(release: str) -> JetPack | None:
    """Return the JetPack of a Jetson Linux release, as "36.4.3"; None where it is not known."""
    for jetpack in JETPACKS:
        if release in jetpack.l4t:
            return jetpack
    return None


def on_tensorrt(family: str) -> tuple[JetPack, ...]:
    """Return the releases of a module family whose TensorRT is known, from old to new."""
    return tuple(
        jetpack
        for jetpack in JETPACKS
        if family in jetpack.families and jetpack.tensorrt is not None
    )
