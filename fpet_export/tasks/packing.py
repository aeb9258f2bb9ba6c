"""A bundle of a folder of tasks: all of it, the agent, and what every task said about images."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from engines.backends._provenance import read_source
from engines.engine import load_target
from engines.errors import UsageError
from engines.form import export_command, require_form
from engines.manifest import manifest_path
from engines.parity.reference_file import write_reference
from engines.plurals import counted
from engines.tasks.check import check_path
from engines.tasks.folder import check_folder, names_in_short
from engines.tasks.index import FILE, write_index
from engines.transport.bundle import Bundle, Role, write_bundle
from fpet_export.board.agent import build_agent
from fpet_export.reporter import Reporter
from fpet_export.requests import AllowFailed, AllowForm, TaskImages, Writing
from fpet_export.steps import usable
from fpet_export.tasks import by_task

if TYPE_CHECKING:
    from engines.imaging.images import ImageSet
    from engines.manifest import Manifest
    from engines.targets import Target
    from engines.tasks.folder import TaskFolder

IMAGES = 4
"""Synthetic images a task: enough to see another task's weights, small beside a backbone."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PackRequest(TaskImages, AllowFailed, AllowForm, Writing):
    """What is packed, and what its answers are recorded on.

    Attributes:
        artefact: A graph, an engine or a folder of tasks.
        target: Where it will run; None is what it was exported for.
        limit: Images to record answers on, at most; of a folder, for each task.
    """

    artefact: Path
    target: str | None = None
    limit: int = dataclasses.field(default=16, metadata={"least": 1})


def pack(request: PackRequest, out: Path, reporter: Reporter) -> Bundle:
    """Check a folder of tasks, let every task answer, and write the bundle.

    Engines that were built in the folder stay here: the board builds its own.

    Args:
        request: The folder, its target and images.
        out: `NAME.bundle.tar`.
        reporter: Hears of each part.

    Raises:
        TrustError: It is not a folder of tasks, or something in it is not what its index says.
        UsageError: Its graphs are not what the target builds.
        InputError: The target's runtime does not read them.
    """
    found = check_folder(request.artefact, with_engines=False)
    reporter.step("tasks", f"whole: {found.describe()}")
    target = load_target(request.target or found.index.target)
    usable.require_tasks(found.path, found.index, found.index.names, request, reporter)
    _require_suited(found, target, any_form=request.force_form)
    images = _images(found, request, reporter)
    with tempfile.TemporaryDirectory(prefix="fpet-export-") as scratch:
        made = Path(scratch)
        readme, agent = made / "README.txt", made / "agent.pyz"
        agent.write_bytes(build_agent())
        reporter.step("agent", f"{agent.name} {agent.stat().st_size / 1e3:.0f} kB")
        readme.write_text(_readme(found, target), "utf-8")
        checks = _answers(found, images, made, reporter)
        files: list[tuple[Path, Role]] = [(readme, "readme"), (agent, "agent")]
        tasks: list[tuple[Path, Role]] = [(check, "check") for check in checks]
        for graph in found.graphs:
            files += _with_manifest(graph.path, graph.manifest)
            files += [] if graph.base is None else [(graph.base, "companion")]
        for task in found.index.tasks:
            delta = found.path / task.delta.file
            tasks += _with_manifest(delta, found.tasks[task.name])
        files.append((_index(found, target, made), "artefact"))
        tools = found.graphs[0].manifest.tools
        bundle = write_bundle(
            out, files, tasks=tasks, target=target.name, tools=tools, force=request.force
        )
    reporter.step("bundle", f"{out.name} {out.stat().st_size / 1e6:.1f} MB for {target.name}")
    return bundle


