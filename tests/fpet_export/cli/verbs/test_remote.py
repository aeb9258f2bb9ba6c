"""`build`, `bench` and `deploy --remote` through a real ssh to a board with a home of its own."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import Measurement
from benchmarks.energy.find import find_sensor
from benchmarks.energy.sensor import Sensor
from engines.engine import load_target
from engines.imaging.synthetic import synthetic_set
from engines.manifest import read_manifest
from engines.verdict import verdict_of
from fpet_export.board import ssh as transport
from fpet_export.cli.console import Console
from fpet_export.steps import plain_vit, timed_choice
from tests.fpet_export.board.ssh_server import Relay, Server, needs_sshd, start_quick
from tests.fpet_export.command_line import Done, Exported, call
from tests.fpet_export.tiny import CLASSES, SIDE

pytestmark = needs_sshd
SHORT = ("--rounds", 3, "--seconds", 0.1, "--allow-noise")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    yield from start_quick(tmp_path_factory.mktemp("sshd"))


def words(server: Server, *, port: int | None = None) -> tuple[object, ...]:
    return "--remote", "board", "--ssh-config", server.config(port=port, shared=port is None)


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


def names_of(measurement: dict[str, Any]) -> list[str]:
    return [contender["name"] for contender in measurement["contenders"]]


def bench(server: Server, *what: object, port: int | None = None) -> Done:
    return call("bench", *what, *words(server, port=port), *SHORT, "--json")


@pytest.mark.skipif(
    isinstance(find_sensor(["cpu"]), Sensor), reason="the board of this test, this machine, has one"
)
def test_energy_is_refused_before_anything_is_built_on_a_board_without_a_sensor(
    exported: Exported, server: Server
) -> None:
    done = bench(server, exported.graph, "--energy")

    error = done.error()
    assert error["exit_code"] == 4
    assert error["what"].startswith("on board: no sensor tells the energy: NVML: ")
    assert "✓ build" not in done.err
    assert left(server) == set()


def test_a_graph_is_measured_against_the_plain_model_there(
    exported: Exported, server: Server, tmp_path: Path
) -> None:
    out = tmp_path / "bench.json"

    done = bench(server, exported.graph, "--against", "plain", "-o", out)

    assert done.code == 0, done.err
    document = done.document()
    assert json.loads(out.read_text()) == document
    assert document["baseline"] == "plain.cpu"
    assert names_of(document) == ["plain.cpu", "model.cpu"]
    plain, ours = document["contenders"]
    assert len(plain["samples_ns"]) == len(ours["samples_ns"])  # the same rounds
    assert (plain["artefact"]["weights"], plain["artefact"]["target"]) == ("random", "cpu")
    assert ours["against"]["baseline"] == "plain.cpu"
    assert done.err.count("baseline plain.cpu") == 1  # the table, said once
    assert "agent.pyz bench" not in done.err  # what to type there helps nobody here
    assert left(server) == set()


def test_a_built_engine_is_measured_against_a_plain_graph_that_is_given(
    engine: Path, server: Server, tmp_path: Path
) -> None:
    _, mine = plain_vit.write(read_manifest(engine), load_target("cpu"), tmp_path)

    done = bench(server, engine, "--against", "plain", "--plain", mine)

    assert done.code == 0, done.err
    assert names_of(done.document()) == ["plain.cpu", "model.cpu"]
    assert left(server) == set()


def test_artefacts_are_measured_against_each_other_there(
    exported: Exported, server: Server, tmp_path: Path
) -> None:
    other = tmp_path / "other.cpu.onnx"
    assert call("build", exported.graph, "--target", "cpu", "-o", other).code == 0

    done = bench(server, exported.graph, "--against", other)

    assert done.code == 0, done.err
    assert done.document()["baseline"] == "other.cpu"
    assert names_of(done.document()) == ["other.cpu", "model.cpu"]


def test_two_that_would_be_one_engine_there_are_refused(
    exported: Exported, engine: Path, server: Server
) -> None:
    done = bench(server, exported.graph, engine)

    assert done.code == 2
    assert "would both be model.cpu.onnx" in done.error()["what"]
    assert left(server) == set()


def on_line(monkeypatch: pytest.MonkeyPatch, text: str, act: Callable[[], None]) -> list[str]:
    """Act once, while the line that was heard last from there is the second one with `text`.

    The first one is said here, before the journey.
    """
    heard: list[str] = []
    print_line = Console.line

    def line(self: Console, said: str = "") -> None:
        print_line(self, said)
        if text in said:
            heard.append(said)
            if len(heard) == 2:
                act()

    monkeypatch.setattr(Console, "line", line)
    return heard


def test_a_line_that_breaks_while_the_baseline_is_measured_is_taken_up_again(
    exported: Exported, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    relay = Relay(server.port, [])
    heard = on_line(monkeypatch, "✓ plain", relay.cut)

    done = bench(server, exported.graph, "--against", "plain", port=relay.port)

    relay.close()
    assert done.code == 0, done.err
    assert len(heard) == 2  # and nothing was heard twice
    assert names_of(done.document()) == ["plain.cpu", "model.cpu"]
    assert left(server) == set()


def running_there(server: Server) -> list[str]:
    """Return what runs in a folder of the board's."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "cwd").readlink().is_relative_to(server.home / ".cache"):
                found.append((process / "cmdline").read_text())
    return found


