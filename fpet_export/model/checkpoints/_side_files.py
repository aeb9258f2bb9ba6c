"""The text files beside a run: its YAML, its params.sh, and checksums where someone kept them."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from engines import storage
from engines.errors import CheckpointError, TrustError
from fpet_export.model.facts import Fact

_LEVELS_UP = 3
"""How far above the run its `configs/` folder may lie."""

_FIELDS: dict[str, type] = {"method": str, "bit": int, "dim": int, "num_class": int, "scale": float}


def find_config(folder: Path, name: str, known: Mapping[str, Fact[Any]]) -> Path | None:
    """Return the YAML of the run `name`, or None when there is none.

    The authors keep it at `configs/METHOD/NAME-bitB-dimH.yaml`, below or above the run.

    Raises:
        CheckpointError: More than one fits what is known.
    """
    candidates = [folder, *folder.resolve().parents[:_LEVELS_UP]]
    for candidate in candidates:
        fitting = [
            path
            for path in sorted(candidate.glob(f"configs/*/{_literal(name)}-bit*-dim*.yaml"))
            if _fits(path, known)
        ]
        if len(fitting) > 1:
            listed = ", ".join(f"{path.parent.name}/{path.name}" for path in fitting[:4])
            raise CheckpointError(
                f"{len(fitting)} configurations fit this run: {listed}",
                where=str(candidate / "configs"),
                fix="choose one: --config FILE, or --method, --bit and --rank",
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
    # ValueError: PyYAML gives a date that does not exist to `datetime`, and lets it raise.
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise CheckpointError(
            f"the configuration cannot be read: {(str(error) or repr(error)).splitlines()[0]}",
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


def path_claims(path: Path) -> dict[str, Fact[Any]]:
    """Return what the path of a YAML says: `configs/METHOD/NAME-bitB-dimH.yaml`; else nothing."""
    named = re.fullmatch(r".*-bit(\d+)-dim(\d+)\.yaml", path.name)
    if named is None or path.parent.parent.name != "configs":
        return {}
    source = f"the name of {path.parent.name}/{path.name}"
    return {
        "method": Fact(path.parent.name, source),
        "bit": Fact(int(named[1]), source),
        "dim": Fact(int(named[2]), source),
    }


def read_params(path: Path) -> dict[str, str]:
    """Return the options of the command line in the authors' `params.sh`.

    Raises:
        CheckpointError: It is no shell command line, or gives an option twice with two values.
    """
    try:
        # shlex keeps the line break of a continued line as part of the next word.
        text = re.sub(r"\\\r?\n", "", path.read_text("utf-8"))
        argv = shlex.split(text, comments=True)
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise CheckpointError(
            f"params.sh cannot be read: {error}",
            where=str(path),
            fix="correct or remove it, and give its facts as options",
        ) from error
    options: dict[str, str] = {}
    for index, word in enumerate(argv):
        if not word.startswith("--"):
            continue
        name, equals, value = word[2:].partition("=")
        if not equals:
            following = argv[index + 1] if index + 1 < len(argv) else ""
            value = "" if following.startswith("--") else following
        if options.get(name, value) != value:
            raise CheckpointError(
                f"--{name} is given as {options[name]!r} and as {value!r}",
                where=str(path),
                fix="keep only the command line of this run",
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


def real(options: Mapping[str, str], name: str, *, where: str) -> float | None:
    """Return the finite number of an option, or None when it is absent.

    Raises:
        CheckpointError: It is something else.
    """
    text = options.get(name)
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise CheckpointError(
            f"--{name} is {text!r}, wanted a number", where=where, fix="correct the file"
        )
    return value


def verify_checksums(folder: Path, weights: list[Path], others: list[Path]) -> Path | None:
    """Check the run's files against `SHA256SUMS` beside them, and return it; None without one.

    The format has no checksum of its own: a flipped bit in a packed code gives another model,
    silently. Where a run carries this file, it does not.

    Args:
        folder: Where the list may lie.
        weights: Files that must be listed when they exist, and exist when they are listed.
        others: Files that must exist when they are listed.

    Raises:
        TrustError: A file differs from its line, is missing, or is not listed.
        CheckpointError: The list cannot be read.
    """
    listing = folder / "SHA256SUMS"
    if not listing.is_file():
        return None
    try:
        lines = listing.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"SHA256SUMS cannot be read: {error}", where=str(listing), fix="correct or remove it"
        ) from error
    pairs = [re.fullmatch(r"([0-9a-f]{64}) [ *](.+)", line) for line in lines if line.strip()]
    if not all(pairs):
        raise CheckpointError(
            "SHA256SUMS has a line that is not 'digest  name'",
            where=str(listing),
            fix="write it again: sha256sum FILES > SHA256SUMS",
        )
    wanted = {(folder / found[2]).resolve(): found[1] for found in pairs if found}
    for path in (*weights, *others):
        digest = wanted.get(path.resolve())
        if digest is None:
            if path in weights and path.is_file():
                raise TrustError(
                    f"{path.name} is not in SHA256SUMS, which lies beside it",
                    where=str(listing),
                    fix="fetch the list again, or write it over all files of the run: sha256sum",
                )
        elif not path.is_file():
            raise TrustError(
                f"{path.name} is missing; SHA256SUMS lists it",
                where=str(path.parent),
                fix="fetch the file again",
            )
        elif digest != storage.sha256_of(path):
            raise TrustError(
                f"{path.name} is not the file that SHA256SUMS lists",
                where=str(path),
                fix="fetch the file again",
            )
    return listing
