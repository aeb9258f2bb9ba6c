"""What becomes of a run's answers when the merge is left out or done wrongly."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional

from examples.training.model import Match, TunedViT
from examples.training.tuning import Labels

PARTNERS_SEED = 5001


def with_random_partners(model: TunedViT) -> TunedViT:
    """Return a copy in which every patch of set A merges into a random patch of set B.

    What an export with a wrong match would be: how far it is from the model says whether the
    match can be seen in the answers at all.
    """
    wrong = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(PARTNERS_SEED)

    def match(key: torch.Tensor) -> Match:
        found = model.match(key)
        count = found.scores.shape[2]
        index = torch.randint(count, found.scores.shape[:2], generator=generator)
        choice = functional.one_hot(index, count).to(found.choice.dtype)
        return Match(choice=choice, scores=found.scores)

    setattr(wrong, "match", match)  # noqa: B010 (a method: mypy refuses the assignment)
    return wrong


@torch.no_grad()
def measure_changes(
    model: TunedViT, batches: Sequence[torch.Tensor], labels: Labels
) -> dict[str, Any]:
    """Measure the answers of the model without its merge, and with a wrong one.

    Args:
        model: In eval mode.
        batches: (B, 3, H, W) inputs, all images in order.
        labels: (I,) class index.

    Returns:
        By change: the accuracy, the share of images that get another class, and the largest
        difference of a logit, as a share of the largest logit.
    """
    random_partners = with_random_partners(model)
    variants: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "all_patches_kept": lambda pixels: model(pixels, reduction="keep").logits,
        "set_a_dropped": lambda pixels: model(pixels, reduction="drop").logits,
        "random_partners": lambda pixels: random_partners(pixels).logits,
    }
    own = torch.cat([model(pixels).logits for pixels in batches])
    changes = {}
    for name, variant in variants.items():
        logits = torch.cat([variant(pixels) for pixels in batches])
        chosen = logits.argmax(dim=1)
        changes[name] = {
            "test_accuracy": round(float((chosen.numpy() == labels).mean()), 4),
            "classes_changed": round(float((chosen != own.argmax(dim=1)).float().mean()), 4),
            "largest_logit_change": round(float((logits - own).abs().max() / own.abs().max()), 4),
        }
    return changes
