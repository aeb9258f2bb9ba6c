"""`fpet-export inspect RUN`: what a run is, and how each fact was found."""

from __future__ import annotations

import argparse
from pathlib import Path

from engines.commands import command
from engines.plurals import counted
from engines.tasks.index import is_folder
from fpet_export.cli import arguments
from fpet_export.cli.verbs import Outcome
from fpet_export.reporter import Reporter
from fpet_export.tasks import describe
from fpet_export.workflow import next_commands, steps

GROUP = "make"
HELP = "say what a run is and how each fact was found, or what is in a folder of tasks"
DESCRIPTION = """\
Read a run strictly and print every setting with its source, tokens and multiply-adds of each
block, what folds, and the SHA-256 of each file. For a folder that `tasks` wrote, check every byte
and list its tasks. Writes nothing.

  fpet-export inspect runs/lora/digits --backbone backbone.safetensors
  fpet-export inspect out
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    arguments.add_run(parser)


def run(options: argparse.Namespace, reporter: Reporter) -> Outcome:
    """Read the run and describe it."""
    if is_folder(Path(options.run)):
        return describe.inspect(Path(options.run), reporter)
    adapted = arguments.load_run(options)
    from engines.storage import sha256_of
    from fpet_export.model import cost

    checkpoint, spec = adapted.checkpoint, adapted.model.spec
    folded = adapted.fold()
    tokens = adapted.tokens()
    macs = cost.macs(spec, tokens, method=checkpoint.method, dim=checkpoint.dim)
    plain = cost.macs(spec, cost.tokens_after_blocks(spec, None))
    files = {str(path): sha256_of(path) for path in (*checkpoint.files, *adapted.backbone.files)}
    reporter.step("run", f"{checkpoint.name}: {steps.describe(adapted)}")
    facts = {name: str(fact) for name, fact in adapted.facts().items()}
    facts["backbone"] = adapted.backbone.source
    facts_found = [("fact", "value (source)"), *facts.items()]
    reporter.table(facts_found, words=True)
    reporter.line()
    rows = [("block", "tokens in", "tokens out", "million multiply-adds")]
    for index, after in enumerate(tokens):
        before = spec.tokens if index == 0 else tokens[index - 1]
        rows.append((str(index), str(before), str(after), f"{macs[index + 1] / 1e6:.1f}"))
    reporter.table(rows)
    reporter.line()
    stay = (
        f"{counted(len(folded.stay), 'layer')} stay in the graph"
        if folded.stay
        else "everything folds"
    )
    reporter.step("fold", stay)
    reporter.step(
        "cost",
        f"{sum(macs) / 1e9:.3f} billion multiply-adds (GMAC), "
        f"{sum(plain) / 1e9:.3f} without merging",
    )
    for path, digest in files.items():
        reporter.detail(f"{digest}  {path}")
    if checkpoint.files and not any(path.endswith("SHA256SUMS") for path in files):
        reporter.step(
            "checksums",
            "none beside the run: a flipped bit in its .bin could not be seen "
            "(sha256sum FILES > SHA256SUMS)",
            passed=None,
        )
    return Outcome(
        document={
            "name": checkpoint.name,
            "facts": {
                name: {"value": fact.value, "source": fact.source}
                for name, fact in adapted.facts().items()
            },
            "backbone": {"source": adapted.backbone.source},
            "architecture": spec.describe(),
            "weights": adapted.quality,
            "tokens": list(tokens),
            "macs": {"by_part": macs, "total": sum(macs), "without_merging": sum(plain)},
            "stays_in_graph": list(folded.stay),
            "files": files,
        },
        result=checkpoint.name,
        next=[
            command("export", *arguments.run_words(options), "-o", next_commands.free(Path("out")))
        ],
    )