def _require_suited(found: TaskFolder, target: Target, *, any_form: bool) -> None:
    """Refuse graphs that the target does not read or build, or that it wants otherwise."""
    for graph, structure in zip(found.graphs, found.index.structures, strict=True):
        read_source(graph.path, target, allow_failed=True, any_form=True)
        is_open = any(isinstance(n, str) for wanted in structure.inputs for n in wanted.shape)
        if is_open and target.backend == "trt":
            raise UsageError(
                f"{graph.path.name} takes tasks of any rank and number of classes, as "
                f"{found.index.target} runs it; a plan for {target.name} needs fixed ones",
                where=f"--target {target.name}",
                fix="write the tasks again for that target: "
                f"{export_command(graph.manifest, target)}",
            )
        if not any_form:
            require_form(graph.path, graph.manifest, target)


def _images(found: TaskFolder, request: PackRequest, reporter: Reporter) -> dict[str, ImageSet]:
    """Return what each task is asked about."""
    preprocessing = {}
    for task in found.index.tasks:
        own = found.graphs[task.structure].manifest.preprocessing
        assert own is not None, "every shared graph states it"
        preprocessing[task.name] = own
    counts = {task.name: task.classes for task in found.index.tasks}
    known = by_task.known_by_task(request, counts, found.tasks)
    return by_task.images_by_task(request, preprocessing, known, reporter, default=IMAGES)


def _answers(
    found: TaskFolder, images: dict[str, ImageSet], made: Path, reporter: Reporter
) -> list[Path]:
    """Write what every task says about its images."""
    from fpet_export.steps.task_references import references_of_tasks

    written, unsure, sure = [], [], 0
    with reporter.progress("answers of every task", len(images)) as advance:
        for name, expected in references_of_tasks(found, images):
            written.append(check_path(made, name))
            write_reference(written[-1], expected)
            sure += expected.sure_images()
            if not expected.sure_images():
                unsure.append(name)
            advance(1)
    described = ", ".join(dict.fromkeys(own.description for own in images.values()))
    count = sum(map(len, images.values()))
    reporter.step(
        "check",
        f"answers of {counted(len(written), 'task')} on {described}, "
        f"{sure} of {count} with a sure match",
    )
    if unsure:
        reporter.step(
            "check",
            f"no image has a sure match for {names_in_short(tuple(unsure))}: a right engine on "
            "another processor may be refused (give other images: --data NAME=DIR)",
            passed=None,
        )
    return written


def _with_manifest(path: Path, manifest: Manifest) -> list[tuple[Path, Role]]:
    """Return a file with all that belongs to it."""
    return [
        *((path.with_name(one.file), "companion") for one in manifest.companions),
        (manifest_path(path), "manifest"),
        (path, "companion"),
    ]


def _index(found: TaskFolder, target: Target, made: Path) -> Path:
    """Return the folder's index, for another target rewritten: its engines are looked for there."""
    if target.name == found.index.target:
        shutil.copy(found.path / FILE, made / FILE)
    else:
        write_index(made, dataclasses.replace(found.index, target=target.name))
    return made / FILE


def _readme(found: TaskFolder, target: Target) -> str:

    rows = [
        f"  {task.name:20}  {' + '.join(task.parts)}, {task.classes} classes"
        for task in found.index.tasks
    ]
    first = found.index.tasks[0].name
    return f"""\
{counted(len(rows), "task")} on one backbone
{textwrap.fill(f"for {target.name}: {target.summary}", 80, subsequent_indent="  ")}

{chr(10).join(rows)}

On the board, with Python 3.10, numpy and {target.module}:

  python3 agent.pyz doctor      what this board has
  python3 agent.pyz build       the engine that all tasks share
  python3 agent.pyz check       are every task's answers those of the workstation?
  python3 agent.pyz bench       latency of every task, and what a switch takes
  python3 agent.pyz predict --task {first} IMAGE

Each has --help and --json. bundle.json lists every file with its SHA-256.
Whether the archive is whole and who signed it, before anything of it is used:

  ssh-keygen -Y verify -f ALLOWED_SIGNERS -I SIGNER -n fpet-export \\
      -s X.bundle.tar.sig < X.bundle.tar
"""
