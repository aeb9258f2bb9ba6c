"""The results of a sweep: one JSON a point, and all of them as a table, CSV and Markdown."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from engines import storage
from engines.imaging.class_names import is_sure
from fpet_export.sweep.grid import Point
from fpet_export.sweep.steps import EngineStep, ExportStep, MeasureStep, ReferenceStep, Step
from fpet_export.sweep.store import Failure, Record, Store

SCHEMA = 1
_COLUMNS = (
    "run", "merge", "batch", "precision", "target", "state", "on_front", "accuracy",
    "reference_accuracy", "agreement", "cosine", "sqnr_db", "images", "macs",
    "macs_without_merging", "tokens", "p50_ms", "p90_ms", "p99_ms", "valid", "images_per_s",
    "ratio_to_plain", "engine_bytes", "error",
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """What one point came to; what is not known is None.

    Attributes:
        point: Where in the grid it lies.
        failure: What went wrong, and `failed_in` the step in which; None where nothing did.
        accuracy: Share of the images whose label the engine predicts.
        reference_accuracy: The same of the run as it was trained.
        agreement: Share of the images to which the engine gives the class that the run gives.
        cosine: Smallest cosine between a vector that the engine gives and the run's, where they
            name no classes.
        sqnr_db: Power of the run's logits over that of the difference.
        images: Images that both classified.
        labels: How the labels of the images were found.
        macs: Multiply-adds of one image.
        macs_without_merging: The same of the plain network.
        tokens: Tokens that leave the last block.
        weights: "trained", or "random", which is good for speed only.
        engine: The engine, and `engine_sha256` and `engine_bytes` of it.
        latency: What was measured: percentiles in ns, images a second, and where its samples lie.
    """

    point: Point
    failure: Failure | None = None
    failed_in: str | None = None
    accuracy: float | None = None
    reference_accuracy: float | None = None
    agreement: float | None = None
    cosine: float | None = None
    sqnr_db: float | None = None
    images: int | None = None
    labels: str | None = None
    macs: int | None = None
    macs_without_merging: int | None = None
    tokens: int | None = None
    weights: str | None = None
    engine: str | None = None
    engine_sha256: str | None = None
    engine_bytes: int | None = None
    latency: Mapping[str, Any] | None = None

    @property
    def answers(self) -> float | None:
        """The accuracy, or without labels the agreement, or without classes the cosine."""
        known = (self.accuracy, self.agreement, self.cosine)
        return next((value for value in known if value is not None), None)

    @property
    def kind(self) -> str:
        """What `answers` is."""
        if self.accuracy is None:
            return "cosine" if self.agreement is None else "same class"
        return "accuracy"

    @property
    def cost(self) -> float | None:
        """Nanoseconds of one inference; of a sweep that measures none, multiply-adds.

        None where it is not known, as after a measurement that noise has spoiled.
        """
        if self.point.step(MeasureStep) is None:
            return None if self.macs is None else float(self.macs)
        return float(self.latency["p50_ns"]) if self.latency and self.latency["valid"] else None

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        fields = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in ("point", "failure")
        }
        failure = None if self.failure is None else dataclasses.asdict(self.failure)
        return {
            "schema": SCHEMA,
            "point": self.point.coordinates(),
            "key": self.point.steps[-1].key,
            "state": "done" if failure is None else "failed",
            "error": failure,
            **fields,
        }


def result_of(point: Point, store: Store) -> Result | None:
    """Return what a point came to; None where something of it is still to be done."""
    records = [(step, store.record(step.name)) for step in point.steps]
    failed = [(step, one.failure) for step, one in records if one and one.failure]
    if not failed and any(one is None for _, one in records):
        return None
    known = {type(step): one for step, one in records if one and not one.failure}
    result = Result(point=point)
    if failed:
        step, failure = failed[0]
        result = dataclasses.replace(result, failure=failure, failed_in=step.name)
    reference, engine = known.get(ReferenceStep), known.get(EngineStep)
    if reference is not None:
        result = dataclasses.replace(
            result, **_taken(reference, "macs_without_merging", "weights", "labels"),
            reference_accuracy=reference.facts["accuracy"],
        )  # fmt: skip
    if (export := known.get(ExportStep)) is not None:
        result = dataclasses.replace(result, **_taken(export, "macs", "tokens"))
    if engine is not None:
        told = engine.facts["answers"]
        names = ("accuracy", "agreement", "cosine", "sqnr_db", "images")
        built = point.step(EngineStep)
        result = dataclasses.replace(
            result,
            engine=_path(built, engine.facts["engine"], store),
            engine_sha256=engine.facts["sha256"],
            engine_bytes=engine.facts["bytes"],
            **{name: told[name] for name in names},
        )
    if (measured := known.get(MeasureStep)) is not None:
        file = _path(point.step(MeasureStep), measured.facts["file"], store)
        latency = {**measured.facts, "file": file}
        result = dataclasses.replace(result, latency=latency)
    return result


def written(points: Sequence[Point], store: Store) -> dict[str, Result]:
    """Return the results that are known by their points' names, and write the file of each."""
    known = {}
    for point in points:
        result = result_of(point, store)
        if result is not None:
            write_point(result, store)
            known[point.name] = result
    return known


def write_point(result: Result, store: Store) -> None:
    """Write the file of one point, unless it says the same already."""
    path = store.root / "points" / f"{result.point.name}.json"
    text = json.dumps(result.to_json(), indent=1, allow_nan=False) + "\n"
    if not path.is_file() or path.read_text("utf-8") != text:
        storage.write_text(path, text)


