"""`fpet-export predict X IMG…`: classes for images."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from engines.errors import UsageError
from fpet_export.console import Console
from fpet_export.verbs import Outcome

HELP = "classify images with a graph or an engine"
DESCRIPTION = """\
Classify images with the preprocessing that the artefact's manifest states.

  fpet-export predict out/model.cpu.onnx cat.jpg dog.jpg --top 3
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("artefact", type=Path, metavar="X", help="a graph or an engine")
    parser.add_argument("images", type=Path, nargs="+", metavar="IMG", help="image files")
    parser.add_argument("--top", type=int, default=1, help="classes to print (default: 1)")


def run(options: argparse.Namespace, console: Console) -> Outcome:
    """Print one line an image: its classes and their probabilities."""
    from engines.engine import open_engine
    from engines.evidence import engine_evidence, manifest_of
    from engines.images import read_files

    if options.top < 1:
        raise UsageError(f"--top is {options.top}", where="--top", fix="give a number from 1")
    with open_engine(options.artefact) as engine:
        manifest = manifest_of(options.artefact)
        if manifest.preprocessing is None:
            raise UsageError(
                "this graph was not exported by this toolkit; its preprocessing is unknown",
                where=str(options.artefact),
                fix="predict with a graph from `fpet-export export`",
            )
        images = read_files(options.images, manifest.preprocessing)
        logits = engine_evidence(engine, manifest, images.pixels).logits.astype(np.float64)
    if manifest.weights == "random":
        console.step("weights", "random: these classes mean nothing", passed=None)
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    answers: list[dict[str, Any]] = []
    for path, row in zip(options.images, shares, strict=True):
        best = np.argsort(-row, kind="stable")[: options.top]
        classes = [
            {
                "class": int(index),
                "name": manifest.labels[index] if manifest.labels else str(index),
                "probability": round(float(row[index]), 6),
            }
            for index in best
        ]
        answers.append({"image": str(path), "classes": classes})
    lines = [
        f"{answer['image']}: "
        + ", ".join(f"{c['name']} {c['probability']:.1%}" for c in answer["classes"])
        for answer in answers
    ]
    return Outcome(document={"predictions": answers}, result="\n".join(lines))
