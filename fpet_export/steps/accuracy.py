"""How the artefacts answer that were timed, on the user's images: `bench --data`."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path

from benchmarks.accuracy.answering import answers, identity
from benchmarks.accuracy.end_to_end import end_to_end_line, time_end_to_end
from benchmarks.accuracy.journal import Journal
from benchmarks.accuracy.scores import accuracy_lines, score
from benchmarks.measurement import Measurement
from engines.errors import InputError, UsageError
from engines.imaging.class_names import is_sure
from engines.imaging.source import ImageSource, open_source
from engines.manifest import Manifest, manifest_path, read_manifest
from engines.parity.outputs import manifest_of, preprocessing_of
from fpet_export.reporter import Reporter
from fpet_export.requests import BenchRequest
from fpet_export.steps import check_images, measuring

_ENDING = ".answers.jsonl"


def require_judged(request: BenchRequest) -> None:
    """Refuse what can be refused before anything is timed.

    Raises:
        UsageError: Images are for another machine, or a reference is given without images.
        InputError: There are no such images, or no such reference.
    """
    if request.data is None:
        if request.reference is not None:
            raise UsageError(
                "a reference answers about images, and none are given",
                where="--reference",
                fix="add --data SET",
            )
        return
    if request.remote is not None:
        raise UsageError(
            "the images stay here: bench judges answers on this machine",
            where="--data",
            fix="leave it out; `deploy --remote --data SET` checks the engine's answers there",
        )
    check_images.require_inputs(request)
    if request.reference is not None and not request.reference.is_file():
        raise InputError("there is no such file", where=str(request.reference), fix="check it")


def judge_answers(
    measurements: Sequence[Measurement], request: BenchRequest, reporter: Reporter
) -> list[Measurement]:
    """Return measurements with the accuracy of the artefacts that were timed.

    Every image is read once for each artefact. What was answered stays beside the JSON of the
    measurement until all are done, so that the same command goes on after an interruption.

    Args:
        measurements: One, or one a batch size; what an artefact answers is the same in all.
        request: The images, and what is known of their classes.
        reporter: Hears the result.

    Raises:
        InputError: The images cannot be read, or their labels are no classes of the network.
        UsageError: An artefact gives no classes, or takes images in another size.
    """
    if request.data is None:
        return list(measurements)
    named = _contenders(measurements[0], request)
    if not named:
        raise UsageError(
            "nothing that was timed has a manifest", where="--data", fix="leave it out"
        )
    manifests = [manifest for _, manifest in named.values()]
    first, model = next(iter(named.values()))
    classes = None if model.model is None else model.model.classes
    known = check_images.known_classes(classes, request.labels, manifests)
    source = open_source(request.data, preprocessing_of(first), limit=request.limit)
    source = check_images.checked(source, known, request, reporter)
    reference = _reference(request, named)
    asked = dict(named) if reference is None else {"": reference} | named
    journal = Journal(
        None if request.out is None else request.out.with_name(request.out.name + _ENDING),
        {"images": identity(source), "count": len(source)},
    )
    opening = dataclasses.replace(request.open_options(), threads=request.threads)
    found = {}
    for name, (path, manifest) in asked.items():
        _require_same_images(source, path, manifest)
        with reporter.progress(path.name, len(source)) as advance:
            found[name] = answers(
                path,
                manifest,
                source,
                journal,
                options=opening,
                progress=advance,
            )
    expected = found.pop("", None)
    scored = {
        name: score(
            best,
            data=source.description,
            classes=classes or 0,
            labels=source.labels,
            sure=is_sure(source.labels_found),
            names=source.class_names,
            expected=None if expected is None else expected[:, 0],
            reference=None if reference is None else reference[0].name,
        )
        for name, best in found.items()
    }
    with measuring.one_at_a_time(reporter), reporter.working("timing from file to class"):
        timed = {
            name: time_end_to_end(path, manifest, source, options=opening)
            for name, (path, manifest) in named.items()
        }
    for name, one in scored.items():
        for line in accuracy_lines(name, one):
            reporter.paragraph(line)
        steps = timed[name]
        if steps is not None:
            reporter.paragraph(end_to_end_line(name, steps))
    journal.remove()
    return [
        dataclasses.replace(
            measurement,
            contenders=tuple(
                dataclasses.replace(
                    result, accuracy=scored.get(result.name), end_to_end=timed.get(result.name)
                )
                for result in measurement.contenders
            ),
        )
        for measurement in measurements
    ]


def _contenders(
    measurement: Measurement, request: BenchRequest
) -> dict[str, tuple[Path, Manifest]]:
    """Return the files that were timed and have a manifest, by their names in the measurement."""
    against = [] if request.against is None else [Path(request.against)]
    by_hash = {}
    for path in (*request.artefacts, *against):
        if path.is_file() and manifest_path(path).exists():
            manifest = manifest_of(path)
            by_hash[manifest.sha256] = path, manifest
    return {
        result.name: by_hash[result.artefact.sha256]
        for result in measurement.contenders
        if result.artefact is not None and result.artefact.sha256 in by_hash
    }


def _reference(
    request: BenchRequest, named: dict[str, tuple[Path, Manifest]]
) -> tuple[Path, Manifest] | None:
    """Return what is named, or the float32 graph that the first artefact was made from.

    That graph was compared with the checkpoint when it was exported. None where it is not at hand.
    """
    if request.reference is not None:
        return request.reference, manifest_of(request.reference)
    path, manifest = next(iter(named.values()))
    while True:
        graphs = [parent for parent in manifest.parents if parent.role == "graph"]
        if not graphs:
            return (path, manifest) if manifest.kind == "graph" and manifest.is_float32 else None
        before = path.with_name(graphs[0].file)
        if not before.is_file() or not manifest_path(before).exists():
            return None
        found = read_manifest(before, verify=False)
        if found.sha256 != graphs[0].sha256:
            return None
        path, manifest = before, found


def _require_same_images(source: ImageSource, path: Path, manifest: Manifest) -> None:
    wanted, own = source.preprocessing, manifest.preprocessing
    assert own is not None
    for name in ("size", "interpolation", "crop", "decode", "background"):
        if getattr(wanted, name) != getattr(own, name):
            raise UsageError(
                f"{path.name} takes images with {name} {getattr(own, name)}, the first artefact "
                f"with {getattr(wanted, name)}",
                where="--data",
                fix=f"judge it in a run of its own: fpet-export bench {shlex.quote(str(path))}",
            )
