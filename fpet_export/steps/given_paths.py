"""Refuses files that are not there and places that cannot be written, before anything is loaded.

Reading a run begins by importing torch, which takes seconds, and writing comes after minutes.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from engines.errors import FpetError, InputError, MachineError, UsageError
from engines.manifest import ENDINGS
from engines.near_names import near_names

_FILES = {
    # name of the setting: how it is typed
    "run": "RUN", "runs": "RUN", "artefact": "X", "artefacts": "X", "onnx": "ONNX",
    "engine": "ENGINE", "results": "FILE|DIR", "images": "IMG", "backbone": "--backbone",
    "config": "--config", "labels": "--labels", "data": "--data", "plain": "--plain",
    "calibration": "--calibration", "table": "--table", "expect": "--expect",
    "measured": "--measured", "baseline": "--baseline", "signers": "--signers", "key": "--key",
    "ssh_config": "--ssh-config", "bundle": "--bundle",
}  # fmt: skip
_OF_TASKS = ("runs", "data", "labels")
"""Their values may be NAME=PATH."""

_RUNS = ("run", "runs", "artefacts")
"""A run may be called by its name without an ending."""

_SCHEME = re.compile(r"[a-z]{2,}[a-z0-9+.-]*:.+")
"""As random:NAME:SEED and timm:NAME: no file."""

_INTO_A_FOLDER = ("deepstream", "export", "deploy", "sweep", "tasks", "triton")
_FILES_WRITTEN = ("html", "markdown", "csv", "badge")
_BESIDE = {"build": "onnx", "quantize": "onnx", "bundle": "artefact", "sign": "artefact"}
"""What a verb writes beside, unless it is told where."""


def require_files(verb: str, given: Mapping[str, Any]) -> None:
    """Refuse the first file that is named and does not exist.

    Args:
        verb: What is asked for.
        given: Its settings by their names.

    Raises:
        InputError: There is none of this name; near names in its folder are proposed.
    """
    for name, typed, path in _given_files(verb, given):
        if _SCHEME.fullmatch(str(path)) or _exists(path, is_run=name in _RUNS):
            continue
        kind = "run" if name in ("run", "runs") else "file"
        raise InputError(
            f"there is no such {kind}" + (f" for {typed}" if typed.startswith("-") else ""),
            where=str(path),
            fix=_instead(path),
        )


def _given_files(verb: str, given: Mapping[str, Any]) -> Iterator[tuple[str, str, Path]]:
    """Yield the setting, how it is typed, and the path, of everything that a verb is to read."""
    against = str(given.get("against"))
    more = {"against": "--against"} if against.endswith(ENDINGS) else {}
    if verb == "show":  # elsewhere --image is a size
        more["image"] = "IMG"
    for name, typed in (_FILES | more).items():
        for text in _texts(given.get(name)):
            yield name, typed, _path(text, has_task=name in _OF_TASKS)


def require_outputs(verb: str, given: Mapping[str, Any]) -> None:
    """Refuse places where the verb could not write what it is to leave.

    Args:
        verb: What is asked for.
        given: Its settings by their names.

    Raises:
        UsageError: A file stands where a folder is to be, or the other way round; or an output
            would replace what the verb reads, or another output.
        MachineError: The folder cannot be written.
    """
    out = given.get("out")
    folders = [given.get("unpack")]
    files = [given.get(name) for name in _FILES_WRITTEN]
    (folders if verb in _INTO_A_FOLDER else files).append(out)
    for folder in folders:
        if folder is not None:
            _require_writable(folder)
    for file in files:
        if file is not None:
            if file.is_dir():
                raise UsageError(
                    f"{file} is a folder, wanted the name of a file",
                    where="--html" if file is not out else "--out",
                    fix="name a file in it",
                )
            _require_writable(file.parent)
            _refuse_own_input(file, verb, given)
    if out is not None and given.get("html") == out:
        raise UsageError(
            f"{out} would be written twice, as --html and as --out",
            where="--html",
            fix="give the two outputs names of their own",
        )
    beside = given.get(_BESIDE.get(verb, ""))
    is_printed = given.get("print_trtexec", False)
    if out is None and beside is not None and not is_printed:
        _require_writable(beside if beside.is_dir() else beside.parent)


def _refuse_own_input(file: Path, verb: str, given: Mapping[str, Any]) -> None:
    """Refuse an output that is an input: `--force` is no leave to destroy what is read.

    Raises:
        UsageError: It is one of the files that the verb reads.
    """
    for _, typed, path in _given_files(verb, given):
        if path.exists() and file.exists() and path.samefile(file):
            raise UsageError(
                f"the output {file} is what is read as {typed}, and would replace it",
                where="--out" if given.get("out") == file else "--html",
                fix="choose another output",
            )


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, (list, tuple)):
        yield from map(str, value)
    elif isinstance(value, (str, Path)):
        yield str(value)


def _path(text: str, *, has_task: bool) -> Path:
    task = re.fullmatch(r"[A-Za-z0-9][\w.-]*=(.+)", text) if has_task else None
    return Path(text if task is None or Path(text).exists() else task[1])


def _exists(path: Path, *, is_run: bool) -> bool:
    try:
        if path.exists():
            return True
        return is_run and any(_named(path))
    except OSError as error:
        raise _unreadable(path, error) from error


def _named(path: Path) -> Iterator[Path]:
    """Yield the files of a run that is called by its name: NAME.pth and the like."""
    if path.parent.is_dir() and path.name:
        for other in path.parent.iterdir():
            if other.stem == path.name:
                yield other


def _unreadable(path: Path, error: OSError) -> FpetError:
    return InputError(
        f"{error.strerror}: {path}", where=str(path.parent), fix="check the path and its rights"
    )


def _instead(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f"check the path: there is no folder {folder} here ({Path.cwd()})"
    near = near_names(path.name, sorted(other.name for other in folder.iterdir()))
    if near:
        return f"did you mean {' or '.join(str(folder / one) for one in near)}?"
    return f"check the path: nothing in {folder.resolve()} has a name like it"


def _require_writable(folder: Path) -> None:
    """Try it with a temporary folder; as root, and on a full disk, rights alone say little."""
    home = folder
    while not home.exists() and home != home.parent:
        home = home.parent
    if not home.is_dir():
        raise UsageError(
            f"{home} is a file, wanted a folder", where=str(folder), fix="choose another output"
        )
    try:
        tempfile.TemporaryDirectory(prefix=".fpet-export.", dir=home).cleanup()
    except OSError as error:
        raise MachineError(
            f"nothing can be written there: {error.strerror or error}",
            where=str(folder),
            fix="free space, or choose a folder that you may write",
        ) from error
