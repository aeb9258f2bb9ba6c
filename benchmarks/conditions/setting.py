"""Sets a Jetson's power mode and clocks for a measurement, and always restores them."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
import shlex
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from engines.errors import MachineError, MissingDependencyError, UnknownNameError
from engines.machine import sources
from engines.machine.clocks import are_held, read_clocks
from engines.machine.guard import Done, Guard, GuardLostError
from engines.machine.snapshot import is_jetson, power_modes, read_power_mode
from engines.machine.sources import program, run_command
from engines.machine.state import PowerMode
from engines.near_names import did_you_mean

Clocks = Literal["lock", "keep"]
_SUDO = ("sudo", "-k", "-n")
"""Runs a command as root without a password, or not at all; `-k` leaves out one that was typed
before, because it may have expired when everything is to be restored."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """What was set for a measurement, and is restored after it.

    Attributes:
        power_mode: The mode that was asked for; None leaves it.
        clocks: "lock" holds them at the upper limits of the power mode, "keep" leaves them.
        power_mode_before: The mode that it is restored to; None where none was set.
    """

    power_mode: str | None
    clocks: Clocks
    power_mode_before: str | None = None


def refuse(power_mode: str | None, clocks: Clocks) -> None:
    """Refuse what this machine cannot be set to, before anything is set.

    Raises:
        MissingDependencyError: It has no such settings.
        UnknownNameError: It has no such power mode.
    """
    if clocks == "lock" and (not is_jetson(sources.ROOT) or program("jetson_clocks") is None):
        raise MissingDependencyError(
            "clocks are held by jetson_clocks, which this machine does not have",
            where="--clocks lock",
            fix="leave it out; to hold an NVIDIA GPU's clock, type sudo nvidia-smi -lgc MHZ "
            "before, and sudo nvidia-smi -rgc after (nothing tells what was held before, so it "
            "is not done for you)",
        )
    if power_mode is None:
        return
    offered = [mode.name for mode in power_modes(sources.ROOT)]
    if not offered or program("nvpmodel") is None:
        raise MissingDependencyError(
            "power modes with names are a Jetson's (nvpmodel), and this machine has none",
            where="--power-mode",
            fix="leave it out here, or measure on a board: --remote HOST",
        )
    if power_mode not in offered:
        raise UnknownNameError(
            f"{power_mode!r} is none of this board's power modes: {', '.join(offered)}",
            where="--power-mode",
            fix=did_you_mean(power_mode, offered, otherwise="choose one of the names above"),
        )


@contextlib.contextmanager
def held(
    power_mode: str | None, clocks: Clocks, *, lock: int | None = None
) -> Iterator[Setting | None]:
    """Set the machine, and restore it at the end, however that comes.

    A guard makes the changes and undoes them: also when this process is killed.

    Args:
        power_mode: Name of a power mode; None leaves it.
        clocks: See `Setting`.
        lock: Handle of what keeps others from measuring: they wait until everything is restored.

    Yields:
        What is set; None where nothing was asked for.

    Raises:
        MissingDependencyError: The machine has no such settings.
        UnknownNameError: It has no such power mode.
        MachineError: It may not be set without a password, the mode asks for a reboot, a tool
            fails, or the machine could not be restored.
    """
    if power_mode is None and clocks == "keep":
        yield None
        return
    refuse(power_mode, clocks)
    found = read_power_mode(root=sources.ROOT, run=run_command)
    before = None if found is None else found.name
    number = None if found is None else _number_of(found)
    if power_mode is not None and (before is None or number is None):
        raise MachineError(
            "nvpmodel does not say which power mode is set, so it could not be restored",
            where="--power-mode",
            fix="see what it says: sudo nvpmodel -q",
        )
    setting = Setting(
        power_mode=power_mode, clocks=clocks, power_mode_before=before if power_mode else None
    )
    changes_mode = power_mode is not None and power_mode != before
    if not changes_mode and clocks == "keep":  # it is so already: nothing is needed
        yield setting
        return
    tools = ["jetson_clocks", *(["nvpmodel"] if changes_mode else [])]
    _require_rights(tools)
    was_held = are_held(read_clocks(sources.ROOT))
    folder = Path(tempfile.gettempdir()) / f"fpet-export-clocks-{secrets.token_hex(8)}"
    guard = _guard(folder, lock)
    try:
        _store(guard, folder / "clocks")
        if changes_mode:
            assert power_mode is not None
            _set_mode(guard, power_mode, before=f"{before}", number_before=f"{number}")
        if clocks == "lock":
            _lock(guard)
        yield setting
    except GuardLostError as error:
        raise MachineError(
            "the process that sets the board and restores it was killed",
            where="--power-mode, --clocks",
            fix="run the command again; `dmesg` names what the kernel killed",
        ) from error
    finally:
        _restore(guard, before, number, was_held)


def _guard(folder: Path, lock: int | None) -> Guard:
    try:
        return Guard(folder, lock=lock)
    except OSError as error:
        raise MachineError(
            f"the process that sets the board and restores it cannot be started: {error}",
            where="--power-mode, --clocks",
            fix="close other programs, and run the command again",
        ) from error


def _store(guard: Guard, file: Path) -> None:
    """Keep the limits of all clocks first: another power mode loses them, too."""
    done = guard.look(
        [*_as_root("jetson_clocks"), "--store", str(file)],
        undo=[*_as_root("jetson_clocks"), "--restore", str(file)],
    )
    if done.code != 0:
        raise _failed("jetson_clocks --store", done)


def _set_mode(guard: Guard, wanted: str, *, before: str, number_before: str) -> None:
    tool, number = _as_root("nvpmodel"), _number(wanted)
    done = guard.change([*tool, "-m", str(number)], undo=[*tool, "-m", number_before])
    if "reboot" in done.said.lower():
        raise MachineError(
            f"the power mode {wanted} needs a reboot, and nothing here reboots a board; it stays "
            f"in {before}",
            where="--power-mode",
            fix=f"sudo nvpmodel -m {number}   (confirm the reboot, then run the command again)",
        )
    if done.code != 0 or _mode() != wanted:
        raise _failed(f"nvpmodel -m {number}", done)


def _lock(guard: Guard) -> None:
    done = guard.change(_as_root("jetson_clocks"))
    if done.code != 0 or are_held(read_clocks(sources.ROOT)) is False:
        raise _failed("jetson_clocks", done)


def _restore(guard: Guard, before: str | None, number: int | None, was_held: bool | None) -> None:
    """Restore everything, and look whether it is as it was."""
    failed = guard.restore()
    if _mode() != before or are_held(read_clocks(sources.ROOT)) != was_held:
        said = " ".join(done.said.strip() for done in failed)
        mode = "" if number is None else f"sudo nvpmodel -m {number}, and "
        raise MachineError(
            f"the board could not be restored to {before or 'its clocks'}: "
            f"{said or 'another program has set it'}",
            where="--power-mode, --clocks",
            fix=f"{mode}a reboot sets the clocks free",
        )


def _require_rights(tools: Sequence[str]) -> None:
    """Refuse where root's tools cannot be run without a password, before anything is set.

    Raises:
        MachineError: One of them cannot.
    """
    if os.geteuid() == 0:
        return
    harmless = {"nvpmodel": "-q", "jetson_clocks": "--show"}
    refused = [tool for tool in tools if _needs_password([*_as_root(tool), harmless[tool]])]
    if not refused:
        return
    paths = ", ".join(program(tool) or tool for tool in tools)
    rule = shlex.quote(f" ALL=(root) NOPASSWD: {paths}")
    raise MachineError(
        f"setting power mode or clocks needs root's rights for {' and '.join(tools)}, and sudo "
        "asks for a password",
        where="--power-mode, --clocks",
        fix=f'allow just that, once: echo "$USER"{rule} | sudo tee /etc/sudoers.d/fpet-export; '
        "or run the command as root",
    )


def _needs_password(words: Sequence[str]) -> bool:
    if program("sudo") is None:
        return True
    said = run_command(words).lower()
    return "password is required" in said or "not allowed" in said or "may not run sudo" in said


def _as_root(tool: str) -> list[str]:
    found = program(tool) or tool
    return [found] if os.geteuid() == 0 else [*_SUDO, found]


def _mode() -> str | None:
    found = read_power_mode(root=sources.ROOT, run=run_command)
    return None if found is None else found.name


def _number_of(mode: PowerMode) -> int | None:
    """Return the number as nvpmodel says it, or as its file lists it."""
    return _number(mode.name) if mode.number is None else mode.number


def _number(name: str) -> int | None:
    return next((mode.number for mode in power_modes(sources.ROOT) if mode.name == name), None)


def _failed(what: str, done: Done) -> MachineError:
    lines = [line.strip() for line in done.said.splitlines() if line.strip()]
    said = lines[-1] if lines else f"it ended with {done.code}"
    return MachineError(
        f"{what} failed: {said}",
        where="--power-mode, --clocks",
        fix=f"see what it says by hand: sudo {what}",
    )
