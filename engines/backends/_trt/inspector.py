"""The engine inspector's JSON: the other place where TensorRT lists the kernels of a plan.

It needs a deserialized engine and so a GPU, and has not been tried on hardware: the layout read
here is that of NVIDIA's documentation and of listings that others published, for TensorRT 10
and 11. A layer has Name, LayerType, Inputs, Outputs and Metadata; a tensor says its type in
"Format/Datatype" as words ("Row major linear FP16 format", or just "Half"), newer versions in
"Datatype". What a version leaves out stays empty.
"""

from __future__ import annotations

import json
import re
from typing import Any

from engines.backends._trt.log import is_kernel, nodes_of, recorder
from engines.fusion.kernels import Kernel, Tensor

_TYPE_KEYS = ("Datatype", "DataType", "Format/Datatype", "Format")
_TYPES = {
    "Float": "float|fp32|float32",
    "Half": "half|fp16|float16",
    "BFloat16": "bfloat16|bf16",
    "FP8": r"fp8\w*|float8\w*|e4m3\w*",
    "Int8": "int8",
    "UInt8": "uint8",
    "Int32": "int32",
    "Int64": "int64",
    "Bool": "bool",
}


def kernels_of_plan(trt: Any, content: Any) -> tuple[Kernel, ...]:
    """Deserialize a plan that was just built and list its kernels; none where TensorRT cannot."""
    deserializer = trt.Runtime(recorder(trt))
    deserializer.engine_host_code_allowed = False
    trt_engine = deserializer.deserialize_cuda_engine(content)
    if trt_engine is None:
        return ()
    inspector = trt_engine.create_engine_inspector()
    return kernels_in(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


def kernels_in(text: str) -> tuple[Kernel, ...]:
    """Read the inspector's JSON; none where it is no JSON, or lists names only."""
    try:
        document = json.loads(text)
    except ValueError:
        return ()
    layers = document.get("Layers") if isinstance(document, dict) else None
    return tuple(
        Kernel(
            name=str(entry.get("Name", "")),
            kind=str(entry.get("LayerType", "")),
            inputs=_tensors(entry.get("Inputs")),
            outputs=_tensors(entry.get("Outputs")),
            constants=_tensors(entry.get("Constants")),
            nodes=nodes_of(str(entry.get("Metadata", ""))),
        )
        for entry in layers or ()
        if isinstance(entry, dict) and is_kernel(str(entry.get("LayerType", "")))
    )


def _tensors(listed: Any) -> tuple[Tensor, ...]:
    return tuple(
        Tensor(
            name=str(operand.get("Name", "")),
            dtype=_type(next((str(operand[key]) for key in _TYPE_KEYS if key in operand), "")),
            shape=tuple(int(extent) for extent in operand.get("Dimensions", ())),
        )
        for operand in listed or ()
        if isinstance(operand, dict)
    )


def _type(words: str) -> str:
    """Return the type that is named in a format, as the log spells it."""
    for name, pattern in _TYPES.items():
        if re.search(rf"\b(?:{pattern})\b", words, re.IGNORECASE):
            return name
    return words
