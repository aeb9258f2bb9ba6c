"""`bench --remote a,b`: boards side by side, through a real ssh to two homes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.measurement_file import read_measurement
from tests.fpet_export.board.ssh_server import Server, needs_sshd, start_quick
from tests.fpet_export.command_line import Exported, call

pytestmark = needs_sshd
SHORT = ("--rounds", 3, "--seconds", 0.1, "--allow-noise")


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Server]]:
    first = start_quick(tmp_path_factory.mktemp("first"))
    second = start_quick(tmp_path_factory.mktemp("second"))
    yield next(first), next(second)
    for each in (first, second):
        assert next(each, None) is None


@pytest.fixture(scope="module")
def config(servers: tuple[Server, Server], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration of ssh with two boards and one that does not answer."""
    path = tmp_path_factory.mktemp("ssh") / "config"
    texts = [server.config().read_text() for server in servers]
    renamed = [text.replace("Host board", f"Host {name}") for text, name in zip(
        texts, ("orin1", "orin2"), strict=True
    )]  # fmt: skip
    gone = texts[0].replace("Host board", "Host gone").replace(f"Port {servers[0].port}", "Port 1")
    path.write_text("".join([*renamed, gone]))
    return path


def test_every_board_has_its_measurement(
    exported: Exported, servers: tuple[Server, Server], config: Path, tmp_path: Path
) -> None:
    out, page = tmp_path / "boards", tmp_path / "boards.html"

    done = call(
        "bench", exported.graph, "--against", "plain", "--remote", "orin1,orin2",
        "--ssh-config", config, *SHORT, "-o", out, "--html", page, "--json",
    )  # fmt: skip

    assert done.code == 0, done.err
    document = done.document()
    assert document["kind"] == "boards"
    assert sorted(document["boards"]) == ["orin1", "orin2"]
    assert sorted(path.name for path in out.iterdir()) == [
        "orin1.latency.json", "orin2.latency.json",
    ]  # fmt: skip
    for name in ("orin1", "orin2"):
        read_measurement(out / f"{name}.latency.json")
        assert document["boards"][name] == json.loads((out / f"{name}.latency.json").read_text())
        assert document["boards"][name]["baseline"] == "plain.cpu"
        assert f"== {name}" in done.err
    assert "model.cpu" in page.read_text()
    assert all(not list(server.home.iterdir()) for server in servers)


def test_a_board_that_fails_keeps_no_other_from_its_result(
    exported: Exported, config: Path, tmp_path: Path
) -> None:
    out = tmp_path / "boards"

    done = call(
        "bench", exported.graph, "--remote", "gone,orin1", "--ssh-config", config, *SHORT, "-o", out
    )

    assert done.code == 11, done.err
    assert "gone" in done.err
    assert [path.name for path in out.iterdir()] == ["orin1.latency.json"]


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("--remote", "a,a"), "each machine once"),
        (("--remote", "a,,b"), "each machine once"),
        (("--remote", "a,b", "-o", "one.json"), "names one file"),
        (("--remote", "a/b,a:b", "-o", "DIR"), "two machines would have one file"),
    ],
)
def test_what_makes_no_sense_is_refused_before_any_journey(
    exported: Exported, tmp_path: Path, words: tuple[str, ...], what: str
) -> None:
    given = [str(tmp_path / "boards") if word == "DIR" else word for word in words]
    done = call("bench", exported.graph, *given)
    assert done.code == 2, done.err
    assert what in done.err
