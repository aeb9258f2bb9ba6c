"""`fpet-export predict X IMG…`: classes for images."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engines.errors import UsageError
from fpet_export.cli import arguments
from fpet_export.cli.verbs import Outcome
from fpet_export.reporter import Reporter
from fpet_export.workflow import images, usable

if TYPE_CHECKING:
    from engines.engine import Engine
    from engines.imaging.source import ImageSource
    from engines.manifest import Manifest, Preprocessing

GROUP = "use"
HELP = "classify images with a graph or an engine"
DESCRIPTION = """\
Classify images with the preprocessing that the artefact's manifest states. A
folder stands for every image below it; what is left out is counted.

  fpet-export predict out/model.cpu.onnx cat.jpg dog.jpg --top 3
  # every image below the folder:
  fpet-export predict out/model.cpu.onnx photos/
  # a folder that `tasks` wrote:
  fpet-export predict out --task pets cat.jpg
"""
_AT_ONCE = 64
"""Images in memory; a folder may hold many."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "artefact", type=Path, metavar="X", help="a graph, an engine, or a folder of tasks"
    )
    parser.add_argument(
        "images", type=Path, nargs="+", metavar="IMG", help="image files, or folders of them"
    )
    parser.add_argument("--task", metavar="NAME", help="which task of a folder of tasks")
    parser.add_argument(
        "--signers", type=Path, metavar="FILE", help="open it only if one of these has signed it"
    )
    arguments.add_running(parser)
    arguments.add_failed(parser)
    parser.add_argument("--top", type=int, default=1, help="classes to print (default: 1)")
    arguments.add_skip_bad(parser)


@contextlib.contextmanager
def _opened(options: argparse.Namespace, reporter: Reporter) -> Iterator[tuple[Engine, Manifest]]:
    """Open an artefact, or one task of a folder."""
    from engines.engine import load_target, open_engine
    from engines.parity.outputs import manifest_of
    from engines.tasks.open_tasks import open_tasks

    path, name = options.artefact, options.task
    if name is None and not path.is_dir():
        opening = arguments.open_options(options, signers=options.signers)
        with open_engine(path, options=opening) as engine:
            manifest = manifest_of(path)
            usable.say(path, manifest, reporter)
            yield engine, manifest
        return
    if options.signers is not None:
        raise UsageError(
            "a folder of tasks has no signature of its own",
            where="--signers",
            fix="send it in an archive that you sign, or sign and name one graph or engine",
        )
    with open_tasks(path, options=arguments.open_options(options)) as tasks:
        if name is None:
            raise arguments.no_task(path, tasks.names)
        usable.require_tasks(path, tasks.index, [name], options, reporter)
        handle = tasks.task(name)
        target, runs = tasks.index.target, handle.describe()["artefact"]
        if not runs.endswith(load_target(target).suffix):
            reporter.step("engine", f"no {target} engine lies here: {runs} runs", passed=None)
        yield handle, handle.manifest()


def _source(
    options: argparse.Namespace, preprocessing: Preprocessing, reporter: Reporter
) -> ImageSource:
    """Return the image files that were named, and those below the folders that were.

    Raises:
        InputError: One of them cannot be read and `--skip-bad` is not given, or none can.
    """
    from engines.imaging.source import open_files

    source = images.without_bad(open_files(options.images, preprocessing), options)
    left_out = source.left_out()
    if left_out:
        text = f"{source.description} · left out: {', '.join(left_out)}"
        reporter.step("images", text, passed=None)
    images.say_remarks(source.remarks(), reporter)
    return source


def run(options: argparse.Namespace, reporter: Reporter) -> Outcome:
    """Print one line an image: its classes and their probabilities."""
    from engines.imaging.source import collect
    from engines.parity.finite import require_finite
    from engines.parity.outputs import engine_outputs

    if options.top < 1:
        raise UsageError(f"--top is {options.top}", where="--top", fix="give a number from 1")
    with _opened(options, reporter) as (engine, manifest):
        if manifest.preprocessing is None:
            raise UsageError(
                "this graph was not exported by this toolkit; its preprocessing is unknown",
                where=str(options.artefact),
                fix="predict with a graph from `fpet-export export`",
            )
        source = _source(options, manifest.preprocessing, reporter)
        logits = np.concatenate(
            [
                engine_outputs(engine, manifest, collect(part).pixels).logits
                for part in source.parts(_AT_ONCE)
            ]
        ).astype(np.float64)
    require_finite(logits, [str(place.path) for place in source.places], of=options.artefact)
    if manifest.weights == "random":
        reporter.step("weights", "random: these classes mean nothing", passed=None)
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    answers: list[dict[str, Any]] = []
    for place, row in zip(source.places, shares, strict=True):
        best = np.argsort(-row, kind="stable")[: options.top]
        classes = [
            {
                "class": int(index),
                "name": manifest.labels[index] if manifest.labels else str(index),
                "probability": round(float(row[index]), 6),
            }
            for index in best
        ]
        answers.append({"image": str(place.path), "classes": classes})
    lines = [
        f"{answer['image']}: "
        + ", ".join(f"{c['name']} {c['probability']:.1%}" for c in answer["classes"])
        for answer in answers
    ]
    return Outcome(document={"predictions": answers}, result="\n".join(lines))
