"""`doctor`: what is there, what is missing, and what mends it."""

from __future__ import annotations

import dataclasses
import json
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

from benchmarks.conditions.environment import read_environment
from engines.machine import jetson as boards
from engines.machine import processor, sources
from engines.machine.jetson import JetsonIdentity
from engines.machine.snapshot import take_snapshot
from engines.targets import _lookup
from fpet_export.board.agent import build_agent
from fpet_export.cli.console import Console
from fpet_export.doctor import board_checks, energy_checks, providers, workstation
from fpet_export.doctor.findings import Findings
from fpet_export.reporter import Recorder
from tests.benchmarks.energy import trees
from tests.fake_board import FakeBoard
from tests.fpet_export.command_line import Done, Exported, call


def test_what_is_installed_is_named_with_its_version() -> None:
    done = call("doctor", "--json")

    document = done.document()
    assert done.code == 0
    assert document["packages"]["numpy"] == metadata.version("numpy")
    assert document["lacking"] == []
    assert document["machine"]["cores"] >= 1
    assert document["machine"]["memory_gb"] > 0
    assert call("doctor").out == "ready\n"


def test_a_missing_package_is_named_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    version = workstation._version
    monkeypatch.setattr(
        workstation,
        "_version",
        lambda module, name: None if module == "onnx" else version(module, name),
    )

    done = call("doctor")

    assert done.code == 4
    assert done.out == "lacking onnx\n"
    assert "✗ onnx" in done.err
    assert "pip install 'fpet-export[export]'" in done.err


def test_a_missing_extra_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    version = workstation._version
    monkeypatch.setattr(
        workstation,
        "_version",
        lambda module, name: None if module == "jinja2" else version(module, name),
    )

    done = call("doctor")

    assert done.code == 0
    assert "! jinja2" in done.err
    assert "pip install 'fpet-export[report]'" in done.err


def with_onnxruntime(monkeypatch: pytest.MonkeyPatch, program: str, *packages: str) -> None:
    """Let these packages be installed, and let the question to the providers be this program."""
    monkeypatch.setattr(providers, "_PROGRAM", program)
    monkeypatch.setattr(providers, "installed", lambda: dict.fromkeys(packages, "1.31.1"))


