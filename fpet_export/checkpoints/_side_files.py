"""The text files beside a run: its YAML, its params.sh, and checksums where someone kept them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from engines import storage
from engines.errors import CheckpointError
from fpet_export.facts import Fact

_LEVELS_UP = 3
"""How far above the run its `configs/` folder may lie."""

_FIELDS: dict[str, type] = {"method": str, "bit": int, "dim": int, "num_class": int, "scale": float}


def find_config(folder: Path, name: str, known: Mapping[str, Fact[Any]]) -> Path | None:
    """Return the YAML of the run `name`, or None when there is none.

    The authors keep it at `configs/METHOD/NAME-bitB-dimH.yaml`, below or above the run.

    Raises:
        CheckpointError: More than one fits what is known.
    """
    places = [folder, *folder.resolve().parents[:_LEVELS_UP]]
    for place in places:
        fitting = [
            path
            for path in sorted(place.glob(f"configs/*/{_literal(name)}-bit*-dim*.yaml"))
            if _fits(path, known)
        ]
        if len(fitting) > 1:
            listed = ", ".join(f"{path.parent.name}/{path.name}" for path in fitting[:4])
            raise CheckpointError(
                f"{len(fitting)} configurations fit this run: {listed}",
                where=str(place / "configs"),
                fix="say which: --config FILE, or --method, --bit and --dim",
            )
        if fitting:
            return fitting[0]
    return None


def _literal(name: str) -> str:
    return re.sub(r"([*?\[])", r"[\1]", name)


def _fits(path: Path, known: Mapping[str, Fact[Any]]) -> bool:
    named = re.fullmatch(r".*-bit(\d+)-dim(\d+)\.yaml", path.name)
    if named is None:
        return False
    found = {"method": path.parent.name, "bit": int(named[1]), "dim": int(named[2])}
    return all(key not in known or known[key].value == value for key, value in found.items())


def read_config(path: Path) -> dict[str, Any]:
    """Return the YAML's fields, with their types checked.

    Raises:
        CheckpointError: It is no YAML mapping, or a field has a wrong type.
    """
    try:
        document = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CheckpointError(
            f"the configuration cannot be read: {str(error).splitlines()[0]}",
            where=str(path),
            fix="give the run's YAML: --config FILE",
        ) from error
    if not isinstance(document, dict):
        raise CheckpointError(
            f"the configuration is {type(document).__name__}, wanted fields and values",
            where=str(path),
            fix="give the run's YAML: --config FILE",
        )
    for field, kind in _FIELDS.items():
        value = document.get(field)
        if value is None:
            continue
        allowed = (int, float) if kind is float else (kind,)
        if type(value) not in allowed:
            raise CheckpointError(
                f"{field} is {value!r}, wanted {kind.__name__}", where=str(path), fix="correct it"
            )
    return document


def read_params(path: Path) -> dict[str, str]:
    """Return the options of the command line in the authors' `params.sh`.

    Raises:
        CheckpointError: It is no shell command line, or gives an option twice with two values.
    """
    try:
        words = shlex.split(path.read_text("utf-8"), comments=True)
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise CheckpointError(
            f"params.sh cannot be read: {error}",
            where=str(path),
            fix="mend or remove it, and give its facts as options",
        ) from error
    options: dict[str, str] = {}
    for index, word in enumerate(words):
        if not word.startswith("--"):
            continue
        name, equals, value = word[2:].partition("=")
        if not equals:
            following = words[index + 1] if index + 1 < len(words) else ""
            value = "" if following.startswith("--") else following
        if options.get(name, value) != value:
            raise CheckpointError(
                f"--{name} is given as {options[name]!r} and as {value!r}",
                where=str(path),
                fix="keep the command line of this run alone",
            )
        options[name] = value
    return options


def number(options: Mapping[str, str], name: str, *, where: str) -> int | None:
    """Return the whole number of an option, or None when it is absent.

    Raises:
        CheckpointError: It is something else.
    """
    text = options.get(name)
    if text is None:
        return None
    if text == "False":  # argparse's default for --r_layer, as a wrapper script may repeat it
        return 0
    if not re.fullmatch(r"\d+", text):
        raise CheckpointError(
            f"--{name} is {text!r}, wanted a whole number", where=where, fix="correct the file"
        )
    return int(text)


def verify_checksums(folder: Path, files: list[Path]) -> Path | None:
    """Check the run's files against `SHA256SUMS` beside them, and return it; None without one.

    The format has no checksum of its own: a flipped bit in a packed code gives another model,
    silently. Where a run carries this file, it does not.

    Raises:
        CheckpointError: A file differs from its line, or the list cannot be read.
    """
    listing = folder / "SHA256SUMS"
    if not listing.is_file():
        return None
    try:
        lines = listing.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"SHA256SUMS cannot be read: {error}", where=str(listing), fix="mend or remove it"
        ) from error
    pairs = [re.fullmatch(r"([0-9a-f]{64}) [ *](.+)", line) for line in lines if line.strip()]
    if not all(pairs):
        raise CheckpointError(
            "SHA256SUMS has a line that is not 'digest  name'",
            where=str(listing),
            fix="write it again: sha256sum FILES > SHA256SUMS",
        )
    wanted = {(folder / found[2]).resolve(): found[1] for found in pairs if found}
    for path in files:
        digest = wanted.get(path.resolve())
        if digest is not None and digest != storage.sha256_of(path):
            raise CheckpointError(
                f"{path.name} is not the file that SHA256SUMS lists",
                where=str(path),
                fix="fetch the file again",
            )
    return listing
