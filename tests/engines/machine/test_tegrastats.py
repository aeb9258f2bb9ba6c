"""Lines of tegrastats of every release: recorded ones, and thousands with something broken.

Sources of the lines: jetson_stats' test data (Nano, AGX Orin with JetPack 5 and 7.2),
martinkersner's gtop (Xavier), public parsers' tests (TX2, Thor), henrygd's beszel (Orin Nano).
What the sources leave out ("…") is filled with fields of the same kind.
"""

from __future__ import annotations

import random
import re

import pytest

from engines.machine.tegrastats import Engine, Processor, Rail, Tegrastats, Temperature, parse

NANO = (
    "RAM 2015/3964MB (lfb 98x4MB) SWAP 29/1982MB (cached 3MB) CPU [6%@102,5%@102,4%@102,3%@102] "
    "EMC_FREQ 0% GR3D_FREQ 0% PLL@28C CPU@31.5C PMIC@100C GPU@30.5C AO@36C thermal@31.25C "
    "POM_5V_IN 1388/1388 POM_5V_GPU 122/122 POM_5V_CPU 163/163"
)
XAVIER = (
    "RAM 4722/15697MB (lfb 1746x4MB) CPU [2%@1190,0%@1190,off,off] EMC_FREQ 0% GR3D_FREQ 0% "
    "AO@30C GPU@30.5C Tboard@30C PMIC@100C GPU 463/463 CPU 618/618 SOC 2936/2936 CV 0/0 "
    "VDDRQ 309/309 SYS5V 3306/3306"
)
TX2 = (
    "RAM 4181/7771MB (lfb 8x4MB) SWAP 0/3885MB (cached 0MB) "
    "CPU [10%@1190,0%@1190,1%@1190,0%@1190,5%@1190,1%@1190] EMC_FREQ 15%@1600 GR3D_FREQ 0% "
    "PLL@42.906C Tdiode@43.25C GPU@41.75C BCPU@42.5C thermal@42.425C VDD_SYS_GPU 47mW/0mW "
    "VDD_SYS_SOC 813mW/207mW VDD_4V0_WIFI 495mW/0mW VDD_IN 3539mW/1422mW VDD_SYS_CPU 125mW/104mW"
)
AGX_ORIN_5 = (
    "01-03-2023 16:07:54 RAM 2257/30536MB (lfb 5392x4MB) SWAP 0/15268MB (cached 0MB) "
    "CPU [0%@729,1%@729,off,off] EMC_FREQ 0%@204 GR3D_FREQ 0%@0 GR3D2_FREQ 0%@0 NVJPG1 729 "
    "VIC_FREQ 115 APE 233 CV0@-256C CPU@41.437C Tboard@32C SOC2@37.656C GPU@-256C tj@41.656C "
    "VDD_GPU_SOC 2390mW/2390mW VDD_CPU_CV 796mW/796mW VIN_SYS_5V0 3522mW/3522mW NC 0mW/0mW "
    "VDDQ_VDD2_1V8AO 301mW/301mW NC 0mW/0mW"
)
NANO_6 = (
    "11-15-2024 08:38:09 RAM 6185/7620MB (lfb 8x2MB) SWAP 851/3810MB (cached 1MB) "
    "CPU [15%@729,11%@729,14%@729,13%@729,11%@729,8%@729] EMC_FREQ 43%@2133 GR3D_FREQ 63%@[621] "
    "NVDEC off NVJPG off NVJPG1 off VIC off OFA off APE 200 cpu@53.968C soc2@52.437C soc0@50.75C "
    "gpu@53.343C tj@53.968C soc1@51.656C VDD_IN 12479mW/12479mW VDD_CPU_GPU_CV 4667mW/4667mW "
    "VDD_SOC 2817mW/2817mW"
)
NANO_6_USER = (
    "06-18-2025 11:25:24 RAM 3452/7620MB (lfb 25x4MB) SWAP 1518/16384MB (cached 174MB) "
    "CPU [1%@1420,2%@1420,0%@1420,2%@1420,2%@729,1%@729] GR3D_FREQ 0% cpu@50.031C tj@50.25C "
    "soc1@50.25C VDD_IN 4824mW/4824mW VDD_CPU_GPU_CV 518mW/518mW VDD_SOC 1475mW/1475mW"
)
AGX_ORIN_7 = (
    "07-25-2026 09:08:28 RAM 20642/62817MB (lfb 1x2MB) CPU [23%@2201,20%@2201] EMC_FREQ 3%@3199 "
    "GR3D_FREQ 12%@[1300,1300] NVENC0 off NVDEC off PVA0_FREQ off APE 174 cpu@52.968C/52.968C "
    "soc2@48.406C/48.406C soc0@49.531C/49.531C gpu@47.625C/47.625C "
    "VDD_GPU_SOC 5139mW/5139mW/5139mW VDD_CPU_CV 3268mW/3268mW/3268mW "
    "VIN_SYS_5V0 5500mW/5500mW/5500mW"
)
THOR = (
    "08-08-2026 21:00:39 RAM 8353/125749MB (lfb 31x4MB) CPU [90%@2601,75%@2601,off,7%@2601] "
    "EMC_FREQ 34%@4266 GR3D_FREQ 87%@[1574,1574,1574] NVENC0_FREQ @1691 VIC off cpu@58.25C/61.75C "
    "tj@66.625C/66.625C gpu@56.937C/66.625C VDD_GPU 37939mW/8660mW/37939mW "
    "VDD_CPU_SOC_MSS 30059mW/12281mW/30059mW VIN_SYS_5V0 15486mW/7424mW/15486mW "
    "VIN 124486mW/36487mW/124486mW"
)
THOR_IDLE = (
    "08-08-2026 21:00:40 RAM 8353/125749MB (lfb 31x4MB) CPU [0%,5%,off]@2601 EMC_FREQ @4266 "
    "GR3D_FREQ @[1574,1574,1574] cpu@58.25C/61.75C VIN 30486mW/36487mW/124486mW"
)
LINES = {
    "nano": NANO, "xavier": XAVIER, "tx2": TX2, "agx orin, JetPack 5": AGX_ORIN_5,
    "orin nano, root": NANO_6, "orin nano, user": NANO_6_USER, "agx orin, JetPack 7": AGX_ORIN_7,
    "thor": THOR, "thor without loads": THOR_IDLE,
}  # fmt: skip


