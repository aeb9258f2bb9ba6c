"""A run that a request describes: loaded, or described again for the next command."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines.commands import command
from engines.errors import UsageError
from engines.manifest import is_task_folder
from engines.registry import import_or_explain
from fpet_export.requests import Request, Run, RunFacts, made

if TYPE_CHECKING:
    from fpet_export.model.backbones import Backbone
    from fpet_export.stages import Adapted

_FACTS = tuple(
    field.name
    for field in dataclasses.fields(RunFacts)
    if field.name not in {one.name for one in dataclasses.fields(Request)}
)
UNTRAINED = (
    "the model was not trained with this merge: the checks compare with the merged model, so they "
    "do not see what merging costs in accuracy (--merge auto --max-drop 1.0 --data DATA does)"
)

_BETWEEN = {"image": "x", "background": ","}


def facts_of(request: RunFacts) -> dict[str, Any]:
    """Return what describes a run, by the names that `fpet_export.stages.load` has for it."""
    return {name: getattr(request, name) for name in _FACTS}


def run_of(run: str, request: RunFacts) -> Run:
    """Return a run with what a request says about runs."""
    return made(Run, {**vars(request), "run": run})


def load_run(
    request: Run,
    *,
    instead: str = "{inspect} says what is in it",
    backbone: Backbone | None = None,
) -> Adapted:
    """Load the run that a request describes.

    Args:
        request: The run.
        instead: What to do with a folder of tasks; {inspect}, {bundle} and {path} are filled in.
        backbone: One that was read already, in place of the request's.

    Raises:
        UsageError: It is a folder of tasks, which holds no runs.
    """
    if is_task_folder(Path(request.run)):
        known = {verb: command(verb, request.run) for verb in ("inspect", "bundle")}
        raise UsageError(
            "this is a folder of tasks and holds no runs",
            where=str(request.run),
            fix=instead.format(path=request.run, **known),
        )
    stages = import_or_explain("fpet_export.stages")
    facts = facts_of(request)
    if backbone is not None:
        facts["backbone"] = backbone
    adapted: Adapted = stages.load(request.run, **facts)
    return adapted


def describe(adapted: Adapted) -> str:
    """Return the one line that says what a run is."""
    checkpoint, spec = adapted.checkpoint, adapted.model.spec
    parts = [checkpoint.describe_tuning(), spec.describe_output(), spec.describe()]
    merges = adapted.merge_plan().merges
    name = f"{_merge_fact(adapted)} " if merges else ""
    return " · ".join([*parts, name + describe_merge(adapted)])


def describe_merge(adapted: Adapted) -> str:
    """Return in one line how tokens merge, and what it leaves of tokens and multiply-adds."""
    plain, plan = adapted.macs_without_merging(), adapted.merge_plan()
    if not plan.merges:
        return f"no merging · {plain / 1e9:.2f} GMAC"
    fact = adapted.facts()[_merge_fact(adapted)]
    value, source = fact.value, fact.source.partition(":")[0]
    blocks = "" if len(plan.steps) == 1 else f" in {plan.in_words()}"
    return (
        f"{value} ({source}){blocks} · {plan.before}→{plan.tokens[-1]} tokens · "
        f"{plain / 1e9:.2f}→{sum(adapted.macs()) / 1e9:.2f} GMAC"
    )


def _merge_fact(adapted: Adapted) -> str:
    """Return the name of the fact that says how tokens merge."""
    return "merge" if "merge" in adapted.facts() else "merge block"


def refuse_run_facts(request: RunFacts, artefact: str) -> None:
    """Refuse what describes a run where an artefact was given, which has settled all of it.

    Raises:
        UsageError: There is such an option.
    """
    given = [_flag(name) for name, value in facts_of(request).items() if value is not None]
    if given:
        raise UsageError(
            f"{', '.join(given)} describes a run, but {artefact} was already made from one",
            where=given[0],
            fix="leave it out, or export the run again with it",
        )


def run_argv(request: Run) -> list[str]:
    """Return the words that describe the run again, for the next command."""
    argv = [str(request.run)]
    for name, value in facts_of(request).items():
        if value is not None:
            between = _BETWEEN.get(name)
            text = str(value) if between is None else between.join(map(str, value))
            argv += [_flag(name), text]
    return argv


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
