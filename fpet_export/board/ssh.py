"""Another machine, reached by the system's ssh: files go there, commands run there, results return.

Everything ssh knows about the machine comes from the user's own configuration; it never asks for
anything (`BatchMode`). Each step can be repeated, because connections drop: an upload goes on where
it was, a command runs on its own there and is found again. Only a POSIX shell, coreutils and setsid
(util-linux) are needed on the other side.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import re
import shlex
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from engines import storage
from engines.errors import MissingDependencyError, RemoteError, UsageError

CACHE = ".cache/fpet-export"
"""Below the home folder there; what is sent gets a folder of its own, named by its hash."""

_CONNECTION_FAILED = 255
_SSH_OPTIONS = (
    "-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10",
    "-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3",
)  # fmt: skip
_FINAL = (
    (
        "host key verification failed",
        "its host key differs from the known one",
        "if the machine was set up anew: ssh-keygen -R HOST, then connect once by hand",
    ),
    (
        "permission denied",
        "it does not accept this key",
        "copy your key there: ssh-copy-id HOST; load a key with a passphrase into ssh-agent",
    ),
    ("could not resolve", "there is no such host", "check the name, or add it to ~/.ssh/config"),
    ("bad configuration option", "the ssh configuration is wrong", "run ssh HOST by hand"),
    ("no such file or directory", "the ssh configuration is wrong", "run ssh HOST by hand"),
)
"""What ssh says that no second try mends: a pattern, what it means, and what to do."""

_CHUNK_BYTES = 1 << 18
_POLL_S = 0.5
"""How often a machine looks whether a job has ended."""


class ConnectionLostError(RemoteError):
    """The machine cannot be reached any more; what was sent is still there."""


@dataclasses.dataclass(frozen=True)
class Finished:
    """A command that ran there: its exit status and what it wrote to stdout."""

    code: int
    out: bytes


class Remote:
    """A machine and a folder on it.

    Args:
        host: As ssh takes it: a name from the configuration, or USER@HOST.
        folder: Working folder there, relative to the home folder.
        config: Another ssh configuration than the user's.
        patience_s: How long to go on trying after the last byte that came through.
    """

    def __init__(
        self, host: str, folder: str, *, config: Path | None = None, patience_s: float = 60.0
    ) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_.@:%\[\]][A-Za-z0-9_.@:%\[\]-]*", host):
            raise UsageError(
                f"{host!r} is not the name of a host",
                where="--remote",
                fix="name it as ssh does: USER@HOST",
            )
        self.host, self.folder = host, folder
        self._config, self._patience_s = config, patience_s

    def require(self, program: str) -> None:
        """Refuse a machine without a program; nothing is tried twice and nothing is left there.

        Raises:
            RemoteError: It cannot be reached.
            MissingDependencyError: It has no such program.
        """
        done = self._ssh(f"command -v {shlex.quote(program)} > /dev/null")
        if done.returncode == _CONNECTION_FAILED:
            _refuse_what_stays(self.host, done.stderr)
            raise ConnectionLostError(
                f"cannot connect to {self.host}: {_last_line(done.stderr)}",
                where=self.host,
                fix=f"check that it is switched on and that `ssh {self.host}` works by itself",
            )
        if done.returncode:
            raise MissingDependencyError(
                f"{self.host} has no {program}",
                where=self.host,
                fix=f"install it there: sudo apt-get install {program}",
            )

    def shell(self, script: str) -> bytes:
        """Run a script in the folder, which must give the same when it is repeated.

        Raises:
            RemoteError: The machine cannot be reached, or the script fails.
        """
        patience = _Patience(self, self._patience_s)
        while True:
            done = self._ssh(self._in_folder(script))
            if done.returncode == 0:
                return done.stdout
            if done.returncode != _CONNECTION_FAILED:
                raise self._failed(done.stderr)
            patience.wait(done.stderr)

    def upload(self, path: Path, name: str, *, progress: Callable[[int], None]) -> None:
        """Send a file; what an earlier try left there is kept when it is the beginning of it.

        Args:
            path: The file here.
            name: Its name in the folder there.
            progress: Called with the number of bytes that went, or were there already.

        Raises:
            RemoteError: The machine cannot be reached, has no room, or the bytes differ there.
        """
        wanted, size = storage.sha256_of(path), path.stat().st_size
        part, final = shlex.quote(f"{name}.part"), shlex.quote(name)
        patience, shown = _Patience(self, self._patience_s), 0
        while True:
            there = int(self.shell(f"cat {final} {part} 2>/dev/null | wc -c"))
            if there > size:
                self.shell(f"rm -f {final} {part}")
                continue
            if there > shown:
                progress(there - shown)
                patience.reset()
                shown = there
            if there == size:
                break
            with path.open("rb") as file:
                file.seek(there)
                done = self._ssh(self._in_folder(f"cat >> {part}"), stdin=file)
            if done.returncode not in (0, _CONNECTION_FAILED):
                raise self._failed(done.stderr)
            if done.returncode:
                patience.wait(done.stderr)
        self.shell(f"if [ -f {part} ]; then mv {part} {final}; fi")
        found = self.shell(f"sha256sum {final}").split()[0].decode()
        if found != wanted:
            self.shell(f"rm -f {final}")
            raise RemoteError(
                f"{name} arrived on {self.host} with different bytes",
                where=self.host,
                fix="run the command again; if that does not help, its disk or memory is faulty",
            )

    def run(self, argv: Sequence[str], *, line: Callable[[str], None]) -> Finished:
        """Run a command to its end, whatever happens to the connection; find one that runs already.

        Args:
            argv: The command, run in the folder.
            line: Called with every line that it writes to stderr.

        Raises:
            RemoteError: The machine cannot be reached, or the command was killed there.
        """
        name = f"job-{hashlib.sha256(shlex.join(argv).encode()).hexdigest()[:12]}"
        try:
            self.shell(
                f"if {_runs(name)}; then exit 0; fi; "
                f"rm -f {name}.*; : > {name}.err; "
                f"setsid sh -c {shlex.quote(_job(name, argv))} < /dev/null > /dev/null 2>&1 & "
                f"echo $! > {name}.pid"
            )
            self._follow(name, line)
        except KeyboardInterrupt:
            self.shell(f'kill -- "-$(cat {name}.pid)" 2>/dev/null || true')
            raise
        code = self.shell(f"cat {name}.rc 2>/dev/null || true").strip()
        if not code:
            raise RemoteError(
                f"{argv[0]} was killed on {self.host}",
                where=shlex.join(argv),
                fix="look at its memory (dmesg names what the kernel killed), then run it again",
            )
        return Finished(code=int(code), out=self.shell(f"cat {name}.out"))

    def download(self, name: str, out: Path) -> None:
        """Fetch a file from the folder; it appears here whole or not at all.

        Raises:
            RemoteError: There is no such file, or the machine cannot be reached.
        """
        quoted, patience = shlex.quote(name), _Patience(self, self._patience_s)
        size = int(self.shell(f"wc -c < {quoted}"))
        with storage.atomic_path(out) as temporary, temporary.open("ab") as file:
            while (here := temporary.stat().st_size) < size:
                done = self._ssh(self._in_folder(f"tail -c +{here + 1} {quoted}"), stdout=file)
                if done.returncode not in (0, _CONNECTION_FAILED):
                    raise self._failed(done.stderr)
                if done.returncode:
                    patience.wait(done.stderr)

    def remove(self) -> None:
        """Remove the folder there, and those above it in the cache that are empty then."""
        folder = shlex.quote(self.folder)
        parents = f"rmdir -p {CACHE} 2>/dev/null" if self.folder.startswith(CACHE) else "true"
        done = self._ssh(f"rm -rf -- {folder}; {parents}; true")
        if done.returncode:
            raise self._failed(done.stderr)

    def _follow(self, name: str, line: Callable[[str], None]) -> None:
        """Hand over what a job writes until it ends."""
        offset, rest = 0, b""
        patience = _Patience(self, self._patience_s)
        while True:
            # What `tail` waits for is a child of this shell, which notices its end at once; the job
            # itself may stay a zombie for long, as in a container without an init.
            script = (
                f"while [ ! -f {name}.rc ] && {_runs(name)}; do sleep {_POLL_S}; done & "
                f"tail -c +{offset + 1} -f -s {_POLL_S} --pid=$! {name}.err"
            )
            with (
                tempfile.TemporaryFile() as errors,
                self._open(self._in_folder(script), stderr=errors) as process,
            ):
                assert isinstance(process.stdout, io.BufferedReader)
                try:
                    while chunk := process.stdout.read1(_CHUNK_BYTES):
                        offset += len(chunk)
                        patience.reset()
                        *lines, rest = (rest + chunk).split(b"\n")
                        for text in lines:
                            line(text.decode("utf-8", "replace"))
                except BaseException:  # Ctrl-C: else the `with` waits for the job to end
                    process.kill()
                    raise
                code = process.wait()
                errors.seek(0)
                said = errors.read()
            if code == 0:
                if rest:
                    line(rest.decode("utf-8", "replace"))
                return
            if code != _CONNECTION_FAILED:
                raise self._failed(said)
            patience.wait(said)

    def _in_folder(self, script: str) -> str:
        folder = shlex.quote(self.folder)
        return f"mkdir -p {folder} && cd {folder} && {{ {script}\n}}"

    def _ssh(
        self, script: str, *, stdin: IO[bytes] | None = None, stdout: IO[bytes] | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        with tempfile.TemporaryFile() as errors:
            with self._open(script, stdin=stdin, stdout=stdout, stderr=errors) as process:
                try:
                    out, _ = process.communicate()
                except BaseException:  # Ctrl-C: else it goes on sending behind our back
                    process.kill()
                    raise
            errors.seek(0)
            return subprocess.CompletedProcess(script, process.returncode, out, errors.read())

    def _open(
        self,
        script: str,
        *,
        stderr: IO[bytes],
        stdin: IO[bytes] | None = None,
        stdout: IO[bytes] | None = None,
    ) -> subprocess.Popen[bytes]:
        config = ("-F", str(self._config)) if self._config else ()
        try:
            return subprocess.Popen(
                ["ssh", *config, *_SSH_OPTIONS, "--", self.host, script],
                stdin=subprocess.DEVNULL if stdin is None else stdin,
                stdout=stdout or subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,  # Ctrl-C is ours; and no terminal to ask anything on
            )
        except FileNotFoundError:
            raise MissingDependencyError(
                "there is no ssh", where="PATH", fix="apt-get install openssh-client"
            ) from None

    def _failed(self, stderr: bytes) -> RemoteError:
        said = _last_line(stderr)
        room = "no space left" in said.lower()
        return RemoteError(
            f"{self.host} has no disk space left: {said}" if room else f"{self.host}: {said}",
            where=f"{self.host}:{self.folder}",
            fix="free space there, or name another folder: --remote-dir DIR"
            if room
            else "run the command again",
        )


class _Patience:
    """Waits between tries, longer each time, and gives up."""

    def __init__(self, remote: Remote, limit_s: float) -> None:
        self._remote, self._limit_s = remote, limit_s
        self.reset()

    def reset(self) -> None:
        self._since, self._pause_s = time.monotonic(), 0.5

    def wait(self, stderr: bytes) -> None:
        """Wait after a failed try.

        Raises:
            RemoteError: Another try cannot help, or the patience is at its end.
        """
        said, host = _last_line(stderr), self._remote.host
        _refuse_what_stays(host, stderr)
        if time.monotonic() - self._since + self._pause_s > self._limit_s:
            raise ConnectionLostError(
                f"the connection to {host} is lost: {said}",
                where=host,
                fix="run the same command again: it goes on where it was",
            )
        time.sleep(self._pause_s)
        self._pause_s = min(2 * self._pause_s, 8.0)


def _refuse_what_stays(host: str, stderr: bytes) -> None:
    """Raise for what ssh says that no second try mends."""
    for pattern, what, fix in _FINAL:
        if pattern in stderr.decode("utf-8", "replace").lower():
            raise ConnectionLostError(
                f"cannot connect to {host}: {what} ({_last_line(stderr)})",
                where=host,
                fix=fix.replace("HOST", host),
            )


def _job(name: str, argv: Sequence[str]) -> str:
    """Return a script that leaves the exit status of a command only when it has ended."""
    return (
        f"{shlex.join(argv)} > {name}.out 2> {name}.err; "
        f"echo $? > {name}.rc.part; mv {name}.rc.part {name}.rc"
    )


def _runs(name: str) -> str:
    """Return a condition of a shell: that a job runs; one that ended unnoticed (a zombie) does not.

    It starts no process, since what runs may be a measurement.
    """
    return (
        f"{{ read -r pid < {name}.pid && read -r stat < /proc/$pid/stat && "
        'case $stat in *") Z "*) false;; esac; } 2>/dev/null'
    )


def _last_line(stderr: bytes) -> str:
    lines = stderr.decode("utf-8", "replace").strip().splitlines()
    return lines[-1].strip() if lines else "it said nothing"
