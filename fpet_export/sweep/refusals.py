"""What a sweep refuses before anything heavy: a grid without sense, results of other inputs."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import util
from typing import Any

from engines import precisions, registry
from engines.errors import FpetError, MissingDependencyError, UsageError
from engines.plurals import counted
from engines.targets._lookup import load_target
from fpet_export.requests import CheckImages
from fpet_export.steps import measuring, typing_request
from fpet_export.steps.next_commands import engines_run_here
from fpet_export.steps.runs import run_of
from fpet_export.sweep import inputs
from fpet_export.sweep.grid import (
    Point,
    export_request,
    images_of,
    names_of,
    quantization_of,
    steps_of,
)
from fpet_export.sweep.request import SweepRequest
from fpet_export.sweep.steps import Step
from fpet_export.sweep.store import Record, Store

_PACKAGES = ("distributed", "jinja2")
_SHOWN = 6


def require_packages() -> None:
    """Refuse a sweep where the package that runs it, or the one that writes its page, is missing.

    Raises:
        MissingDependencyError: It is.
    """
    for package in _PACKAGES:
        if util.find_spec(package) is None:
            raise registry.explained(ModuleNotFoundError(name=package), where="sweep")


def refuse_grid(request: SweepRequest) -> None:
    """Refuse what cannot be computed, and name all of it.

    Raises:
        FpetError: Of the first thing; where there are more, the message names each.
    """
    found = list(_problems(request))
    if not found:
        return
    first = found[0]
    if len(found) == 1:
        raise first
    listed = "".join(f"\n  {one.where}: {one.what}" for one in found)
    raise type(first)(
        f"{len(found)} things speak against this grid:{listed}",
        where="sweep",
        fix="; ".join(dict.fromkeys(one.fix for one in found)),
    )


def clear_stale(request: SweepRequest, points: Sequence[Point], store: Store) -> int:
    """Remove the results that the grid must not use: with `force` those of other inputs, too.

    What failed goes where it is to be computed once more, or was asked for otherwise.

    Returns:
        How many steps were removed.

    Raises:
        UsageError: There are results of other inputs or settings, and no `force`.
    """
    digest = functools.cache(inputs.digest)
    reasons: dict[str, str] = {}
    failed = set()
    for step in steps_of(points):
        record = store.record(step.name)
        if record is None:
            continue
        why = next((reasons[need.name] for need in step.needs if need.name in reasons), "")
        why = why or _why_stale(step, record, digest)
        if why:
            reasons[step.name] = why
        if record.failure is not None and (why or request.retry_failed):
            failed.add(step.name)
    stale = {name: why for name, why in reasons.items() if name not in failed}
    if stale and not request.force:
        causes = list(dict.fromkeys(stale.values()))
        more = f"\n  and {len(causes) - _SHOWN} more" if len(causes) > _SHOWN else ""
        listed = "".join(f"\n  {why}" for why in causes[:_SHOWN])
        raise UsageError(
            f"{counted(len(stale), 'step')} in the folder were computed otherwise:{listed}{more}",
            where=str(request.out),
            fix="choose another folder, or add --force: what changed is computed again, the rest "
            "stays",
        )
    for name in (*stale, *failed):
        store.forget(name)
    return len(stale) + len(failed)


def _problems(request: SweepRequest) -> Iterator[FpetError]:
    checks: list[Callable[[], object]] = [lambda: names_of(request)]
    if request.bench:
        checks.append(lambda: measuring.refuse_few_rounds(request))
    elif request.against is not None:
        yield UsageError(
            "nothing is measured, so there is nothing to measure against",
            where="--against",
            fix="leave out --against or --no-bench",
        )
    checks += [functools.partial(_require_target, name, request) for name in request.targets]
    for check in checks:
        if (error := _raised(check)) is not None:
            yield error
    if _raised(checks[0]) is not None:
        return  # images are given by the names of runs
    if (error := _raised(lambda: [_images(request, run) for run in names_of(request)])) is not None:
        yield error
        return
    seen = set()
    for error in _of_graphs(request):
        if str(error) not in seen:
            seen.add(str(error))
            yield error


def _of_graphs(request: SweepRequest) -> Iterator[FpetError]:
    """Yield what the targets say to the precisions, and what these need."""
    known = [name for name in request.targets if _raised(lambda: load_target(name)) is None]  # noqa: B023
    quantized = [name for name in request.precisions if name in precisions.QUANTIZED]
    for name, text in names_of(request).items():
        images = _images(request, name)
        run = run_of(text, request)
        for target, precision in itertools.product(known, request.precisions):
            settings = quantization_of(request, precision if quantized else precisions.INT8)
            asked = dataclasses.replace(
                export_request(request, run, images, target=target, batch=1, merge=None),
                **{**settings, "precision": precision},
            )
            error = _raised(functools.partial(typing_request.refuse_export, asked))
            if error is not None:
                yield error


def _images(request: SweepRequest, run: str) -> CheckImages:
    return images_of(request, run, tuple(names_of(request)))


def _require_target(name: str, request: SweepRequest) -> None:
    target = load_target(name)
    if request.scheduler is not None or engines_run_here(target):
        return
    if util.find_spec(target.module) is None:
        raise registry.explained(ModuleNotFoundError(name=target.module), where=name)
    raise MissingDependencyError(
        f"engines of {name} run on a GPU that this machine does not have",
        where=name,
        fix=f"leave {name} out, or give the scheduler of workers that have one: --scheduler "
        "tcp://HOST:8786",
    )


def _raised(check: Callable[[], object]) -> FpetError | None:
    try:
        check()
    except FpetError as error:
        return error
    return None


def _why_stale(step: Step, record: Record, digest: Callable[[str], str]) -> str:
    """Return why a result does not hold for what is asked for now; "" where it does."""
    for path, recorded in record.inputs.items():
        if digest(path) != recorded:
            return f"{path} has changed"
    if record.key == step.key:
        return ""
    return f"{step.kind}: {_difference(record.asked, step.asked)}"


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    told = [f"{name} was {before.get(name)!r}, now {now.get(name)!r}" for name in sorted(names)]
    return ", ".join(told) or "other steps before it"