def test_ctrl_c_while_the_baseline_is_measured_leaves_nothing(
    exported: Exported, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt() -> None:
        assert running_there(server)
        raise KeyboardInterrupt

    on_line(monkeypatch, "✓ plain", interrupt)

    done = call(
        "bench", exported.graph, *words(server), "--against", "plain", "--seconds", 60, "--json"
    )

    assert done.code == 130
    assert left(server) == set()
    for _ in range(50):
        if not running_there(server):
            return
        time.sleep(0.1)
    raise AssertionError(running_there(server))


# deploy


def deploy(exported: Exported, server: Server, out: Path, *more: object) -> Done:
    return call(
        "deploy", *exported.words, *words(server), *SHORT, "--limit", 6, "-o", out, *more,
        "--json",
    )  # fmt: skip


def test_a_run_is_deployed_there(exported: Exported, server: Server, tmp_path: Path) -> None:
    done = deploy(exported, server, tmp_path)

    assert done.code == 0, done.err
    rows = {row["stage"]: row for row in done.document()["parity"]["rows"]}
    assert rows["cpu on board"]["failures"] == []
    assert rows["cpu on board"]["images"] == 6
    assert done.document()["latency"]["baseline"] == "plain.cpu"
    assert names_of(done.document()["latency"]) == ["plain.cpu", "model.cpu"]
    assert done.document()["precisions"] == {"cpu": "fp32"}
    assert verdict_of(read_manifest(tmp_path / "cpu" / "model.cpu.onnx")).state == "passed"
    page = (tmp_path / "report.html").read_text()
    assert "cpu on board" in page
    assert "plain.cpu" in page
    assert (tmp_path / "latency.json").exists()
    assert left(server) == set()


def test_a_deployment_may_be_checked_there_alone(
    exported: Exported, server: Server, tmp_path: Path
) -> None:
    done = deploy(exported, server, tmp_path, "--no-bench")

    assert done.code == 0, done.err
    assert done.document()["latency"] is None
    assert done.document()["parity"]["rows"][-1]["stage"] == "cpu on board"
    assert "✓ plain" not in done.err
    assert not (tmp_path / "latency.json").exists()


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shard") / "a.npz"
    images = synthetic_set((SIDE, SIDE), 20).pixels
    np.savez(path, images=images, labels=np.arange(20) % CLASSES)
    return path


BEST = ("--precision", "best", "--data")


@pytest.mark.parametrize("chosen", ["fp32", "int8"])
def test_the_best_precision_is_chosen_by_the_board(
    chosen: str, exported: Exported, shard: Path, server: Server, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """What a busy test machine finds is worth nothing: the verdict is ours, the rest is real."""
    asked: list[tuple[str, tuple[str, ...], list[str]]] = []

    def fastest(measurement: Measurement, names: tuple[str, ...]) -> str:
        taking_part = [one.name for one in measurement.contenders]
        asked.append((measurement.baseline, names, taking_part))
        return chosen

    monkeypatch.setattr(timed_choice, "fastest", fastest)
    monkeypatch.setattr(Measurement, "valid", property(lambda self: True))

    done = deploy(exported, server, tmp_path, *BEST, shard)

    assert done.code == 0, done.err
    document = done.document()
    assert asked == [("fp32", ("fp32", "int8"), ["fp32", "int8"])]
    assert names_of(document["latency"]) == ["plain.cpu", "model.cpu", "model.int8.cpu"]
    assert document["precisions"] == {"cpu": chosen}
    kind = "" if chosen == "fp32" else "int8."
    assert document["engines"] == {"cpu": str(tmp_path / "cpu" / f"model.{kind}cpu.onnx")}
    assert {path.name for path in (tmp_path / "cpu").glob("*.cpu.onnx")} == {
        f"model.{kind}cpu.onnx"
    }
    stages = [row["stage"] for row in document["parity"]["rows"]]
    assert stages[-3:] == ["cpu int8", "cpu fp32 on board", "cpu int8 on board"]
    assert f"on board: {chosen}" in done.err
    assert ("int8 here: signal to noise (SQNR)" in done.err) == (chosen == "int8")
    assert left(server) == set()


def test_a_noisy_choice_is_refused_with_what_to_measure_again(
    exported: Exported, shard: Path, server: Server, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(Measurement, "valid", property(lambda self: False))

    done = deploy(exported, server, tmp_path, *BEST, shard)

    assert done.code == 9
    graphs = f"{tmp_path / 'cpu/model.onnx'} {tmp_path / 'cpu/model.int8.onnx'}"
    assert f"fpet-export bench {graphs} --against plain --remote board" in done.error()["fix"]
    assert left(server) == set()


def test_a_candidate_that_the_board_cannot_build_is_out(
    exported: Exported, shard: Path, server: Server, tmp_path: Path
) -> None:
    refusing = json.dumps(
        {"error": {"class": "EngineError", "what": "no INT8 here", "where": "x", "fix": "y"}}
    )
    python = server.folder / "bin" / "python3"
    real = python.read_text()
    first, run = real.splitlines()
    python.write_text(
        f"{first}\ncase $* in *'build model.int8.onnx'*) echo '{refusing}'; exit 6;; esac\n{run}\n"
    )
    try:
        done = deploy(exported, server, tmp_path, *BEST, shard)
    finally:
        python.write_text(real)

    assert done.code == 0, done.err
    assert "int8       out: on board: no INT8 here" in done.err
    assert "fp32: nothing else is left" in done.err
    assert names_of(done.document()["latency"]) == ["plain.cpu", "model.cpu"]
    assert done.document()["precisions"] == {"cpu": "fp32"}


def test_each_further_target_has_a_measurement_of_its_own(
    exported: Exported, server: Server, tmp_path: Path
) -> None:
    pytest.importorskip("openvino", reason="needs OpenVINO")
    done = deploy(exported, server, tmp_path, "--target", "cpu,openvino")

    assert done.code == 0, done.err
    assert names_of(json.loads((tmp_path / "latency.json").read_text())) == [
        "plain.cpu", "model.cpu",
    ]  # fmt: skip
    second = json.loads((tmp_path / "openvino" / "latency.json").read_text())
    assert names_of(second) == ["plain.openvino", "model.openvino"]


def test_a_machine_that_cannot_be_reached_is_told_before_the_work(
    exported: Exported, server: Server, tmp_path: Path
) -> None:
    config = server.config(known=False)

    done = call(
        "deploy", *exported.words, "--remote", "board", "--ssh-config", config,
        "-o", tmp_path / "out", "--json",
    )  # fmt: skip

    assert done.code == 11
    assert "its host key differs from the known one" in done.error()["what"]
    assert "inspect" not in done.err
    assert not (tmp_path / "out").exists()


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
    assert "no disk space left" in done.error()["what"]


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


@pytest.mark.parametrize("verb", ["bench", "deploy"])
def test_peers_are_refused_before_the_journey(
    verb: str, exported: Exported, server: Server, tmp_path: Path
) -> None:
    what = [exported.graph] if verb == "bench" else [*exported.words, "-o", tmp_path / "out"]

    done = call(verb, *what, *words(server), "--peers", "torch_eager", "--json")

    assert done.code == 2
    assert "peers run on this machine only" in done.error()["what"]


def test_a_baseline_that_is_no_artefact_is_refused_before_the_journey(
    exported: Exported, server: Server
) -> None:
    done = bench(server, exported.graph, "--against", "absent.onnx")

    assert done.code == 3
    assert "there is no such file" in done.error()["what"]


def test_how_it_runs_is_decided_here_and_kept_there(exported: Exported, server: Server) -> None:
    done = bench(server, exported.graph, "--zero-copy")

    assert done.code == 2
    assert "only a plan of TensorRT" in done.error()["what"]
    assert left(server) == set()
