"""Another project's package in the place of ours ends in a sentence, and none of its code runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fpet_export import provenance

HOME = Path(provenance.__file__).resolve().parents[1]


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the command with a folder in front of the others that Python looks into."""
    return subprocess.run(
        [sys.executable, "-c", "from fpet_export.cli.start import run; run()", *words],
        capture_output=True,
        text=True,
        cwd=os.sep,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(HOME)])},
    )


def write_package(folder: Path, name: str, *, is_module: bool) -> Path:
    """Write a package, or a module, whose import would leave a trace."""
    path = folder / f"{name}.py" if is_module else folder / name / "__init__.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"import pathlib\npathlib.Path({str(folder / 'ran')!r}).touch()\n")
    return path


@pytest.mark.parametrize("is_module", [False, True])
@pytest.mark.parametrize("name", provenance.OURS)
def test_a_foreign_package_is_refused_before_it_runs(
    name: str, is_module: bool, tmp_path: Path
) -> None:
    write_package(tmp_path, name, is_module=is_module)
    done = run(tmp_path, "targets")
    assert done.returncode == 4, done.stderr
    assert f"{name!r} of another project" in done.stderr
    assert "env -u PYTHONPATH fpet-export targets" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "ran").exists()


def test_a_foreign_package_is_an_error_in_json_too(tmp_path: Path) -> None:
    write_package(tmp_path, "engines", is_module=False)
    done = run(tmp_path, "targets", "--json")
    error = json.loads(done.stdout)["error"]
    assert (done.returncode, error["exit_code"]) == (4, 4)
    assert error["where"] == str(tmp_path)


def test_our_own_packages_are_ours(tmp_path: Path) -> None:
    """The control: with a folder that hides nothing the command runs."""
    done = run(tmp_path, "targets", "--json")
    assert done.returncode == 0, done.stderr
    assert provenance.foreign_package() is None


def test_the_python_interface_refuses_it_as_an_import(tmp_path: Path) -> None:
    write_package(tmp_path, "engines", is_module=False)
    program = "import fpet_export; fpet_export.load('x')"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=os.sep,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(HOME)])},
    )
    assert "ImportError: Python finds 'engines' of another project" in done.stderr
    assert not (tmp_path / "ran").exists()
