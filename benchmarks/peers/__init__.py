"""Other ways to run the same backbone, to be measured against: one file a peer.

Every file offers `open_peer`, and imports its runtime on its first lines, so that a runtime that is
not installed is known as soon as the peer is chosen. The file names differ from the packages they
import.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, cast

from engines import registry
from engines.contract import Engine
from engines.errors import UsageError


@dataclasses.dataclass(frozen=True, kw_only=True)
class PeerSource:
    """The model that peers run, in the forms that they read.

    Attributes:
        onnx: Its plain graph; None when there is none.
        module: Makes a torch module, (B, 3, H, W) to (B, K) logits, in evaluation mode.
        image: (channels, height, width) of one input image.
        dtype: Type of the module's input, in numpy's spelling.
        macs: Multiply-adds of one image; None when unknown.
    """

    onnx: Path | None = None
    module: Callable[[], Any] | None = None
    image: tuple[int, int, int] = (3, 224, 224)
    dtype: str = "float32"
    macs: int | None = None

    def graph(self, peer: str) -> Path:
        """Return the ONNX file, or say that `peer` needs one."""
        if self.onnx is None:
            raise UsageError("no plain ONNX graph was given", where=peer, fix="leave this peer out")
        return self.onnx

    def build_module(self, peer: str) -> Any:
        """Return a new torch module, or say that `peer` needs one."""
        if self.module is None:
            raise UsageError("no torch module was given", where=peer, fix="leave this peer out")
        return self.module()


class Peer(Protocol):
    """What a file in this folder offers."""

    def open_peer(self, source: PeerSource, *, threads: int) -> Engine:
        """Open the model in this peer's runtime.

        Raises:
            UsageError: `source` lacks the form that this peer reads.
            EngineError: The runtime refuses the model.
        """


def load_peer(folder: ModuleType, name: str) -> Peer:
    """Import one peer of a folder.

    Raises:
        UnknownNameError: There is no such peer.
        MissingDependencyError: Its runtime is not installed.
    """
    return cast(Peer, registry.load(folder, name))
