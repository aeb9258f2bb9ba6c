"""What a ViT does in one run of a batch: its products, its traffic and its kernels, by block.

Counted for engines that fuse as TensorRT does: one kernel for an attention, layer norms with the
residual before them, GELU in the product before it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from benchmarks.network import Network
from engines import precisions

HALF_BYTES, EIGHT_BIT_BYTES, FLOAT_BYTES = 2, 1, 4

_BLOCK_KERNELS = 8
"""Of a block in half precision: four products, the attention, two layer norms, one more for the
heads' layout. TensorRT-RTX 1.7.1 lists as many."""
_QUANTIZED_KERNELS = 1
"""A block with 8-bit products has one more: their bias and GELU are kernels of their own."""
_MERGE_KERNELS = 9
"""Of one merge, as TensorRT-RTX 1.7.1 lists them: match, one-hot product, sizes, key bias."""
_ENTRY_KERNELS, _EXIT_KERNELS = 3, 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Product:
    """Matrix products of one shape: (rows, inner) times (inner, columns), `count` times.

    Attributes:
        is_attention: Whether two of them and a softmax are one kernel, which reads neither twice.
        eight_bit: Whether its factors have 8 bits.
        weight_bytes: Bytes of constants that it reads.
        activation_bytes: Bytes that depend on the image, read and written.
    """

    rows: int
    inner: int
    columns: int
    count: int = 1
    is_attention: bool = False
    eight_bit: bool = False
    weight_bytes: int = 0
    activation_bytes: int = 0

    @property
    def macs(self) -> int:
        """Multiply-adds."""
        return self.rows * self.inner * self.columns * self.count


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """One part of a network: the patch embedding, a block, or the head.

    Attributes:
        name: "patches", "block 3", "head".
        products: Its matrix products.
        moved_bytes: What its other kernels read and write.
        kernels: Kernels that are launched.
    """

    name: str
    products: tuple[Product, ...]
    moved_bytes: int
    kernels: int

    @property
    def macs(self) -> int:
        """Multiply-adds of all its products."""
        return sum(one.macs for one in self.products)


def parts_of(network: Network, *, precision: str, batch: int) -> tuple[Part, ...]:
    """Return what a run of a batch does, in the order of the network.

    Args:
        network: It.
        precision: "fp16", "bf16", "int8" or "fp8": of the linear layers in its blocks. The rest
            is in half precision.
        batch: Images of one run.
    """
    return tuple(_parts(network, precisions.is_quantized(precision), batch))


def _parts(network: Network, eight_bit: bool, batch: int) -> Iterator[Part]:
    width, patches = network.width, network.patches * batch
    pixels = network.patch[0] * network.patch[1] * 3
    yield Part(
        name="patches",
        products=(_linear(patches, pixels, width, eight_bit=False),),
        moved_bytes=patches * pixels * (FLOAT_BYTES + HALF_BYTES)
        + 2 * network.tokens_in * batch * width * HALF_BYTES,
        kernels=_ENTRY_KERNELS,
    )
    now = network.tokens_in
    for block, after in enumerate(network.tokens):
        is_last = block == network.depth - 1
        left = network.last_tokens if is_last else after
        merges = block in network.merged_blocks
        queries = now if merges else min(now, left)
        yield Part(
            name=f"block {block}",
            products=tuple(_products(network, now, queries, left, eight_bit, batch)),
            moved_bytes=_moved(network, now, queries, left, merges, eight_bit) * batch,
            kernels=_BLOCK_KERNELS
            + (_QUANTIZED_KERNELS if eight_bit else 0)
            + (_MERGE_KERNELS if merges else 0),
        )
        now = after
    yield Part(
        name="head",
        products=(_linear(batch, width, network.classes, eight_bit=False),)
        if network.classes
        else (),
        moved_bytes=2 * network.last_tokens * batch * width * HALF_BYTES,
        kernels=_EXIT_KERNELS,
    )


def _products(
    network: Network, now: int, queries: int, left: int, eight_bit: bool, batch: int
) -> Iterator[Product]:
    width, hidden = network.width, network.hidden
    if queries == now:
        yield _linear(now * batch, width, 3 * width, eight_bit=eight_bit)
    else:
        yield _linear(now * batch, width, 2 * width, eight_bit=eight_bit)
        yield _linear(queries * batch, width, width, eight_bit=eight_bit)
    yield Product(
        rows=queries,
        inner=width // network.heads,
        columns=2 * now,  # scores, and their product with the values
        count=network.heads * batch,
        is_attention=True,
        activation_bytes=2 * (queries + now) * width * batch * HALF_BYTES,
    )
    yield _linear(queries * batch, width, width, eight_bit=eight_bit)
    yield _linear(left * batch, width, hidden * (2 if network.gated else 1), eight_bit=eight_bit)
    yield _linear(left * batch, hidden, width, eight_bit=eight_bit)


def _linear(rows: int, inner: int, columns: int, *, eight_bit: bool) -> Product:
    each = EIGHT_BIT_BYTES if eight_bit else HALF_BYTES
    return Product(
        rows=rows,
        inner=inner,
        columns=columns,
        eight_bit=eight_bit,
        weight_bytes=inner * columns * each,
        activation_bytes=rows * (inner * each + columns * HALF_BYTES),
    )


def _moved(
    network: Network, now: int, queries: int, left: int, merges: bool, eight_bit: bool
) -> int:
    """Return what the kernels of a block that are no products move for one image."""
    width = network.width
    norms = 2 * now + 4 * queries + 2 * left  # norm; residual and norm; residual
    moved = norms * width * HALF_BYTES
    if eight_bit:  # bias and GELU are not in the product's own kernel
        moved += left * network.hidden * (HALF_BYTES + EIGHT_BIT_BYTES)
    if merges:  # keys in float32 for the match, tokens in, tokens out
        moved += now * (width // network.heads) * FLOAT_BYTES
        moved += 3 * (now + left) * width * HALF_BYTES
    return moved
