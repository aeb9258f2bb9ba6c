"""What `python3 agent.pyz VERB` does: the command line, with the bundle around it as the default.

In an unpacked bundle a verb needs no file: `build` takes the bundle's graph and target, `check`,
`bench` and `predict` the engine that it leaves; where the bundle is a folder of tasks, all of them
take that folder. Everything may still be named. `doctor` asks for what a board needs, and whether
the bundle fits it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NoReturn

from engines import task_index
from engines.bundle import INDEX, Bundle, read_index
from engines.engine import default_path, load_target
from engines.errors import InputError
from fpet_export import cli

_ARTEFACTS = (".onnx", ".plan")
_TAKE_AN_ENGINE = ("bench", "check", "predict")
_LEFT_AT_HOME = ("fpet_export", "calibration")
"""Packages of which the agent holds a part or nothing."""


def run() -> NoReturn:
    """Entry point of the zipapp."""
    agent = Path(sys.argv[0])
    try:
        code = cli.main(
            complete=lambda words: completed(words, agent), program=f"python3 {agent.name}"
        )
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in _LEFT_AT_HOME:
            raise
        sys.stderr.write(
            f"✗ error: the agent cannot do this: {error}\n  where: {agent}\n"
            "  fix:   do it with fpet-export on your workstation\n"
        )
        code = 4
    sys.exit(code)


def completed(words: list[str], agent: Path) -> list[str]:
    """Return a command line with what the bundle beside the agent knows.

    Args:
        words: What was typed, the verb first.
        agent: Where the agent lies.

    Raises:
        InputError: An engine is needed that has not been built yet.
        TrustError: The bundle's list is damaged.
    """
    index = agent.with_name(INDEX)
    asks = not words or words[0].startswith("-") or {"-h", "--help"} & set(words)
    if not asks and words[0] == "doctor":
        has_bundle = any(word.partition("=")[0] == "--bundle" for word in words)
        here = ["--bundle", str(agent.parent)] if index.is_file() and not has_bundle else []
        return [*words, "--board", *here]
    named = any(word.endswith(_ARTEFACTS) or task_index.is_folder(Path(word)) for word in words[1:])
    if asks or named or not index.is_file():
        return words
    verb, *rest = words
    bundle = read_index(index)
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
    return words


def _engine(bundle: Bundle, artefact: Path) -> Path:
    """Return the bundle's engine, or the one that `build` makes of its graph by default."""
    from engines.manifest import read_manifest

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
            "there is no engine yet", where=str(engine), fix="build it: python3 agent.pyz build"
        )
