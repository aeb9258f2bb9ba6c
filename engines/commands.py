"""Commands that are proposed, in `next` and `fix` lines: quoted, with the real paths.

A line begins with `fpet-export`; the command line replaces it by what was typed (the agent's name),
and keeps back a next command whose verb is not there.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engines.manifest import Manifest

PROGRAM = "fpet-export"


def command(*words: object) -> str:
    """Return a command as one types it; `words` begin with the verb."""
    return shlex.join((PROGRAM, *map(str, words)))


def graph_of(artefact: Path, manifest: Manifest | None) -> Path | None:
    """Return the graph that an artefact was made from, where it lies beside it."""
    if manifest is None or not manifest.parents:
        return None
    graph = artefact.parent / manifest.parents[0].file
    return graph if graph.is_file() else None


def rebuild(artefact: Path, manifest: Manifest | None) -> str:
    """Return how to build an engine again from its graph."""
    graph = graph_of(artefact, manifest)
    if manifest is None or graph is None:
        named = manifest.parents[0].file if manifest is not None and manifest.parents else "it"
        return (
            f"build it again from its graph ({named} does not lie beside it)"
            if named != "it"
            else f"build it again from its graph with `{PROGRAM} build`"
        )
    again = command("build", graph, "--target", manifest.target, "-o", artefact, "--force")
    return f"build it again: {again}"


def requantize(graph: Path, manifest: Manifest | None, *, precision: str, target: str) -> str:
    """Return how to type the float32 graph, of which `graph` is made or which it is itself."""
    source = graph
    if manifest is not None and manifest.precision != "fp32":
        parent = graph_of(graph, manifest)
        if parent is None:
            return f"type its float32 graph again, with --precision {precision} --target {target}"
        source = parent
    how = command("quantize", source, "--precision", precision, "--target", target)
    return f"type the float32 graph for that target: {how}"


def export_again(
    artefact: Path, manifest: Manifest | None, target: str, *, more: Sequence[str] = ()
) -> str:
    """Return how to export a run again for another target, by the command that made its graph.

    The graph is written into a folder of its own, which is called after the target.

    Args:
        artefact: The graph, or what was made from it.
        manifest: Of the artefact; it holds the command.
        target: As `--target` takes it.
        more: Options to add.
    """
    words = _exported_by(artefact, manifest)
    if not words:
        return f"export its run again, with --target {target}"
    words[0] = "export"
    words = _without(words, {"--target": 1, "-o": 1, "--out": 1, "--force": 0, "--json": 0})
    words = _without(words, {"--peers": 1, "--threads": 1, "--rounds": 1, "--bench": 0})
    words = _without(words, {"--no-bench": 0, "-q": 0, "-v": 0, "--opset": 1})
    out = f"out-{target.replace('@', '-')}"
    return f"export it for that target: {command(*words, '--target', target, *more, '-o', out)}"


def _exported_by(artefact: Path, manifest: Manifest | None) -> list[str]:
    """Return the words of the export behind an artefact; none where nothing beside it says so."""
    from engines.manifest import manifest_path, read_manifest

    while manifest is not None:
        words = list(manifest.command[1:])
        if words and words[0] in ("export", "deploy"):
            return words
        graph = graph_of(artefact, manifest)
        if graph is None or not manifest_path(graph).exists():
            return []
        artefact, manifest = graph, read_manifest(graph, verify=False)
    return []


def _without(words: Sequence[str], options: dict[str, int]) -> list[str]:
    """Return a command without some options and the words that follow them."""
    kept, skip = [], 0
    for word in words:
        name, has_value, _ = word.partition("=")
        if skip:
            skip -= 1
        elif name in options:
            skip = 0 if has_value else options[name]
        else:
            kept.append(word)
    return kept
