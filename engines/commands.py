"""Commands that are proposed, in `next` and `fix` lines: quoted, with the real paths.

A line begins with `fpet-export`; the command line replaces it by what was typed (the agent's name),
and keeps back a next command whose verb is not there.
"""

from __future__ import annotations

import shlex
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
    if manifest is not None and not manifest.is_float32:
        parent = graph_of(graph, manifest)
        if parent is None:
            return f"type its float32 graph again, with --precision {precision} --target {target}"
        source = parent
    how = command("quantize", source, "--precision", precision, "--target", target)
    return f"type the float32 graph for that target: {how}"
