"""What a network computes, as far as its name and its cost need it.

Kept in a measurement, so that a result says what was timed long after the graph is gone. It has its
own layout, apart from the manifest's, so that old results stay readable when manifests change.
"""

from __future__ import annotations

import dataclasses

from engines.manifest import Manifest

_SIZES = {
    (192, 12, 3): "Ti",
    (384, 12, 6): "S",
    (768, 12, 12): "B",
    (1024, 24, 16): "L",
    (1280, 32, 16): "H",
}
"""Width, depth and heads of the sizes that the field has letters for."""

_USUAL_IMAGE = 224


@dataclasses.dataclass(frozen=True, kw_only=True)
class Network:
    """A ViT.

    Attributes:
        width: Token width C.
        depth: Number of blocks.
        heads: Attention heads.
        hidden: Inner width of the MLP.
        patch: (height, width) of a patch in pixels.
        grid: (rows, columns) of patches.
        classes: Number of logits; 0 where the graph gives none.
        tokens_in: Tokens that enter the first block, prefix included.
        tokens: Tokens that leave each block.
        merged_blocks: 0-based blocks after whose attention tokens merge.
        merge: How tokens merge, as `--merge` says it.
        last_tokens: Tokens whose queries and MLP the last block computes.
        gated: Whether the first layer of an MLP is twice as wide.
    """

    width: int
    depth: int
    heads: int
    hidden: int
    patch: tuple[int, int]
    grid: tuple[int, int]
    classes: int
    tokens_in: int
    tokens: tuple[int, ...]
    merged_blocks: tuple[int, ...]
    merge: str
    last_tokens: int
    gated: bool = False

    @property
    def patches(self) -> int:
        """Patches of one image."""
        return self.grid[0] * self.grid[1]

    @property
    def merges(self) -> bool:
        """Whether tokens merge."""
        return bool(self.merged_blocks)

    @property
    def name(self) -> str:
        """Its name in the field, "ViT-B/16", with the image where that is not 224 pixels."""
        letter = _SIZES.get((self.width, self.depth, self.heads))
        size = f"-{letter}" if letter else f" {self.width}x{self.depth}"
        high, wide = self.patch
        patch = f"{high}" if high == wide else f"{high}x{wide}"
        image = (self.grid[0] * high, self.grid[1] * wide)
        if image == (_USUAL_IMAGE, _USUAL_IMAGE):
            return f"ViT{size}/{patch}"
        pixels = f"{image[0]}" if image[0] == image[1] else f"{image[0]}x{image[1]}"
        return f"ViT{size}/{patch} at {pixels} pixels"

    def plain(self) -> Network:
        """Return the same network without merging."""
        if not self.merges:
            return self
        is_whole = self.last_tokens == self.tokens[-1]
        return dataclasses.replace(
            self,
            tokens=(self.tokens_in,) * self.depth,
            merged_blocks=(),
            merge="none",
            last_tokens=self.tokens_in if is_whole else self.last_tokens,
        )


def network_of(manifest: Manifest) -> Network | None:
    """Return the network of an artefact; None where its manifest does not describe it."""
    model = manifest.model
    if model is None or not model.tokens:
        return None
    by_block = {step.block: step for step in model.merges}
    only_class = manifest.form is not None and manifest.form.last_block == "class-token"
    return Network(
        width=model.width,
        depth=model.depth,
        heads=model.heads,
        hidden=model.hidden,
        patch=model.patch,
        grid=model.grid,
        classes=model.classes,
        tokens_in=by_block[0].before if 0 in by_block else model.tokens[0],
        tokens=model.tokens,
        merged_blocks=model.merged_blocks,
        merge=model.merge,
        last_tokens=1 if only_class else model.tokens[-1],
        gated=model.gated,
    )
