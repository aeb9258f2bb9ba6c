"""What a verb asks before it uses an artefact: did it pass its checks, does the target want it so.

The rules are those of `engines.verdict` and `engines.form`; here they are read from the options and
said on the reporter.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from engines import form, verdict
from engines.errors import ParityError
from engines.manifest import Manifest, manifest_path, read_manifest
from fpet_export.reporter import Reporter
from fpet_export.requests import AllowFailed, AllowForm

if TYPE_CHECKING:
    from engines.targets import Target
    from engines.tasks.index import TaskIndex


def require(path: Path, manifest: Manifest, request: AllowFailed, reporter: Reporter) -> None:
    """Refuse an artefact that failed its check, unless that is wanted; say what is not sure.

    Raises:
        ParityError: It failed.
    """
    verdict.require_passed(path, manifest, allow_failed=request.force_failed)
    report(path, manifest, reporter)


def require_file(path: Path, request: AllowFailed, reporter: Reporter) -> None:
    """Do the same for a file; nothing is known of one without a manifest.

    The bytes are not compared here: whoever opens them does that.
    """
    if path.is_file() and manifest_path(path).exists():
        require(path, read_manifest(path, verify=False), request, reporter)


def report(path: Path, manifest: Manifest, reporter: Reporter) -> None:
    """Say that an artefact failed its check, or had none; nothing where it passed.

    A graph that no run of ours is behind has nothing that it could be compared with, and one that
    tasks share is compared task by task.
    """
    found = verdict.verdict_of(manifest)
    if found.state == "failed":
        reporter.step("parity", found.in_words(path.name), passed=False)
    elif found.state == "unchecked" and manifest.model is not None and not manifest.is_shared:
        reporter.step("parity", found.in_words(path.name), passed=None)


def require_form(
    path: Path,
    manifest: Manifest,
    target: Target,
    request: AllowForm,
    reporter: Reporter,
) -> None:
    """Refuse a graph that its target wants otherwise, unless that is wanted; say what is not sure.

    Raises:
        InputError: It was exported for another target; the command that exports it is proposed.
    """
    if not request.force_form:
        form.require_form(path, manifest, target)
    say_form(path, manifest, target, reporter)


def say_form(path: Path, manifest: Manifest | None, target: Target, reporter: Reporter) -> None:
    """Say that a graph has another form than its target wants, or that nobody knows."""
    if manifest is None or not form.is_known(manifest):
        reporter.step(
            "form",
            f"nothing says for which target {path.name} was written: it may be slower than needed",
            passed=None,
        )
    for difference in () if manifest is None else form.differences(manifest, target):
        reporter.step("form", f"not that of {target.name}: {difference}", passed=None)


def require_tasks(
    folder: Path,
    index: TaskIndex,
    names: Iterable[str],
    request: AllowFailed,
    reporter: Reporter,
) -> None:
    """Refuse tasks of a folder that failed their check, unless that is wanted.

    Raises:
        ParityError: There is such a task, and all are named; or a graph of theirs failed.
        TrustError: A manifest is missing or damaged.
    """
    failed, unchecked = {}, []
    names = list(names)
    for number in sorted({index.task(name, where=str(folder)).structure for name in names}):
        graph = folder / index.structures[number].graph.file
        require(graph, read_manifest(graph, verify=False), request, reporter)
    for name in names:
        delta = folder / index.task(name, where=str(folder)).delta.file
        found = verdict.verdict_of(read_manifest(delta, verify=False))
        if found.state == "failed":
            failed[name] = found.failure
        elif found.state == "unchecked":
            unchecked.append(name)
    if failed and not request.force_failed:
        what = "; ".join(f"{name}: {why}" for name, why in failed.items())
        drop = shlex.join(["fpet-export", "tasks", "-o", str(folder), "--drop", ",".join(failed)])
        raise ParityError(
            f"{len(failed)} of the folder's tasks failed the check: {what}",
            where=str(folder),
            fix=f"take them out: {drop}\n         or add {verdict.FLAG} to use them anyway",
        )
    for name, why in failed.items():
        reporter.step("parity", f"{name} failed its check: {why}", passed=False)
    if unchecked:
        reporter.step("parity", f"never checked: {', '.join(unchecked)}", passed=None)


def go_on(line: str, manifest: Manifest) -> str:
    """Return a proposed command with the flag that it needs where the artefact's check failed."""
    return f"{line} {verdict.FLAG}" if verdict.verdict_of(manifest).state == "failed" else line


def failed_argv(request: AllowFailed) -> list[str]:
    """Return the same as words, for the agent's command line."""
    return [verdict.FLAG] if request.force_failed else []


def form_words(request: AllowForm) -> list[str]:
    """Return the same as words, likewise."""
    return [form.FLAG] if request.force_form else []
