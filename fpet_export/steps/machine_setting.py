"""What `bench` and `deploy` set on a board while they measure, said as it happens."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator

from benchmarks.conditions import setting
from benchmarks.conditions.setting import Setting
from benchmarks.conditions.watcher import MachineWatcher, Watcher
from fpet_export.reporter import Reporter
from fpet_export.requests import Elsewhere, MachineSetting


def refuse(request: MachineSetting) -> None:
    """Refuse what this machine cannot be set to; another one judges that for itself.

    Raises:
        MissingDependencyError: It has no such settings.
        UnknownNameError: It has no such power mode.
    """
    if not (isinstance(request, Elsewhere) and request.remote is not None):
        setting.refuse(request.power_mode, request.clocks)


@contextlib.contextmanager
def held(
    request: MachineSetting, reporter: Reporter, *, lock: int | None
) -> Iterator[Callable[[], Watcher]]:
    """Set the machine, and restore it at the end, however that comes.

    Args:
        request: What it is set to.
        reporter: Hears what is set and restored.
        lock: Handle of what keeps others from measuring; see `engines.machine.device_lock`.

    Yields:
        What makes the watchers of measurements, for `benchmarks.bench`.

    Raises:
        MachineError: It cannot be set or restored.
    """
    with setting.held(request.power_mode, request.clocks, lock=lock) as found:
        if found is not None:
            reporter.step("setting", _in_words(found))
        yield functools.partial(MachineWatcher, setting=found)
    if found is not None:
        reporter.step("restored", found.power_mode_before or "the clocks are as they were")


def _in_words(found: Setting) -> str:
    parts = []
    if found.power_mode is not None:
        same = found.power_mode == found.power_mode_before
        was = "as it was" if same else f"instead of {found.power_mode_before}"
        parts.append(f"power mode {found.power_mode}, {was}")
    if found.clocks == "lock":
        parts.append("clocks held")
    return "; ".join(parts)
