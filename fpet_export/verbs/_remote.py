"""`--remote HOST`: what `build` and `bench` do on a board, from here.

The artefact travels as a bundle, the agent in it does the work, and the results come back. The
folder there is named by the bundle's hash, so the same command finds what an interrupted one left.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shlex
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines import errors, storage
from engines.bundle import SUFFIX
from engines.errors import FpetError, RemoteError
from engines.manifest import Manifest, manifest_path, read_manifest
from fpet_export.console import Console

if TYPE_CHECKING:
    from benchmarks import Measurement
    from engines.images import ImageSet
    from engines.parity import StageParity
    from engines.targets import Target
    from fpet_export.remote import Remote

_AGENT = ("python3", "agent.pyz")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add where the work is done."""
    group = parser.add_argument_group("another machine, through ssh")
    group.add_argument("--remote", metavar="HOST", help="do it there, as ssh names it")
    group.add_argument(
        "--remote-dir", metavar="DIR", help="folder there (default: below ~/.cache/fpet-export)"
    )
    group.add_argument("--ssh-config", type=Path, metavar="FILE", help="instead of ~/.ssh/config")
    group.add_argument("--keep-remote", action="store_true", help="leave the folder there")


@contextlib.contextmanager
def unpacked_there(
    artefact: Path, manifest: Manifest, target: Target, options: argparse.Namespace,
    console: Console, *, images: ImageSet | None = None,
) -> Iterator[Remote]:  # fmt: skip
    """Send an artefact with the agent; the folder there is removed, unless the line breaks.

    Raises:
        RemoteError: The machine cannot be reached, or lacks room or a Python.
    """
    from fpet_export.remote import CACHE, ConnectionLostError, Remote
    from fpet_export.verbs import _packing

    with tempfile.TemporaryDirectory(prefix="fpet-export-") as folder:
        bundle = Path(folder) / f"{artefact.stem}{SUFFIX}"
        _packing.pack(artefact, manifest, target, bundle, console, images=images)
        name = options.remote_dir or f"{CACHE}/{storage.sha256_of(bundle)[:16]}"
        remote = Remote(options.remote, name, config=options.ssh_config)
        with console.progress(f"to {options.remote}", bundle.stat().st_size) as advance:
            remote.upload(bundle, "bundle.tar", progress=advance)
        remote.shell("tar xf bundle.tar")
        console.step("remote", f"{options.remote}:{name}")
    try:
        yield remote
    except ConnectionLostError:
        raise
    except BaseException:
        with contextlib.suppress(RemoteError):
            _clear(remote, options)
        raise
    _clear(remote, options)


def _clear(remote: Remote, options: argparse.Namespace) -> None:
    if not options.keep_remote:
        remote.remove()


def agent(remote: Remote, words: Sequence[str], console: Console) -> Any:
    """Run a verb of the agent there, with its lines here; return its JSON document.

    Raises:
        FpetError: What the agent refused, as the same class, with the machine's name.
        RemoteError: The agent was killed, or gave no document.
    """
    done = remote.run((*_AGENT, *words, "--json"), line=console.line)
    try:
        document = json.loads(done.out)
    except ValueError as error:
        raise RemoteError(
            f"python3 agent.pyz {words[0]} ended with {done.code} and no answer on {remote.host}",
            where=f"{remote.host}:{remote.folder}",
            fix=f"try it there: ssh {remote.host}, then {shlex.join((*_AGENT, *words))}",
        ) from error
    if done.code:
        raise _same_error(document, remote)
    return document


def build(
    remote: Remote,
    graph: str,
    target: Target,
    engine: str,
    console: Console,
    *,
    more: Sequence[str] = (),
) -> None:
    """Build a graph there, under the name `engine`, with more options of `build`."""
    words = [graph, "--target", target.name, "-o", engine, "--force", *more]
    agent(remote, ["build", *words], console)


def measure(remote: Remote, engine: str, words: Sequence[str], console: Console) -> Measurement:
    """Measure an engine there with the options of `bench`, and fetch the measurement.

    Whether it counts is judged here, so a noisy one comes back too.
    """
    from benchmarks import read_measurement

    file = "bench.json"
    agent(remote, ["bench", engine, "-o", file, "--force", "--allow-noise", *words], console)
    with tempfile.TemporaryDirectory(prefix="fpet-bench-") as folder:
        remote.download(file, Path(folder) / file)
        return read_measurement(Path(folder) / file)


def build_there(
    graph: Path,
    target: Target,
    images: ImageSet,
    options: argparse.Namespace,
    console: Console,
    *,
    measured: Sequence[str] | None,
) -> tuple[Path, StageParity, Measurement | None]:
    """Build a graph's engine there, check it, measure it, and fetch it.

    Args:
        graph: Checked against its manifest.
        target: Where it is to run.
        images: What the engine is checked on.
        options: Of `add_arguments`.
        console: Hears of each step.
        measured: Options of `bench`; None measures nothing.

    Returns:
        The engine here, its row of the parity table, and the measurement.
    """
    from engines.engine import default_path
    from engines.parity import row_from_json

    engine, measurement = default_path(graph, target), None
    manifest = read_manifest(graph)
    with unpacked_there(graph, manifest, target, options, console, images=images) as remote:
        build(remote, graph.name, target, engine.name, console)
        (row,) = agent(remote, ["check", engine.name], console)["parity"]["rows"]
        if measured is not None:
            measurement = measure(remote, engine.name, measured, console)
        fetch_engine(remote, engine)
    return engine, row_from_json(row), measurement


def _same_error(document: Any, remote: Remote) -> FpetError:
    told = document.get("error", {}) if isinstance(document, dict) else {}
    kind = getattr(errors, str(told.get("class")), RemoteError)
    if not (isinstance(kind, type) and issubclass(kind, FpetError)):
        kind = RemoteError
    return kind(
        f"on {remote.host}: {told.get('what', 'the agent failed')}",
        where=f"{remote.host}: {told.get('where', remote.folder)}",
        fix=str(told.get("fix", "look at what it printed")),
    )


def fetch_engine(remote: Remote, out: Path) -> Manifest:
    """Fetch an engine with its side-car and its fusion report, and check it.

    Args:
        remote: Where it was built, under the name of `out`.
        out: Where it goes here.

    Raises:
        TrustError: The bytes are not those that were built.
    """
    from engines.fusion import fusion_path

    with storage.atomic_path(out) as engine:
        for path in (engine, manifest_path(engine)):
            remote.download(path.name, path)
        manifest = read_manifest(engine)
        report = fusion_path(engine)
        if out.suffix == ".plan" and remote.shell(f"ls {shlex.quote(report.name)} || true"):
            remote.download(report.name, report)
    return manifest
