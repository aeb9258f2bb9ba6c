"""How much of a run's work its gates skip, measured on images."""

from __future__ import annotations

import contextlib
import dataclasses
from collections import defaultdict
from collections.abc import Iterator

import torch

from engines.imaging.images import ImageSet
from engines.plurals import counted
from fpet_export.model.facts import Fact
from fpet_export.model.gates import Decision
from fpet_export.reporter import Reporter
from fpet_export.stages import Adapted

FACT = "skipped by gates"


def measured(adapted: Adapted, images: ImageSet, reporter: Reporter) -> Adapted:
    """Return the run with a fact about its gates, where it has any: how many of them are shut.

    Every token of every gated layer counts once. The answers are those of the run as trained.
    """
    with _counted(adapted) as counts:
        if not counts:
            return adapted
        with reporter.working("counting what gates skip"):
            adapted.outputs(images.pixels, dtype=torch.float32)
    shut, all_of_them = (sum(count[index] for count in counts.values()) for index in (0, 1))
    if not all_of_them:
        return adapted
    shares = sorted(shut / both for shut, both in counts.values() if both)
    text = f"{shut / all_of_them:.1%} of tokens, {shares[0]:.0%} to {shares[-1]:.0%} by layer"
    where = f"{counted(len(images), 'image')} of {images.description}"
    reporter.step("gates", f"skip {text} · {where} · a static graph computes them anyway")
    checkpoint = adapted.checkpoint
    facts = checkpoint.facts | {FACT: Fact(text, f"measured on {where}")}
    return dataclasses.replace(adapted, checkpoint=dataclasses.replace(checkpoint, facts=facts))


@contextlib.contextmanager
def _counted(adapted: Adapted) -> Iterator[dict[str, list[float]]]:
    """Count, by module path, the decisions of a forward pass that are zero, and all of them."""
    counts: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    hooks = []
    for name, module in adapted.model.named_modules():
        if isinstance(module, Decision):
            counts[name] = [0.0, 0.0]

            def count(
                _module: object, _given: object, decided: torch.Tensor, name: str = name
            ) -> None:
                counts[name][0] += float((decided == 0).sum())
                counts[name][1] += decided.numel()

            hooks.append(module.register_forward_hook(count))
    try:
        yield counts
    finally:
        for hook in hooks:
            hook.remove()
