"""`fpet-export tasks RUN… -o OUT`: many runs of one backbone in one folder."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from engines import storage
from engines.commands import command
from engines.errors import UsageError
from fpet_export.cli import arguments
from fpet_export.cli.verbs import Outcome
from fpet_export.reporter import Reporter
from fpet_export.requests import named
from fpet_export.steps import export, next_commands
from fpet_export.steps import images as _images
from fpet_export.tasks import by_task as _tasks
from fpet_export.tasks import report

if TYPE_CHECKING:
    from engines.imaging.images import ImageSet
    from engines.targets import Target
    from fpet_export.stages import Adapted
    from fpet_export.tasks.export import TaskOptions

GROUP = "make"
HELP = "put many runs of one backbone into one folder that shares it"
DESCRIPTION = """\
Write the backbone once, as a graph that takes the weights of a task as inputs, and one small file
for each run: adapters, refinement, head. One engine then serves all of them.

Leaves OUT/tasks.json, OUT/backbone….onnx, OUT/tasks/NAME.safetensors with their manifests and
OUT/parity.json; exits 7 when a task drifts from its float64 reference or from its own export. A
task is named after the files of its run, or as NAME=RUN says.

--add puts runs into a folder that exists (with --force they replace tasks of the same names),
--drop takes tasks out. All others keep their bytes, and engines stay valid: a run that fits no
graph of the folder is refused, unless --new-graph writes one for it. If the command fails,
nothing changes.

  fpet-export tasks lora=runs/lora/digits adapt=runs/adaptformer/digits --backbone B -o out
  fpet-export predict out --task lora IMAGE
  fpet-export tasks third=runs/lora/third --backbone B -o out --add
  fpet-export tasks -o out --drop adapt
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "runs", nargs="*", metavar="[NAME=]RUN", help="runs, as `export` takes them, and names"
    )
    arguments.add_run(parser, positional=False)
    arguments.add_output(parser, what="folder to write", required=True)
    parser.add_argument("--html", type=Path, help="also write one self-contained HTML page")
    group = parser.add_argument_group("a folder that exists")
    group.add_argument("--add", action="store_true", help="put the runs into it")
    group.add_argument(
        "--new-graph",
        action="store_true",
        help="with --add: write a further graph for runs that none of the folder takes",
    )
    group.add_argument(
        "--drop", type=arguments.names, metavar="NAME[,NAME]", help="take tasks out of it"
    )
    parser.add_argument(
        "--target",
        help="where the graph will run; decides what its inputs are (see docs/tasks.md; default: "
        "cpu)",
    )
    parser.add_argument(
        "--precision",
        choices=("fp32", "fp16"),
        default="fp32",
        help="type of the shared graph, and of what tasks feed to it (default: fp32)",
    )
    parser.add_argument(
        "--half",
        choices=("fp16",),
        help="keep dense adapter factors in float16; their error is measured and recorded",
    )
    arguments.add_failed(parser)
    arguments.add_images(parser)
    parser.add_argument("--opset", type=arguments.positive, metavar="N", help="ONNX opset")
    arguments.add_data(parser, by_task=True)


def run(options: argparse.Namespace, reporter: Reporter) -> Outcome:
    """Write the folder, and judge every task."""
    from engines.tasks.index import FILE
    from fpet_export.tasks import edit, verify
    from fpet_export.tasks.export import export_tasks

    _require_one_kind(options)
    _images.require_inputs(options)
    if options.drop is not None:
        return edit.drop(options, reporter)
    if options.add:
        return edit.add(options, reporter)
    pages = [] if options.html is None else [options.html]
    for path in (options.out / FILE, options.out / verify.PARITY_FILE, *pages):
        storage.refuse_overwrite(path, force=options.force)
    runs = load(options, reporter)
    images, how = prepare(options, runs, reporter)
    index = export_tasks(runs, options.out, how)
    for structure in index.structures:
        size = (options.out / structure.graph.file).stat().st_size
        count = sum(index.structures[task.structure] is structure for task in index.tasks)
        reporter.step(
            "graph",
            f"{structure.graph.file} {size / 1e6:.1f} MB · {len(structure.inputs)} inputs of a "
            f"task · serves {count}",
        )
    with reporter.progress("parity of every task", len(runs)) as advance:
        found = verify.verify_tasks(
            options.out, runs, images, how, progress=lambda name, done, total: advance(1)
        )
    for task, one in zip(index.tasks, found, strict=True):
        size = (options.out / task.delta.file).stat().st_size
        reporter.step(
            task.name,
            f"{export.describe(runs[task.name])} · {size / 1e3:.0f} kB",
            passed=one.reference.passed and one.single.passed,
        )
    for table in verify.tables(found):
        export.show_table(table, reporter, heading="task")
    if options.html is not None:
        report.write(
            options.html,
            folder=options.out,
            index=index,
            found=found,
            steps=reporter.steps,
            is_random=any(adapted.quality == "random" for adapted in runs.values()),
            force=options.force,
        )
        reporter.step("page", str(options.html))
    verify.require(found)
    return Outcome(
        document={
            "folder": str(options.out),
            "index": dataclasses.asdict(index),
            "parity": verify.tables_json(found),
        },
        result=str(options.out),
        next=_next(options, index.names, how.place),
    )


