"""What is quantized: presets that keep a ViT alive, and exceptions to them.

Never quantized: residual additions, norms, the match and the merge, products of adapters, the
patch convolution and the classifier. The residual stream of a ViT reaches values of hundreds
beside ones of a tenth, and rounding it once per block is what destroys default INT8.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Literal

from calibration.roles import attentions, linears
from engines.errors import UsageError
from engines.onnx_graph.files import Graph

Preset = Literal["vit-linear", "vit-attention"]
PRESETS: dict[str, str] = {
    "vit-linear": "inputs and weights of qkv, proj, fc1 and fc2 of every block",
    "vit-attention": "the same, and q, k, v and the softmax output of every attention",
}


@dataclasses.dataclass(frozen=True)
class Policy:
    """Which layers are quantized.

    Attributes:
        preset: Name in `PRESETS`.
        layers: Names of linears ("blocks/3/fc1") and attentions ("blocks/3/attn").
        kept: Layers of the preset that stay in the high precision, in the order they were put
            back.
    """

    preset: str
    layers: tuple[str, ...]
    kept: tuple[str, ...] = ()

    @property
    def active(self) -> tuple[str, ...]:
        """The layers that are quantized."""
        return tuple(name for name in self.layers if name not in self.kept)

    def without(self, *names: str) -> Policy:
        """Return the policy with more layers kept."""
        return dataclasses.replace(self, kept=(*self.kept, *names))

    def only(self, *names: str) -> Policy:
        """Return the policy with these layers quantized and no other."""
        rest = tuple(name for name in self.layers if name not in names)
        return dataclasses.replace(self, kept=rest)


def choose(graph: Graph, preset: str, *, keep: Iterable[str] = ()) -> Policy:
    """Apply a preset to a graph.

    Args:
        graph: As exported.
        preset: Name in `PRESETS`.
        keep: Layers that stay in the high precision: a layer ("blocks/0/fc2") or everything
            below a module ("blocks/0").

    Raises:
        UsageError: There is no such preset, or `keep` names no layer of the graph.
    """
    if preset not in PRESETS:
        raise UsageError(
            f"{preset!r} is not one of {', '.join(PRESETS)}",
            where="--preset",
            fix="choose one of these",
        )
    layers = [linear.name for linear in linears(graph)]
    if preset == "vit-attention":
        layers += [attention.name for attention in attentions(graph)]
    policy = Policy(preset, tuple(layers))
    for name in keep:
        named = [layer for layer in layers if layer == name or layer.startswith(f"{name}/")]
        if not named:
            raise UsageError(
                f"no layer of this graph is called {name!r}",
                where="--keep",
                fix=f"name a block or a layer, such as blocks/0 or {layers[0]}",
            )
        policy = policy.without(*(layer for layer in named if layer not in policy.kept))
    return policy
