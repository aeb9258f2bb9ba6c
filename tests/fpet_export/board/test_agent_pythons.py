"""The agent under every Python that a supported board may have."""

from __future__ import annotations

import ast
import io
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from fpet_export.board.agent import build_agent
from tests.fpet_export.command_line import Done, Exported, call, pixels_of, write_images
from tests.fpet_export.tasks.task_files import TaskFiles
from tests.fpet_export.unpacked import unpack

VERSIONS = ("3.10", "3.12", "3.13")  # of JetPack 6, of JetPack 7, and the newest


def test_every_file_of_the_agent_is_python_3_10() -> None:
    """Syntax, and no import of a module or a name that came later."""
    later = {"tomllib"}
    with zipfile.ZipFile(io.BytesIO(build_agent())) as archive:
        sources = {n: archive.read(n).decode() for n in archive.namelist() if n.endswith(".py")}

    for name, source in sources.items():
        tree = ast.parse(source, name, feature_version=(3, 10))
        imported = {
            alias.name for node in ast.walk(tree) if isinstance(node, ast.Import)
            for alias in node.names
        }  # fmt: skip
        assert not imported & later, name
    assert len(sources) > 80


def interpreter(version: str) -> str | None:
    """Find an interpreter, first among pyenv's, whose stand-ins on the path may not run."""
    found = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    return str(found[0]) if found else shutil.which(f"python{version}")


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_a_board_with_this_python_answers_as_the_workstation(
    version: str, exported: Exported, tmp_path: Path
) -> None:
    """An environment of its own with numpy, ONNX Runtime and Pillow, from the package registry."""
    base = interpreter(version)
    if base is None:
        pytest.skip(f"there is no Python {version}")
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([base, "-m", "venv", str(tmp_path / "venv")], check=True)
    packages = ["numpy", "onnxruntime", "pillow"]
    subprocess.run([str(python), "-m", "pip", "install", "-q", *packages], check=True)
    bundle = tmp_path / "x.bundle.tar"
    assert call("bundle", exported.graph, "-o", bundle).code == 0
    board = unpack(bundle, tmp_path / "board")
    images = write_images(tmp_path / "images", pixels_of(4))

    def agent(*words: object) -> Done:
        done = subprocess.run(
            [str(python), "agent.pyz", *map(str, words)],
            cwd=board, capture_output=True, text=True, check=False,
        )  # fmt: skip
        return Done(done.returncode, done.stdout, done.stderr)

    healthy = agent("doctor", "--json")
    built, checked = agent("build"), agent("check", "--json")
    measured = agent("bench", "--rounds", 3, "--seconds", 0.1, "--allow-noise", "--json")
    predicted = agent("predict", *images, "--json")
    here = call("predict", exported.graph, *images, "--json")

    assert healthy.code == 0, healthy.err
    assert healthy.document()["bundle"]["fits"] is True
    assert built.code == 0, built.err
    assert checked.code == 0, checked.err
    assert checked.document()["parity"]["rows"][0]["failures"] == []
    assert measured.code == 0, measured.err
    assert [one["classes"][0]["class"] for one in predicted.document()["predictions"]] == [
        one["classes"][0]["class"] for one in here.document()["predictions"]
    ]
    for words in (("targets",), ("--help",), ("verify", bundle)):
        assert agent(*words).code == 0

    tasks = TaskFiles(tmp_path / "tasks")
    many = tmp_path / "many.bundle.tar"
    assert call("bundle", tasks.out, "-o", many).code == 0
    board = unpack(many, tmp_path / "many")
    healthy, built, checked = agent("doctor", "--json"), agent("build"), agent("check", "--json")
    measured = agent("bench", "--rounds", 3, "--seconds", 0.1, "--allow-noise", "--json")
    predicted = agent("predict", "--task", "two", *images, "--json")
    here = call("predict", tasks.out, "--task", "two", *images, "--json")

    assert healthy.document()["bundle"]["fits"] is True
    assert built.code == 0, built.err
    assert [row["failures"] for row in checked.document()["parity"]["rows"]] == [[], []]
    assert measured.code == 0, measured.err
    assert [one["classes"][0]["class"] for one in predicted.document()["predictions"]] == [
        one["classes"][0]["class"] for one in here.document()["predictions"]
    ]