def test_gpu_providers_that_do_not_start_are_named_with_what_they_lack(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = {"cuda": None, "tensorrt": ["no libnvinfer.so.10", "pip install 'tensorrt==10.*'"]}
    with_onnxruntime(monkeypatch, f"print({json.dumps(answers)!r})", "onnxruntime-gpu")
    done = call("doctor")
    assert done.code == 0
    assert "1.31.1 (onnxruntime-gpu)" in done.err
    assert re.search("✓ provider cuda +starts, in ONNX Runtime", done.err)
    assert "no libnvinfer.so.10: pip install 'tensorrt==10.*'" in done.err
    assert call("doctor", "--json").document()["providers"] == answers


def test_a_provider_that_crashes_does_not_take_doctor_along(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with_onnxruntime(monkeypatch, "import os; os.abort()", "onnxruntime-gpu")
    done = call("doctor")
    assert done.code == 0
    assert "unknown: ONNX Runtime crashed when it was asked" in done.err


def test_the_real_question_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the package that is installed here: it has the providers, or it says that it has not."""
    with_onnxruntime(monkeypatch, providers._PROGRAM, "onnxruntime-gpu")
    answers = call("doctor", "--json").document()["providers"]
    assert set(answers) == {"cuda", "tensorrt"}
    assert all(answer is None or "ONNX Runtime" in answer[0] for answer in answers.values())


def test_two_packages_of_onnxruntime_are_in_each_others_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with_onnxruntime(monkeypatch, "", "onnxruntime", "onnxruntime-gpu")
    done = call("doctor")
    assert done.code == 4
    assert "overwritten files of the other: " in done.err
    assert "-m pip uninstall -y onnxruntime onnxruntime-gpu && " in done.err


def test_what_ssh_needs_is_named_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fpet_export.doctor.findings.shutil.which", lambda name: None)

    done = call("doctor", "--json")

    assert done.code == 0
    assert done.document()["ssh"] == {"ssh": False, "ssh-keygen": False}
    assert done.err.count("sudo apt-get install openssh-client") == 2


# A board


class Jetson(FakeBoard):
    """A fake board, and what Python packages it has."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(folder)
        self.versions: dict[str, str] = {
            "numpy": "1.26.4", "tensorrt": "10.3.0", "PIL": "9.0.1",
        }  # fmt: skip
        self.use(monkeypatch)
        monkeypatch.setattr(board_checks, "_imported", self.imported)
        read = boards.read_board
        monkeypatch.setattr(boards, "read_board", lambda modules, _=None: read(modules, self.root))

    def imported(self, module: str) -> tuple[str | None, str]:
        version = self.versions.get(module)
        return version, "" if version else "absent"


@pytest.fixture
def jetson(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Jetson:
    return Jetson(tmp_path, monkeypatch)


def test_a_board_says_what_it_is_and_how_it_is_set(jetson: Jetson) -> None:
    done = call("doctor", "--json")

    document = done.document()
    assert done.code == 0, done.err
    assert document["board"]["target"] == "jetson-orin-nano-8gb@jp6.2"
    assert document["board"]["l4t"] == "36.4.3"
    assert document["power_mode"] == "25W"
    assert document["power_modes"] == ["15W", "25W", "MAXN_SUPER", "7W"]
    assert document["clocks"]["held"] is False
    assert document["swap"][0]["name"] == "/dev/zram0"
    assert document["gpu_users"] is None
    assert "torch" not in done.err
    assert "p3767-0005" in done.err
    assert "25W, the fastest is MAXN_SUPER: sudo nvpmodel -m 2" in done.err
    assert "between 306 and 918 MHz" in done.err
    assert document["temperatures"] == {"cpu-thermal": 51.5, "tj-thermal": 52.0}
    assert "52 °C (tj-thermal), nothing slows it down" in done.err
    assert "sudo jetson_clocks" in done.err
    assert "only root may read" in done.err
    assert "0.7 GB in memory (zram)" in done.err
    assert "a Jetson's driver keeps no list" in done.err


def test_a_board_that_is_ready_to_measure_has_no_gap(jetson: Jetson) -> None:
    jetson.mode("MAXN_SUPER")
    jetson.clocks(1_020_000_000, 1_020_000_000)

    done = call("doctor", "--json")

    document = done.document()
    assert {one["name"] for one in document["problems"]} <= {"load", "ssh-keygen", "onnxruntime"}
    assert document["clocks"]["held"] is True
    assert "held, the GPU at 1020 MHz" in done.err
    assert "MAXN_SUPER, the fastest" in done.err


def test_what_slows_a_board_down_is_a_gap(jetson: Jetson) -> None:
    jetson.write("sys/class/thermal/cooling_device1/cur_state", "1\n")

    done = call("doctor", "--json")

    (problem,) = (one for one in done.document()["problems"] if one["name"] == "heat")
    assert "slowed down by gpu-throttle-alert" in problem["what"]
    assert done.document()["slowed_by"] == ["gpu-throttle-alert"]  # the fan is no brake


def test_what_a_board_does_not_tell_is_unknown(jetson: Jetson) -> None:
    jetson.silent()
    jetson.write("proc/device-tree/compatible", "nvidia,p9999-0000\0nvidia,tegra234\0")
    jetson.write("etc/nv_tegra_release", "# R99 (release), REVISION: 1.0\n")
    (jetson.root / "sys/class/devfreq/17000000.gpu/min_freq").unlink()
    (jetson.root / "proc/swaps").unlink()

    done = call("doctor", "--json")

    document = done.document()
    assert document["board"]["target"] is None
    assert document["power_mode"] is None
    assert document["clocks"]["held"] is None
    assert "swap" not in document
    for name in ("jetpack", "target", "power mode", "clocks", "swap", "gpu users"):
        assert f" ! {name:<10} unknown: " in done.err


def test_a_release_that_nothing_is_built_for_stops(jetson: Jetson) -> None:
    jetson.write("etc/nv_tegra_release", "# R35 (release), REVISION: 4.1\n")

    done = call("doctor", "--json")

    assert done.code == 4
    assert done.document()["lacking"] == ["target"]
    assert "update JetPack" in done.err


def test_an_old_jetpack_is_told_of_a_module_that_is_not_known(jetson: Jetson) -> None:
    jetson.write("proc/device-tree/compatible", "nvidia,p3668-0001\0nvidia,tegra194\0")
    jetson.write("etc/nv_tegra_release", "# R35 (release), REVISION: 4.1\n")

    done = call("doctor", "--json")

    assert done.code == 4
    words = "JetPack 5.1.2 has TensorRT 8.5: JetPack 6.1 or later (TensorRT 10.3) is needed"
    assert words in done.err


def test_an_installed_tensorrt_8_is_told(jetson: Jetson) -> None:
    jetson.versions["tensorrt"] = "8.6.2"

    done = call("doctor", "--json")

    problems = [one["what"] for one in done.document()["problems"] if one["name"] == "tensorrt"]
    assert "JetPack 6.1 or later (TensorRT 10.3) is needed" in problems[0]


def test_a_tensorrt_of_another_release_is_named(jetson: Jetson) -> None:
    jetson.versions["tensorrt"] = "10.16.2"

    done = call("doctor", "--json")

    (problem,) = (one for one in done.document()["problems"] if one["name"] == "tensorrt")
    assert "installed is 10.16.2" in problem["what"]
    assert "@jp7.2" in problem["fix"]


@pytest.mark.parametrize(
    ("absent", "lacking", "fix"),
    [
        ("numpy", ["numpy"], "sudo apt-get install python3-numpy"),
        ("tensorrt", ["tensorrt"], "sudo apt-get install python3-libnvinfer"),
        ("PIL", [], "sudo apt-get install python3-pil"),
    ],
)
def test_what_a_board_misses_has_one_command(
    absent: str, lacking: list[str], fix: str, jetson: Jetson
) -> None:
    del jetson.versions[absent]

    done = call("doctor", "--json")

    assert done.document()["lacking"] == lacking
    assert done.code == (4 if lacking else 0)
    (problem,) = (one for one in done.document()["problems"] if one["name"] == absent)
    assert problem["fix"] == fix
    assert (fix in done.err.rpartition("next")[2]) is bool(lacking)


def test_onnxruntime_is_a_runtime_too(jetson: Jetson) -> None:
    del jetson.versions["tensorrt"]
    jetson.versions["onnxruntime"] = "1.23.2"

    done = call("doctor", "--json")

    assert done.code == 0
    assert "! tensorrt" in done.err


def test_a_tensorrt_that_only_the_system_sees_is_found(jetson: Jetson) -> None:
    """The usual trap: a virtual environment hides what JetPack installed."""
    del jetson.versions["tensorrt"]
    jetson.write("usr/lib/python3.10/dist-packages/tensorrt/__init__.py", "")

    done = call("doctor", "--json")

    (problem,) = (one for one in done.document()["problems"] if one["name"] == "tensorrt")
    assert "does not see it" in problem["what"]
    assert problem["fix"] == "run the system's Python: /usr/bin/python3"


def test_a_package_that_crashes_does_not_take_doctor_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in (("dies", "import os; os.abort()"), ("broken", "import no_such_thing")):
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)

    assert board_checks._imported("dies") == (None, "cannot be imported (it ended with -6)")
    assert "no_such_thing" in board_checks._imported("broken")[1]
    assert board_checks._imported("not_there") == (None, "absent")
    assert board_checks._imported("numpy") == (metadata.version("numpy"), "")


def test_a_small_board_without_swap_is_warned(jetson: Jetson) -> None:
    jetson.write("proc/swaps", "Filename Type Size Used Priority\n")
    board = boards.read_board(_lookup.modules())
    assert isinstance(board, JetsonIdentity)
    place = dataclasses.replace(
        read_environment(), memory_bytes=8 << 30, container_memory_bytes=None
    )
    findings = Findings(Console(quiet=True))

    board_checks.check_memory(findings, place, board, take_snapshot())

    assert [one["name"] for one in findings.problems] == ["swap"]
    assert "swapon /swapfile" in findings.problems[0]["fix"]


# A bundle on a board


def unpacked(graph: Path, target: str, folder: Path) -> Path:
    out = folder / "x.bundle.tar"
    done = call("bundle", graph, "--target", target, "--limit", "1", "-o", out)
    assert done.code == 0, done.err
    assert call("verify", out, "--unpack", folder / "bundle").code == 0
    return folder / "bundle"


@pytest.fixture
def graph(exported: Exported, tmp_path: Path) -> Path:
    """The run, exported for the board."""
    out = tmp_path / "out"
    done = call("export", *exported.words, "--target", "jetson-orin-nano-8gb@jp6.2", "-o", out)
    assert done.code == 0, done.err
    return out / "model.onnx"


def test_a_bundle_fits_its_board(graph: Path, jetson: Jetson, tmp_path: Path) -> None:
    folder = unpacked(graph, "jetson-orin-nano-8gb@jp6.2", tmp_path)

    done = call("doctor", "--bundle", folder, "--json")

    assert done.code == 0, done.err
    assert done.document()["bundle"] == {
        "target": "jetson-orin-nano-8gb@jp6.2",
        "artefact": "model.onnx",
        "kind": "graph",
        "precision": "fp32",
        "tasks": [],
        "fits": True,
    }
    assert "suits this machine, as jetson-orin-nano-8gb@jp6.2" in done.err


def test_a_graph_for_another_board_is_built_for_this_one(
    graph: Path, jetson: Jetson, tmp_path: Path
) -> None:
    folder = unpacked(graph, "jetson-agx-orin-64gb@jp6.2", tmp_path)

    done = call("doctor", "--bundle", folder, "--json")

    assert done.code == 0
    assert done.document()["bundle"]["fits"] is True
    assert "this is jetson-orin-nano-8gb@jp6.2, which takes its graph too" in done.err
    assert "python3 agent.pyz build --target jetson-orin-nano-8gb@jp6.2" in done.err


def test_a_bundle_for_another_board_says_that_this_one_is_too_old(
    graph: Path, jetson: Jetson, tmp_path: Path
) -> None:
    folder = unpacked(graph, "jetson-agx-orin-64gb@jp6.2", tmp_path)
    jetson.write("etc/nv_tegra_release", "# R36 (release), REVISION: 3.0\n")  # JetPack 6.0

    done = call("doctor", "--bundle", folder, "--json")

    assert done.code == 4
    assert done.document()["bundle"]["fits"] is False
    fits = next(one for one in done.document()["problems"] if one["name"] == "fits")
    assert fits["what"].endswith("JetPack 6.1 or later (TensorRT 10.3) is needed")
    assert fits["fix"] == "update JetPack"


def test_a_graph_that_this_board_cannot_read_is_exported_again(
    exported: Exported, jetson: Jetson, tmp_path: Path
) -> None:
    target, out = "jetson-thor-t5000@jp7.2", tmp_path / "newer"
    words = ("--target", target, "--opset", "22", "-o", out)
    assert call("export", *exported.words, *words).code == 0
    folder = unpacked(out / "model.onnx", target, tmp_path)

    done = call("doctor", "--bundle", folder, "--json")

    assert done.code == 4
    assert done.document()["bundle"]["fits"] is False
    assert "--target jetson-orin-nano-8gb@jp6.2 -o " in done.err


def test_a_board_s_bundle_is_not_for_a_workstation(graph: Path, tmp_path: Path) -> None:
    folder = unpacked(graph, "jetson-orin-nano-8gb@jp6.2", tmp_path)

    done = call("doctor", "--bundle", folder, "--json")

    assert done.code == 4
    assert {"tensorrt", "fits"} <= set(done.document()["lacking"])
    assert "this is not a Jetson: copy it to that board" in done.err
    assert " next " not in done.err  # nothing that is typed here helps
    assert "rtx plans" not in done.err
    readme = (folder / "README.txt").read_text("utf-8").splitlines()
    assert max(map(len, readme)) <= 80


def test_another_tensorrt_than_the_bundle_is_for_is_refused(
    graph: Path, jetson: Jetson, tmp_path: Path
) -> None:
    folder = unpacked(graph, "jetson-orin-nano-8gb@jp6.2", tmp_path)
    jetson.versions["tensorrt"] = "10.16.2"

    done = call("doctor", "--bundle", folder, "--json")

    assert done.code == 2
    assert done.document()["bundle"]["fits"] is False
    assert "installed is 10.16.2" in done.err


@pytest.mark.parametrize(("machine", "proposed"), [("x86_64", True), ("aarch64", False)])
def test_tensorrt_rtx_is_proposed_where_it_exists(
    machine: str, proposed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(board_checks, "_imported", lambda module: (None, "absent"))

    done = call("doctor", "--board")

    assert ("tensorrt-rtx-cu13" in done.err) is proposed
    assert ("rtx plans can be built" in done.err) is proposed


def test_an_engine_of_another_cpu_is_refused(
    exported: Exported, engine: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = unpacked(engine, "cpu", tmp_path)
    fits = call("doctor", "--bundle", folder, "--json")
    monkeypatch.setattr(processor, "instruction_sets", lambda *_: ("asimd",))

    done = call("doctor", "--bundle", folder, "--json")

    assert fits.document()["bundle"]["fits"] is True
    assert done.code == 2
    assert done.document()["bundle"]["fits"] is False
    assert "the engine was built for another CPU: this one lacks" in done.err
    assert "adds asimd" in done.err


def test_a_board_without_a_name_leaves_the_answer_open(
    graph: Path, jetson: Jetson, tmp_path: Path
) -> None:
    folder = unpacked(graph, "jetson-orin-nano-8gb@jp6.2", tmp_path)
    jetson.write("proc/device-tree/compatible", "nvidia,p9999-0000\0nvidia,tegra234\0")

    done = call("doctor", "--bundle", folder, "--json")

    assert done.code == 0
    assert done.document()["bundle"]["fits"] is None


def test_a_damaged_bundle_is_refused(graph: Path, jetson: Jetson, tmp_path: Path) -> None:
    folder = unpacked(graph, "jetson-orin-nano-8gb@jp6.2", tmp_path)
    content = bytearray((folder / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "model.onnx").write_bytes(content)

    done = call("doctor", "--bundle", folder, "--json")

    assert done.code == 10
    assert done.document()["bundle"] == {"fits": False}
    assert done.document()["board"]["target"] == "jetson-orin-nano-8gb@jp6.2"


def test_a_folder_without_a_bundle_is_refused(jetson: Jetson, tmp_path: Path) -> None:
    assert call("doctor", "--bundle", tmp_path).code == 3


def test_an_engine_of_another_version_is_refused(
    exported: Exported, engine: Path, jetson: Jetson, tmp_path: Path
) -> None:
    folder = unpacked(engine, "cpu", tmp_path)
    fitting = metadata.version("onnxruntime")

    jetson.versions["onnxruntime"] = fitting
    assert call("doctor", "--bundle", folder).code == 0
    jetson.versions["onnxruntime"] = "1.0.0"
    done = call("doctor", "--bundle", folder, "--json")

    assert done.code == 2
    assert f"onnxruntime {fitting}, installed is 1.0.0" in done.err


def test_too_little_memory_to_build_is_a_warning(
    graph: Path, jetson: Jetson, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = unpacked(graph, "jetson-orin-nano-8gb@jp6.2", tmp_path)
    place = dataclasses.replace(read_environment(), available_bytes=1 << 30)
    monkeypatch.setattr("benchmarks.conditions.environment.read_environment", lambda: place)

    done = call("doctor", "--bundle", folder, "--json")

    assert done.code == 0
    assert "1.1 GB free, a build may take 2.1 GB" in done.err
    assert "sudo systemctl isolate multi-user.target" in done.err


# The agent, in a Python that has little else


def python_with(folder: Path, *distributions: str) -> Path:
    """Return a Python that sees only these packages of ours."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (site,) = folder.glob("lib/python3*/site-packages")
    for name in distributions:
        for part in {
            path.parts[0] for path in metadata.files(name) or () if ".." not in path.parts
        }:
            source = Path(str(metadata.distribution(name).locate_file(part)))
            (site / part).symlink_to(source)
    return folder / "bin/python"


def ask_agent(python: Path, folder: Path, *words: str) -> Done:
    done = subprocess.run(
        [python, "agent.pyz", *words], cwd=folder, capture_output=True, text=True, check=False
    )
    return Done(done.returncode, done.stdout, done.stderr)


def test_the_agent_s_doctor_asks_for_no_torch(exported: Exported, tmp_path: Path) -> None:
    folder = unpacked(exported.graph, "cpu", tmp_path)
    python = python_with(tmp_path / "venv", "numpy", "onnxruntime", "flatbuffers", "protobuf")

    done = ask_agent(python, folder, "doctor", "--json")

    document = done.document()
    assert done.code == 0, done.err
    assert document["lacking"] == []
    assert document["packages"]["onnxruntime"] == metadata.version("onnxruntime")
    assert "tensorrt" not in document["packages"]  # nothing to this bundle
    assert document["bundle"]["fits"] is True
    assert "torch" not in done.err
    assert "python3 agent.pyz build" in done.err.rpartition("next")[2]


def test_the_agent_s_doctor_misses_the_runtime(exported: Exported, tmp_path: Path) -> None:
    folder = unpacked(exported.graph, "cpu", tmp_path)
    python = python_with(tmp_path / "venv", "numpy")

    done = ask_agent(python, folder, "doctor", "--json")

    assert done.code == 4
    assert done.document()["lacking"] == ["onnxruntime"]
    assert "python3 -m pip install onnxruntime" in done.err.rpartition("next")[2]


def test_the_agent_s_doctor_needs_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "agent.pyz").write_bytes(build_agent())
    python = python_with(tmp_path / "venv", "numpy")

    done = ask_agent(python, tmp_path, "doctor", "--json")

    assert done.document()["lacking"] == ["onnxruntime"]
    assert "bundle" not in done.document()


def test_the_agent_without_numpy_names_the_command(tmp_path: Path) -> None:
    (tmp_path / "agent.pyz").write_bytes(build_agent())
    python = python_with(tmp_path / "venv")

    done = ask_agent(python, tmp_path, "doctor")

    assert done.code == 4
    assert "the agent needs numpy: No module named 'numpy'" in done.err
    assert "sudo apt-get install python3-numpy" in done.err

    as_json = ask_agent(python, tmp_path, "doctor", "--json")
    assert as_json.code == 4
    assert as_json.error()["what"] == "the agent needs numpy: No module named 'numpy'"


@pytest.mark.parametrize(
    ("tree", "words", "sources_found"),
    [
        (
            trees.orin_nano,
            "of work on the GPU and the CPU: INA sensors, the whole module (total = VDD_IN)",
            ("INA sensors", "INA sensors"),
        ),
        (trees.server, "of work on the CPU: RAPL, the processor and its memory", (None, "RAPL")),
        (lambda root: root, "of work on the GPU and the CPU is not measured here", (None, None)),
    ],
)
def test_energy_can_be_measured_or_not_and_it_says_with_what(
    tree: Callable[[Path], Path],
    words: str,
    sources_found: tuple[str | None, str | None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sources, "ROOT", tree(tmp_path))
    monkeypatch.setattr(sources, "_SBIN", ())
    monkeypatch.setenv("PATH", "/nonexistent")
    recorder = Recorder()
    findings = Findings(recorder)

    energy_checks.check_energy(findings)

    said = " ".join(step.text for step in recorder.steps)
    assert words in said
    told = findings.document["energy"]
    assert tuple(told[one] and told[one]["source"] for one in ("gpu", "cpu")) == sources_found
    assert findings.exit_code == 0


def test_asking_for_packages_writes_nothing_into_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime begins a data base of its use there, unless it is told not to."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    version, _ = board_checks._imported("onnxruntime")

    assert version is not None
    assert list(tmp_path.rglob("*")) == []
