"""Engines that take part in a measurement: opened, named apart, and asked once."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks import peers as peer_folder
from benchmarks.conditions.validity import Finding
from benchmarks.feeds import static_batch
from benchmarks.measurement import Absent, Artefact, describe_artefact
from benchmarks.peers import PeerSource, load_peer
from engines.contract import Array, Engine, Feeds, OpenOptions
from engines.engine import open_engine
from engines.errors import (
    EngineError,
    MeasurementError,
    MissingDependencyError,
    UnknownNameError,
    UsageError,
)
from engines.manifest import Manifest, manifest_path, read_manifest
from engines.verdict import verdict_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class Opened:
    """An engine that takes part, and what is known of it.

    Give one to `bench` to choose the name, or to add what no manifest says.

    Attributes:
        name: Unique in the measurement.
        engine: Open.
        artefact: From its manifest; None without one.
        macs: Multiply-adds of one image; None when unknown.
        failure: That its check failed, in words; "" where it did not.
        batches: Smallest and largest batch that it takes; None where nobody says.
        path: Its file; None of an engine that the caller opened, and of a peer.
    """

    name: str
    engine: Engine
    artefact: Artefact | None = None
    macs: int | None = None
    failure: str = ""
    batches: tuple[int, int] | None = None
    path: Path | None = None


Source = Path | str | Engine | Opened


def open_contenders(
    contenders: Sequence[Source],
    against: Source | None,
    peers: Sequence[str],
    peer_source: PeerSource | None,
    threads: int,
    options: OpenOptions,
    stack: contextlib.ExitStack,
) -> tuple[str, list[Opened], list[Absent]]:
    """Open everything; return the baseline's name, the engines (baseline first), the absent."""
    if peers and peer_source is None:
        raise UsageError(
            "peers were asked for without the plain model that they run",
            where="peers",
            fix="give it as `peer_source`",
        )
    paths = [Path(one) for one in (*contenders, against) if isinstance(one, (str, Path))]
    names = _distinct_names([path for path in paths if path.exists()])
    opened = [_open(source, options, stack, names) for source in contenders]
    by_path = {
        Path(source).resolve(): entry
        for source, entry in zip(contenders, opened, strict=True)
        if isinstance(source, (str, Path))
    }
    joined: list[Opened] = []
    absent: list[Absent] = []
    if peer_source is not None:
        joined, absent = _open_peers(peers, peer_source, threads, stack)
    opened += joined
    by_name = {entry.name: entry for entry in opened}
    if against is None:
        baseline = opened[0] if opened else None
    elif isinstance(against, str) and against in by_name:
        baseline = by_name[against]
    elif isinstance(against, str) and against in peers:
        gone = next(entry for entry in absent if entry.name == against)
        raise MeasurementError(
            f"the baseline {against} cannot take part: {gone.reason}",
            where="against",
            fix=gone.fix,
        )
    elif isinstance(against, (str, Path)) and Path(against).resolve() in by_path:
        baseline = by_path[Path(against).resolve()]
    else:
        baseline = _open(against, options, stack, names)
        opened.append(baseline)
    if baseline is None:
        raise UsageError("nothing to measure", where="contenders", fix="name an artefact")
    return baseline.name, [baseline, *(e for e in opened if e is not baseline)], absent


def _open_peers(
    peers: Sequence[str], source: PeerSource, threads: int, stack: contextlib.ExitStack
) -> tuple[list[Opened], list[Absent]]:
    """Open the peers that are installed and take the model; return the others with the reason."""
    joined, absent = [], []
    for name in peers:
        try:
            engine = stack.enter_context(
                load_peer(peer_folder, name).open_peer(source, threads=threads)
            )
        except MissingDependencyError as error:
            absent.append(Absent(name=name, reason="not installed", fix=error.fix))
        except (EngineError, UsageError) as error:
            if isinstance(error, UnknownNameError):
                raise
            absent.append(Absent(name=name, reason=error.what, fix=error.fix))
        else:
            joined.append(Opened(name=name, engine=engine, macs=source.macs))
    return joined, absent


