"""What a line of `tegrastats` says, for every release from JetPack 4 to 7.

Standard library only, because it also runs on boards. A line is read field by field: which fields
it has depends on release, board and privilege. A word that fits no field is kept as unknown, and so
is a field whose numbers contradict each other: a number is right or absent. A missing percentage is
unknown, not zero; a temperature of -256 °C belongs to a block that is off; `NC` is no rail.

Source: NVIDIA, Jetson Linux Developer Guide, tegrastats utility, and lines of each release that
their owners published (`tests/engines/machine/test_tegrastats.py` names them).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

__all__ = ["Engine", "Memory", "Processor", "Rail", "Tegrastats", "Temperature", "parse"]

_MOST_MW = 1_000_000
_MOST_MHZ = 10_000
_TEMPERATURES_C = (-60.0, 200.0)
_OFF_C = -256.0
_BYTES = {"kB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30}


class Memory(NamedTuple):
    """Main memory or swap."""

    used_bytes: int
    total_bytes: int


class Processor(NamedTuple):
    """A CPU core; None is what the line does not say."""

    percent: int | None
    mhz: int | None
    is_off: bool = False


class Engine(NamedTuple):
    """The GPU ("GR3D"), the memory controller ("EMC"), a video or vision engine.

    Attributes:
        name: Without `_FREQ`.
        percent: How busy it is; None where the line does not say.
        mhz: Its clock, one number a cluster; empty where the line does not say.
        is_off: Whether it is switched off.
    """

    name: str
    percent: int | None
    mhz: tuple[int, ...]
    is_off: bool = False


class Temperature(NamedTuple):
    """A sensor that is on; `most_c` is the highest so far (JetPack 7)."""

    name: str
    now_c: float
    most_c: float | None


class Rail(NamedTuple):
    """The power of a rail: now, on average since tegrastats began, and at most (JetPack 7)."""

    name: str
    now_mw: int
    average_mw: int
    most_mw: int | None


class Tegrastats(NamedTuple):
    """One line; a field that it does not have, or that cannot be read, is None or not among them.

    Attributes:
        time: "MM-DD-YYYY HH:MM:SS", from JetPack 5 on.
        memory: Main memory.
        swap: Swap.
        processors: In order.
        engines: By name.
        temperatures: Of what is on.
        rails: Without those that are not connected.
        unknown: What fits no field, in order.
    """

    time: str | None
    memory: Memory | None
    swap: Memory | None
    processors: tuple[Processor, ...]
    engines: tuple[Engine, ...]
    temperatures: tuple[Temperature, ...]
    rails: tuple[Rail, ...]
    unknown: tuple[str, ...]

    def engine(self, name: str) -> Engine | None:
        """Return the engine of this name; None where the line does not have it."""
        return next((one for one in self.engines if one.name == name), None)


class _Pool(NamedTuple):
    """A `Memory` and whose it is."""

    name: str
    memory: Memory


class _Skipped(NamedTuple):
    """What is understood and says nothing."""

    name: str = ""


class _Cores(NamedTuple):
    processors: tuple[Processor, ...]
    name: str = "CPU"


_Field = _Pool | _Cores | Engine | Temperature | Rail | _Skipped

_TIME = re.compile(r"\s*([0-9]{2}-[0-9]{2}-[0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2})(?=\s|$)")
_WORD = re.compile(r"\S+")
_NUMBER_GOES_ON = re.compile(r"[0-9.%@/,\]+-]|mW|C\b|[kMG]B")
_POOL = re.compile(
    r"(RAM|SWAP|IRAM) ([0-9]{1,8})/([0-9]{1,8})([kMG]B)(?: ?\((?:lfb|cached) [0-9x]+[kMG]B\))?"
)
_CPU = re.compile(r"CPU \[([^\[\]]*)\](?:@([0-9]{1,6}))?")
_CORE = re.compile(r"(off)|([0-9]{1,3})%(?:@([0-9]{1,6}))?")
_CLOCK = r"@(\[[0-9]{1,6}(?:,[0-9]{1,6})*\]|[0-9]{1,6})"
_ENGINE = re.compile(
    r"((?:EMC|GR3D|VIC|APE|OFA|MSENC|ISP|VI|NVCSI)[0-9]?|(?:NVENC|NVDEC|NVJPG|PVA|NVDLA|DLA|SE|TSEC)"
    rf"[0-9]?)(?:_FREQ)? (?:(off)|([0-9]{{1,3}})%(?:{_CLOCK})?|{_CLOCK})"
)
_CLOCKED = re.compile(
    r"((?:NVENC|NVDEC|NVJPG|PVA|NVDLA|DLA|SE|TSEC|VIC|APE|OFA|MSENC)[0-9]?)(?:_FREQ)? ([0-9]{1,6})"
)
_DEGREES = r"(-?[0-9]{1,3}(?:\.[0-9]{1,6})?)C"
_TEMPERATURE = re.compile(rf"([A-Za-z][A-Za-z0-9_-]*)@{_DEGREES}(?:/{_DEGREES})?")
_MILLIWATTS = r"([0-9]{1,9})mW"
_RAIL = re.compile(rf"([A-Za-z][A-Za-z0-9_.+-]*) {_MILLIWATTS}/{_MILLIWATTS}(?:/{_MILLIWATTS})?")
_BARE_RAIL = re.compile(
    r"(GPU|CPU|SOC|CV|VDDRQ|SYS5V|NC|(?:POM|VDD|VIN)_[A-Z0-9_]+) ([0-9]{1,9})/([0-9]{1,9})"
)
"""JetPack 4 gives milliwatts without a unit; other pairs of numbers are no power."""


def parse(line: str) -> Tegrastats:
    """Return what a line says; nothing raises.

    >>> line = parse("GR3D_FREQ 63%@[621] gpu@53.343C CV0@-256C VDD_IN 12479mW/12480mW")
    >>> line.rails
    (Rail(name='VDD_IN', now_mw=12479, average_mw=12480, most_mw=None),)
    >>> line.engine("GR3D")
    Engine(name='GR3D', percent=63, mhz=(621,), is_off=False)
    >>> [one.name for one in line.temperatures]
    ['gpu']
    """
    found = _TIME.match(line)
    time, position = (found[1], found.end()) if found else (None, 0)
    fields: list[tuple[_Field, str]] = []
    unknown: list[str] = []
    is_after_field = False
    while word := _WORD.search(line, position):
        start = word.start()
        field, end = _field_at(line, start)
        if field is None:
            # What goes on like a number was torn from the field before it: that one is wrong too.
            if is_after_field and _NUMBER_GOES_ON.match(word[0]):
                unknown.append(fields.pop()[1])
            unknown.append(word[0])
            end = word.end()
        else:
            fields.append((field, line[start:end]))
        is_after_field = field is not None
        position = end
    return _collected(time, fields, unknown)


def _collected(
    time: str | None, fields: list[tuple[_Field, str]], unknown: list[str]
) -> Tegrastats:
    """Sort the fields; of several with one name none is taken, for nothing says which is right."""
    names = Counter((type(field), field.name) for field, _ in fields)
    once: list[_Field] = []
    for field, text in fields:
        if isinstance(field, _Skipped):
            continue
        if names[type(field), field.name] > 1:
            unknown.append(text)
        else:
            once.append(field)
    pools = {field.name: field.memory for field in once if isinstance(field, _Pool)}
    return Tegrastats(
        time=time,
        memory=pools.get("RAM"),
        swap=pools.get("SWAP"),
        processors=next((one.processors for one in once if isinstance(one, _Cores)), ()),
        engines=tuple(one for one in once if isinstance(one, Engine)),
        temperatures=tuple(one for one in once if isinstance(one, Temperature)),
        rails=tuple(one for one in once if isinstance(one, Rail)),
        unknown=tuple(unknown),
    )


def _field_at(line: str, start: int) -> tuple[_Field | None, int]:
    """Return the field that begins here, up to a space or the end, and where it ends."""
    for pattern, read in _READERS:
        found = pattern.match(line, start)
        if found and (found.end() == len(line) or line[found.end()].isspace()):
            return read(found), found.end()
    return None, start


def _pool(found: re.Match[str]) -> _Field | None:
    used, total = (int(found[group]) * _BYTES[found[4]] for group in (2, 3))
    return _Pool(found[1], Memory(used, total)) if used <= total else None


def _cores(found: re.Match[str]) -> _Field | None:
    processors = []
    for part in found[1].split(","):
        core = _CORE.fullmatch(part.strip())
        if core is None:
            return None
        if core[1]:
            processors.append(Processor(None, None, is_off=True))
            continue
        percent, clock = int(core[2]), core[3] or found[2]
        mhz = None if clock is None else int(clock)
        if percent > 100 or (mhz or 0) > _MOST_MHZ or (core[3] and found[2]):
            return None
        processors.append(Processor(percent, mhz))
    return _Cores(tuple(processors))


def _engine(found: re.Match[str]) -> _Field | None:
    name, off, percent, *clocks = found.groups()
    mhz = _clocks(next((clock for clock in clocks if clock), ""))
    busy = None if percent is None else int(percent)
    if (busy or 0) > 100 or max(mhz, default=0) > _MOST_MHZ:
        return None
    return Engine(name, busy, mhz, is_off=off is not None)


def _clocked(found: re.Match[str]) -> _Field | None:
    mhz = int(found[2])
    return Engine(found[1], None, (mhz,)) if mhz <= _MOST_MHZ else None


def _clocks(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"[0-9]+", text))


def _temperature(found: re.Match[str]) -> _Field | None:
    now, most = float(found[2]), None if found[3] is None else float(found[3])
    if now == _OFF_C:
        return _Skipped()
    if most == _OFF_C:
        most = None
    least_c, most_c = _TEMPERATURES_C
    known = [one for one in (now, most) if one is not None]
    if not all(least_c <= one <= most_c for one in known) or now > max(known):
        return None
    return Temperature(found[1], now, most)


def _rail(found: re.Match[str]) -> _Field | None:
    name, *values = found.groups()
    powers = [int(value) for value in values if value is not None]
    if name == "NC":
        return _Skipped()
    if max(powers) > _MOST_MW or (len(powers) == 3 and max(powers[:2]) > powers[2]):
        return None
    return Rail(name, powers[0], powers[1], powers[2] if len(powers) == 3 else None)


_READERS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], _Field | None]], ...] = (
    (_POOL, _pool),
    (_CPU, _cores),
    (_ENGINE, _engine),
    (_CLOCKED, _clocked),
    (_RAIL, _rail),
    (_BARE_RAIL, _rail),
    (_TEMPERATURE, _temperature),
)
