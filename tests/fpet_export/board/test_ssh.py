"""Another machine through a real ssh: lines that break, keys that differ, jobs that are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engines.errors import MissingDependencyError, RemoteError, UsageError
from fpet_export.board.ssh import CACHE, Remote, _runs
from tests.fpet_export.board.ssh_server import Relay, Server, free_port, needs_sshd, start

pytestmark = needs_sshd
JOB = f"{CACHE}/abc"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    yield from start(tmp_path_factory.mktemp("sshd"))


@pytest.fixture
def remote(server: Server) -> Iterator[Remote]:
    one = Remote("board", JOB, config=server.config(), patience_s=5)
    yield one
    one.remove()


def through(server: Server, *budgets: int, patience_s: float = 20) -> tuple[Remote, Relay]:
    """The same machine behind a line that breaks."""
    relay = Relay(server.port, budgets)
    return Remote("board", JOB, config=server.config(port=relay.port), patience_s=patience_s), relay


def silent(line: str) -> None:
    pass


def count(number: int) -> None:
    pass


# Files


def test_a_file_goes_there_and_comes_back(remote: Remote, server: Server, tmp_path: Path) -> None:
    content = os.urandom(3_000_001)
    (tmp_path / "a.bin").write_bytes(content)
    sent: list[int] = []

    remote.upload(tmp_path / "a.bin", "a.bin", progress=sent.append)
    remote.download("a.bin", tmp_path / "back.bin")

    assert (server.home / JOB / "a.bin").read_bytes() == content
    assert (tmp_path / "back.bin").read_bytes() == content
    assert sum(sent) == len(content)


def test_an_upload_goes_on_where_the_line_broke(
    remote: Remote, server: Server, tmp_path: Path
) -> None:
    """The second connection carries the file, and breaks after a megabyte."""
    content = os.urandom(4_000_000)
    (tmp_path / "a.bin").write_bytes(content)
    broken, relay = through(server, 10**9, 1_000_000)

    broken.upload(tmp_path / "a.bin", "a.bin", progress=count)

    assert (server.home / JOB / "a.bin").read_bytes() == content
    assert relay.connections > 5
    relay.close()


def test_what_is_there_is_not_sent_again(remote: Remote, server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(os.urandom(100_000))
    remote.upload(tmp_path / "a.bin", "a.bin", progress=count)
    stamp = (server.home / JOB / "a.bin").stat().st_mtime_ns

    remote.upload(tmp_path / "a.bin", "a.bin", progress=count)

    assert (server.home / JOB / "a.bin").stat().st_mtime_ns == stamp


def test_bytes_that_differ_there_are_thrown_away(
    remote: Remote, server: Server, tmp_path: Path
) -> None:
    (tmp_path / "a.bin").write_bytes(os.urandom(1000))
    (server.home / JOB).mkdir(parents=True)
    (server.home / JOB / "a.bin.part").write_bytes(bytes(500))

    with pytest.raises(RemoteError, match="arrived on board with different bytes"):
        remote.upload(tmp_path / "a.bin", "a.bin", progress=count)

    remote.upload(tmp_path / "a.bin", "a.bin", progress=count)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a small disk")
def test_a_full_disk_is_a_sentence(server: Server, tmp_path: Path) -> None:
    small = server.home / "small"
    small.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)]
    if subprocess.run(words, check=False, capture_output=True).returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        (tmp_path / "a.bin").write_bytes(os.urandom(2_000_000))
        remote = Remote("board", "small/work", config=server.config(), patience_s=5)

        with pytest.raises(RemoteError, match="has no disk space left") as caught:
            remote.upload(tmp_path / "a.bin", "a.bin", progress=count)

        assert "--remote-dir" in caught.value.fix
        assert caught.value.exit_code == 11
    finally:
        subprocess.run(["umount", str(small)], check=True)


# Jobs


def test_a_job_speaks_while_it_runs(remote: Remote, server: Server) -> None:
    """It goes on only when its first line was heard."""
    heard: list[str] = []
    program = "echo one >&2; until [ -f go ]; do sleep 0.1; done; echo two >&2; echo end; exit 3"

    def hear(line: str) -> None:
        heard.append(line)
        (server.home / JOB / "go").touch()

    done = remote.run(["sh", "-c", program], line=hear)

    assert heard == ["one", "two"]
    assert (done.code, done.out) == (3, b"end\n")


def test_a_job_survives_a_line_that_breaks(remote: Remote, server: Server) -> None:
    """The second connection follows the job; it carries the handshake and is cut off."""
    program = "for i in 1 2 3 4 5 6; do echo $i >&2; sleep 0.4; done; echo end"
    heard: list[str] = []
    broken, relay = through(server, 10**9, 3_000)

    done = broken.run(["sh", "-c", program], line=heard.append)

    assert heard == ["1", "2", "3", "4", "5", "6"]
    assert done.out == b"end\n"
    assert relay.connections > 3
    relay.close()


def test_a_job_that_runs_already_is_found_again(remote: Remote, server: Server) -> None:
    words = ["sh", "-c", "echo x >> count; echo started >&2; sleep 2; echo done"]
    first = threading.Thread(target=lambda: remote.run(words, line=silent))
    first.start()
    while not (server.home / JOB / "count").exists():
        time.sleep(0.05)

    done = Remote("board", JOB, config=server.config()).run(words, line=silent)
    first.join()

    assert done.out == b"done\n"
    assert (server.home / JOB / "count").read_text() == "x\n"


def test_a_killed_job_is_a_sentence(remote: Remote, server: Server) -> None:
    words = ["sh", "-c", "echo $$ > pid; sleep 30"]

    def kill() -> None:
        while not (server.home / JOB / "pid").exists():
            time.sleep(0.05)
        time.sleep(0.2)
        os.killpg(os.getpgid(int((server.home / JOB / "pid").read_text())), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(RemoteError, match="sh was killed on board"):
        remote.run(words, line=silent)
    killer.join()

    assert remote.run(["echo", "again"], line=silent).out == b"again\n"


def test_ctrl_c_ends_the_job_there(remote: Remote, server: Server) -> None:
    def interrupt(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        remote.run(["sh", "-c", "echo $$ > pid; echo go >&2; sleep 60"], line=interrupt)

    pid = int((server.home / JOB / "pid").read_text())
    for _ in range(50):
        if not Path(f"/proc/{pid}").exists():
            return
        time.sleep(0.1)
    raise AssertionError("the job goes on")


def test_words_arrive_as_they_were(remote: Remote) -> None:
    words = ["a b", "$HOME", "'", '"', "*", "ü", "--", ";"]

    done = remote.run(["printf", "%s\\n", *words], line=silent)

    assert done.out.decode().splitlines() == words


# Machines that cannot be reached


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"known": False}, "its host key differs from the known one"),
        ({"key": "stranger"}, "does not accept this key"),
    ],
    ids=str,
)
def test_a_door_that_stays_shut_is_told_at_once(
    changes: dict[str, object], said: str, server: Server
) -> None:
    relay = Relay(server.port, [])
    config = server.config(port=relay.port, **changes)  # type: ignore[arg-type]

    with pytest.raises(RemoteError, match=said):
        Remote("board", JOB, config=config).shell("true")

    assert relay.connections == 1
    relay.close()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, None),
        ({"known": False}, "its host key differs from the known one"),
        ({"key": "stranger"}, "does not accept this key"),
    ],
    ids=str,
)
def test_a_machine_is_asked_for_before_there_is_work_for_it(
    changes: dict[str, object], said: str | None, server: Server
) -> None:
    remote = Remote("board", JOB, config=server.config(**changes))  # type: ignore[arg-type]

    if said is None:
        remote.require("sh")
    else:
        with pytest.raises(RemoteError, match=said):
            remote.require("sh")

    assert not (server.home / CACHE).exists()


def test_a_machine_that_is_off_is_no_lost_connection(server: Server) -> None:
    with pytest.raises(RemoteError, match=r"cannot connect to board: .*refused") as caught:
        Remote("board", JOB, config=server.config(port=free_port())).require("sh")

    assert "ssh board" in caught.value.fix


def test_a_program_that_is_missing_there_is_named(server: Server) -> None:
    with pytest.raises(MissingDependencyError, match="board has no python9"):
        Remote("board", JOB, config=server.config()).require("python9")


def test_ctrl_c_ends_an_upload(
    remote: Remote, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client must not go on sending when nobody waits for it any more."""
    (tmp_path / "a.bin").write_bytes(os.urandom(1000))
    started: list[subprocess.Popen[bytes]] = []

    class Interrupted(subprocess.Popen[bytes]):
        def communicate(self, *args: object, **options: object) -> tuple[bytes, bytes]:
            started.append(self)
            raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        remote.upload(tmp_path / "a.bin", "a.bin", progress=count)
    monkeypatch.undo()

    assert [process.returncode for process in started] == [-signal.SIGKILL]