def front_of(results: Sequence[Result]) -> set[str]:
    """Return the names of the points that no other beats in cost without answering worse.

    Points are compared with those of the same run and batch: another run answers other questions,
    and a larger batch takes longer.
    """
    return {
        one.point.name
        for one in results
        if _is_comparable(one)
        and not any(_beats(other, one) for other in results if _is_comparable(other))
    }


def as_rows(results: Sequence[Result], front: set[str]) -> list[tuple[str, ...]]:
    """Return the table that people read, heading first; the number is that of the picture."""
    cells = [
        {
            "": str(number),
            **{name: str(value) for name, value in one.point.coordinates().items()},
            "GMAC": "" if one.macs is None else f"{one.macs / 1e9:.3g}",
            "accuracy": "" if one.accuracy is None else f"{one.accuracy:.1%}",
            "same class": "" if one.agreement is None else f"{one.agreement:.1%}",
            "cosine": "" if one.cosine is None else f"{one.cosine:.4f}",
            "p50 ms": _p50(one),
            "best": "failed" if one.failure else "*" * (one.point.name in front),
        }
        for number, one in enumerate(results, 1)
    ]
    shown = [name for name in cells[0] if any(row[name] for row in cells)]
    shown = [
        name
        for name in shown
        if name not in ("run", "batch") or len({row[name] for row in cells}) > 1
    ]
    return [tuple(shown), *(tuple(row[name] for name in shown) for row in cells)]


def as_csv(results: Sequence[Result], front: set[str]) -> str:
    """Return all results as comma-separated values, one line a point."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, _COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for one in results:
        latency = one.latency or {}
        against = latency.get("against_plain") or {}
        row = {
            **one.to_json(),
            **one.point.coordinates(),
            **{f"p{n}_ms": _ms(latency.get(f"p{n}_ns")) for n in (50, 90, 99)},
            "valid": latency.get("valid"),
            "images_per_s": latency.get("images_per_s"),
            "ratio_to_plain": against.get("ratio"),
            "on_front": "yes" if one.point.name in front else "no",
            "error": "" if one.failure is None else one.failure.what,
        }
        writer.writerow(row)
    return stream.getvalue()


def as_markdown(results: Sequence[Result], front: set[str], *, notes: Sequence[str]) -> str:
    """Return the table in Markdown, with what a reader must know below it."""
    heads, *rows = as_rows(results, front)
    lines = [heads, ["---"] * len(heads), *rows]
    text = "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in lines)
    return "\n".join([text, "", *(f"- {note}" for note in notes), ""])


def notes_on(results: Sequence[Result]) -> list[str]:
    """Return what must be known beside the figures, a sentence each."""
    said = []
    runs = {one.point.run: one for one in results}
    for name, one in runs.items():
        if one.weights == "random":
            said.append(f"{name} has random weights, which are good for speed only.")
        if one.reference_accuracy is not None:
            said.append(
                f"{name} as it was trained has an accuracy of {one.reference_accuracy:.1%} on "
                "these images, in float32."
            )
        if not is_sure(one.labels):
            said.append(f"The accuracy of {name} is {one.labels} and may be wrong.")
    if any(one.agreement is not None for one in results):
        said.append(
            "same class: the share of the images to which the engine gives the class that the run "
            "gives as it was trained, in float32."
        )
    if any(one.cosine is not None for one in results):
        said.append(
            "cosine: the smallest between a vector that the engine gives and the one that the run "
            "gives as it was trained, in float32."
        )
    if any(one.latency is not None and not one.latency["valid"] for one in results):
        said.append("?: noise has spoiled this measurement, so the point is not compared.")
    what = "p50" if any(one.latency for one in results) else "the multiply-adds"
    said.append(
        f"best (*): no other point of the run and batch is lower in {what} and answers as well."
    )
    failed: dict[str, list[str]] = {}
    for number, one in enumerate(results, 1):
        if one.failure is not None:
            text = f"failed in {one.failed_in}: {one.failure.what} ({one.failure.fix})"
            failed.setdefault(text, []).append(str(number))
    return [*said, *(f"{', '.join(numbers)} {text}" for text, numbers in failed.items())]


def _p50(one: Result) -> str:
    if one.latency is None:
        return ""
    mark = "" if one.latency["valid"] else "?"
    return f"{one.latency['p50_ns'] / 1e6:.2f}{mark}"


def _is_comparable(one: Result) -> bool:
    return one.failure is None and one.cost is not None and one.answers is not None


def _beats(other: Result, one: Result) -> bool:
    if (other.point.run, other.point.batch) != (one.point.run, one.point.batch):
        return False
    assert other.cost is not None and one.cost is not None
    assert other.answers is not None and one.answers is not None
    is_as_good = other.cost <= one.cost and other.answers >= one.answers
    return is_as_good and (other.cost < one.cost or other.answers > one.answers)


def _taken(record: Record, *names: str) -> dict[str, Any]:
    return {name: record.facts[name] for name in names}


def _path(step: Step | None, file: str, store: Store) -> str:
    assert step is not None
    return (store.folder(step.name) / file).relative_to(store.root).as_posix()


def _ms(nanoseconds: int | None) -> float | None:
    return None if nanoseconds is None else nanoseconds / 1e6
