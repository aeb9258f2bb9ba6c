"""Which Jetson this is, from files that every release has.

Standard library only, because it also runs on boards. What a file
does not say stays unknown: a wrong guess would build for another board.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from engines.machine import jetpack
from engines.machine.sources import text_of

__all__ = ["JetsonIdentity", "identify", "l4t_release", "module_numbers", "read_board"]

_RELEASE = re.compile(r"R(\d+) \(release\), REVISION: (\d+(?:\.\d+)*)")
_NUMBER = re.compile(r"p\d{4}-\d{4}")


class JetsonIdentity(NamedTuple):
    """What a Jetson says about itself; None is what it does not say.

    Attributes:
        model: Its name for people, "NVIDIA Jetson AGX Orin Developer Kit".
        numbers: Part numbers of module and carrier, as "p3767-0005", in the files' order.
        l4t: Release of Jetson Linux, "36.4.3".
        jetpack: The JetPack that this belongs to, "6.2"; None where the release is not known.
        target: The target that it is, with its JetPack where that is known; a JetPack that the
            target does not offer is refused when it is loaded.
        doubt: Why there is no target, in words; "" where there is one.
    """

    model: str | None
    numbers: tuple[str, ...]
    l4t: str | None
    jetpack: str | None
    target: str | None
    doubt: str


def l4t_release(text: str) -> str | None:
    """Return the release of Jetson Linux from the first line of `/etc/nv_tegra_release`.

    >>> l4t_release("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic")
    '36.4.3'
    """
    found = _RELEASE.search(text)
    return f"{found[1]}.{found[2]}" if found else None


def module_numbers(compatible: str) -> tuple[str, ...]:
    """Return the part numbers in `/proc/device-tree/compatible`, each once.

    The entries end in zero bytes, and one holds carrier and module: "nvidia,p3768-0000+p3767-0005".
    """
    return tuple(dict.fromkeys(_NUMBER.findall(compatible)))


def identify(numbers: tuple[str, ...], modules: Mapping[str, str]) -> tuple[str | None, str]:
    """Return the target of these part numbers, or None and why not.

    Args:
        numbers: From `module_numbers`.
        modules: Part number of every known module to its target; `engines.targets._lookup.modules`.
    """
    if not numbers:
        return None, "it states no part number"
    found = sorted({modules[number] for number in numbers if number in modules})
    if len(found) == 1:
        return found[0], ""
    if found:
        return None, f"its part numbers belong to {' and '.join(found)}: name one of them"
    families = {number.partition("-")[0] for number in numbers}
    alike = sorted({modules[one] for one in modules if one.partition("-")[0] in families})
    near = f"; alike are {', '.join(alike)}" if alike else ""
    return None, f"no module of {', '.join(numbers)} is known{near}"


def read_board(modules: Mapping[str, str], root: Path = Path("/")) -> JetsonIdentity | None:
    """Return what board this is; None on a machine that is no Jetson.

    Args:
        modules: See `identify`.
        root: Where `etc` and `proc` are; another folder in tests.
    """
    compatible = text_of(root / "proc/device-tree/compatible")
    release = text_of(root / "etc/nv_tegra_release")
    if "nvidia,tegra" not in compatible and not release:
        return None
    numbers = module_numbers(compatible)
    l4t = l4t_release(release)
    known = jetpack.of_l4t(l4t) if l4t else None
    target, doubt = identify(numbers, modules)
    if target is not None and known is not None:
        target = f"{target}@jp{known.name}"
    return JetsonIdentity(
        model=text_of(root / "proc/device-tree/model").strip("\0\n ") or None,
        numbers=numbers,
        l4t=l4t,
        jetpack=known.name if known else None,
        target=target,
        doubt=doubt,
    )