def _distinct_names(paths: Sequence[Path]) -> dict[Path, str]:
    """Name files of one name by their folders, too: "a/model" and "b/model"; others need none."""
    stems = {path.resolve(): path.resolve().with_suffix("").parts for path in paths}
    names = {}
    for path, parts in stems.items():
        others = [other for one, other in stems.items() if one != path]
        lengths = range(1, len(parts) + 1)
        alone = (n for n in lengths if not any(other[-n:] == parts[-n:] for other in others))
        length = next(alone, None)
        if length != 1:  # None: they differ in their ending
            names[path] = path.name if length is None else "/".join(parts[-length:])
    return names


def _open(
    source: Source, options: OpenOptions, stack: contextlib.ExitStack, names: Mapping[Path, str]
) -> Opened:
    if isinstance(source, Opened):
        return source
    if not isinstance(source, (str, Path)):
        return Opened(name=source.name, engine=source)
    path = Path(source)
    engine = stack.enter_context(open_engine(path, options=options))
    # `open_engine` has just compared the bytes with the manifest.
    manifest = read_manifest(path, verify=False) if manifest_path(path).exists() else None
    artefact = describe_artefact(manifest) if manifest else None
    return Opened(
        name=names.get(path.resolve(), engine.name),
        engine=engine,
        artefact=artefact,
        macs=artefact.macs if artefact else None,
        failure=_failure_of(path, manifest),
        batches=manifest.batch_range if manifest else None,
        path=path,
    )


def _failure_of(path: Path, manifest: Manifest | None) -> str:
    found = None if manifest is None else verdict_of(manifest)
    return found.in_words(path.name) if found is not None and found.state == "failed" else ""


def doubts_of(opened: Sequence[Opened]) -> tuple[Finding, ...]:
    """Return what a reader must know of contenders that were measured although they failed."""
    return tuple(
        Finding(
            severity="doubtful",
            what=entry.failure,
            fix="measure what passes its check: the time of a wrong answer means little",
        )
        for entry in opened
        if entry.failure
    )


def common_batch(opened: Sequence[Opened], batch: int | None) -> int:
    """Return the images of one run of all contenders.

    Args:
        opened: The contenders.
        batch: What was asked for; None takes what they fix, else 1.

    Raises:
        UsageError: They fix different sizes.
    """
    fixed = {entry.name: static_batch(entry.engine.inputs) for entry in opened}
    sizes = {size for size in fixed.values() if size is not None}
    if batch is None and len(sizes) > 1:
        raise UsageError(
            f"the contenders have different batch sizes: {fixed}",
            where="batch",
            fix="measure engines of one batch size together",
        )
    return batch if batch is not None else (sizes.pop() if sizes else 1)


def first_outputs(
    opened: Sequence[Opened], feeds: Mapping[str, Feeds], *, optional: set[str]
) -> tuple[list[Opened], dict[str, Array], list[Absent]]:
    """Run everybody once; a peer that fails only now (torch.compile) is absent, too."""
    able: list[Opened] = []
    outputs: dict[str, Array] = {}
    absent: list[Absent] = []
    for entry in opened:
        try:
            results = entry.engine.run(feeds[entry.name])
            _require_finite(results[entry.engine.outputs[0].name], entry.name)
        except (EngineError, MeasurementError) as error:
            if entry.name not in optional:
                raise
            absent.append(Absent(name=entry.name, reason=error.what, fix=error.fix))
            continue
        outputs[entry.name] = results[entry.engine.outputs[0].name]
        able.append(entry)
    return able, outputs, absent


def _require_finite(output: Array, name: str) -> None:
    """Refuse a contender whose answers are no numbers: nobody wants to know how fast it is."""
    if not np.isfinite(output.astype(np.float64)).all():
        raise MeasurementError(
            "its output holds a value that is not finite",
            where=name,
            fix="find out where it drifts: fpet-export compare RUN ARTEFACT",
        )