def _next(options: argparse.Namespace, tasks: Sequence[str], target: Target) -> list[str]:
    """Return how to go on with the folder: with a task of it, and with its engines."""
    folder = options.out
    engines = command("build", folder)
    if not next_commands.builds_here(target):
        engines = next_commands.bundle(folder)
    return [engines, *_tasks.predict_first(folder, tasks, options)]


def _require_one_kind(options: argparse.Namespace) -> None:
    """Refuse options that contradict each other."""
    see = "see `fpet-export tasks --help`"
    if options.drop is None and not options.runs:
        raise UsageError(
            "the following arguments are required: RUN", where="fpet-export tasks", fix=see
        )
    if options.drop is not None and (options.runs or options.add):
        raise UsageError(
            "tasks are added or dropped, one after the other",
            where="--drop",
            fix="leave the runs and --add out, or --drop",
        )
    if options.html is not None and (options.add or options.drop is not None):
        raise UsageError(
            "a page shows a folder as it is written",
            where="--html",
            fix="leave --html out; to see a folder that exists: fpet-export inspect FOLDER",
        )
    if options.new_graph and not options.add:
        raise UsageError(
            "every graph of a new folder is new", where="--new-graph", fix="leave it out"
        )


def load(options: argparse.Namespace, reporter: Reporter) -> dict[str, Adapted]:
    """Load the runs by their names; the backbone is read once."""
    from engines.tasks.index import check_names

    given = [named(text) for text in options.runs]
    check_names(name for name, _ in given if name is not None)
    loaded: list[tuple[str, Adapted]] = []
    single = argparse.Namespace(**vars(options))
    for name, text in given:
        single.run = text
        adapted = arguments.load_run(single)
        if options.backbone is not None:
            single.backbone = adapted.backbone
        loaded.append((name or adapted.checkpoint.name, adapted))
    check_names(name for name, _ in loaded)
    runs = dict(loaded)
    first = next(iter(runs.values()))
    reporter.step("backbone", f"{first.backbone.source} · {first.model.spec.describe()}")
    if any(adapted.quality == "random" for adapted in runs.values()):
        reporter.step("weights", "random: these tasks are good for speed only", passed=None)
    return runs


def prepare(
    options: argparse.Namespace, runs: dict[str, Adapted], reporter: Reporter
) -> tuple[dict[str, ImageSet], TaskOptions]:
    """Return the images of every task, and what the options of this verb ask for.

    Class names are checked before anything is computed.
    """
    from fpet_export.steps.verify import DEFAULT_IMAGES
    from fpet_export.tasks.export import TaskOptions

    known = _tasks.known_by_task(
        options, {name: run.model.spec.classes for name, run in runs.items()}
    )
    images = _tasks.images_by_task(
        options,
        {name: adapted.preprocessing for name, adapted in runs.items()},
        known,
        reporter,
        default=DEFAULT_IMAGES,
    )
    how = TaskOptions(
        target=options.target or "cpu",
        precision=options.precision,
        half=options.half or "fp32",
        batch=options.batch,
        input=arguments.input_kind(options),
        opset=options.opset,
        force=options.force,
        labels={name: images[name].class_names or known[name].names for name in runs},
        command=options.command,
    )
    return images, how
