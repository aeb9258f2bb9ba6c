"""`build --remote` and `bench --remote` through a real ssh to a board with a home of its own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from engines.manifest import read_manifest
from fpet_export import remote as transport
from tests.fpet_export.command_line import Done, Exported, call
from tests.fpet_export.ssh_server import Relay, Server, needs_sshd, start

pytestmark = needs_sshd


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    yield from start(tmp_path_factory.mktemp("sshd"))


def words(server: Server, *, port: int | None = None) -> tuple[object, ...]:
    return "--remote", "board", "--ssh-config", server.config(port=port)


def left(server: Server) -> set[str]:
    return {path.name for path in server.home.iterdir()}


def build(server: Server, graph: Path, *more: object) -> Done:
    return call("build", graph, "--target", "cpu", *words(server), *more, "--json")


def test_an_engine_is_built_there_and_comes_back(
    exported: Exported, server: Server, tmp_path: Path
) -> None:
    out = tmp_path / "mine.cpu.onnx"

    done = build(server, exported.graph, "-o", out)

    assert done.code == 0, done.err
    assert done.document()["remote"] == "board"
    assert done.document()["parity"]["rows"][0]["failures"] == []
    assert read_manifest(out).kind == "engine"
    assert {path.name for path in tmp_path.iterdir()} == {out.name, "mine.cpu.manifest.json"}
    assert "✓ build      mine.cpu.onnx" in done.err  # said there, heard here
    assert left(server) == set()


def test_the_engine_may_go_into_a_new_folder(
    exported: Exported, server: Server, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "mine.cpu.onnx"

    done = build(server, exported.graph, "-o", out)

    assert done.code == 0, done.err
    assert {path.name for path in out.parent.iterdir()} == {out.name, "mine.cpu.manifest.json"}


def test_a_graph_is_measured_there(exported: Exported, server: Server, tmp_path: Path) -> None:
    done = call(
        "bench", exported.graph, *words(server), "--rounds", 3, "--seconds", 0.1,
        "--allow-noise", "-o", tmp_path / "bench.json", "--json",
    )  # fmt: skip

    assert done.code == 0, done.err
    assert done.document()["contenders"][0]["name"] == "model.cpu"
    assert (tmp_path / "bench.json").exists()
    assert left(server) == set()


def test_a_run_is_deployed_there(exported: Exported, server: Server, tmp_path: Path) -> None:
    done = call(
        "deploy", *exported.words, *words(server), "--rounds", 3, "--limit", 6, "-o", tmp_path,
        "--json",
    )  # fmt: skip

    assert done.code == 0, done.err
    rows = {row["stage"]: row for row in done.document()["parity"]["rows"]}
    assert rows["cpu on board"]["failures"] == []
    assert rows["cpu on board"]["images"] == 6
    assert done.document()["latency"]["contenders"][0]["name"] == "model.cpu"
    assert read_manifest(tmp_path / "cpu" / "model.cpu.onnx").parity == done.document()["parity"]
    page = (tmp_path / "report.html").read_text()
    assert "cpu on board" in page
    assert (tmp_path / "latency.json").exists()
    assert left(server) == set()


def test_what_is_refused_there_is_the_same_error_here(
    exported: Exported, server: Server, tmp_path: Path
) -> None:
    done = build(server, exported.graph, "--sm", "8.6", "-o", tmp_path / "x.onnx")

    assert done.code == 2
    assert done.error()["what"].startswith("on board: ")
    assert list(tmp_path.iterdir()) == []
    assert left(server) == set()


def test_the_same_command_goes_on_after_the_line_broke(
    exported: Exported, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first command is given up in the middle of the upload; the second sends the rest."""
    relay = Relay(server.port, [10**9, 200_000, *([0] * 50)])
    monkeypatch.setattr(
        transport.Remote.__init__, "__kwdefaults__", {"config": None, "patience_s": 1}
    )
    broken = call(
        "build", exported.graph, "--target", "cpu", *words(server, port=relay.port),
        "-o", tmp_path / "x.onnx", "--json",
    )  # fmt: skip
    (part,) = server.home.glob(".cache/fpet-export/*/bundle.tar.part")
    arrived = part.stat().st_size

    done = build(server, exported.graph, "-o", tmp_path / "x.onnx")

    relay.close()
    assert broken.code == 11
    assert "the connection to board is lost" in broken.error()["what"]
    assert arrived > 0
    assert done.code == 0, done.err
    assert left(server) == set()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a small disk")
def test_a_full_disk_there_ends_with_11(exported: Exported, server: Server, tmp_path: Path) -> None:
    small = server.home / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(small)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        done = build(
            server, exported.graph, "--remote-dir", "small/work", "-o", tmp_path / "x.onnx"
        )
    finally:
        subprocess.run(["umount", str(small)], check=True)
        small.rmdir()

    assert done.code == 11
    assert "no room left" in done.error()["what"]


def test_the_folder_stays_when_it_is_asked_for(
    exported: Exported, server: Server, tmp_path: Path
) -> None:
    done = build(
        server, exported.graph, "--keep-remote", "--remote-dir", "kept", "-o", tmp_path / "x.onnx"
    )

    assert done.code == 0, done.err
    assert (server.home / "kept" / "x.onnx").exists()
    assert (server.home / "kept" / "README.txt").exists()
    subprocess.run(["rm", "-r", str(server.home / "kept")], check=True)


@pytest.mark.parametrize(
    "more", [("--against", "plain"), ("--peers", "torch_eager"), ("{graph}",)], ids=str
)
def test_what_a_board_cannot_measure_is_refused_before_the_journey(
    more: tuple[str, ...], exported: Exported, server: Server
) -> None:
    given = [exported.graph, *(exported.graph for word in more if word == "{graph}")]
    rest = [word for word in more if word != "{graph}"]

    done = call("bench", *given, *words(server), *rest, "--json")

    assert done.code == 2
    assert "one artefact at a time" in done.error()["what"]
