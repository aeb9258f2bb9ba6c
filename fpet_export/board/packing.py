"""A bundle made of artefacts: what `bundle` writes, and what `--remote` sends."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from engines.backends._provenance import read_source
from engines.commands import command
from engines.engine import default_path, load_target
from engines.errors import UsageError
from engines.imaging.preparation import preparation_in_words
from engines.imaging.synthetic import synthetic_set
from engines.manifest import Manifest, manifest_path, read_manifest
from engines.parity.reference_file import write_reference
from engines.transport.bundle import Bundle, Role, write_bundle
from fpet_export.reporter import Reporter
from fpet_export.requests import AllowFailed, AllowForm
from fpet_export.steps import plain_vit, trust, usable

if TYPE_CHECKING:
    from engines.imaging.images import ImageSet
    from engines.targets import Target

DEFAULT_IMAGES = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Item:
    """A graph or an engine that was checked, and where it is to run."""

    path: Path
    manifest: Manifest
    target: Target

    @property
    def is_graph(self) -> bool:
        """Whether an engine is built from it first."""
        return self.manifest.kind == "graph"

    @property
    def engine(self) -> str:
        """Name of the engine: its own, or that which `build` gives it."""
        return (default_path(self.path, self.target) if self.is_graph else self.path).name


@dataclasses.dataclass(frozen=True, kw_only=True)
class Packed:
    """A bundle that was written.

    Attributes:
        bundle: Its list.
        checks: Name of the check file of each artefact that has one, by the artefact's name.
        plain: Name of the plain graph; None without one.
    """

    bundle: Bundle
    checks: Mapping[str, str]
    plain: str | None = None


def pack(
    items: Sequence[Item],
    out: Path,
    reporter: Reporter,
    *,
    images: ImageSet | None = None,
    plain: Path | None = None,
    force: bool = False,
) -> Packed:
    """Write the bundle of artefacts that were checked; the first one is what it is for.

    Args:
        items: What goes in, at least one.
        out: `NAME.bundle.tar`.
        reporter: Hears of each part.
        images: To record the graphs' answers on; None for a few synthetic ones.
        plain: Graph of the plain model that they are measured against.
        force: Replace a file that exists.

    Raises:
        UsageError: Two artefacts would become one engine.
    """
    _require_distinct(items)
    first = items[0]
    with tempfile.TemporaryDirectory(prefix="fpet-export-") as name:
        folder = Path(name)
        checks = _check_files(items, images, reporter, folder)
        files = _made(first, reporter, folder, has_check=bool(checks), has_plain=plain is not None)
        files += [(path, "check") for path in dict.fromkeys(checks.values())]
        if plain is not None:
            files += [*_belonging(plain), (plain, "plain")]
        for item in items[1:]:
            files += [*_belonging(item.path), (item.path, "extra")]
        for one in first.manifest.companions:
            files.append((first.path.with_name(one.file), "companion"))
        files += [(manifest_path(first.path), "manifest"), (first.path, "artefact")]
        bundle = write_bundle(
            out, files, target=first.target.name, tools=first.manifest.tools, force=force
        )
    reporter.step("bundle", f"{out.name} {out.stat().st_size / 1e6:.1f} MB for {first.target.name}")
    return Packed(
        bundle=bundle,
        checks={artefact: path.name for artefact, path in checks.items()},
        plain=None if plain is None else plain.name,
    )


def checked(artefact: Path, target: str | None, request: AllowFailed, reporter: Reporter) -> Item:
    """Check an artefact, and that the target takes it; None is what it was exported for.

    Args:
        artefact: A graph or an engine.
        target: Where it is to run.
        request: Whether it may have failed its check, and if an `AllowForm` have another form.
        reporter: Hears of it.

    Raises:
        InputError: There is no such file, or the target cannot build the graph or wants it in
            another form.
        ParityError: Its check failed.
        TrustError: It is not what its manifest says.
        UsageError: It is a bundle, an engine of another target, or shared by tasks.
    """
    if trust.is_bundle(artefact):
        raise UsageError(
            "this is already a bundle",
            where=str(artefact),
            fix="give the graph or the engine, or copy the bundle as it is",
        )
    found = trust.check(artefact, reporter)
    assert isinstance(found, Manifest)
    if found.is_shared:
        raise UsageError(
            "many tasks share this artefact, and it runs with none of them here",
            where=str(artefact),
            fix=f"bundle their whole folder: {command('bundle', artefact.parent)}",
        )
    chosen = load_target(target or found.target)
    usable.require(artefact, found, request, reporter)
    any_form = isinstance(request, AllowForm) and request.force_form
    _require_suited(artefact, found, chosen, any_form=any_form)
    if found.kind == "graph":
        usable.say_form(artefact, found, chosen, reporter)
    return Item(path=artefact, manifest=found, target=chosen)


@contextlib.contextmanager
def plain_of(item: Item, reporter: Reporter) -> Iterator[Path]:
    """Write the plain graph of an artefact for where it runs; it is gone afterwards.

    Raises:
        UsageError: Nothing says its architecture.
    """
    manifest = plain_vit.require_described(item.path)
    with tempfile.TemporaryDirectory(prefix="fpet-export-") as folder:
        _, plain = plain_vit.write(manifest, item.target, Path(folder))
        reporter.step("plain", plain_vit.describe(plain))
        yield plain


def _require_suited(artefact: Path, manifest: Manifest, target: Target, *, any_form: bool) -> None:
    """Refuse a graph that the target cannot build or wants otherwise, and another's engine."""
    if manifest.kind == "graph":
        read_source(artefact, target, allow_failed=True, any_form=any_form)
    elif manifest.target != target.name:
        raise UsageError(
            f"the engine was built for {manifest.target}, not for {target.name}",
            where=f"--target {target.name}",
            fix="bundle its graph instead: the board builds the engine",
        )


