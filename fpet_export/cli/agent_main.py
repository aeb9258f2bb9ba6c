"""What `python3 agent.pyz VERB` does: the command line, with the bundle around it as the default.

In an unpacked bundle a verb needs no file: `build` takes the bundle's graph and target, `check`,
`bench` and `predict` the engine that it leaves; where the bundle is a folder of tasks, all of them
take that folder. Everything may still be named. `doctor` asks for what a board needs, and whether
the bundle fits it.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from engines.engine import default_path, load_target
from engines.errors import InputError, MissingDependencyError
from engines.manifest import ENDINGS, is_task_folder, read_manifest
from engines.tasks import index as task_index
from engines.transport.bundle import INDEX, Bundle, read_index
from fpet_export.cli import dispatch, streams
from fpet_export.steps.plain_vit import PLAIN

_TAKE_ANOTHER_FILE = ("-o", "--out", "--against", "--plain")
"""Options whose value may look like the artefact that a verb is about."""

_TAKE_AN_ENGINE = ("bench", "check", "predict")
_LEFT_AT_HOME = ("fpet_export", "calibration")
"""Packages of which the agent holds a part or nothing."""


def command() -> int:
    """Run what was typed; the zipapp hands it to `fpet_export.cli.start.run_process`."""
    agent = Path(sys.argv[0])
    program = shlex.join(("python3", sys.argv[0]))
    try:
        return dispatch.main(complete=lambda argv: completed(argv, agent), program=program)
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in _LEFT_AT_HOME:
            raise
        streams.tell(
            f"✗ error: the agent cannot do this: {error}\n  where: {agent}\n"
            "  fix:   do it with fpet-export on your workstation"
        )
        return MissingDependencyError.exit_code


def completed(argv: list[str], agent: Path) -> list[str]:
    """Return a command line with what the bundle beside the agent knows.

    Args:
        argv: What was typed, the verb first.
        agent: Where the agent lies.

    Raises:
        InputError: An engine is needed that has not been built yet.
        MissingDependencyError: The plain model is needed, and the bundle does not bring it.
        TrustError: The bundle's list is damaged.
    """
    index = agent.with_name(INDEX)
    asks = not argv or argv[0].startswith("-") or {"-h", "--help"} & set(argv)
    if not asks and argv[0] == "doctor":
        has_bundle = any(word.partition("=")[0] == "--bundle" for word in argv)
        here = ["--bundle", str(agent.parent)] if index.is_file() and not has_bundle else []
        return [*argv, "--board", *here]
    if asks or not index.is_file():
        return argv
    bundle = read_index(index)
    if _lacks_the_plain_graph(argv) and bundle.artefact != task_index.FILE:
        argv = [*argv, "--plain", str(_plain_graph(bundle, agent))]
    if _names_an_artefact(argv):
        return argv
    verb, *rest = argv
    if verb == "verify" and not any(not word.startswith("-") for word in rest):
        return [verb, str(agent.parent), *rest]
    artefact = agent.with_name(bundle.artefact)
    if artefact.name == task_index.FILE and verb in ("build", *_TAKE_AN_ENGINE):
        if verb != "build":
            _require_engines(artefact.parent)
        return [verb, str(artefact.parent), *rest]
    if verb == "build":
        has_target = any(word.partition("=")[0] == "--target" for word in rest)
        target = [] if has_target else ["--target", bundle.target]
        return [verb, str(artefact), *target, *rest]
    if verb in _TAKE_AN_ENGINE:
        return [verb, str(_engine(bundle, artefact)), *rest]
    return argv


def _lacks_the_plain_graph(argv: list[str]) -> bool:
    if argv[0] != "bench" or any(word.partition("=")[0] == "--plain" for word in argv):
        return False
    return f"--against {PLAIN}" in " ".join(argv).replace("=", " ")


def _plain_graph(bundle: Bundle, agent: Path) -> Path:
    """Return the plain graph that the bundle brings."""
    brought = bundle.names("plain")
    if not brought:
        raise MissingDependencyError(
            "the bundle does not bring the plain model, and writing it needs torch",
            where=str(agent.with_name(INDEX)),
            fix="bundle the graph again, on the workstation, with --with-plain",
        )
    return agent.with_name(brought[0])


def _names_an_artefact(argv: list[str]) -> bool:
    """Say whether the verb is told what it is about, beside the files that options take."""
    of_options = {
        position + 1 for position, word in enumerate(argv) if word in _TAKE_ANOTHER_FILE
    } | {position for position, word in enumerate(argv) if word.startswith("-")}
    return any(
        (word.endswith(ENDINGS) or is_task_folder(Path(word))) and position not in of_options
        for position, word in enumerate(argv[1:], start=1)
    )


def _engine(bundle: Bundle, artefact: Path) -> Path:
    """Return the bundle's engine, or the one that `build` makes of its graph by default."""
    if read_manifest(artefact, verify=False).kind == "engine":
        return artefact
    target = load_target(bundle.target)
    engine = default_path(artefact, target)
    _require_built(engine)
    return engine


def _require_engines(folder: Path) -> None:
    """Refuse a folder of tasks whose graphs are not all built."""
    index = task_index.read_index(folder)
    target = load_target(index.target)
    for structure in index.structures:
        _require_built(default_path(folder / structure.graph.file, target))


def _require_built(engine: Path) -> None:
    if not engine.is_file():
        raise InputError(
            "there is no engine yet", where=str(engine), fix="build it: fpet-export build"
        )
