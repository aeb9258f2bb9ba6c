"""A real OpenSSH server on the loopback, with keys and configuration of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import getpass
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from fpet_export.board import ssh

UNPACKED = Path(sys.prefix) / "sshd"
"""Where `.ci/unpack_sshd.sh` leaves a server on a machine that has none installed."""


def _sshd() -> str | None:
    installed = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin")
    return installed or shutil.which(UNPACKED / "usr/sbin/sshd")


SSHD = _sshd()
needs_sshd = pytest.mark.skipif(
    SSHD is None or shutil.which("ssh") is None,
    reason="needs OpenSSH's client, and its server: .ci/unpack_sshd.sh .venv/sshd",
)


@dataclasses.dataclass(frozen=True)
class Server:
    """A running server; `home` is what commands see as the home folder."""

    folder: Path
    port: int
    home: Path

    def config(
        self,
        *,
        port: int | None = None,
        known: bool = True,
        key: str = "client",
        shared: bool = False,
    ) -> Path:
        """A client's configuration in which the server is called "board".

        Args:
            port: Of a relay; None for the server itself.
            known: Whether the client knows the server's key.
            key: What the client shows.
            shared: Whether clients share the line of `shared_line`, as a user's may.
        """
        path = self.folder / f"config-{port}-{known}-{key}-{shared}"
        hosts = self.folder / ("known_hosts" if known else "other_hosts")
        path.write_text(
            f"Host board\n"
            f"  HostName localhost\n  AddressFamily inet\n"
            f"  Port {port or self.port}\n  User {getpass.getuser()}\n"
            f"  HostKeyAlias board\n  UserKnownHostsFile {hosts}\n  GlobalKnownHostsFile none\n"
            f"  StrictHostKeyChecking yes\n  IdentityFile {self.folder / key}\n"
            # What is tested is not the cryptography: the newer exchanges take six times as long.
            f"  KexAlgorithms curve25519-sha256\n  Ciphers aes128-gcm@openssh.com\n"
            f"  IdentitiesOnly yes\n  IdentityAgent none\n  LogLevel ERROR\n"
            + (f"  ControlPath {self.folder / 'line'}\n" if shared else "")
        )
        return path

    @contextlib.contextmanager
    def shared_line(self) -> Iterator[None]:
        """Hold a line that clients of a `shared` configuration use instead of opening their own.

        What a connection costs is not what is tested there: a sixth of a second each.
        """
        words = ["ssh", "-F", str(self.config(shared=True))]
        with subprocess.Popen([*words, "-M", "-N", "board"]) as master:
            try:
                while not (self.folder / "line").exists():
                    assert master.poll() is None, "ssh ended"
                    time.sleep(0.02)
                yield
            finally:
                master.terminate()


def unpacked_environment(root: Path, folder: Path) -> dict[str, str]:
    """Return what lets an unpacked server run: its libraries, and the user it looks for as root.

    Args:
        root: Where it was unpacked.
        folder: For the files that say so.
    """
    libraries = next((root / "usr/lib").glob("*-linux-gnu"))
    passwd, group = folder / "passwd", folder / "group"
    passwd.write_text(
        f"{Path('/etc/passwd').read_text()}sshd:x:65533:65534::/run/sshd:/bin/false\n"
    )
    group.write_text(Path("/etc/group").read_text())
    return {
        **os.environ,
        "LD_LIBRARY_PATH": str(libraries),
        "LD_PRELOAD": str(libraries / "libnss_wrapper.so"),
        "NSS_WRAPPER_PASSWD": str(passwd),
        "NSS_WRAPPER_GROUP": str(group),
    }


def _helpers(root: Path) -> str:
    """Return where newer servers find the programs that they start for each connection."""
    settings = {"SshdSessionPath": "sshd-session", "SshdAuthPath": "sshd-auth"}
    paths = {name: root / "usr/lib/openssh" / file for name, file in settings.items()}
    return "".join(f"{name} {path}\n" for name, path in paths.items() if path.exists())


def start(folder: Path) -> Iterator[Server]:
    """Start a server, yield it, and stop it with all that it started."""
    assert SSHD is not None
    is_ours = Path(SSHD).is_relative_to(UNPACKED)
    for name in ("host", "other_host", "client", "stranger"):
        words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(words, check=True)
    home = folder / "home"
    home.mkdir()
    python = folder / "bin" / "python3"  # what a board calls its system's Python
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    port = free_port()
    (folder / "authorized_keys").write_text((folder / "client.pub").read_text())
    for name, key in (("known_hosts", "host"), ("other_hosts", "other_host")):
        (folder / name).write_text(f"board {(folder / key).with_suffix('.pub').read_text()}")
    (folder / "sshd_config").write_text(
        f"Port {port}\nAddressFamily inet\nListenAddress localhost\n"
        f"HostKey {folder / 'host'}\nPidFile none\n"
        f"AuthorizedKeysFile {folder / 'authorized_keys'}\nStrictModes no\nUsePAM no\n"
        f"PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\n"
        # bash reads the developer's ~/.bashrc in the outermost shell that sshd starts: this is none
        f"SetEnv SHLVL=1\n"
        f"MaxStartups 100\nForceCommand HOME={home} && cd {home} && PATH={folder / 'bin'}:$PATH && "
        f'export PATH && eval "$SSH_ORIGINAL_COMMAND"\n' + (_helpers(UNPACKED) if is_ours else "")
    )
    empty = Path("/run/sshd")  # what its privilege separation wants as root
    is_new = os.geteuid() == 0 and not empty.exists()
    if is_new:
        empty.mkdir()
    with (folder / "sshd.log").open("wb") as log:
        process = subprocess.Popen(
            [SSHD, "-D", "-e", "-f", str(folder / "sshd_config")],
            stderr=log,
            stdout=log,
            env=unpacked_environment(UNPACKED, folder) if is_ours else None,
        )
    try:
        wait_for(port, process, folder / "sshd.log")
        yield Server(folder, port, home)
    finally:
        process.terminate()
        process.wait()
        if is_new:
            with contextlib.suppress(OSError):  # another server uses it
                empty.rmdir()


def start_quick(folder: Path) -> Iterator[Server]:
    """Start a server for tests of what is done there: one line for all, and jobs end at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssh, "_POLL_S", 0.05)
        for server in start(folder):
            with server.shared_line():
                yield server