def powers(line: str) -> dict[str, int]:
    return {rail.name: rail.now_mw for rail in parse(line).rails}


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_every_field_of_a_recorded_line_is_understood(line: str) -> None:
    found = parse(line)

    assert found.unknown == ()
    assert found.memory is not None
    assert found.rails
    assert found.processors


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (NANO, {"POM_5V_IN": 1388, "POM_5V_GPU": 122, "POM_5V_CPU": 163}),
        (
            XAVIER,
            {"GPU": 463, "CPU": 618, "SOC": 2936, "CV": 0, "VDDRQ": 309, "SYS5V": 3306},
        ),
        (
            AGX_ORIN_5,
            {"VDD_GPU_SOC": 2390, "VDD_CPU_CV": 796, "VIN_SYS_5V0": 3522, "VDDQ_VDD2_1V8AO": 301},
        ),
        (NANO_6, {"VDD_IN": 12479, "VDD_CPU_GPU_CV": 4667, "VDD_SOC": 2817}),
        (AGX_ORIN_7, {"VDD_GPU_SOC": 5139, "VDD_CPU_CV": 3268, "VIN_SYS_5V0": 5500}),
        (
            THOR,
            {"VDD_GPU": 37939, "VDD_CPU_SOC_MSS": 30059, "VIN_SYS_5V0": 15486, "VIN": 124486},
        ),
    ],
)
def test_rails_by_name_in_milliwatts(line: str, expected: dict[str, int]) -> None:
    assert powers(line) == expected


