"""Parts of timm's models that its families share, and how they are refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from engines.errors import CheckpointError
from engines.registry import import_or_explain
from fpet_export.model.vit_spec import Activation, Pool

_ACTIVATIONS: dict[str, Activation] = {
    "GELU": "gelu",
    "GELUTanh": "gelu_tanh",
    "QuickGELU": "quick_gelu",
    "ReLU": "relu",
    "SiLU": "silu",
}
POOLS: dict[str, Pool] = {"token": "class", "avg": "mean", "map": "attention"}
"""timm's `global_pool`, as far as it is known here."""


def last_norms(model: Any) -> list[nn.Module]:
    """Return the norm behind the last block, or behind the pooling; of some models none."""
    return [n for n in (model.norm, model.fc_norm) if not isinstance(n, nn.Identity)]


def is_gated(mlp: Any) -> bool:
    """Whether an MLP multiplies one half of what fc1 gives by the activation of the first."""
    layers = import_or_explain("timm.layers")
    packed = type(mlp) is layers.GluMlp and not mlp.gate_last
    return packed or type(mlp) is layers.SwiGLU


def require_latent_pool(model: Any, where: str) -> list[nn.Module]:
    """Refuse an attention pooling that is not timm's plain one; return its norm."""
    vit = import_or_explain("timm.models.vision_transformer")
    pool, block = model.attn_pool, model.blocks[0]
    plain = (
        type(pool) is vit.AttentionPoolLatent
        and (pool.latent_len, pool.pos_embed, pool.pool) == (1, None, "token")
        and pool.num_heads == block.attn.num_heads
        and isinstance(pool.q_norm, nn.Identity)
        and type(pool.mlp) is type(block.mlp)
        and activation_of(pool.mlp.act) == activation_of(block.mlp.act)
    )
    require(plain, "global_pool", f"'map' with {type(pool).__name__} of another form", where)
    return [pool.norm]


def require_patches(embedding: Any, where: str) -> None:
    """Refuse a patch embedding that is more than one convolution of three channels."""
    vit = import_or_explain("timm.models.vision_transformer")
    require(type(embedding) is vit.PatchEmbed, "embed_layer", type(embedding).__name__, where)
    require(embedding.proj.in_channels == 3, "in_chans", embedding.proj.in_channels, where)
    require(isinstance(embedding.norm, nn.Identity), "embed_norm_layer", embedding.norm, where)
    stride = tuple(embedding.proj.stride) == tuple(embedding.proj.kernel_size)
    require(stride, "embed_layer", f"stride {embedding.proj.stride}", where)


def require_norms(norms: Sequence[Any], before: Any, where: str) -> None:
    """Refuse norms that are no LayerNorm, or that differ in their epsilon.

    Args:
        norms: Those of a model.
        before: That before its first block, or nothing in its place.
        where: Whom to name in an error.
    """
    found = [*norms, *([] if isinstance(before, nn.Identity) else [before])]
    for norm in found:
        require(isinstance(norm, nn.LayerNorm), "norm_layer", type(norm).__name__, where)
    epsilons = sorted({norm.eps for norm in found})
    require(len(epsilons) == 1, "norm_layer", f"epsilons {epsilons}", where)


def activation_of(module: nn.Module) -> Activation | None:
    """Return the activation that a module of timm is; None of an unknown one."""
    if isinstance(module, nn.GELU) and module.approximate == "tanh":
        return "gelu_tanh"
    return _ACTIVATIONS.get(type(module).__name__)


def require(plain: bool, argument: str, value: object, where: str) -> None:
    """Refuse a model by the argument of timm's constructor that makes it another network.

    Raises:
        CheckpointError: It is not plain.
    """
    if not plain:
        raise refusal(f"{argument} is {value!r}, which this toolkit does not run", where)


def refusal(what: str, where: str) -> CheckpointError:
    """Return the error that refuses a model of timm."""
    return CheckpointError(
        what, where=where, fix="give a vit_*, deit_*, deit3_* or eva02_* that is (README, Limits)"
    )
