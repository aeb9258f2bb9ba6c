"""A fake Jetson: files as its kernel shows them, and stand-ins for NVIDIA's tools and for sudo.

Nothing here comes from a board. The files and lines have the forms that owners posted (an Orin Nano
with JetPack 6.2); the tools do to the files what the real ones do to the hardware: `nvpmodel -m`
sets limits and asks before it reboots, `jetson_clocks` raises lower limits to the upper ones, and
stores and restores limits, asking before it overwrites a file.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from engines.machine import sources

ORIN_NANO = (
    "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n",
    "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0",
    "nvidia,p3768-0000+p3767-0005-super\0nvidia,p3767-0005\0nvidia,tegra234\0",
)
MODES = {"15W": (0, 612_000_000), "25W": (1, 918_000_000), "MAXN_SUPER": (2, 1_020_000_000)}
"""Power modes: number, and the upper limit of the GPU's clock in Hz."""
REBOOTS = "7W"
"""A mode that asks for a reboot; its number is 3."""
NVPMODEL_CONF = "".join(
    f"< POWER_MODEL ID={number} NAME={name} >\nGPU MAX_FREQ {hertz}\n"
    for name, (number, hertz) in {**MODES, REBOOTS: (3, 408_000_000)}.items()
)
ZRAM = "Filename Type Size Used Priority\n/dev/zram0 partition 635320 0 5\n"
GPU = "sys/class/devfreq/17000000.gpu"
CPU = "sys/devices/system/cpu/cpufreq/policy0"
OVER_CURRENT = "sys/class/hwmon/hwmon3"
LEAST_HZ = 306_000_000

_NEEDS_ROOT = """\
[ "$(id -u)" = 0 ] || [ -n "$FAKE_SUDO" ] || { echo "Error: needs root"; exit 1; }
[ -e "$R/slow" ] && sleep "$(cat "$R/slow")"
"""
_NVPMODEL = f"""\
#!/bin/sh
# A stand-in for NVIDIA's nvpmodel, for tests.
R=ROOT
name_of() {{ sed -n "s/^< POWER_MODEL ID=$1 NAME=\\\\(.*\\\\) >/\\\\1/p" "$R/etc/nvpmodel.conf"; }}
if [ "$1" = -q ]; then
    [ -e "$R/said" ] && {{ cat "$R/said"; exit; }}
    id=$(sed "s/pmode:0*\\\\([0-9]\\\\)/\\\\1/" "$R/var/lib/nvpmodel/status")
    printf 'NV Power Mode: %s\\\\n%s\\\\n' "$(name_of "$id")" "$id"
    exit
fi
echo "nvpmodel $*" >> "$R/calls"
{_NEEDS_ROOT}
if [ "$2" = 3 ]; then
    echo "NVPM WARN: Golden image context is already created"
    echo "NVPM WARN: Reboot required for changing to this power mode: 3"
    echo "NVPM WARN: DO YOU WANT TO REBOOT NOW? enter YES/yes to confirm:"
    read -r answer
    case "$answer" in YES|yes) echo rebooted >> "$R/calls";; esac
    echo "NVPM ERROR: optMask is 1, no request for power mode"
    exit 255
fi
[ -e "$R/refuses" ] && {{ echo "NVPM ERROR: failed to set power mode!"; exit 1; }}
limit=$(sed -n "/ID=$2 /{{n;s/GPU MAX_FREQ //p}}" "$R/etc/nvpmodel.conf")
echo "$limit" > "$R/{GPU}/max_freq"
echo "$limit" > "$R/{GPU}/cur_freq"
echo {LEAST_HZ} > "$R/{GPU}/min_freq"
printf 'pmode:%04d\\\\n' "$2" > "$R/var/lib/nvpmodel/status"
"""
_JETSON_CLOCKS = f"""\
#!/bin/sh
# A stand-in for NVIDIA's jetson_clocks, for tests.
R=ROOT
limits="{GPU}/min_freq {GPU}/max_freq {CPU}/scaling_min_freq {CPU}/scaling_max_freq"
[ "$1" = --show ] && exit
echo "jetson_clocks $1" >> "$R/calls"
{_NEEDS_ROOT}
case "$1" in
--store)
    [ -e "$2" ] && {{ echo "File $2 already exists. Can I overwrite it? Y/N:"; exit 1; }}
    for file in $limits; do echo "$file:$(cat "$R/$file")"; done > "$2";;
--restore)
    [ -s "$2" ] || {{ echo "Error: $2 file not found"; exit 1; }}
    while IFS=: read -r file value; do echo "$value" > "$R/$file"; done < "$2";;
*)
    cat "$R/{GPU}/max_freq" > "$R/{GPU}/min_freq"
    cat "$R/{GPU}/max_freq" > "$R/{GPU}/cur_freq"
    cat "$R/{CPU}/scaling_max_freq" > "$R/{CPU}/scaling_min_freq";;
esac
"""
_SUDO = """\
#!/bin/sh
# A stand-in for sudo, for tests: without a password it lets through what $R/sudoers lists.
R=ROOT
while [ "${1#-}" != "$1" ]; do shift; done
case " $(cat "$R/sudoers" 2>/dev/null) " in
*" ${1##*/} "*) FAKE_SUDO=1 exec "$@";;
esac
echo "sudo: a password is required"
exit 1
"""
_TOOLS = {"nvpmodel": _NVPMODEL, "jetson_clocks": _JETSON_CLOCKS, "sudo": _SUDO}


