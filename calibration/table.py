"""The calibration table: what was seen at every site, and on which images.

It holds histograms, not ranges: another rule, another precision or more images need no second
run over the first ones. Tables over different images of the same graph can be merged.
"""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration import histogram as histograms
from calibration.histogram import Histogram
from calibration.moments import Moments
from engines import storage
from engines.errors import InputError, TrustError
from engines.manifest import Manifest, Preprocessing, from_json, manifest_path
from engines.plurals import counted

SCHEMA = 4

Vector = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Record:
    """What was seen at one site.

    Attributes:
        histogram: Histogram of the magnitudes.
        channel_sum: (C,) sum over everything but the last dimension, which are a linear's
            input channels; empty where nobody asks for channels.
        channel_lowest: (C,) smallest value likewise.
        channel_highest: (C,) largest value likewise.
        rows: Values summed per channel.
        lowest: The smallest value seen.
        highest: The largest value seen.
    """

    histogram: Histogram
    channel_sum: Vector
    channel_lowest: Vector
    channel_highest: Vector
    rows: int
    lowest: float
    highest: float

    @property
    def channel_mean(self) -> Vector:
        """(C,) mean per channel."""
        return self.channel_sum / max(self.rows, 1)

    @property
    def channel_largest(self) -> Vector:
        """(C,) largest magnitude per channel."""
        return np.maximum(-self.channel_lowest, self.channel_highest)


