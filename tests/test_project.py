"""The project as a whole: what the wheel holds, who may import whom, and what no file says."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from engines import registry
from fpet_export.cli import verbs

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {"fpet_export", "calibration", "engines", "benchmarks"}
CONTRACT = {
    "inspect", "export", "build", "compare", "bench", "predict", "show", "targets", "doctor",
    "deploy",
}  # fmt: skip


def tracked() -> list[Path]:
    """The files of the repository; without git, every file that is not hidden."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode == 0:
        return [
            path for name in done.stdout.split("\0") if name and (path := ROOT / name).is_file()
        ]
    return [p for p in ROOT.rglob("*") if p.is_file() and not p.relative_to(ROOT).match(".*/*")]


def test_every_verb_of_the_contract_exists() -> None:
    assert set(registry.available(verbs)) >= CONTRACT


def test_the_wheel_holds_exactly_the_four_packages(tmp_path: Path) -> None:
    if importlib.util.find_spec("hatchling") is None:
        text = (ROOT / "pyproject.toml").read_text()
        listed = re.search(r"hatch\.build\.targets\.wheel\]\s*packages = \[([^\]]*)\]", text)
        assert listed is not None
        assert set(re.findall(r'"(\w+)"', listed[1])) == PACKAGES
        return
    program = (
        "import os, sys; from hatchling.build import build_wheel; "
        "os.chdir(sys.argv[1]); print(build_wheel(sys.argv[2]))"
    )

    subprocess.run([sys.executable, "-c", program, ROOT, tmp_path], check=True, capture_output=True)

    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == PACKAGES
    for package in PACKAGES:
        assert f"{package}/py.typed" in names
    assert {"benchmarks/report/report.css", "benchmarks/report/report.html.jinja"} <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if name.startswith("benchmarks/experiments")]
    assert not [name for name in names if name.endswith((".pth", ".bin", ".safetensors", ".npz"))]


def test_every_python_file_of_the_packages_is_in_a_package() -> None:
    for package in PACKAGES:
        for file in (ROOT / package).rglob("*.py"):
            assert (file.parent / "__init__.py").exists(), file


def test_imports_point_one_way() -> None:
    command = Path(sys.executable).with_name("lint-imports")
    if not command.exists():
        pytest.skip("needs import-linter")

    done = subprocess.run(
        [command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=300
    )

    assert done.returncode == 0, done.stdout
    assert "7 kept, 0 broken" in done.stdout


# Written in pieces, so that this file does not find itself.
MACHINE = [
    "/" + "work/", "/home" + "/", "/ro" + "ot/", "/tmp" + "/", "/Use" + "rs/",
    "files.pythonhosted" + ".org", "pypi" + ".org/simple", "index" + "-url", "artifact" + "ory",
    "local" + "host:", "127.0." + "0.1",
]  # fmt: skip


def test_no_file_mentions_a_machine() -> None:
    """Paths of somebody's machine and hosts of a registry have no place in a repository."""
    found = []
    for path in tracked():
        content = path.read_bytes()
        if b"\0" in content[:4096]:
            continue
        text = content.decode("utf-8", "replace")
        found += [f"{path.relative_to(ROOT)}: {word}" for word in MACHINE if word in text]

    assert found == []


def test_the_version_is_stated_once_for_all() -> None:
    from fpet_export import __version__

    assert f'version = "{__version__}"' in (ROOT / "pyproject.toml").read_text()
