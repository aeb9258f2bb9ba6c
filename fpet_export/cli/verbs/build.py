"""`fpet-export build ONNX --target T`: an engine and its side-car."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from engines.commands import command
from engines.errors import InputError, ParityError, UsageError
from engines.manifest import NO_TARGET, Manifest, manifest_path, read_manifest, write_manifest
from fpet_export.board import remote
from fpet_export.cli import arguments
from fpet_export.cli.verbs import Outcome
from fpet_export.reporter import Reporter
from fpet_export.workflow import next_commands, usable

GROUP = "make"
HELP = "build an engine from a graph"
DESCRIPTION = """\
Build the engine of a target from an exported graph, with its manifest beside it.

`cpu` gives an ONNX Runtime model that was optimised once, `openvino` one that OpenVINO runs, `rtx`
a TensorRT-RTX plan, built without a GPU for the compute capabilities that are named, `tensorrt`
a plan for the GPU of this machine, `torch-cpu` and `torch-cuda` a package of PyTorch for this
machine. A board or a card is named with its software, as in jetson-orin-nano-8gb@jp6.2 or
rtx-4090@rtx (see `targets`). A graph whose opset or precision the target does not take is refused,
and one that was exported for a target of another form, with the command that exports it again
(--force-form builds it all the same).

Where the engine can run here, its logits are compared with the graph's; that of a quantized graph
may differ by three times what the graph itself does when one pixel changes by one grey level. A
plan gets a fusion report too, NAME.fusion.json: which kernels TensorRT made, how many in each
block, what is fused, what stayed float32 and why (`-v` prints it, `show` draws it).

With --remote the graph travels to a board with the agent, is built and checked there against what
it says here, and the engine comes back. The board needs Python 3.10, numpy and its runtime. A
connection that drops is resumed; the folder there is removed at the end.

  fpet-export build out/model.onnx
  fpet-export build out/model.onnx --target rtx --sm 8.6,8.9
  fpet-export build out/model.fp16.onnx --target tensorrt --remote orin1
  # every graph of a folder that `tasks` wrote, for its target:
  fpet-export build out
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "onnx", type=Path, metavar="ONNX", help="an exported graph, or a folder of tasks"
    )
    parser.add_argument(
        "--target", help="where it will run (default: what the graph was exported for)"
    )
    arguments.add_output(parser, what="file to write (default: beside the graph)")
    parser.add_argument(
        "--sm", type=arguments.names, metavar="8.6,8.9", help="GPU generations to build for (rtx)"
    )
    parser.add_argument(
        "--optimization-level",
        type=int,
        choices=range(6),
        help="effort of TensorRT or PyTorch, 0 to 5",
    )
    parser.add_argument(
        "--workspace-mb",
        type=arguments.positive,
        help="limit of scratch memory (default: the target's; see `targets NAME`)",
    )
    parser.add_argument(
        "--batch",
        type=arguments.batches,
        metavar="MIN:OPT:MAX",
        help="of a graph with a dynamic batch: the range, and what to tune for (default: all that "
        "it was exported for, tuned for the largest)",
    )
    parser.add_argument(
        "--timing-cache",
        type=Path,
        metavar="FILE",
        help="timings of kernels to start from and to keep, for a quicker build next time",
    )
    parser.add_argument(
        "--print-trtexec",
        action="store_true",
        help="print the line for NVIDIA's own tool and build nothing",
    )
    arguments.add_failed(parser)
    arguments.add_form(parser)
    remote.add_arguments(parser)


def run(options: argparse.Namespace, reporter: Reporter) -> Outcome:
    """Build, then compare with the graph where the engine can run."""
    from fpet_export.tasks import build as _task_builds

    if options.onnx.is_dir():
        return _task_builds.run(options, reporter)
    options.target = options.target or _exported_for(options.onnx)
    if options.remote is not None and not options.print_trtexec:
        return _there(options, reporter)
    return build_here(options.onnx, options.target, options, reporter)


def _exported_for(graph: Path) -> str:
    """Return the target that a graph was exported for.

    Raises:
        InputError: There is no such file.
        TrustError: Its manifest is damaged.
        UsageError: Nothing says it.
    """
    if not graph.is_file():
        raise InputError("there is no such graph", where=str(graph), fix="check the path")
    manifest = read_manifest(graph, verify=False) if manifest_path(graph).exists() else None
    if manifest is None or manifest.target == NO_TARGET:
        raise UsageError(
            f"nothing says for which target {graph.name} was written",
            where="fpet-export build",
            fix="add --target NAME; `fpet-export targets` lists what there is",
        )
    return manifest.target


