"""Record the schema of Triton's config.pbtxt, in tests/golden/triton_config.json.

    pip download --no-deps tritonclient==2.73.0
    python tests/golden/make_triton_config.py tritonclient-2.73.0-*.whl

The wheel holds `model_config.proto` (BSD-3-Clause, github.com/triton-inference-server/common) as
generated code, whose import needs grpc; the descriptor in it is read without running it.
"""

from __future__ import annotations

import ast
import json
import sys
import zipfile
from pathlib import Path

from google.protobuf import descriptor_pb2, json_format

SOURCE = "tritonclient/grpc/model_config_pb2.py"
GOLDEN = Path(__file__).with_name("triton_config.json")


def descriptor_of(wheel: str) -> descriptor_pb2.FileDescriptorProto:
    """Return the file descriptor in a wheel of tritonclient."""
    with zipfile.ZipFile(wheel) as archive:
        tree = ast.parse(archive.read(SOURCE))
    (content,) = (
        node.args[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "AddSerializedFile"
        and isinstance(node.args[0], ast.Constant)
    )
    assert isinstance(content, bytes)
    return descriptor_pb2.FileDescriptorProto.FromString(content)


if __name__ == "__main__":
    messages = json_format.MessageToDict(descriptor_of(sys.argv[1]))
    parts = messages.pop("messageType")
    lines = ",\n".join(json.dumps(part, separators=(",", ":")) for part in parts)
    head = json.dumps({"wheel": Path(sys.argv[1]).name, **messages}, separators=(",", ":"))
    GOLDEN.write_text(f'{head[:-1]},"messageType":[\n{lines}\n]}}\n', "utf-8")