def free_port() -> int:
    with socket.create_server(("localhost", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(100):
        if process.poll() is not None:
            raise RuntimeError(f"sshd ended: {log.read_text()}")
        try:
            socket.create_connection(("localhost", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError("sshd does not listen")


class Relay:
    """A line to the server that breaks: each connection carries so many bytes and no more.

    Args:
        port: Of the server.
        budgets: Bytes a connection may send to the server; when they are used up, all pass.
    """

    def __init__(self, port: int, budgets: Sequence[int]) -> None:
        self._server, self._budgets = port, list(budgets)
        self._listener = socket.create_server(("localhost", 0))
        self.port: int = self._listener.getsockname()[1]
        self.connections = 0
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def cut(self) -> None:
        """Break every line that is open now."""
        for end in self._open:
            with contextlib.suppress(OSError):  # it has ended by itself
                end.shutdown(socket.SHUT_RDWR)
        self._open.clear()

    def close(self) -> None:
        """Stop listening, and wait for the lines that are open."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            budget = self._budgets.pop(0) if self._budgets else None
            thread = threading.Thread(target=self._serve, args=(client, budget))
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket, budget: int | None) -> None:
        with client, socket.create_connection(("localhost", self._server)) as server:
            self._open += [client, server]
            back = threading.Thread(target=self._carry, args=(server, client, None))
            back.start()
            self._carry(client, server, budget)
            back.join()

    @staticmethod
    def _carry(source: socket.socket, target: socket.socket, limit: int | None) -> None:
        carried = 0
        try:
            while limit is None or carried < limit:
                chunk = source.recv(1 << 14)
                if not chunk:
                    break
                target.sendall(chunk)
                carried += len(chunk)
            if limit:
                time.sleep(0.5)  # what was sent arrives, then the line breaks
            for end in (source, target):
                end.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # the other direction has ended the line already
