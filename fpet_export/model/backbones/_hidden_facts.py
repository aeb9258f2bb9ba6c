"""Facts about a ViT that its tensors hide: heads, what the head reads, the shape of the image.

Each comes from the user, from a configuration beside the tensors or from the run; sources that
disagree are refused, and what none of them says is asked for.
"""

from __future__ import annotations

import math

from engines.errors import CheckpointError, UsageError
from fpet_export.model.backbones import BackboneOptions
from fpet_export.model.facts import Fact, reconcile
from fpet_export.model.vit_spec import VitSpec


def heads_of(
    seen: VitSpec,
    options: BackboneOptions,
    named: Fact[VitSpec] | None,
    shown: Fact[int] | None,
    *,
    where: str,
) -> Fact[int] | None:
    """Return the heads, which no tensor of timm's layout shows; None where nothing says them."""
    claims = [] if shown is None else [shown]
    if options.heads is not None:
        claims.append(Fact(options.heads, "--heads"))
    if named is not None:
        claims.append(Fact(named.value.heads, named.source))
    revealed = options.head_width(seen.depth, seen.width) if options.head_width else None
    if revealed is not None:
        claims.append(Fact(seen.width // revealed[0], revealed[1]))
    network = options.run_network
    if network is not None and network.value.width == seen.width:
        claims.append(Fact(network.value.heads, network.source))
    fact = reconcile("the number of attention heads", claims, where=where)
    if fact is not None and (fact.value < 1 or seen.width % fact.value):
        raise CheckpointError(
            f"{fact.value} heads do not divide the token width {seen.width}",
            where=fact.source,
            fix="correct --heads",
        )
    return fact


POOLS = {"token": "class", "avg": "mean"}
"""The words of `--pool`, which are timm's, and those of `VitSpec.pool`."""


def pool_of(
    seen: VitSpec, options: BackboneOptions, named: Fact[VitSpec] | None, *, where: str
) -> Fact[str] | None:
    """Return what the head reads, which no tensor shows but a distillation token's.

    None where nothing says it.
    """
    claims: list[Fact[str]] = []
    if options.pool is not None:
        if options.pool not in POOLS:
            raise UsageError(f"pool is {options.pool!r}", where="--pool", fix="give token or avg")
        claims.append(Fact(POOLS[options.pool], "--pool"))
    if named is not None:
        claims.append(Fact(named.value.pool, named.source))
    if "dist" in seen.prefix:
        claims.append(Fact("class+dist", "the distillation token in the tensors"))
    if seen.pool == "attention":
        claims.append(Fact("attention", "attn_pool in the tensors"))
    if "dist" not in seen.prefix and options.run_pool is not None and options.pool is None:
        claims.append(options.run_pool)
    differing = [claim for claim in claims if claim.value != claims[0].value]
    if differing:
        raise CheckpointError(
            f"the head reads {_READS[claims[0].value]} according to {claims[0].source}, but "
            f"{_READS[differing[0].value]} according to {differing[0].source}",
            where=where,
            fix="correct --pool or the configuration beside the file"
            if options.pool is not None
            else "correct global_pool in the configuration, if the run was trained as its own code "
            "says; else give the backbone it was trained on",
        )
    if not claims:
        return None
    if seen.pool_norm and claims[0] is options.run_pool:
        raise CheckpointError(
            f"the head reads the class token according to {claims[0].source}, but the tensors "
            "have an fc_norm, which that code does not know",
            where=where,
            fix="state what it reads: --pool token or --pool avg",
        )
    if claims[0].value == "attention" != seen.pool:
        raise CheckpointError(
            f"the head reads {_READS['attention']} according to {claims[0].source}, but the "
            "tensors have no attn_pool",
            where=where,
            fix="correct global_pool there, or find the file that belongs to it",
        )
    if claims[0].value == "class" and "cls" not in seen.prefix:
        raise CheckpointError(
            f"the head reads the class token according to {claims[0].source}, but the tensors "
            "have none (cls_token)",
            where=where,
            fix="add --pool avg if it reads the mean over the patches, or give the backbone the "
            "run was trained on",
        )
    return claims[0]


_READS = {
    "class": "the class token",
    "mean": "the mean over the patches",
    "class+dist": "class and distillation token",
    "attention": "what attention pooling gives",
}


def ask_for(open_facts: dict[str, str], *, where: str) -> CheckpointError:
    """Return the error that asks for facts which nothing says, all at once.

    Args:
        open_facts: What is open, to the option that says it.
        where: The file.
    """
    return CheckpointError(
        f"nothing says {' nor '.join(open_facts)}",
        where=where,
        fix=f"add {' and '.join(open_facts.values())}; or name the architecture, --arch NAME; or "
        "put timm's config.json beside the file",
    )


def image_of(
    seen: VitSpec,
    positions: int,
    options: BackboneOptions,
    named: Fact[VitSpec] | None,
    *,
    where: str,
) -> tuple[Fact[tuple[int, int]], bool]:
    """Return the size that the positions are for, and whether they cover the prefix.

    That is what a configuration says. Where none does, it is `--image` if the rows fit that, else
    a square; to another `--image` the positions are resampled, see `_positions`. Where there are
    no learned positions, it is the size that the configuration says.

    Args:
        seen: What the tensors show; its image is not read.
        positions: Rows of `pos_embed`.
        options: What the user says.
        named: What the configuration beside the tensors says.
        where: Whom to name in an error.
    """
    patch, prefix = seen.patch, len(seen.prefix)
    ways = (True, False) if named is None else (named.value.position_covers_prefix,)
    claims: list[Fact[tuple[int, int]]] = []
    if not seen.absolute_positions:
        assert named is not None, "refused before"
        return Fact(named.value.image, f"img_size in {named.source}"), ways[0]
    if named is not None:
        claims.append(Fact(named.value.image, f"img_size in {named.source}"))
    if options.image is not None and (named is None or named.source.startswith("--")):
        claims.append(Fact(options.image, "--image"))
    for said in claims:
        height, width = said.value
        rows, columns = height // patch[0], width // patch[1]
        fits = height % patch[0] == 0 and width % patch[1] == 0
        for covers in ways:
            if fits and rows * columns + (prefix if covers else 0) == positions:
                return said, covers
    if named is not None and (options.image is None or not named.source.startswith("--")):
        height, width = named.value.image
        raise CheckpointError(
            f"an image of {height}x{width} according to img_size in {named.source} gives "
            f"{height // patch[0] * (width // patch[1])} patches of {patch[0]}x{patch[1]} and "
            f"{prefix} prefix tokens{'' if ways[0] else ' without positions (no_embed_class)'}; "
            f"pos_embed has {positions} rows",
            where=where,
            fix="name another architecture; or state the size the weights are for: --image HxW"
            if named.source.startswith("--")
            else f"correct img_size in {named.source}, or find the file that belongs to it",
        )
    for covers in ways:
        side = math.isqrt(max(positions - (prefix if covers else 0), 0))
        if side and side * side == positions - (prefix if covers else 0):
            image = (side * patch[0], side * patch[1])
            return Fact(image, "the rows of pos_embed, as a square grid"), covers
    raise CheckpointError(
        f"pos_embed has {positions} rows, which is not a square grid with {prefix} prefix tokens",
        where=where,
        fix="state the image size: --image HEIGHTxWIDTH",
    )