def build_here(
    graph: Path, target: str, options: argparse.Namespace, reporter: Reporter
) -> Outcome:
    """Build one graph's engine on this machine, with the options of this verb."""
    from engines import BuildOptions, build
    from engines.engine import equivalent_command, load_target
    from engines.parity.rows import ParityTable, failed_row, judge
    from fpet_export.workflow import engine_steps as _engines

    place = load_target(target)
    wanted = BuildOptions(
        compute_capabilities=options.sm,
        optimization_level=options.optimization_level,
        workspace_bytes=options.workspace_mb and options.workspace_mb << 20,
        batches=options.batch,
        timing_cache=options.timing_cache,
        force=options.force,
        allow_failed=options.force_failed,
        any_form=options.force_form,
        command=options.command,
    )
    if options.print_trtexec:
        line = equivalent_command(graph, target=place, out=options.out, options=wanted)
        return Outcome(document={"trtexec": line}, result=line)
    source = read_manifest(graph, verify=False) if manifest_path(graph).exists() else None
    if source is not None:
        usable.require(graph, source, options, reporter)
    usable.say_form(graph, source, place, reporter)
    with _engines.build_progress(reporter) as progress:
        wanted = dataclasses.replace(wanted, progress=progress)
        artefact = build(graph, target=place, out=options.out, options=wanted)
    manifest = read_manifest(artefact)
    reporter.step("build", _engines.describe(artefact, manifest))
    if options.timing_cache is not None and manifest.runtime is not None:
        note = manifest.runtime.settings["timing_cache"]
        reporter.step("timings", f"{options.timing_cache}: {note}")
    fusion = _engines.report_fusion(artefact, manifest, reporter)
    try:
        table = _engines.check_against_graph(graph, artefact, reporter)
    except ParityError as error:  # the engine lies there: its manifest must say so
        row = failed_row(artefact.name, 0, error.what)
        table = ParityTable(images="none", reference=f"artefact {graph.name}", rows=(row,))
        failed = dataclasses.replace(manifest, parity=table.to_json())
        write_manifest(artefact, failed)
        raise
    check = None if table is None else table.to_json()
    if table is not None:
        manifest = write_manifest(artefact, dataclasses.replace(manifest, parity=check))
        judge(table, fix="build it again; if it stays, report it with the graph's manifest")
    return Outcome(
        document={
            "engine": str(artefact),
            "manifest": dataclasses.asdict(manifest),
            "parity": check,
            "fusion": None if fusion is None else fusion.to_json(),
        },
        result=str(artefact),
        next=[
            *_used_by(artefact, manifest),
            *([] if fusion is None else [command("show", artefact, "-o", _picture(artefact))]),
        ],
    )


def _picture(engine: Path) -> Path:
    return next_commands.free(engine.with_name(f"{engine.stem}.fusion.png"))


def _used_by(artefact: Path, manifest: Manifest) -> list[str]:
    """Return what to type with an engine; one that tasks share runs through their folder."""
    used = artefact.parent if manifest.is_shared else artefact
    if not next_commands.runs_here(manifest):
        return [usable.go_on(next_commands.bundle(used), manifest)]
    return [usable.go_on(command("bench", used), manifest)]


def _there(options: argparse.Namespace, reporter: Reporter) -> Outcome:
    """Build and check on another machine, and fetch the engine."""
    from engines.engine import load_target, refuse_output
    from fpet_export.board import packing

    if options.timing_cache is not None:
        raise UsageError(
            "timings stay on the machine that took them",
            where="--timing-cache",
            fix="leave it out, or build there with the agent of a bundle",
        )
    item = packing.checked(options.onnx, options.target, options, reporter)
    out: Path = options.out or options.onnx.with_name(item.engine)
    refuse_output(out, load_target(options.target), force=options.force)
    with remote.unpacked_there([item], options, reporter) as board:
        more = [*words_there(options), *usable.form_words(options)]
        parity = board.prove(item, engine=out.name, more=more)
        built = board.fetch(out)
    return Outcome(
        document={
            "engine": str(out),
            "manifest": dataclasses.asdict(built),
            "parity": parity,
            "remote": options.remote,
        },
        result=str(out),
        next=[f"{command('bench', out)} {remote.words(options)}"],
    )


def words_there(options: argparse.Namespace) -> list[str]:
    """Return the options of `build` that the agent gets, too."""
    more: list[str] = []
    for name, value in (
        ("--sm", options.sm and ",".join(options.sm)),
        ("--optimization-level", options.optimization_level),
        ("--workspace-mb", options.workspace_mb),
        ("--batch", options.batch and ":".join(map(str, options.batch))),
    ):
        more += [] if value is None else [name, str(value)]
    return more