def _require_distinct(items: Sequence[Item]) -> None:
    """Refuse two artefacts whose engines would lie under one name, one replacing the other."""
    seen: dict[str, Path] = {}
    for item in items:
        other = seen.setdefault(item.engine, item.path)
        if other != item.path:
            raise UsageError(
                f"{other.name} and {item.path.name} would both be {item.engine} there",
                where=str(item.path),
                fix="give one of them, or build one under another name: build -o NAME",
            )


def _belonging(artefact: Path) -> list[tuple[Path, Role]]:
    """Return the manifest and the companions of an artefact that is not what the bundle is for."""
    companions = read_manifest(artefact, verify=False).companions
    beside = [artefact.with_name(one.file) for one in companions]
    return [(path, "extra") for path in (*beside, manifest_path(artefact))]


def _made(
    item: Item, reporter: Reporter, folder: Path, *, has_check: bool, has_plain: bool
) -> list[tuple[Path, Role]]:
    """Write what is made for the bundle: README and agent."""
    from fpet_export.board.agent import build_agent  # not in the agent itself

    readme, agent = folder / "README.txt", folder / "agent.pyz"
    agent.write_bytes(build_agent())
    reporter.step("agent", f"{agent.name} {agent.stat().st_size / 1e3:.0f} kB")
    readme.write_text(_readme(item, has_check=has_check, has_plain=has_plain), "utf-8")
    return [(readme, "readme"), (agent, "agent")]


def _check_files(
    items: Sequence[Item], images: ImageSet | None, reporter: Reporter, folder: Path
) -> dict[str, Path]:
    """Write what the graphs say about a few images; by name of the artefact that it judges."""
    written: dict[Path, Path] = {}
    found: dict[str, Path] = {}
    for item in items:
        graph = item.path if item.is_graph else _graph_of(item.path, item.manifest)
        preprocessing = item.manifest.preprocessing
        if graph is None or preprocessing is None:
            reporter.step(
                "check",
                "left out: the graph that the engine was built from is not beside it"
                if graph is None
                else "left out: the graph's preprocessing is unknown",
                passed=None,
            )
            continue
        if graph not in written:
            on = images or synthetic_set(preprocessing.size, DEFAULT_IMAGES)
            written[graph] = _check_file(graph, on, reporter, folder)
        found[item.path.name] = written[graph]
    return found


def _check_file(graph: Path, images: ImageSet, reporter: Reporter, folder: Path) -> Path:
    """Write what a graph says about images."""
    from fpet_export.steps.expectation import reference_with_margin

    expected = reference_with_margin(graph, images)
    path = folder / f"{graph.stem}.check.npz"
    write_reference(path, expected)
    said = f"{path.name}: {graph.name} on {images.description}"
    if expected.outputs.margin is not None:
        said += f", {expected.sure_images()} of them with a sure match"
    reporter.step("check", said, passed=None if expected.sure_images() == 0 else True)
    return path


def _graph_of(engine: Path, manifest: Manifest) -> Path | None:
    """Return the graph that an engine was built from, if it is still beside it."""
    for parent in manifest.parents:
        graph = engine.with_name(parent.file)
        exists = parent.role == "graph" and graph.is_file() and manifest_path(graph).is_file()
        if exists and read_manifest(graph).sha256 == parent.sha256:
            return graph
    return None


def _readme(item: Item, *, has_check: bool, has_plain: bool) -> str:
    manifest, target = item.manifest, item.target
    build = "" if not item.is_graph else "  python3 agent.pyz build       the engine\n"
    check = (
        ""
        if not has_check
        else "  python3 agent.pyz check       does it give the graph's answers?\n"
    )
    plain = (
        ""
        if not has_plain
        else "  python3 agent.pyz bench --against plain\n"
        "                                is it faster here than the same model without merging?\n"
    )
    gives, predict = "", "  python3 agent.pyz predict IMAGE\n"
    if manifest.head != "logits":
        predict = ""
        gives = f", gives {manifest.head} {manifest.outputs[0].shape}"
    elif manifest.model is not None:
        gives = f", {manifest.model.classes} classes"
    pixels = ""
    if manifest.preprocessing is not None:
        said = f"an image becomes: {preparation_in_words(manifest.preprocessing)}"
        pixels = textwrap.fill(said, 80, subsequent_indent="  ") + "\n"
    return f"""\
{trust.describe(manifest)}{gives}
{textwrap.fill(f"for {target.name}: {target.summary}", 80, subsequent_indent="  ")}
{pixels}\

On the board, with Python 3.10, numpy and {target.module}:

  python3 agent.pyz doctor      what this board has
{build}{check}\
  python3 agent.pyz bench       its latency
{plain}{predict}
Each has --help and --json. bundle.json lists every file with its SHA-256.
Whether the archive is whole and who signed it, before anything of it is used:

  ssh-keygen -Y verify -f ALLOWED_SIGNERS -I SIGNER -n fpet-export \\
      -s X.bundle.tar.sig < X.bundle.tar
"""