def test_averages_and_highest_values_stand_apart_from_the_present_ones() -> None:
    assert parse(THOR).rails[0] == Rail("VDD_GPU", 37939, 8660, 37939)
    assert parse(NANO_6).rails[0] == Rail("VDD_IN", 12479, 12479, None)
    assert Temperature("gpu", 56.937, 66.625) in parse(THOR).temperatures
    assert Temperature("gpu", 53.343, None) in parse(NANO_6).temperatures


def test_what_is_off_has_no_temperature() -> None:
    names = [one.name for one in parse(AGX_ORIN_5).temperatures]

    assert names == ["CPU", "Tboard", "SOC2", "tj"]


def test_a_missing_percentage_is_unknown_and_not_zero() -> None:
    assert parse(THOR_IDLE).engine("GR3D") == Engine("GR3D", None, (1574, 1574, 1574))
    assert parse(THOR_IDLE).engine("EMC") == Engine("EMC", None, (4266,))
    assert parse(NANO_6_USER).engine("EMC") is None
    assert parse(NANO_6_USER).engine("GR3D") == Engine("GR3D", 0, ())


def test_forms_of_the_gpus_clock() -> None:
    assert parse(NANO_6).engine("GR3D") == Engine("GR3D", 63, (621,))
    assert parse(AGX_ORIN_5).engine("GR3D") == Engine("GR3D", 0, (0,))
    assert parse(AGX_ORIN_7).engine("GR3D") == Engine("GR3D", 12, (1300, 1300))
    assert parse(AGX_ORIN_5).engine("NVJPG1") == Engine("NVJPG1", None, (729,))
    assert parse(NANO_6).engine("VIC") == Engine("VIC", None, (), is_off=True)
    assert parse(THOR).engine("NVENC0") == Engine("NVENC0", None, (1691,))


def test_processors_with_their_own_clocks_or_a_common_one() -> None:
    assert parse(THOR_IDLE).processors == (
        Processor(0, 2601), Processor(5, 2601), Processor(None, None, is_off=True),
    )  # fmt: skip
    assert parse(XAVIER).processors[:1] == (Processor(2, 1190),)


def test_what_nobody_has_seen_yet_is_kept_and_costs_nothing() -> None:
    new = NANO_6.replace("NVDEC off", "NPU 12%%fast NVDEC off")

    assert parse(new).unknown == ("NPU", "12%%fast")
    assert parse(new).rails == parse(NANO_6).rails


@pytest.mark.parametrize(
    ("line", "gone"),
    [
        ("VDD_IN 12479mW/12 479mW VDD_SOC 1mW/1mW", "VDD_IN"),
        ("VDD_IN 12479mW", "VDD_IN"),
        ("VDD_IN 12479", "VDD_IN"),
        ("VDD_IN 12479W/12479W", "VDD_IN"),
        ("VDD_IN -5mW/10mW", "VDD_IN"),
        ("VDD_IN 1e4mW/1e4mW", "VDD_IN"),
        ("VDD_IN ١٢mW/١٢mW", "VDD_IN"),
        ("VDD_IN 4mW/4mW/3mW", "VDD_IN"),
        ("VDD_IN 2000000mW/10mW", "VDD_IN"),
        ("VDD_IN " + "9" * 5000 + "mW/1mW", "VDD_IN"),
        ("VDD_IN 5mW/5mW VDD_SOC 1mW/1mW VDD_IN 6mW/5mW", "VDD_IN"),
        ("POM_5V_IN 1388/1 388", "POM_5V_IN"),
        ("RAM 2015/3964", "RAM"),
        ("EMC_FREQ 4 3%@2133", "EMC"),
        ("EMC_FREQ 143%@2133", "EMC"),
        ("gpu@53343C", "gpu"),
        ("gpu@5.3.4C", "gpu"),
        ("gpu@nanC", "gpu"),
    ],
)
def test_what_contradicts_itself_or_is_torn_is_unknown(line: str, gone: str) -> None:
    found = parse(line)

    names = [rail.name for rail in found.rails] + [heat.name for heat in found.temperatures]
    names += [engine.name for engine in found.engines]
    assert gone not in names
    assert found.memory is None
    assert found.unknown


