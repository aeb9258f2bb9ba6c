"""What a merge is given, what it does, and what a forward pass takes down of that."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple, Protocol

import torch


@dataclasses.dataclass
class Trace:
    """What a forward pass with merges did; filled when it is passed to `Vit.forward`.

    Attributes:
        tokens: Tokens that left each block.
        match: By block that merges, `Merged.match`.
        margin: Likewise, `Merged.margin`.
        size: (B, N) patches that each token stands for after the last merge, prefix included.
    """

    tokens: list[int] = dataclasses.field(default_factory=list)
    match: dict[int, torch.Tensor] = dataclasses.field(default_factory=dict)
    margin: dict[int, torch.Tensor] = dataclasses.field(default_factory=dict)
    size: torch.Tensor | None = None

    def add(self, block: int, merged: Merged) -> None:
        """Take down what one block did."""
        self.match[block], self.margin[block] = merged.match, merged.margin
        self.size = merged.size.squeeze(-1)


class Attended(NamedTuple):
    """What attention did with (B, N, C) tokens.

    Attributes:
        values: (B, N, C) what it adds to the tokens.
        queries: (B, H, N, D).
        keys: (B, H, N, D).
        key_bias: (B, 1, 1, N), added to the logits on the key axis, or None.
    """

    values: torch.Tensor
    queries: torch.Tensor
    keys: torch.Tensor
    key_bias: torch.Tensor | None

    def of_class_token(self) -> torch.Tensor:
        """Return (B, N) the logarithm of what the class token attends to, summed over the heads.

        Attention may be too small for a number of its own where another token has all of it; its
        logarithm is not.
        """
        query = self.queries[:, :, :1] * self.queries.shape[-1] ** -0.5
        logits = query @ self.keys.transpose(-2, -1)
        if self.key_bias is not None:
            logits = logits + self.key_bias
        found: torch.Tensor = logits.log_softmax(dim=-1).squeeze(2).logsumexp(dim=1)
        return found


class Merged(NamedTuple):
    """What a merge did with (B, N, C) tokens.

    Attributes:
        tokens: (B, N', C).
        size: (B, N', 1) patches that each of them stands for.
        match: (B, Na) where each token went that the merge decides about, as its merger counts;
            negative where it joined none.
        margin: (B, Na) by how much the decision about it was won.
    """

    tokens: torch.Tensor
    size: torch.Tensor
    match: torch.Tensor
    margin: torch.Tensor


class Merger(Protocol):
    """The merge of one block as the forward pass sees it; see `fpet_export/model/mergers/`."""

    def __call__(
        self, tokens: torch.Tensor, attended: Attended, size: torch.Tensor | None
    ) -> Merged:
        """Merge (B, N, C) tokens, given what attention made of them and their (B, N, 1) sizes."""

    def places(self, match: torch.Tensor) -> torch.Tensor:
        """Return (B, P) which patch that leaves each one that enters is in, -1 where it is lost."""

    def takes(self, match: torch.Tensor) -> torch.Tensor:
        """Return (B, N') the token whose position each one that leaves takes, prefix included."""
