"""What Gst-nvinfer does with a configuration and a picture, written in numpy from its source.

github.com/NVIDIA/DeepStream, release 9.1: `gst_nvinfer_parse_props` reads the file,
`InferPreprocessor::transform` and nvdsinfer_conversion.cu make the input, and
`ClassifyPostprocessor::parseAttributesFromSoftmaxLayers` is the parser that comes with it.
"""

from __future__ import annotations

import configparser
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

KEYS: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parents[2] / "golden/nvinfer_keys.json").read_text()
)
RELEASES = ("7.1", "9.1")
"""The oldest and the newest with TensorRT 10 whose keys are recorded."""


def read_config(text: str) -> dict[str, Any]:
    """Return the values of `[property]`, as the types that nvinfer reads.

    Raises:
        AssertionError: A key is unknown in one of `RELEASES`, or a value is of another type or out
            of its range.
    """
    parser = configparser.RawConfigParser(delimiters="=", comment_prefixes="#", strict=True)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(text)
    assert parser.sections() == ["property"]
    return {key: _value(key, value) for key, value in parser["property"].items()}


def _value(key: str, text: str) -> Any:
    assert key in KEYS, f"nvinfer has no {key}"
    fact = KEYS[key]
    assert set(RELEASES) <= set(fact["releases"]), f"{key} is in {fact['releases']} only"
    kind = fact["type"]
    if kind == "string":
        assert text == text.strip() != ""
        return text
    parts = text.split(";") if kind.endswith("_list") else [text]
    convert = {"integer": int, "double": float, "boolean": int}[kind.removesuffix("_list")]
    values = [convert(part) for part in parts]
    for value in values:
        assert value in fact.get("one_of", [value]), f"{key}={value}"
        assert fact.get("from", value) <= value <= fact.get("to", value), f"{key}={value}"
        assert kind != "boolean" or value in (0, 1), f"{key}={value}"
    assert len(values) == fact.get("length", 1), f"{key}={text}"
    return values if kind.endswith("_list") else values[0]


def input_of(config: dict[str, Any], pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return what nvinfer writes into the engine's input.

    Args:
        config: See `read_config`.
        pixels: (height, width, 3), RGB, of the network's size already.

    Returns:
        A batch of one in float32, whatever the engine wants.
    """
    channels, height, width = config["infer-dims"]
    assert pixels.shape == (height, width, channels)
    x = pixels if config["model-color-format"] == 0 else pixels[..., ::-1]
    scale = np.float32(config["net-scale-factor"])
    offsets = np.array(config.get("offsets", (0.0, 0.0, 0.0)), np.float32)
    y = scale * (x.astype(np.float32) - offsets)
    return (y if config["network-input-order"] == 1 else y.transpose(2, 0, 1))[None]


def class_by_its_own_parser(
    outputs: NDArray[np.float32], threshold: float
) -> tuple[int, float] | None:
    """Return class and confidence that nvinfer's own parser finds in (K,) values, or none."""
    assert threshold >= 0  # the file is refused otherwise
    found, largest = None, 0.0
    for index, value in enumerate(outputs):
        if value > threshold and value > largest:
            found, largest = (index, float(value)), float(value)
    return found