def verbatim(found: Tegrastats) -> list[str]:
    """Return how every value of a line must have stood in it, as patterns of whole words."""
    said = []
    for rail in found.rails:
        most = "" if rail.most_mw is None else rf"/0*{rail.most_mw}mW"
        said.append(
            rf"{re.escape(rail.name)} 0*{rail.now_mw}(?:mW)?/0*{rail.average_mw}(?:mW)?{most}"
        )
    for heat in found.temperatures:
        said.append(rf"{re.escape(heat.name)}@{number(heat.now_c)}C(?:/-?[0-9.]+C)?")
    for engine in found.engines:
        clock = ",".join(f"0*{mhz}" for mhz in engine.mhz)
        busy = "" if engine.percent is None else f"0*{engine.percent}%"
        value = "off" if engine.is_off else rf"{busy}@?\[?{clock}\]?"
        said.append(rf"{engine.name}(?:_FREQ)? {value}")
    if found.memory is not None:
        megabytes = found.memory.used_bytes, found.memory.total_bytes
        said.append(
            r"RAM "
            + "/".join(rf"(?:0*{size >> 20}(?:MB)?|0*{size >> 10}(?:kB)?)" for size in megabytes)
            + r"(?: ?\(.*?\))?"
        )
    return said


def number(value: float) -> str:
    whole, _, rest = f"{abs(value):.6f}".rstrip("0").partition(".")
    return rf"-?0*{whole}\.{rest}0*" if rest else rf"-?0*{whole}(?:\.0*)?"


def mutated(line: str, generator: random.Random) -> str:
    """Break a line as bad cables, other releases and full disks do."""
    alphabet = " 0123456789%@/[],.mWC-NVDI_\tx\0\x7f٣é"
    for _ in range(generator.randint(1, 4)):
        at = generator.randrange(len(line) + 1)
        kind = generator.randrange(8)
        words = line.split(" ")
        if kind == 0:
            line = line[:at] + generator.choice(alphabet) + line[at:]
        elif kind == 1:
            line = line[:at] + line[at + generator.randint(1, 6) :]
        elif kind == 2:
            line = line[:at]
        elif kind == 3:
            line = line[at:]
        elif kind == 4:
            generator.shuffle(words)
            line = " ".join(words)
        elif kind == 5:
            line = " ".join([*words, generator.choice(words)])
        elif kind == 6:
            line = line[:at] + generator.choice(alphabet) + line[at + 1 :]
        else:
            unit, other = generator.choice((("mW", "W"), ("MB", ""), ("%", ""), ("C", "K")))
            line = line.replace(unit, other, generator.randint(1, 3))
        if not line:
            break
    return line


@pytest.mark.parametrize("name", LINES)
def test_a_broken_line_gives_what_stands_in_it_or_nothing(name: str) -> None:
    generator = random.Random(name)
    kept = 0
    for _ in range(600):
        line = mutated(LINES[name], generator)
        found = parse(line)
        kept += len(found.rails)
        for pattern in verbatim(found):
            assert re.search(rf"(?:^|\s){pattern}(?:\s|$)", line), (pattern, line)
        names = [one.name for one in found.rails]
        assert len(set(names)) == len(names)
        assert "NC" not in names
        assert all(0 <= rail.now_mw <= 1_000_000 for rail in found.rails)
    assert kept > 150  # it does not pass by understanding nothing


def test_any_text_at_all_is_read_without_an_error() -> None:
    generator = random.Random(1)
    for _ in range(500):
        text = "".join(generator.choice(" %/0@[m✏\n") for _ in range(40))
        assert parse(text).rails == ()
