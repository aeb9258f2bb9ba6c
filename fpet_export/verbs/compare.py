"""`fpet-export compare A B [C…]`: parity of any artefacts."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from engines import storage
from engines.errors import UsageError
from engines.evidence import Progress, evidence_of, manifest_of, preprocessing_of
from engines.parity import Gates, ParityTable, compare_stage, judge
from fpet_export.console import Console
from fpet_export.verbs import Outcome, _arguments, _steps

if TYPE_CHECKING:
    from engines.images import ImageSet
    from engines.parity import Evidence
    from fpet_export.pipeline import Adapted

HELP = "compare a run, graphs and engines on the same images"
DESCRIPTION = """\
Compare artefacts with the first one: a run (its float64 model), graphs (.onnx) or engines.

Exits 7 and names the first one that drifts. The gates are those of float32; --relative loosens
them for other precisions.

  fpet-export compare runs/lora/digits out/model.onnx --backbone backbone.safetensors
  fpet-export compare out/model.onnx out/model.cpu.onnx --data val/
"""
_ARTEFACTS = (".onnx", ".plan")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("artefacts", nargs="+", metavar="X", help="a run, .onnx or engine files")
    _arguments.add_run(parser, positional=False)
    _arguments.add_data(parser)
    _arguments.add_output(parser, what="where to write the table (default: only printed)")
    parser.add_argument(
        "--relative", type=float, default=1e-4, help="largest relative difference (default: 1e-4)"
    )


def run(options: argparse.Namespace, console: Console) -> Outcome:
    """Compare, print the table, and judge it."""
    if len(options.artefacts) < 2:
        raise UsageError(
            "only one artefact was given", where="compare", fix="give the reference and another"
        )
    if options.out is not None:
        storage.refuse_overwrite(options.out, force=options.force)
    first, *others = options.artefacts
    if any(not name.endswith(_ARTEFACTS) for name in others):
        raise UsageError(
            "a run can only be the reference",
            where=" ".join(others),
            fix="put it first, or export it",
        )
    adapted = None
    if first.endswith(_ARTEFACTS):
        preprocessing = preprocessing_of(Path(first))
    else:
        options.run = first
        adapted = _arguments.load_run(options)
        preprocessing = adapted.preprocessing
    images = _arguments.images_for(options, preprocessing, default=8)
    _check_labels(first, adapted, images)
    reference, tokens = _reference(first, adapted, images, console)
    rows = []
    for name in others:
        with console.progress(Path(name).name, len(images)) as advance:
            actual = _evidence(Path(name), images, advance)
        gates = Gates(relative=options.relative)
        rows.append(
            compare_stage(
                Path(name).name,
                actual,
                reference,
                gates=gates,
                patches=tokens,
                labels=images.labels,
            )
        )
    table = ParityTable(
        images=images.description,
        reference="adapted model in float64" if adapted else f"artefact {Path(first).name}",
        rows=tuple(rows),
    )
    _steps.show_table(table, console)
    document = table.to_json()
    if options.out is not None:
        storage.write_text(options.out, json.dumps(document, indent=1) + "\n")
    judge(table, fix="export or build the artefact again from the run")
    return Outcome(document=document, result=str(options.out or "equal within the gates"))


def _check_labels(first: str, adapted: Adapted | None, images: ImageSet) -> None:
    from fpet_export.verify import check_labels

    if adapted is not None:
        check_labels(images, adapted.model.spec.classes)
    elif (model := manifest_of(Path(first)).model) is not None:
        check_labels(images, model.classes)


def _reference(
    first: str, adapted: Adapted | None, images: ImageSet, console: Console
) -> tuple[Evidence, int | None]:
    """Return the reference's evidence and the tokens an audit must find."""
    with console.progress(Path(first).name, len(images)) as advance:
        if adapted is not None:
            tokens = None if adapted.model.merger is None else adapted.model.spec.tokens
            return adapted.evidence(images.pixels, progress=advance), tokens
        model = manifest_of(Path(first)).model
        tokens = None
        if model is not None and model.merge_block is not None:
            tokens = model.prefix_tokens + model.grid[0] * model.grid[1]
        return _evidence(Path(first), images, advance), tokens


def _evidence(path: Path, images: ImageSet, advance: Progress) -> Evidence:
    from fpet_export.verify import graph_evidence

    if manifest_of(path).kind == "graph":
        return graph_evidence(path, images.pixels, progress=advance)
    return evidence_of(path, images.pixels, progress=advance)
