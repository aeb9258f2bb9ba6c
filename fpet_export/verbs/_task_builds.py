"""`build FOLDER`: the engines of every graph in a folder of tasks, for the folder's target."""

from __future__ import annotations

import argparse

from engines import storage
from engines.errors import UsageError
from fpet_export.console import Console
from fpet_export.verbs import Outcome, build


def run(options: argparse.Namespace, console: Console) -> Outcome:
    """Build one engine a graph; each is compared with its graph for every task.

    Raises:
        TrustError: It is no folder of tasks, or a file is not what its index says.
        UsageError: It is to be built for another target, under another name or elsewhere, or an
            engine exists.
    """
    from engines.engine import default_path, load_target
    from engines.task_index import read_index

    folder = options.onnx
    index = read_index(folder)
    _refuse_elsewhere(options)
    if options.target is not None and load_target(options.target).name != index.target:
        raise UsageError(
            f"this folder of tasks is for {index.target}, and uses no engine of "
            f"{load_target(options.target).name}",
            where="--target",
            fix=f"leave --target out, or, if its graphs suit it, take the folder there: "
            f"fpet-export bundle {folder} --target {options.target}",
        )
    graphs = [folder / structure.graph.file for structure in index.structures]
    if not options.print_trtexec:  # before the first of them takes its minutes
        for graph in graphs:
            storage.refuse_overwrite(
                default_path(graph, load_target(index.target)), force=options.force
            )
    built = [build.build_here(graph, index.target, options, console) for graph in graphs]
    commands = [command for one in built for command in one.next]
    return Outcome(
        document={"folder": str(folder), "engines": [one.document for one in built]},
        result="\n".join(one.result for one in built),
        next=list(dict.fromkeys(commands)),
    )


def _refuse_elsewhere(options: argparse.Namespace) -> None:
    for name, is_given, fix in (
        ("--out", options.out is not None, "leave it out: engines lie beside their graphs"),
        (
            "--remote",
            options.remote is not None,
            "copy a bundle there and build with its agent: fpet-export bundle "
            f"{options.onnx} --target NAME",
        ),
    ):
        if is_given:
            raise UsageError("a folder of tasks is built where it lies", where=name, fix=fix)
