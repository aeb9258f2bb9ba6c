"""`fpet-export show ONNX IMG -o PNG`: which patches merged into which."""

from __future__ import annotations

import argparse
from pathlib import Path

from engines import storage
from engines.errors import InputError, UsageError
from fpet_export.console import Console
from fpet_export.verbs import Outcome

HELP = "draw which patches merged into which, over your image"
DESCRIPTION = """\
Run an exported graph on an image and draw its merge: the input, an arrow from every patch of set
A to the patch it merged into, and the tokens that remain.

  fpet-export show out/model.onnx cat.jpg -o merge.png
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("onnx", type=Path, metavar="ONNX", help="an exported graph")
    parser.add_argument("image", type=Path, metavar="IMG", help="an image file")
    parser.add_argument("-o", "--out", type=Path, required=True, help="PNG to write")
    parser.add_argument("--force", action="store_true", help="replace a file that exists")


def run(options: argparse.Namespace, console: Console) -> Outcome:
    """Draw the merge of one image."""
    storage.refuse_overwrite(options.out, force=options.force)
    if options.out.suffix.lower() != ".png":
        raise UsageError(
            f"{options.out.name} is no PNG file", where="--out", fix="end its name in .png"
        )
    from engines.registry import import_or_explain

    import_or_explain("PIL.Image")
    from engines.evidence import manifest_of
    from engines.images import read_files
    from fpet_export import picture
    from fpet_export.verify import graph_evidence

    manifest = manifest_of(options.onnx)
    if manifest.model is None or manifest.preprocessing is None or "match" not in manifest.probes:
        raise InputError(
            "this graph merges no tokens, or does not say where",
            where=str(options.onnx),
            fix="show a graph that `fpet-export export` wrote for a run with FPET (an engine shows "
            "nothing of its inside)",
        )
    pixels = read_files([options.image], manifest.preprocessing).pixels
    evidence = graph_evidence(options.onnx, pixels)
    assert evidence.match is not None
    match, grid = evidence.match[0], manifest.model.grid
    winner = int(evidence.logits[0].argmax())
    name = manifest.labels[winner] if manifest.labels else f"class {winner}"
    title = f"{options.image.name}: {name} · merge after block {manifest.model.merge_block}"
    storage.write_bytes(options.out, picture.merge_picture(pixels[0], match, grid, title))
    counts = picture.directions(match, grid)
    console.step("show", ", ".join(f"{count} {name}" for name, count in counts.items()))
    return Outcome(
        document={"png": str(options.out), "class": winner, "directions": counts},
        result=str(options.out),
    )
