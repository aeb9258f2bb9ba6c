"""How a graph is written for its target, and whether another target wants it so.

A graph in the wrong form runs and is right, and slower without a word: a ViT-B/16 in FP16 has 134
kernels on TensorRT-RTX where it was exported for a CPU, 110 where it was exported for that target.
So a graph is given to another target only where both want the same, or where that is said
(`--force-form`, or `any_form=True` in Python).
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from engines.errors import InputError
from engines.manifest import Form, Manifest
from engines.targets import Target

FLAG = "--force-form"

_SCALE = {
    "split": "split, on q and k",
    "folded": "folded into the query weights",
}
_LAST_BLOCK = {
    "class-token": "the class token alone",
    "all-tokens": "all tokens",
}
_INTEGERS = {
    "pairs": "Q/DQ pairs around tensors",
    "gemm": "integer products in a float32 graph",
}
_DECIDED_BY_THE_TARGET = ("--opset", "--last-block")
_WRITE_A_GRAPH = ("export", "deploy", "tasks")


def differences(manifest: Manifest, target: Target) -> tuple[str, ...]:
    """Return in words where a graph has another form than a target wants.

    What was exported for that very target has its form, whatever options it was exported with.
    Of a graph whose form is not known nothing is said; see `is_known`.
    """
    form = manifest.form
    if form is None or manifest.target == target.name:
        return ()
    found = []
    if form.attention_scale != target.attention_scale:
        found.append(
            f"its attention scale is {_SCALE[form.attention_scale]}, {target.name} wants it "
            f"{_SCALE[target.attention_scale]}"
        )
    if form.last_block and form.last_block != target.last_block:
        found.append(
            f"its last block computes {_LAST_BLOCK[form.last_block]}, for {target.name} "
            f"{_LAST_BLOCK[target.last_block]}"
        )
    if manifest.opset < target.opset:
        found.append(
            f"it has opset {manifest.opset}, for {target.name} it is written in {target.opset}"
        )
    if form.integers and form.integers != target.integers:
        found.append(
            f"its INT8 is written as {_INTEGERS[form.integers]}, for {target.name} as "
            f"{_INTEGERS[target.integers]}"
        )
    return tuple(found)


def is_known(manifest: Manifest) -> bool:
    """Say whether a graph's form is known; that of a graph of somebody else's is not."""
    return manifest.form is not None


def require_form(path: Path, manifest: Manifest, target: Target) -> None:
    """Refuse a graph that was written otherwise than a target wants it.

    Args:
        path: Path of the graph.
        manifest: Its own.
        target: Where it is to run.

    Raises:
        InputError: It was; the message holds the command that exports it for the target.
    """
    found = differences(manifest, target)
    if found:
        raise InputError(
            f"the graph was exported for {manifest.target}, not for {target.name}: "
            f"{'; '.join(found)}",
            where=str(path),
            fix=f"export it for that target: {export_command(manifest, target)}\n"
            f"         or add {FLAG} to use it as it is (in Python force_form=True; in "
            "BuildOptions any_form=True)",
        )


def export_command(manifest: Manifest | None, target: Target) -> str:
    """Return the command that exports a graph again, for another target, into a new folder.

    Its paths are those that were typed, so it begins by going where they were, if that is elsewhere
    on this machine.

    Args:
        manifest: Manifest of the graph, or of what was made from it; None where there is none.
        target: What it is to be exported for.
    """
    form = None if manifest is None else manifest.form
    words = () if form is None else form.command
    if len(words) < 2 or words[1] not in _WRITE_A_GRAPH or {"--add", "--drop"} & {*words}:
        kind = "tasks RUN..." if manifest is not None and manifest.is_shared else "export RUN"
        return f"fpet-export {kind} --target {target.name} -o FOLDER"
    kept, out = _without(words[2:])
    named = f"{(out or 'out').rstrip('/')}-{target.file_name}"
    elsewhere = _elsewhere(form)
    folder = next(path for path in _numbered(named) if not Path(elsewhere, path).exists())
    again = shlex.join([*words[:2], *kept, "--target", target.name, "-o", folder])
    return f"cd {shlex.quote(elsewhere)} && {again}" if elsewhere else again


def _elsewhere(form: Form | None) -> str:
    """Return the folder that a graph was exported in, unless it is this one or not here."""
    if form is None or not form.folder or not Path(form.folder).is_dir():
        return ""
    return "" if Path(form.folder).samefile(".") else form.folder


def _without(words: Sequence[str]) -> tuple[list[str], str]:
    """Return the words without target, output and what a target decides, and the output."""
    kept: list[str] = []
    out, skips = "", ""
    for word in words:
        if skips:
            out, skips = (word if skips == "--out" else out), ""
            continue
        option, has_value, value = word.partition("=")
        if option in ("-o", "--out"):
            out, skips = value, "" if has_value else "--out"
        elif option in ("--target", *_DECIDED_BY_THE_TARGET):
            skips = "" if has_value else option
        elif word.startswith("-o") and not word.startswith("--"):
            out = word[2:]
        elif word != "--force":
            kept.append(word)
    return kept, out


def _numbered(name: str) -> Sequence[str]:
    return [name, *(f"{name}-{number}" for number in range(2, 100))]
