"""`fpet-export bundle X`: everything that a board needs, in one archive."""

from __future__ import annotations

import argparse
import contextlib
import shlex
from pathlib import Path

from engines import storage
from engines.commands import command
from engines.errors import UsageError
from engines.transport.bundle import SUFFIX, Bundle
from fpet_export.cli import arguments
from fpet_export.cli.verbs import Outcome
from fpet_export.reporter import Reporter

GROUP = "pack"
HELP = "pack a graph, an engine or tasks for another machine, with the agent that builds and checks"
DESCRIPTION = """\
Pack a graph (better) or an engine with its manifest, a few images with what the graph says about
them, the board agent and a README into one archive. On the board the system's Python, numpy and
TensorRT or ONNX Runtime are enough:

  tar xf model.bundle.tar; python3 agent.pyz doctor; python3 agent.pyz build

`check` there compares the engine with this machine's graph, `bench` measures it, `predict` uses it.
A folder of tasks is packed whole, with images and answers of every task.
--with-plain packs the plain model too, for `python3 agent.pyz bench --against plain` on the board.
With --key the archive is signed too; `verify` checks hashes and signature.

  fpet-export bundle out/model.fp16.onnx --target jetson-orin-nano-8gb --data val/ --key id_ed25519
  fpet-export bundle out --target jetson-orin-nano-8gb --data pets=val/pets --data cars=val/cars
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "artefact", type=Path, metavar="X", help="a graph, an engine or a folder of tasks"
    )
    parser.add_argument("--target", help="where it will run (default: what it was exported for)")
    arguments.add_output(parser, what="archive to write (default: X.bundle.tar beside it)")
    arguments.add_data(parser, limit=16, by_task=True)
    parser.add_argument(
        "--with-plain",
        action="store_true",
        help="pack the same architecture without merging too, to be measured against",
    )
    arguments.add_failed(parser)
    arguments.add_form(parser)
    parser.add_argument("--key", type=Path, help="SSH key to sign the archive with")


def _pack(options: argparse.Namespace, out: Path, reporter: Reporter) -> Bundle:
    """Pack one graph or engine."""
    from fpet_export.board import packing
    from fpet_export.tasks import by_task as _tasks

    item = packing.checked(options.artefact, options.target, options, reporter)
    preprocessing, images = item.manifest.preprocessing, None
    if preprocessing is not None:
        name = item.path.name  # stands for "all" where there are no tasks
        wanted = {name: preprocessing}
        model = item.manifest.model
        known = _tasks.known_by_task(
            options, {name: None if model is None else model.classes}, {name: item.manifest}
        )
        images = _tasks.images_by_task(
            options, wanted, known, reporter, default=packing.DEFAULT_IMAGES
        )[name]
    with contextlib.ExitStack() as stack:
        plain = None
        if options.with_plain:
            plain = stack.enter_context(packing.plain_of(item, reporter))
        packed = packing.pack(
            [item], out, reporter, images=images, plain=plain, force=options.force
        )
    return packed.bundle


def run(options: argparse.Namespace, reporter: Reporter) -> Outcome:
    """Check, collect, write, and sign where asked to."""
    from engines.transport import signature
    from fpet_export.tasks import packing as _task_packing

    artefact: Path = options.artefact
    out: Path = options.out or _beside(artefact)
    _require_name(out)
    for path in (out, *((signature.signature_path(out),) if options.key else ())):
        storage.refuse_overwrite(path, force=options.force)
    if options.key is not None:
        signature.require_key(options.key)
    if artefact.is_dir():
        if options.with_plain:
            raise UsageError(
                "the plain model belongs to one artefact, this is a folder of tasks",
                where="--with-plain",
                fix="leave it out, or export one of the runs, and bundle that graph",
            )
        bundle = _task_packing.pack(options, out, reporter)
    else:
        bundle = _pack(options, out, reporter)
    signed = None
    if options.key is not None:
        signed = signature.sign(out, options.key, force=options.force)
        reporter.step("sign", signed.name)
    return Outcome(
        document={
            "bundle": str(out),
            "signature": None if signed is None else str(signed),
            "target": bundle.target,
            "files": {entry.name: entry.size_bytes for entry in bundle.entries},
        },
        result=str(out),
        next=[command("verify", out)],
    )


def _require_name(out: Path) -> None:
    """Refuse a name by which `verify` and `doctor` would not know a bundle."""
    if not out.name.endswith(SUFFIX):
        raise UsageError(
            f"{out.name} is not the name of a bundle: it does not end in {SUFFIX}",
            where="--out",
            fix=shlex.join(("-o", str(out.with_name(out.name.partition(".")[0] + SUFFIX)))),
        )


def _beside(artefact: Path) -> Path:
    """Return where a bundle lies unless the user says otherwise."""
    if artefact.is_dir():
        whole = artefact.resolve()  # "." has no name
        return whole.with_name(whole.name + SUFFIX)
    return artefact.with_name(artefact.stem + SUFFIX)
