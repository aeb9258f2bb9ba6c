"""`fpet-export compare A B [C…]`: parity of any artefacts."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

from engines import storage
from engines.errors import UsageError
from engines.evidence import Progress, evidence_of, manifest_of, preprocessing_of
from engines.parity import Gates, ParityTable, compare_stage, judge
from fpet_export.console import Console
from fpet_export.verbs import Outcome, _arguments, _steps

if TYPE_CHECKING:
    from calibration.examine import Examiner
    from engines.images import ImageSet
    from engines.parity import Evidence, StageParity
    from fpet_export.pipeline import Adapted

HELP = "compare a run, graphs and engines on the same images"
DESCRIPTION = """\
Compare artefacts with the first one: a run (its float64 model), graphs (.onnx) or engines.

Exits 7 and names the first one that drifts. Each artefact is held to the gates of its precision: a
typed graph is executed as it is written, and a different match counts as an error only where its
own keys do not explain it.

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
        "--relative",
        type=float,
        help="largest relative difference (default: 1e-4 for float32, 2e-2 for fp16, 1e-1 for "
        "bf16; INT8 and FP8 are shown and not judged by it)",
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
    examiner = _examiner(first, adapted, images, console)
    rows = []
    for name in others:
        with console.progress(Path(name).name, len(images)) as advance:
            rows.append(_row(Path(name), examiner, options.relative, advance))
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


def _examiner(first: str, adapted: Adapted | None, images: ImageSet, console: Console) -> Examiner:
    """Return the reference's evidence, its keys where it shows them, and what an audit must find.

    An engine shows its logits only.
    """
    from calibration.examine import Examiner, examiner_for, tokens_of

    path = Path(first)
    with console.progress(path.name, len(images)) as advance:
        if adapted is not None:
            tokens = None if adapted.model.merger is None else adapted.model.spec.tokens
            reference = adapted.evidence(images.pixels, progress=advance)
        else:
            manifest = manifest_of(path)
            if manifest.kind == "graph" and manifest.precision == "fp32":
                return examiner_for(path, manifest, images, progress=advance)
            tokens = tokens_of(manifest)
            reference = _evidence(path, images, advance)
    return Examiner(images=images, reference=reference, metric=None, prefix=0, tokens=tokens)


def _row(path: Path, examiner: Examiner, relative: float | None, advance: Progress) -> StageParity:
    """Compare one artefact with the reference, by the gates of its precision.

    Where the reference does not show its keys, nobody knows which flips of a typed graph's match
    are rounding: they are counted and not judged.
    """
    from calibration.examine import GATES
    from calibration.graph_files import read_graph

    manifest = manifest_of(path)
    gates = GATES.get(manifest.precision, Gates())
    if manifest.kind == "graph" and manifest.precision in GATES:
        actual = examiner.evidence(read_graph(path), manifest, progress=advance)
        if actual.score_error is None:
            gates = dataclasses.replace(gates, margin=math.inf)
    else:
        actual = _evidence(path, examiner.images, advance)
    if relative is not None:
        gates = dataclasses.replace(gates, relative=relative)
    return compare_stage(
        path.name,
        actual,
        examiner.reference,
        gates=gates,
        patches=examiner.tokens,
        labels=examiner.images.labels,
    )


def _evidence(path: Path, images: ImageSet, advance: Progress) -> Evidence:
    from fpet_export.verify import graph_evidence

    if manifest_of(path).kind == "graph":
        return graph_evidence(path, images.pixels, progress=advance)
    return evidence_of(path, images.pixels, progress=advance)