@dataclasses.dataclass(frozen=True)
class Rewrites:
    """What `calibration.equalise` moved before the table was made.

    Attributes:
        values: (C,) mean of every value channel, by linear that makes values.
        factors: (C,) what a norm's output channels are divided by, by the name of the norm.
        inputs: (C,) what a linear's input channels are divided by, by the name of the linear.
        value_factors: (C,) what the centred values are divided by, by linear that makes them.
    """

    values: Mapping[str, Vector]
    factors: Mapping[str, Vector]
    inputs: Mapping[str, Vector] = dataclasses.field(default_factory=dict)
    value_factors: Mapping[str, Vector] = dataclasses.field(default_factory=dict)

    def for_layers(self, names: Collection[str]) -> Rewrites:
        """Return the rewrites without operators before linears that are not in `names`."""
        inputs = {name: vector for name, vector in self.inputs.items() if name in names}
        return dataclasses.replace(self, inputs=inputs)

    def parts(self) -> dict[str, Mapping[str, Vector]]:
        """Return every field by its name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


@dataclasses.dataclass(frozen=True)
class SeenImage:
    """One calibration image: its name, and the SHA-256 of its preprocessed pixels."""

    name: str
    sha256: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class CalibrationTable:
    """Ranges of a graph's sites over a set of images.

    Attributes:
        graph: SHA-256 of the graph.
        graph_file: Its name, for messages.
        preprocessing: How the images were prepared.
        images: What was seen, in order.
        description: The images in words.
        records: By site name.
        rewrites: What was moved between the layers before; None for nothing.
        seed: Seed of random choices; None where the images were spread evenly, which needs none.
        tools: Versions of what made it.
        moments: By site name, of the images that were run since the table was made or read; they
            are not written.
    """

    graph: str
    graph_file: str
    preprocessing: Preprocessing
    images: tuple[SeenImage, ...]
    description: str
    records: Mapping[str, Record]
    rewrites: Rewrites | None = None
    seed: int | None = None
    tools: Mapping[str, str] = dataclasses.field(default_factory=dict)
    moments: Mapping[str, Moments] = dataclasses.field(default_factory=dict, compare=False)

    @property
    def hashes(self) -> frozenset[str]:
        """The hashes of the images."""
        return frozenset(image.sha256 for image in self.images)


def seen(values: NDArray[np.floating[Any]], *, channels: bool) -> Record:
    """Return the record of one array (..., C); without `channels` only its histogram."""
    rows = values.reshape(-1, values.shape[-1])
    kept = rows if channels else rows[:, :0]
    return Record(
        histograms.of_values(rows),
        kept.sum(axis=0, dtype=np.float64),
        kept.min(axis=0).astype(np.float64),
        kept.max(axis=0).astype(np.float64),
        len(rows),
        float(rows.min()),
        float(rows.max()),
    )


def merged_record(first: Record, second: Record) -> Record:
    """Return the record of both sets of values."""
    return Record(
        histograms.merged(first.histogram, second.histogram),
        first.channel_sum + second.channel_sum,
        np.minimum(first.channel_lowest, second.channel_lowest),
        np.maximum(first.channel_highest, second.channel_highest),
        first.rows + second.rows,
        min(first.lowest, second.lowest),
        max(first.highest, second.highest),
    )


def merged_table(first: CalibrationTable, second: CalibrationTable) -> CalibrationTable:
    """Return the table of both sets of images.

    Raises:
        InputError: They are of different graphs or preprocessing, or share an image.
    """
    for what, a, b in (
        ("graphs", first.graph, second.graph),
        ("preprocessing", first.preprocessing, second.preprocessing),
        ("sites", set(first.records), set(second.records)),
        ("rewrites", _rewrites_key(first), _rewrites_key(second)),
    ):
        if a != b:
            raise InputError(
                f"the two calibration tables are of different {what}",
                where=f"{first.description}; {second.description}",
                fix="calibrate both on the same graph",
            )
    both = first.hashes & second.hashes
    if both:
        raise InputError(
            f"both calibration tables hold the same {counted(len(both), 'image')}",
            where=f"{first.description}; {second.description}",
            fix="calibrate each shard of the images once",
        )
    return dataclasses.replace(
        first,
        images=first.images + second.images,
        description=f"{first.description} and {second.description}",
        records={
            name: merged_record(record, second.records[name])
            for name, record in first.records.items()
        },
        moments={},
    )


def require_table_of(table: CalibrationTable, manifest: Manifest, sites: Collection[str]) -> None:
    """Refuse a table of something else.

    Args:
        table: What was seen.
        manifest: Manifest of the graph that is to be calibrated or quantized.
        sites: Names of that graph's sites.

    Raises:
        InputError: The table is of another graph, of other pixels or of other sites.
    """
    for what, found, wanted in (
        ("another graph", table.graph, manifest.sha256),
        ("another preprocessing", table.preprocessing, manifest.preprocessing),
        ("other sites", set(table.records), set(sites)),
    ):
        if found != wanted:
            raise InputError(
                f"the calibration table is of {what}",
                where=f"{table.graph_file}, {table.description}",
                fix=f"calibrate {manifest.file} afresh: leave the table out, or use --force",
            )


def _rewrites_key(table: CalibrationTable) -> dict[str, bytes] | None:
    if table.rewrites is None:
        return None
    return {
        f"{part} {name}": vector.tobytes()
        for part, vectors in table.rewrites.parts().items()
        for name, vector in vectors.items()
    }


def write_table(path: Path, table: CalibrationTable, *, chosen: Mapping[str, Any]) -> None:
    """Write a table, atomically.

    Args:
        path: `NAME.table.json`.
        table: What was seen.
        chosen: How amax was chosen from it, and the values, for people and for other tools.
    """
    document = {
        "schema": SCHEMA,
        "graph": {"file": table.graph_file, "sha256": table.graph},
        "images": {
            "description": table.description,
            "count": len(table.images),
            "seed": table.seed,
            "seen": [[image.name, image.sha256] for image in table.images],
        },
        "preprocessing": dataclasses.asdict(table.preprocessing),
        "tools": dict(table.tools),
        "chosen": dict(chosen),
        "rewrites": None
        if table.rewrites is None
        else {
            part: {name: _packed(vector) for name, vector in vectors.items()}
            for part, vectors in table.rewrites.parts().items()
        },
        "sites": {name: _record_json(record) for name, record in table.records.items()},
    }
    storage.write_text(path, json.dumps(document, indent=1) + "\n")


def read_table(path: Path) -> CalibrationTable:
    """Read a table.

    Raises:
        TrustError: It is no calibration table, not whole, or of an older version.
    """
    fix = "calibrate again, or give the table that `fpet-export quantize` wrote"
    try:
        document = json.loads(path.read_text("utf-8"))
        if not isinstance(document, dict) or document.get("schema") != SCHEMA:
            _refuse_older(document, path)
            raise ValueError(f"it is not a calibration table of schema {SCHEMA}")
        images = document["images"]
        return CalibrationTable(
            graph=str(document["graph"]["sha256"]),
            graph_file=str(document["graph"]["file"]),
            preprocessing=from_json(Preprocessing, document["preprocessing"]),
            images=tuple(SeenImage(str(name), str(sha)) for name, sha in images["seen"]),
            description=str(images["description"]),
            seed=None if images["seed"] is None else int(images["seed"]),
            rewrites=_rewrites_of(document["rewrites"]),
            records={str(n): _record_of(value) for n, value in document["sites"].items()},
            tools={str(key): str(value) for key, value in document["tools"].items()},
        )
    except OSError as error:
        raise InputError(
            f"the calibration table cannot be read: {error.strerror}", where=str(path), fix=fix
        ) from error
    except (
        ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError,
    ) as error:  # fmt: skip
        raise TrustError(
            f"the calibration table is damaged: {error}", where=str(path), fix=fix
        ) from error


def _refuse_older(document: Any, path: Path) -> None:
    """Say how to make again what an older version made; nothing for anything else."""
    schema = document.get("schema") if isinstance(document, dict) else None
    if not isinstance(schema, int) or not 0 < schema < SCHEMA:
        return
    graph, images = document["graph"]["file"], document["images"]["description"]
    raise TrustError(
        f"an older version made this calibration table: schema {schema}, wanted {SCHEMA}, which "
        "also holds by what the values of every attention were divided",
        where=str(path),
        fix=f"remove it, and calibrate on its images again ({images}): fpet-export quantize "
        f"{graph} --precision int8 --calibration DIR",
    )


def _record_json(record: Record) -> dict[str, Any]:
    return {
        "histogram": record.histogram.to_json(),
        "rows": record.rows,
        "lowest": record.lowest,
        "highest": record.highest,
        "channel_sum": _packed(record.channel_sum),
        "channel_lowest": _packed(record.channel_lowest),
        "channel_highest": _packed(record.channel_highest),
    }


def _record_of(document: Mapping[str, Any]) -> Record:
    total, lows, highs = (
        _unpacked(document[f"channel_{part}"]) for part in ("sum", "lowest", "highest")
    )
    if not total.shape == lows.shape == highs.shape:
        raise ValueError("a site's channels differ in number")
    histogram = Histogram.from_json(document["histogram"])
    rows = int(document["rows"])
    lowest, highest = float(document["lowest"]), float(document["highest"])
    channels_fit = (
        np.isfinite(total).all()
        and (lows >= lowest).all()
        and (highs <= highest).all()
        and (lows <= highs).all()
    )
    if not channels_fit or rows < 1 or lowest > highest:
        raise ValueError("a site's values contradict each other")
    if max(-lowest, highest) != histogram.largest:
        raise ValueError("a site's values do not fit its histogram")
    return Record(histogram, total, lows, highs, rows, lowest, highest)


def _rewrites_of(document: Any) -> Rewrites | None:
    if document is None:
        return None
    values, factors, inputs, value_factors = (
        {str(name): _unpacked(text) for name, text in document[field.name].items()}
        for field in dataclasses.fields(Rewrites)
    )
    divisors = (*factors.values(), *inputs.values(), *value_factors.values())
    finite = all(np.isfinite(vector).all() for vector in (*values.values(), *divisors))
    if not finite or any((vector <= 0).any() for vector in divisors):
        raise ValueError("what was moved between the layers is not a number, or not a factor")
    return Rewrites(values, factors, inputs, value_factors)


def _packed(values: Vector) -> str:
    return base64.b64encode(values.astype("<f8").tobytes()).decode("ascii")


def _unpacked(text: Any) -> Vector:
    return np.frombuffer(base64.b64decode(str(text), validate=True), "<f8").astype(np.float64)


def files_of(out: Path, *, quantizes: bool) -> tuple[Path, ...]:
    """Return every file of a typed graph; the table lies beside one that `quantizes`."""
    return (out, manifest_path(out), *((table_path(out),) if quantizes else ()))


def table_path(out: Path) -> Path:
    """Return the calibration table's path: `model.int8.onnx` has `model.int8.table.json`."""
    return out.with_name(f"{out.stem}.table.json")
