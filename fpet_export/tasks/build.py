"""`build FOLDER`: the engines of every graph in a folder of tasks, for the folder's target."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from engines import storage
from engines.commands import command
from engines.errors import UsageError
from fpet_export.board import remote
from fpet_export.cli.verbs import Outcome, build
from fpet_export.reporter import Reporter
from fpet_export.workflow import usable


def run(options: argparse.Namespace, reporter: Reporter) -> Outcome:
    """Build one engine a graph; each is compared with its graph for every task.

    Raises:
        TrustError: It is not a folder of tasks, or a file is not what its index says.
        UsageError: It is to be built for another target or under another name, or an engine exists.
    """
    from engines.engine import default_path, load_target
    from engines.tasks.index import read_index

    folder = options.onnx
    index = read_index(folder)
    if options.out is not None:
        raise UsageError(
            "a folder of tasks is built where it lies",
            where="--out",
            fix="leave it out: engines lie beside their graphs",
        )
    if options.target is not None and load_target(options.target).name != index.target:
        raise UsageError(
            f"this folder of tasks is for {index.target}, and uses no engine of "
            f"{load_target(options.target).name}",
            where="--target",
            fix="leave --target out, or, if its graphs suit it, take the folder there: "
            + command("bundle", folder, "--target", options.target),
        )
    usable.require_tasks(folder, index, index.names, options, reporter)
    graphs = [folder / structure.graph.file for structure in index.structures]
    engines = [default_path(graph, load_target(index.target)) for graph in graphs]
    if not options.print_trtexec:  # before the first of them takes its minutes
        for engine in engines:
            storage.refuse_overwrite(engine, force=options.force)
    if options.remote is not None and not options.print_trtexec:
        return _there(options, engines, reporter)
    built = [build.build_here(graph, index.target, options, reporter) for graph in graphs]
    commands = [command for one in built for command in one.next]
    return Outcome(
        document={"folder": str(folder), "engines": [one.document for one in built]},
        result="\n".join(one.result for one in built),
        next=list(dict.fromkeys(commands)),
    )


def _there(options: argparse.Namespace, engines: list[Path], reporter: Reporter) -> Outcome:
    """Build and check on another machine, and fetch the engines."""
    from fpet_export.tasks import board as _task_board

    if options.timing_cache is not None:
        raise UsageError(
            "timings stay on the machine that took them",
            where="--timing-cache",
            fix="leave it out, or build there with the agent of a bundle",
        )
    folder = options.onnx
    with _task_board.unpacked_there(folder, options, reporter) as board:
        parity = board.prove(more=build.words_there(options))
        manifests = [board.fetch(engine) for engine in engines]
    return Outcome(
        document={
            "folder": str(folder),
            "engines": [
                {"engine": str(engine), "manifest": dataclasses.asdict(manifest)}
                for engine, manifest in zip(engines, manifests, strict=True)
            ],
            "parity": parity,
            "remote": options.remote,
        },
        result="\n".join(map(str, engines)),
        next=[f"{command('bench', folder)} {remote.words(options)}"],
    )
