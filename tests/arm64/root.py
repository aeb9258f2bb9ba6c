"""A Debian root for arm64 in a folder, whose programs QEMU runs: `python -m tests.arm64.root DIR`.

Nothing of the machine changes: apt works in a state of its own with the machine's sources, packages
are only unpacked, and QEMU is called by name, never by the kernel's binfmt_misc. For programs that
start others (`doctor` imports each package in a process of its own), `/usr/bin/python3` there is
two lines of shell that start QEMU.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

PACKAGES = ("python3", "python3-numpy", "python3-pil")
"""What the board has from its system."""

_HELPERS = ("qemu-user-static", "busybox-static")
_RUNTIME = "onnxruntime"
_STAMP = "prepared.json"
_EMULATOR = "emulator"
_FORM = 1
"""Of the root; raised when this file makes it otherwise."""

_APT = """\
APT::Architecture "arm64";
APT::Architectures {{ "arm64"; "{host}"; }};
APT::Sandbox::User "root";
APT::Install-Recommends "false";
Dir::State "{folder}/state";
Dir::State::status "{folder}/status";
Dir::Cache "{folder}/cache";
Acquire::Languages "none";
"""
_PYTHON = """\
#!/{emulator}/sh
exec /{emulator}/qemu-aarch64-static -0 "$0" {python} "$@"
"""


class PreparationError(Exception):
    """The root cannot be made here; the message says why."""


def lacking(
    which: Callable[[str], str | None] = shutil.which, *, user: int | None = None
) -> str | None:
    """Return in one line what this machine lacks to make and use such a root; None if nothing."""
    absent = [name for name in ("apt-get", "dpkg", "dpkg-deb", "chroot") if which(name) is None]
    if absent:
        return f"the arm64 root needs Debian's {', '.join(absent)}, which this machine lacks"
    if (os.getuid() if user is None else user) != 0:
        return "the arm64 root is entered with chroot, which only root may: run this as root"
    return None


def prepare(folder: Path) -> Path:
    """Make the root below `folder`, or leave it as it is where nothing has changed.

    ONNX Runtime gets the version that is installed here, so that only the machine differs.

    Raises:
        PreparationError: The machine lacks something, or a download failed.
    """
    problem = lacking()
    if problem is not None:
        raise PreparationError(problem)
    root = folder / "root"
    recipe = {"form": _FORM, "packages": PACKAGES, _RUNTIME: metadata.version(_RUNTIME)}
    wanted = json.dumps(recipe)
    if (root / _STAMP).is_file() and (root / _STAMP).read_text("utf-8") == wanted:
        return root
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        new = Path(place) / "root"
        _unpack_packages(Path(place), new)
        _finish(new)
        _install_runtime(Path(place), new, recipe[_RUNTIME])
        (new / _STAMP).write_text(wanted, "utf-8")
        shutil.rmtree(root, ignore_errors=True)
        new.rename(root)
    return root


def _unpack_packages(place: Path, root: Path) -> None:
    """Download packages and what they depend on, and unpack them without their scripts."""
    host = _run("dpkg", "--print-architecture").strip()
    for name in ("state/lists/partial", "cache/archives/partial"):
        (place / name).mkdir(parents=True)
    (place / "status").touch()
    (place / "apt.conf").write_text(_APT.format(folder=place.resolve(), host=host), "utf-8")
    apt = ("apt-get", "--config-file", str(place / "apt.conf"), "--quiet", "--yes")
    helpers = [f"{name}:{host}" for name in _HELPERS]
    _run(*apt, "update")
    _run(*apt, "install", "--download-only", *PACKAGES, *helpers)
    beside = place / "helpers"
    for package in sorted((place / "cache/archives").glob("*.deb")):
        is_helper = package.name.startswith(_HELPERS)
        _run("dpkg-deb", "--extract", str(package), str(beside if is_helper else root))
    (root / _EMULATOR).mkdir()
    shutil.copy(beside / "usr/bin/qemu-aarch64-static", root / _EMULATOR)
    shutil.copy(next(beside.glob("**/bin/busybox")), root / _EMULATOR / "sh")


def _finish(root: Path) -> None:
    """Do what the packages' scripts would have done, as far as it matters here."""
    for name in ("bin", "lib", "sbin"):  # newer packages count on base-files' links
        if not (root / name).exists():
            (root / name).symlink_to(f"usr/{name}")
    libraries = root / "usr/lib/aarch64-linux-gnu"
    for name in ("blas/libblas.so.3", "lapack/liblapack.so.3"):  # update-alternatives
        (libraries / name.partition("/")[2]).symlink_to(name)
    for name in ("tmp", "proc", "sys/devices/system/cpu", "board"):
        (root / name).mkdir(parents=True, exist_ok=True)
    starter = root / "usr/bin/python3"
    python = f"/usr/bin/{starter.readlink().name}"
    starter.unlink()
    starter.write_text(_PYTHON.format(emulator=_EMULATOR, python=python), "utf-8")
    starter.chmod(0o755)


def _install_runtime(place: Path, root: Path, version: object) -> None:
    """Unpack ONNX Runtime's wheel; its import needs numpy alone, which stays the system's."""
    (library,) = (root / "usr/lib").glob("python3.*")
    python = library.name.removeprefix("python")
    _run(
        sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check",
        "--no-deps", "--only-binary=:all:", "--platform", "manylinux_2_28_aarch64",
        "--python-version", python, "--dest", str(place), f"{_RUNTIME}=={version}",
    )  # fmt: skip
    (wheel,) = place.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(root / f"usr/local/lib/python{python}/dist-packages")


def _run(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "no word").splitlines()[-1]
        raise PreparationError(f"{Path(words[0]).name} failed: {said}")
    return done.stdout


if __name__ == "__main__":
    try:
        prepare(Path(sys.argv[1]))
    except PreparationError as error:
        sys.exit(f"error: {error}")
