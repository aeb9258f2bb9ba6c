"""Triton's own schema of config.pbtxt, recorded; it refuses what it does not know."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    json_format,
    message_factory,
    text_format,
)

GOLDEN = Path(__file__).parents[2] / "golden/triton_config.json"


def parse_config(text: str) -> Any:
    """Return the `ModelConfig` that a text describes.

    Raises:
        google.protobuf.text_format.ParseError: It has an unknown field, type or value.
    """
    document = json.loads(GOLDEN.read_text("utf-8"))
    document.pop("wheel")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(json_format.ParseDict(document, descriptor_pb2.FileDescriptorProto()))
    kind = message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelConfig"))
    return text_format.Parse(text, kind())
