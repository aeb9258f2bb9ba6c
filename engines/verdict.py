"""Whether an artefact passed its checks, and who may use one that did not.

A check leaves its table in the manifest (`Manifest.parity`), also when it fails. From then on the
artefact is refused wherever it would be used, and so is everything that is made of it: what its
parents' checks came to stands in `Manifest.parents`. Whoever wants it all the same says so
(`--force-failed`, or `allow_failed=True` in Python). An artefact without a table was never checked,
or its check was stopped: it may be used, and that is said.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from engines import storage
from engines.errors import ParityError
from engines.manifest import Manifest, Parent

FLAG = "--force-failed"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the checks of an artefact and of what it was made from came to.

    Attributes:
        state: "failed" where one of them failed, else "unchecked" where one is missing.
        file: Name of the artefact that failed or passed: its own, unless a parent decides.
        failure: The stage that failed, and why; "" unless `state` is "failed".
    """

    state: Literal["passed", "failed", "unchecked"]
    file: str
    failure: str = ""

    def in_words(self, name: str) -> str:
        """Return a sentence about the artefact `name`."""
        of = "" if name == self.file else f"{name} was made from {self.file}, which "
        if self.state == "failed":
            return f"{of or f'{name} '}failed its check: {self.failure}"
        if self.state == "unchecked":
            return f"{of or f'{name} '}was never checked against what it was made from"
        return f"{name} passed its check"


def verdict_of(manifest: Manifest) -> Verdict:
    """Return what the checks of an artefact came to; the first failure on its way counts."""
    failed = [parent for parent in manifest.parents if parent.verdict == "failed"]
    if failed:
        return Verdict(state="failed", file=failed[-1].file, failure=failed[-1].failure)
    failure = failure_in(manifest.parity)
    if failure:
        return Verdict(state="failed", file=manifest.file, failure=failure)
    unchecked = [parent for parent in manifest.parents if parent.verdict == "unchecked"]
    if unchecked:
        return Verdict(state="unchecked", file=unchecked[-1].file)
    if _is_checked(manifest.parity):
        return Verdict(state="passed", file=manifest.file)
    return Verdict(state="unchecked", file=manifest.file)


def failure_in(parity: Mapping[str, Any] | None) -> str:
    """Return the first stage of a stored table that failed, and why; "" where none did.

    Args:
        parity: As a manifest holds it: one table, or for a task several by name.
    """
    for row in _rows(parity):
        if row.get("failures"):
            why = "; ".join(map(str, row["failures"]))
            return f"stage {row.get('stage', 'unknown')}: {why}"
    return ""


def graph_as_parent(path: Path, manifest: Manifest | None) -> Parent:
    """Return a graph as the parent of what is made of it, with its verdict.

    Args:
        path: Path of the graph.
        manifest: Its own; None for a graph of somebody else's.
    """
    parity = None if manifest is None else manifest.parity
    failure = failure_in(parity)
    return Parent(
        role="graph",
        file=path.name,
        sha256=storage.sha256_of(path),
        verdict="failed" if failure else "passed" if _is_checked(parity) else "unchecked",
        failure=failure,
    )


def require_passed(path: Path | str, manifest: Manifest, *, allow_failed: bool = False) -> None:
    """Refuse an artefact whose check, or whose parents' check, failed.

    Args:
        path: Path of the artefact, for the message.
        manifest: Its own.
        allow_failed: Take it all the same.

    Raises:
        ParityError: It failed.
    """
    found = verdict_of(manifest)
    if found.state == "failed" and not allow_failed:
        raise ParityError(
            found.in_words(Path(path).name),
            where=str(path),
            fix=f"make it again from one that passes, or add {FLAG} to use it anyway (in Python "
            "force_failed=True; in OpenOptions and BuildOptions "
            "allow_failed=True); what is made from it counts as failed, too",
        )


def _is_checked(parity: Mapping[str, Any] | None) -> bool:
    return next(_rows(parity), None) is not None


def _rows(parity: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of a stored table, or of all tables of a task."""
    if parity is None:
        return
    tables = [parity] if "rows" in parity else list(parity.values())
    for table in tables:
        yield from table.get("rows", ()) if isinstance(table, Mapping) else ()
