"""The one line that says what happens to an image before the graph sees it."""

from __future__ import annotations

from typing import Any

import pytest

from engines.imaging.preparation import preparation_in_words
from engines.manifest import Preprocessing

FIELDS: dict[str, Any] = {
    "size": (16, 32),
    "interpolation": "bicubic",
    "crop": 1.0,
    "decode": "plain",
    "background": (255, 255, 255),
    "mean": (0.5, 0.25, 0.0),
    "std": (1.0, 0.5, 0.1),
}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "RGB as stored (plain) · bicubic to 16x32 · float32 0..1, NCHW"),
        (
            {"decode": "full", "background": (0, 0, 7), "dtype": "uint8", "layout": "NHWC"},
            "RGB turned by EXIF, on 0,0,7 (full) · bicubic to 16x32 · uint8 0..255, NHWC",
        ),
        (
            {"crop": 0.875, "in_graph": False},
            "RGB as stored (plain) · bicubic, the centre 0.875 of it as 16x32 · "
            "float32, less mean 0.5,0.25,0, over std 1,0.5,0.1, NCHW",
        ),
    ],
)
def test_every_part_is_said(changes: dict[str, Any], words: str) -> None:
    assert preparation_in_words(Preprocessing(**(FIELDS | changes))) == words
