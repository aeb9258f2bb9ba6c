"""The agent's sources for Python 3.8: each construct means the same, and 3.8 itself runs them."""

# ruff: noqa: UP006, UP007, UP045 - the old spellings are what is tested

from __future__ import annotations

import ast
import io
import shutil
import subprocess
import sys
import typing
import zipfile
from pathlib import Path
from typing import Any

import pytest

from fpet_export import _python38
from fpet_export.agent import build_agent
from fpet_export.downlevel import downlevel
from tests.fpet_export.command_line import Done, Exported, call, pixels_of, write_images
from tests.fpet_export.task_files import TaskFiles
from tests.fpet_export.unpacked import unpack

VERSIONS = ("3.8", "3.10", "3.12", "3.13")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from collections.abc import Mapping\nx = Mapping[str, int]", typing.Mapping[str, int]),
        ("x = tuple[int, ...]", typing.Tuple[int, ...]),
        ("x = {'a': 1} | {'b': 2, 'a': 3}", {"a": 3, "b": 2}),
        ("x = {1} | {2}", {1, 2}),
        ("x = 4 | 1", 5),
        ("x = {'a': 1}\nx |= {'b': 2}", {"a": 1, "b": 2}),
        ("y = {'z': {'a': 1}}\ny['z'] |= {'b': 2}\nx = y['z']", {"a": 1, "b": 2}),
        ("x = [isinstance(v, int | str) for v in (1, 'a', 1.5)]", [True, True, False]),
        ("x = list(zip([1, 2], [3, 4], strict=True))", [(1, 3), (2, 4)]),
        ("x = list(zip([1, 2], [3], strict=False))", [(1, 3)]),
        ("x = 'tensor(a)'.removeprefix('tensor(').removesuffix(')')", "a"),
        ("x = 'abc'.removesuffix('')", "abc"),
        ("import functools\n@functools.cache\ndef f(): return []\nx = f() is f()", True),
        ("import numpy as np\nx = np.dtype[int] is np.dtype", True),
        ("from __future__ import annotations\nx = 1", 1),
        ("'''Text.'''\nfrom __future__ import annotations\nx = __doc__", "Text."),
    ],
)  # fmt: skip
def test_it_means_the_same(source: str, expected: object) -> None:
    rewritten = downlevel(source)
    names: dict[str, Any] = {}

    ast.parse(rewritten, feature_version=(3, 8))
    exec(compile(rewritten, "module", "exec"), names)

    assert names["x"] == expected


def test_annotations_can_be_evaluated() -> None:
    source = (
        "from __future__ import annotations\nimport dataclasses\n"
        "@dataclasses.dataclass(frozen=True, kw_only=True)\n"
        "class A:\n  a: int | None = None\n  b: tuple[int | str, ...]\n  c: dict[str, int]\n"
    )
    names: dict[str, Any] = {"__name__": "module"}

    exec(downlevel(source), names)
    hints = typing.get_type_hints(names["A"], names)

    assert hints == {
        "a": typing.Optional[int],
        "b": typing.Tuple[typing.Union[int, str], ...],
        "c": typing.Dict[str, int],
    }


def test_fields_come_in_any_order_before_python_3_10(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 8, 18))

    @_python38.dataclass(frozen=True, kw_only=True)
    class Facts:
        kind: typing.ClassVar[str] = "facts"
        name: str = "x"
        size: int

    made: Any = Facts
    assert (made(size=3).name, made(size=3).size, made(size=3)) == ("x", 3, made(size=3))
    with pytest.raises(TypeError, match="Facts needs size"):
        made(name="y")
    with pytest.raises(TypeError):
        made("y", 3)


@pytest.mark.parametrize("lengths", [(2, 3), (3, 2), (0, 1)])
def test_a_strict_zip_refuses_other_lengths(lengths: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="differ in length"):
        list(_python38.zip_strict(*map(range, lengths), strict=True))


def test_every_file_of_the_agent_is_python_3_8() -> None:
    """Syntax, and no import of a module or a name that came later."""
    later = {"tomllib", "zoneinfo", "graphlib"}
    with zipfile.ZipFile(io.BytesIO(build_agent())) as archive:
        sources = {n: archive.read(n).decode() for n in archive.namelist() if n.endswith(".py")}

    for name, source in sources.items():
        tree = ast.parse(source, name, feature_version=(3, 8))
        imported = {
            alias.name for node in ast.walk(tree) if isinstance(node, ast.Import)
            for alias in node.names
        }  # fmt: skip
        assert not imported & later, name
    assert len(sources) > 80


# The interpreters themselves


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
