"""The plain module in PyTorch through torch.compile, with frozen weights."""

from __future__ import annotations

import warnings

import torch

from benchmarks.peers import PeerSource
from benchmarks.peers._torch import open_module
from engines.contract import Engine


def open_peer(source: PeerSource, *, threads: int) -> Engine:
    """Compile with inductor; the compiler runs when the first batch comes.

    `freezing` lets inductor pack the weights, as every other runtime here does.
    """
    module = source.build_module("torch_compile")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of inductor, about its own configuration
        compiled = torch.compile(module, dynamic=False, options={"freezing": True})
    return open_module(
        compiled,
        name="torch_compile",
        source=source,
        threads=threads,
        facts={"compiler": "inductor", "freezing": "on"},
    )