def test_a_machine_that_does_not_answer_is_given_up(server: Server) -> None:
    remote = Remote("board", JOB, config=server.config(port=free_port()), patience_s=2)

    with pytest.raises(RemoteError, match="the connection to board is lost") as caught:
        remote.shell("true")

    assert "goes on where it was" in caught.value.fix


@pytest.mark.parametrize("host", ["-oProxyCommand=sh", "a b", "", "$(id)", "a;b"])
def test_a_host_is_no_option(host: str) -> None:
    with pytest.raises(UsageError, match="is not the name of a host"):
        Remote(host, JOB)


def test_a_script_that_fails_is_a_sentence(remote: Remote) -> None:
    with pytest.raises(RemoteError, match=r"board: .*nothing"):
        remote.shell("echo nothing >&2; exit 4")


def test_nothing_is_left_behind(remote: Remote, server: Server) -> None:
    remote.shell("touch x")

    remote.remove()

    assert not (server.home / CACHE).exists()


def test_a_job_that_ended_unnoticed_does_not_run(remote: Remote, server: Server) -> None:
    """Where process 1 waits for nobody, as in many containers, it stays a zombie."""
    running = subprocess.Popen(["sleep", "60"])
    zombie = subprocess.Popen(["true"])
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
    folder = server.home / remote.folder
    folder.mkdir(parents=True, exist_ok=True)
    try:
        found = {}
        for name, pid in (("job-1", running.pid), ("job-2", zombie.pid), ("job-3", 2**22 + 1)):
            (folder / f"{name}.pid").write_text(f"{pid}\n")
            found[name] = remote.shell(f"if {_runs(name)}; then echo runs; fi")
        absent = remote.shell(f"if {_runs('job-4')}; then echo runs; fi")
    finally:
        running.kill()
        running.wait()
        zombie.wait()

    assert found == {"job-1": b"runs\n", "job-2": b"", "job-3": b""}
    assert absent == b""
