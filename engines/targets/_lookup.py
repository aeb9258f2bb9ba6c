"""From a name to a target: `NAME`, or `NAME@RELEASE` for a device.

`load_target` is for whoever exports, quantizes or builds: it refuses a device whose software is
too old. `known_target` answers what is known of it all the same.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import MappingProxyType

from engines import registry, targets
from engines.errors import UnknownNameError, UsageError
from engines.machine.jetpack import NEEDED
from engines.near_names import did_you_mean
from engines.targets import Device, Target

_XAVIER = (
    f"its last JetPack, 5.1, has TensorRT 8.5, and {NEEDED}",
    "export for --target cpu, and run that graph on the board with ONNX Runtime and a Python of "
    "3.10 or newer",
)
_UNSUPPORTED = {
    "jetson-xavier-nx": _XAVIER,
    "jetson-agx-xavier": _XAVIER,
    "tensorrt8": (f"TensorRT 8 is too old, {NEEDED}", "update the board, and name it as target"),
}
"""Names that people ask for and nothing is built for: why, and what to do instead."""


def target_names() -> list[str]:
    """List the names that `--target` takes, without releases."""
    return [name.replace("_", "-") for name in registry.available(targets)]


def load_target(name: str) -> Target:
    """Return the target of this name, to export, quantize or build for.

    Args:
        name: Name of a target, as "rtx"; or of a device, as "jetson-orin-nano-8gb" with its usual
            release or "jetson-orin-nano-8gb@jp7.2" with a named one.

    Raises:
        UnknownNameError: There is no such target or release; near names are proposed, never taken.
        UsageError: The release is below what is supported.
    """
    target = known_target(name)
    release = target.release
    if release is not None and release.refusal:
        device = target.device
        newer = [one.name for one in device.releases if not one.refusal] if device else []
        raise UsageError(
            f"nothing is exported or built for {target.name}: {release.refusal}",
            where=name,
            fix=f"update the board and name its release: {', '.join(newer)}"
            if newer
            else "choose another target; `fpet-export targets` lists them",
        )
    return target


def known_target(name: str) -> Target:
    """Return what is known of a target, also where nothing is built for it.

    Raises:
        UnknownNameError: There is no such target or release.
    """
    place, at, release = name.partition("@")
    found = entry(place)
    if isinstance(found, Device):
        return found.at(release if at else None)
    if at:
        raise UnknownNameError(
            f"{place} has no releases, {release!r} was asked for",
            where=name,
            fix=f"leave @{release} out, or name a board or a GPU (`fpet-export targets`)",
        )
    return found


def entry(name: str) -> Target | Device:
    """Return the entry of a data file.

    Raises:
        UnknownNameError: There is no such entry; near names are proposed.
        UsageError: It is known, and nothing is built for it.
    """
    if name in _UNSUPPORTED:
        why, fix = _UNSUPPORTED[name]
        raise UsageError(f"nothing is exported or built for {name}: {why}", where=name, fix=fix)
    names = target_names()
    if name not in names:
        raise UnknownNameError(
            f"{name!r} is not one of {', '.join(names)}",
            where="targets",
            fix=did_you_mean(name, names, otherwise="choose one of the names above"),
        )
    found: Target | Device = registry.load(targets, name.replace("-", "_")).TARGET
    return found


def card(driver_name: str) -> Device | None:
    """Return the card that a driver calls so, as "NVIDIA H200"; None where none is known by it."""
    devices = (found for found in map(entry, target_names()) if isinstance(found, Device))
    return next((one for one in devices if driver_name in one.gpu.driver_names), None)


@functools.cache
def modules() -> Mapping[str, str]:
    """Map the part number of every Jetson module that is known, as "p3767-0003", to its target."""
    devices = (found for found in map(entry, target_names()) if isinstance(found, Device))
    return MappingProxyType(
        {
            module: device.name
            for device in devices
            if device.board is not None
            for module in device.board.modules
        }
    )