class FakeBoard:
    """A Jetson of files and scripts.

    Attributes:
        root: Where `etc`, `proc`, `sys` and `var` are.
        bin: Folder with the stand-ins, for PATH.
    """

    def __init__(self, folder: Path) -> None:
        self.root, self.bin = folder / "root", folder / "bin"
        for name, text in zip(
            ("etc/nv_tegra_release", "proc/device-tree/model", "proc/device-tree/compatible"),
            ORIN_NANO,
            strict=True,
        ):
            self.write(name, text)
        self.write("etc/nvpmodel.conf", NVPMODEL_CONF)
        self.write("var/lib/nvpmodel/status", "pmode:0001\n")
        self.write("proc/swaps", ZRAM)
        self.write("proc/meminfo", "MemTotal: 7806000 kB\nMemAvailable: 5000000 kB\n")
        self.write("proc/vmstat", "nr_free_pages 1\npswpin 7\npswpout 9\n")
        self.write("proc/loadavg", "0.31 0.20 0.10 1/300 4242\n")
        self.write("proc/stat", "cpu  100 0 50 900 0 0 0 0 0 0\ncpu0 100 0 50 900 0 0 0 0 0 0\n")
        self.clocks(LEAST_HZ, MODES["25W"][1])
        self.write(f"{CPU}/scaling_governor", "schedutil\n")
        for at, (zone, limit) in enumerate((("cpu-thermal", 99_000), ("tj-thermal", 99_000))):
            folder_ = f"sys/class/thermal/thermal_zone{at}"
            self.write(f"{folder_}/type", f"{zone}\n")
            self.write(f"{folder_}/temp", f"{51_500 + 500 * at}\n")
            self.write(f"{folder_}/trip_point_0_type", "passive\n")
            self.write(f"{folder_}/trip_point_0_temp", f"{limit}\n")
        for at, kind in enumerate(("pwm-fan", "gpu-throttle-alert")):
            self.write(f"sys/class/thermal/cooling_device{at}/type", f"{kind}\n")
            self.write(f"sys/class/thermal/cooling_device{at}/cur_state", f"{1 - at}\n")
        self.write(f"{OVER_CURRENT}/name", "soctherm_oc\n")
        for channel, count in ((1, 0), (3, 37)):
            self.write(f"{OVER_CURRENT}/oc{channel}_event_cnt", f"{count}\n")
            self.write(f"{OVER_CURRENT}/oc{channel}_throt_en", "1\n")
        self.write("sys/class/hwmon/hwmon2/name", "pwmfan\n")
        self.write("sys/class/hwmon/hwmon2/pwm1", "69\n")
        self.write("sys/devices/platform/17000000.gpu/load", "0\n")
        self.bin.mkdir(parents=True)
        for name, script in _TOOLS.items():
            path = self.bin / name
            path.write_text(script.replace("ROOT", str(self.root)).replace("\\\\", "\\"))
            path.chmod(0o755)

    def use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let this process run on the board."""
        monkeypatch.setattr(sources, "ROOT", self.root)
        monkeypatch.setenv("PATH", f"{self.bin}{os.pathsep}{os.environ['PATH']}")

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def clocks(self, least_hz: int, most_hz: int) -> None:
        """Set the limits of the GPU's clock, and in proportion those of the processors'."""
        self.write(f"{GPU}/min_freq", f"{least_hz}\n")
        self.write(f"{GPU}/max_freq", f"{most_hz}\n")
        self.write(f"{GPU}/cur_freq", f"{most_hz}\n")
        self.write(f"{CPU}/scaling_min_freq", f"{least_hz // 1000}\n")
        self.write(f"{CPU}/scaling_max_freq", f"{most_hz // 1000}\n")
        self.write(f"{CPU}/scaling_cur_freq", f"{most_hz // 1000}\n")

    def mode(self, name: str) -> None:
        """Be in a power mode."""
        self.write("var/lib/nvpmodel/status", f"pmode:{MODES[name][0]:04d}\n")

    def silent(self) -> None:
        """Let `nvpmodel -q` fail, and its file be gone."""
        self.write("said", "NVPM ERROR: Error opening /sys/devices/system/cpu: 13\n")
        (self.root / "var/lib/nvpmodel/status").unlink()

    def slow(self, seconds: float) -> None:
        """Let each change take so long."""
        self.write("slow", f"{seconds}\n")

    def allow(self, *programs: str) -> None:
        """Let sudo run these without a password."""
        self.write("sudoers", " ".join(programs))

    def state(self) -> dict[str, str]:
        """Return the power mode and every limit of a clock."""
        names = (
            "var/lib/nvpmodel/status", f"{GPU}/min_freq", f"{GPU}/max_freq",
            f"{CPU}/scaling_min_freq", f"{CPU}/scaling_max_freq",
        )  # fmt: skip
        return {name: (self.root / name).read_text().strip() for name in names}

    def calls(self) -> list[str]:
        """Return which tools were called to change or store something."""
        path = self.root / "calls"
        return path.read_text().splitlines() if path.exists() else []

    def python(self) -> str:
        """Return a script for `python3` that runs what it is told as if on this board."""
        program = (
            "import runpy, sys; from pathlib import Path; sys.argv = sys.argv[1:]; "
            "sys.path.insert(0, sys.argv[0]); from engines.machine import sources; "
            f"sources.ROOT = Path({str(self.root)!r}); "
            "runpy.run_path(sys.argv[0], run_name='__main__')"
        )
        return (
            f'#!/bin/sh\nPATH={self.bin}:$PATH\nexport PATH\ncase "$1" in\n'
            f'*.pyz) exec {sys.executable} -c "{program}" "$@";;\n'
            f'*) exec {sys.executable} "$@";;\nesac\n'
        )
