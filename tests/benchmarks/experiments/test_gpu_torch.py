"""The experiment with PyTorch on a GPU: its ways to bring the bias compute the same."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.experiments import gpu_torch

torch: Any = gpu_torch.torch

KEYS, WIDTH = 99, 64


def tensors() -> tuple[Any, Any, Any, Any]:
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 2, 3, KEYS, WIDTH, generator=generator, dtype=torch.float64)
    sizes = torch.randint(1, 9, (2, 1, 1, KEYS), generator=generator)
    return q / 8, k, v, sizes.double().log()


def expected(q: Any, k: Any, v: Any, bias: Any) -> Any:
    return (q @ k.transpose(-2, -1) + bias).softmax(dim=-1) @ v


@pytest.mark.parametrize("name", ["bias in values", "bias in keys", "written out"])
def test_a_way_of_the_bias_is_exact(name: str) -> None:
    q, k, v, bias = tensors()

    torch.testing.assert_close(gpu_torch.WAYS[name](None, q, k, v, bias), expected(q, k, v, bias))


@pytest.mark.parametrize("name", list(gpu_torch.WAYS))
def test_without_a_bias_every_way_is_plain_attention(name: str) -> None:
    q, k, v, _ = tensors()

    found = gpu_torch.WAYS[name](None, q, k, v, None)

    torch.testing.assert_close(found, expected(q, k, v, 0))


def test_leaving_the_bias_out_is_wrong() -> None:
    q, k, v, bias = tensors()

    found = gpu_torch.WAYS["no bias (wrong)"](None, q, k, v, bias)

    assert (found - expected(q, k, v, bias)).abs().max() > 1e-2
