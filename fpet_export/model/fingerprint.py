"""What tells one backbone from another, whatever file it came from."""

from __future__ import annotations

import dataclasses
import hashlib

from fpet_export.model.backbones import Backbone
from fpet_export.model.backbones._names import HEAD_NAMES


def fingerprint(backbone: Backbone) -> str:
    """Return the SHA-256 of what a backbone computes: its shape and every weight but the head.

    Files of different formats that hold the same network have the same fingerprint.
    """
    digest = hashlib.sha256(repr(dataclasses.replace(backbone.spec, classes=0)).encode())
    for name, tensor in sorted(backbone.weights.items()):
        if name not in HEAD_NAMES:
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
